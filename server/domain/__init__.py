"""The frozen types that travel between floors."""
