"""The warmer against a server that misbehaves: `python -m e2e.chaos.fetch --help`, or `make chaos-fetch`."""
