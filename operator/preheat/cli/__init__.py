"""``kubectl preheat``: what the operator knows, for people. It reads the cluster and changes nothing."""
