"""The service on several machines, as an application of Ray Serve: see docs/cluster.md.

Only ``router`` and ``app`` import Ray; everything else here works and is tested without it, and nothing
outside of this folder knows that it exists.
"""
