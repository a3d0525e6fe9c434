"""Builds every container image of the project, with Docker or without; see README.md."""
