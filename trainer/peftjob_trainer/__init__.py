"""The trainer: what runs in a PeftJob's worker pods, and on one machine without a cluster."""
