"""A real two-node Kubernetes on one machine, and its parts for smaller tests.

``python3 -m peftjob_cluster VERB`` is for people and Makefiles; ``control_plane`` and ``s3`` are for tests that need
an API server or an object store but no nodes. Standard library only: it runs before any virtual environment exists.
"""
