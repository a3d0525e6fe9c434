"""Gateway API where it is not our own: its definitions, out of its own Go module."""
