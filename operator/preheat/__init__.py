"""Preheat: a Kubernetes operator that deploys, scales and heals large language models.

Read in this order: ``api`` (what users write), ``decide`` (what should happen, pure), ``resources``
(what the children look like, pure), ``cluster`` (the doors to the outside), ``controller`` (the loop),
``handlers`` (the only file that knows kopf).
"""
