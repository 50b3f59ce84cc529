"""Talking to a service that runs, over HTTP. Nothing here knows the server's own code."""
