"""Deciding: values in, values out. Nothing here reads a clock, a cluster or a file."""
