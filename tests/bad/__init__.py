"""Objects that nobody should get in, one a file, and what the API server has to answer."""
