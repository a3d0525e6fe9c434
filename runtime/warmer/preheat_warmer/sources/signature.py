"""AWS Signature Version 4 for requests without a body: what S3, and services that speak like it, are shown. Pure."""

import hashlib
import hmac
from collections.abc import Mapping
from datetime import datetime
from urllib.parse import urlsplit

from preheat_warmer.secret import Secret

_NOTHING = hashlib.sha256(b"").hexdigest()
_DEFAULT_PORTS = {"http": 80, "https": 443}


def signed_headers(
    method: str, url: str, headers: Mapping[str, str], secret: Secret, region: str, now: datetime
) -> dict[str, str]:
    """Return the headers to send: those given and what proves who asks. ``url`` is quoted, its query in order.

    Headers that are added later (a range) need no signature.
    """
    parts = urlsplit(url)
    at = now.strftime("%Y%m%dT%H%M%SZ")
    own = {"x-amz-content-sha256": _NOTHING, "x-amz-date": at, **headers}
    if secret.session_token:
        own["x-amz-security-token"] = secret.session_token
    known = sorted({"host": _host(url), **own}.items())
    names = ";".join(name for name, _ in known)
    request = "\n".join(
        (
            method,
            parts.path or "/",
            parts.query,
            *(f"{name}:{value}" for name, value in known),
            "",
            names,
            own["x-amz-content-sha256"],
        )
    )
    scope = f"{at[:8]}/{region}/s3/aws4_request"
    text = "\n".join(("AWS4-HMAC-SHA256", at, scope, hashlib.sha256(request.encode()).hexdigest()))
    key = f"AWS4{secret.secret_access_key}".encode()
    for part in scope.split("/"):
        key = hmac.digest(key, part.encode(), "sha256")
    signature = hmac.digest(key, text.encode(), "sha256").hex()
    own["Authorization"] = (
        f"AWS4-HMAC-SHA256 Credential={secret.access_key_id}/{scope}, SignedHeaders={names}, Signature={signature}"
    )
    return own


def _host(url: str) -> str:
    """Return the Host header that goes with a URL: without the scheme's own port."""
    parts = urlsplit(url)
    host = parts.hostname or ""
    host = f"[{host}]" if ":" in host else host
    return host if parts.port in {None, _DEFAULT_PORTS.get(parts.scheme)} else f"{host}:{parts.port}"
