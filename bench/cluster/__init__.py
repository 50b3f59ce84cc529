"""Measures the service under Ray Serve, on this machine: see docs/cluster.md."""
