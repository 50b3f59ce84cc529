"""One package for each dialect: parse to the domain, write from it."""
