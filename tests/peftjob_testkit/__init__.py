"""What the demo, the e2e tests and the fault tests share: kubectl, Helm, S3, and how to wait for something."""
