"""The front: who answers for a model of which no replica is ready, and counts who asked.

Read in this order: ``config`` (the contract with the chart), ``slices`` (the contract with the operator), ``asking``
(which request counts) and ``answers`` (what is said), all pure; ``grpc`` (one HTTP/2 connection, without a socket);
then the doors: ``watch`` (the API server), ``doors`` (a port for each deployment), ``control`` (who asks us), ``main``.
"""
