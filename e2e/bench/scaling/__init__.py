"""Autoscalers against each other on the same requests: `python -m e2e.bench.scaling --help`, or `make bench-scaling`."""
