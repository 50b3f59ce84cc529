"""The life of a request, from the checks to the last figure."""
