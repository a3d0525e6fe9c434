"""How many replicas a deployment should have, one load time ahead. Pure: see ``recommend``."""

from preheat.decide.scaling.memory import Memory
from preheat.decide.scaling.policy import LoadTime, Mode, Policy
from preheat.decide.scaling.recommend import recommend
from preheat.decide.scaling.recommendation import Alternative, Reason, Recommendation
from preheat.decide.scaling.sample import Known, Sample
from preheat.decide.scaling.schedule import Window

__all__ = [
    "Alternative",
    "Known",
    "LoadTime",
    "Memory",
    "Mode",
    "Policy",
    "Reason",
    "Recommendation",
    "Sample",
    "Window",
    "recommend",
]
