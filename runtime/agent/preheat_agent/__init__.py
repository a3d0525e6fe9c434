"""The agent: a sidecar that loads the model, watches it, proves it, heals it and drains it.

Read in this order: ``config`` (the contract with the operator), ``ladder`` (what to do, pure), ``main`` (the
loop), and the doors: ``engine`` (repository API and metrics), ``canary`` (a real question), ``progress``
(/proc), ``server`` (who asks us).
"""
