"""The commands, one in each module, and what they share. Whatever is slow to load is imported by the command
that runs: "--help" and completion need none of it."""
