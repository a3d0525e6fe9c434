"""Who asks a seeder: a service account's token, checked against the cluster's public keys without asking anybody."""

from collections.abc import Mapping
from typing import Any

import jwt

from preheat_warmer.errors import Hopeless, Reason

ALGORITHMS = ("RS256", "RS384", "RS512", "ES256", "ES384", "ES512")
"""What a cluster signs with. None of them takes a public key for a secret one."""
KINDS = frozenset({"RSA", "EC"})
LEEWAY_SECONDS = 10
"""How much the clocks of two nodes may differ."""


class Refused(Exception):  # noqa: N818 - it says what it is
    """Who asks may not have the weights. The text is for the log, not for who asks."""


class Doorkeeper:
    """Lets in whoever is of the namespace, by a token that is meant for these weights and still good."""

    def __init__(self, issuer_keys: Mapping[str, Any], audience: str, namespace: str) -> None:
        self._audience = audience
        self._namespace = namespace
        self._keys = _keys(issuer_keys)

    def check(self, authorization: str) -> None:
        """Raise Refused unless the header holds such a token."""
        scheme, _, token = authorization.partition(" ")
        if scheme.lower() != "bearer" or not token:
            raise Refused("no token")
        try:
            claims = jwt.decode(
                token,
                self._key(token),
                algorithms=ALGORITHMS,
                audience=self._audience,
                leeway=LEEWAY_SECONDS,
                options={"require": ["exp", "aud"]},
            )
        except (jwt.PyJWTError, ValueError, TypeError) as error:
            raise Refused(f"{type(error).__name__}: {error}") from error
        about = claims.get("kubernetes.io")
        namespace = about.get("namespace") if isinstance(about, dict) else None
        if namespace != self._namespace:
            raise Refused(f"the token is of namespace {str(namespace)[:63]!r}")

    def _key(self, token: str) -> jwt.PyJWK:
        name = str(jwt.get_unverified_header(token).get("kid"))
        if name not in self._keys:
            raise Refused(f"the key {name[:80]!r} is not known: the cluster may have a new one")
        return self._keys[name]


def _keys(issuer_keys: Mapping[str, Any]) -> dict[str, jwt.PyJWK]:
    """Return the keys by name. Raises Hopeless when there is none."""
    listed = issuer_keys.get("keys")
    keys = {
        str(key["kid"]): _key(key)
        for key in (listed if isinstance(listed, list) else [])
        if isinstance(key, dict) and "kid" in key and key.get("kty") in KINDS
    }
    if not keys:
        raise Hopeless(Reason.INVALID_CONFIG, "issuerKeys holds no RSA or EC key with a name")
    return keys


def _key(key: Mapping[str, Any]) -> jwt.PyJWK:
    try:
        return jwt.PyJWK(dict(key))
    except jwt.PyJWTError as error:
        raise Hopeless(Reason.INVALID_CONFIG, f"issuerKeys: {error}") from error
