"""The doors to the outside, one system per file: the API server, and the sidecars in pods."""
