"""What a client asks for, and whether that is a reason to wake a model. Pure.

Counted is who wants something of the model: every POST but those to an engine's administration, and a look at a model's
description, with which client libraries begin. Not counted is who only looks whether it is there: health, metrics,
statistics, lists. A load balancer's probe every few seconds would keep every model awake for ever.
"""

import re
from dataclasses import dataclass
from typing import NamedTuple
from urllib.parse import urlsplit

HTTP2 = b"PRI * HTTP/2.0\r\n\r\n"
"""What HTTP/2 begins with where both sides know that they speak it."""
_ADMINISTRATION = re.compile(
    r"/v2/(repository|logging|trace|systemsharedmemory|cudasharedmemory|tpusharedmemory)\b"
)
_OF_ONE_MODEL = re.compile(r"/v2/models/[^/]+(/versions/[^/]+)?/trace(/.*)?")
_DESCRIPTION = re.compile(r"/v2/models/[^/]+(/versions/[^/]+)?(/config)?/?")
_WORK = frozenset({"ModelInfer", "ModelStreamInfer", "ModelMetadata", "ModelConfig"})
_METHOD = re.compile(rb"[A-Z]{3,16}")


@dataclass(frozen=True, slots=True)
class Asked:
    """A request: all that matters of it."""

    method: str
    path: str
    """Without the query."""
    is_grpc: bool = False

    @property
    def counts(self) -> bool:
        """Whether somebody wants something of the model."""
        if self.is_grpc:
            return self.method == "POST" and self.path.rpartition("/")[2] in _WORK
        if self.method == "POST":
            return not (_ADMINISTRATION.match(self.path) or _OF_ONE_MODEL.fullmatch(self.path.rstrip("/")))
        return self.method == "GET" and _DESCRIPTION.fullmatch(self.path) is not None


class Parts(NamedTuple):
    """The first line of a request."""

    method: bytes
    target: bytes
    version: bytes


def parse_head(head: bytes) -> Asked | None:
    r"""Return what the head of an HTTP/1 request asks for, None when it is none.

    >>> parse_head(b"POST /v2/models/m/infer?x=1 HTTP/1.1\r\nHost: m\r\n\r\n")
    Asked(method='POST', path='/v2/models/m/infer', is_grpc=False)
    """
    words = head.split(b"\r\n", 1)[0].split(b" ")
    if len(words) != len(Parts._fields):
        return None
    parts = Parts(*words)
    if not _METHOD.fullmatch(parts.method) or parts.version not in {b"HTTP/1.1", b"HTTP/1.0"}:
        return None
    return Asked(parts.method.decode(), path_of(parts.target))


def path_of(target: bytes) -> str:
    """Return the path of a request's target, of an absolute one as well."""
    text = target.decode("latin-1")
    if text.startswith("/"):
        return text.partition("?")[0]
    try:
        return urlsplit(text).path or "/"
    except ValueError:
        return "/"
