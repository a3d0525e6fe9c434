"""The rollout campaign: good and bad revisions on a real cluster, under traffic. ``python -m e2e.rollout``."""
