"""Faults for whole PeftJobs: seeded plans, the lab that carries them out on one machine, and what is held against them.

`plans` and `judging` are pure and the same for the lab and the two-node cluster; `python -m faults` runs both.
"""
