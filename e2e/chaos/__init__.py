"""Campaigns that break what a part of Preheat rests on, and look what comes of it."""
