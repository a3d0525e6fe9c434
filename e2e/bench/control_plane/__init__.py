"""What the operator costs the API server: `python -m e2e.bench.control_plane --help`, or `make bench-control-plane`."""
