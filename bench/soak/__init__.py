"""Keeps a real server busy with all that clients do, and finds out whether it stays right, alive and as large
as it was. See docs/soak.md."""
