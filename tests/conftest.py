"""What holds for all tests."""

from hypothesis import HealthCheck, settings

# How fast examples come says something of the machine, nothing of the code.
settings.register_profile("preheat", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("preheat")
