"""Which strategy a chat gets, and the shortening that B and C ask for."""
