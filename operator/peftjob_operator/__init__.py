"""The operator: turns each PeftJob into a gang of worker pods and tells its status."""
