"""The seven uses: their data, baselines and small bases, and what trains them. `make samples-local` runs `run`."""
