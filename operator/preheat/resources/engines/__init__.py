"""Engines: what each one needs to serve a model. One protocol, one file per engine.

An engine says which files make up its model repository, how it is started and what the agent must load.
It never says how the pod looks: that is ``resources/pods.py``, the same for all.
"""

from preheat.api.llmdeployment import EngineName
from preheat.resources.engines.base import Engine, Rendering
from preheat.resources.engines.triton import TritonEngine

ENGINES: dict[EngineName, Engine] = {EngineName.TRITON: TritonEngine()}

__all__ = ["ENGINES", "Engine", "Rendering"]
