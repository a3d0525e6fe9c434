"""The warmer against other downloaders: `python -m e2e.bench.fetch --help`, or `make bench-fetch`."""
