"""How careful a forecast can be: the quantiles to choose among."""

DIALS = (0.08, 0.2, 0.35, 0.5, 0.65, 0.8, 0.9, 0.95, 0.98, 0.993)
"""Low ones are not reckless: what is forecast is the peak of a minute, and a request may wait ten seconds."""
FIRST = 6
"""The one to begin with, as long as nothing has been learnt."""
BAND = 1
"""Replicas are asked for when there are fewer than this many dials below the forecast, and then up to it. Without the
band each wiggle of the forecast would start a load."""
HOLD = 2
"""What is held against scale-down is forecast with a dial this much lower: being wrong costs a load, not an outage."""
