"""The warmer: puts exact, verified weights into a folder on a node.

Read in this order: ``config`` (the contract), ``manifest`` (which files, pure), ``sources`` (where they come
from), ``fetch`` (bytes, resumed and hashed), ``publish`` (one rename),
``main`` (all of it in order, and how it ends).
"""
