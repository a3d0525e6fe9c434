"""What is said for a model that is not there: 503, when to come again, and why. Pure.

ready-at is in the future    until then
ready-at has passed          soon: it is late, and the operator will say by how much
wakes-in is told             so long, and a moment for the operator to see that somebody asked
nothing is known             a minute
"""

import json
import math
from urllib.parse import quote

from preheat_front.slices import Sleeper

LATE_SECONDS = 5
UNKNOWN_SECONDS = 60
MOST_SECONDS = 3600
"""Who is told to come again later than that has gone away."""
NOTICE_SECONDS = 4.0
"""Until the operator has seen that somebody asked, and a pod is asked for."""
PHRASES = {
    200: "OK",
    400: "Bad Request",
    404: "Not Found",
    405: "Method Not Allowed",
    431: "Request Header Fields Too Large",
    503: "Service Unavailable",
}
UNAVAILABLE = 14
"""Of gRPC's status codes."""


def retry_seconds(sleeper: Sleeper, now: float) -> int:
    """Return in how many whole seconds to come again. ``now``: Unix seconds."""
    if sleeper.ready_at is not None:
        left = sleeper.ready_at - now
        return min(MOST_SECONDS, math.ceil(left)) if left > 0 else LATE_SECONDS
    if sleeper.wakes_in is not None:
        return max(1, min(MOST_SECONDS, math.ceil(sleeper.wakes_in + NOTICE_SECONDS)))
    return UNKNOWN_SECONDS


def words(sleeper: Sleeper, now: float, *, counted: bool) -> str:
    """Return why, for people. ``counted``: whether this request wakes the model."""
    seconds = retry_seconds(sleeper, now)
    who = f"{sleeper.namespace}/{sleeper.name} is scaled to zero"
    if sleeper.ready_at is not None and sleeper.ready_at > now:
        return f"{sleeper.namespace}/{sleeper.name} is waking up and expected in {seconds} s: try again then"
    if sleeper.ready_at is not None:
        return f"{sleeper.namespace}/{sleeper.name} is waking up and late: try again in {seconds} s"
    if sleeper.wakes_in is None:
        return f"{sleeper.namespace}/{sleeper.name} has no replica that is ready, and it is not known when: try again in {seconds} s"
    if counted:
        return f"{who}; this request wakes it, which takes about {seconds} s: try again then"
    return f"{who}; a request for inference wakes it, which takes about {seconds} s"


def http(sleeper: Sleeper, now: float, *, counted: bool, head_only: bool = False) -> bytes:
    """Return the whole answer over HTTP/1.

    It ends the connection: the next request of this client is to find a replica, and a connection stays where it is.
    """
    body = error(words(sleeper, now, counted=counted))
    return plain(
        503,
        body,
        "application/json",
        [("Retry-After", str(retry_seconds(sleeper, now)))],
        head_only=head_only,
    )


def error(message: str) -> bytes:
    """Return an error in the form of KServe v2."""
    return json.dumps({"error": message}).encode()


def plain(
    status: int, body: bytes, kind: str, more: list[tuple[str, str]] | None = None, *, head_only: bool = False
) -> bytes:
    """Return an answer over HTTP/1 that ends the connection."""
    fields = [
        ("Content-Type", kind),
        ("Content-Length", str(len(body))),
        ("Cache-Control", "no-store"),
        *(more or []),
    ]
    lines = [f"HTTP/1.1 {status} {PHRASES[status]}", *(f"{name}: {value}" for name, value in fields)]
    head = "\r\n".join([*lines, "Connection: close", "", ""]).encode()
    return head if head_only else head + body


def grpc(sleeper: Sleeper, now: float, *, counted: bool) -> list[tuple[str, str]]:
    """Return the whole answer over gRPC: headers that are trailers as well.

    A client with a retry policy for UNAVAILABLE waits as long as the pushback says; others read the message.
    """
    return [
        (":status", "200"),
        ("content-type", "application/grpc"),
        ("grpc-status", str(UNAVAILABLE)),
        ("grpc-message", quote(words(sleeper, now, counted=counted), safe=" :;,/()'")),
        ("grpc-retry-pushback-ms", str(1000 * retry_seconds(sleeper, now))),
    ]
