"""Leads a model repository's one-line model.py to the backend in this image.

Lies in backends/python, the only folder of ours that the stub's Python looks in: it runs isolated, so PYTHONPATH
does not count.
"""

import os
import sys

sys.path.insert(0, os.environ.get("PREHEAT_BACKENDS", "/opt/preheat/backends"))

from llamacpp.model import TritonPythonModel

__all__ = ["TritonPythonModel"]
