"""Checkpoints: all that a run is between two steps, so that the next gang goes on as if nothing had happened.

| module | what |
|---|---|
| `names` | where they lie; imports no torch, for the launcher and `claim` |
| `state` | what a run is, and its form in files; knows nothing of ranks and shard groups |
| `suits` | whether a state is one of this very job |
| `stored` | at the output: written, listed by the claim, verified, dropped |
| `keeper` | used by the loop: when one is due, in the background |
| `resume` | used by `session`: the newest that verifies, on all ranks |
"""
