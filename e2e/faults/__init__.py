"""The fault campaign: the operator's real process, a real API server, and a proxy between them that misbehaves."""
