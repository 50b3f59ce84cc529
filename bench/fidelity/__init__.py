"""What shortening a session loses, and what it costs, against three baselines and the seeds' pipeline."""
