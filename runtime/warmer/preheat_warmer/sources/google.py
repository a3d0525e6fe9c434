"""A Google service account that shows its key: a signed request for a token, and a new one before that ends.

This is how the key's own documentation says to do it (RFC 7523). Nothing is asked of a metadata service.
"""

import asyncio
import json
import time
from dataclasses import dataclass
from urllib.parse import urlencode, urlsplit

from preheat_warmer.errors import Hopeless, Reason
from preheat_warmer.sources.web import Web, bearer, content, shown

TOKEN_URI = "https://oauth2.googleapis.com/token"  # noqa: S105 - where tokens are
SCOPE = "https://www.googleapis.com/auth/devstorage.read_only"
GRANT = "urn:ietf:params:oauth:grant-type:jwt-bearer"
FORM = {"Content-Type": "application/x-www-form-urlencoded"}
ASSERTION_SECONDS = 600
TOKEN_SECONDS = 600.0
"""How long a token lasts when nobody says."""
_WHERE = "key.json in the Secret of spec.model.credentials"


@dataclass(frozen=True, slots=True, repr=False)
class Account:
    """Who asks, and what it signs with."""

    email: str
    private_key: str
    key_id: str
    token_uri: str


def parse_account(text: str, bucket: str) -> Account:
    """Return the account of a key file. Raises Hopeless, never repeating what the file holds."""
    try:
        found = json.loads(text)
        kind = found.get("type")
        account = Account(
            str(found["client_email"]),
            str(found["private_key"]),
            str(found.get("private_key_id", "")),
            str(found.get("token_uri") or TOKEN_URI),
        )
    except (ValueError, KeyError, AttributeError, RecursionError):
        raise _wrong(
            "is no key of a service account: it must be the JSON file that Google gave out"
        ) from None
    if kind != "service_account":
        raise _wrong("is not of the type service_account, the only one that is read")
    if urlsplit(bucket).scheme == "https" and urlsplit(account.token_uri).scheme != "https":
        raise _wrong("names a token_uri that is not https")
    return account


class Login:
    """A client that always shows a token that is still good."""

    def __init__(self, account: Account, web: Web) -> None:
        self._account = account
        self._anonymous = web.authorized(bearer(None))
        self._web = self._anonymous
        self._until = float("-inf")
        self._asking = asyncio.Lock()

    async def web(self) -> Web:
        """Return the client; ask for a token first when there is none, or when a fifth of its time is left."""
        async with self._asking:
            if time.monotonic() >= self._until:
                await self._renew()
            return self._web

    async def _renew(self) -> None:
        url = self._account.token_uri
        form = urlencode({"grant_type": GRANT, "assertion": assertion(self._account, time.time())})
        asked = time.monotonic()
        async with self._anonymous.stream(
            url, FORM, allowed=(400, 401, 403), method="POST", body=form.encode()
        ) as answer:
            status, text = answer.status_code, await content(answer, url)
        try:
            found = json.loads(text)
            token, lasts = str(found["access_token"]), float(found.get("expires_in", TOKEN_SECONDS))
        except (ValueError, KeyError, TypeError, AttributeError, RecursionError):
            raise Hopeless(
                Reason.UNAUTHORIZED,
                f"{shown(url)} gives no token to {self._account.email[:100]}: {status}{_said(text)}. Check that the "
                f"account and its key are still there, and the node's clock ({_WHERE})",
            ) from None
        self._web = self._anonymous.authorized(bearer(token))
        self._until = asked + 0.8 * lasts


def assertion(account: Account, now: float) -> str:
    """Return the signed request for a token. Raises Hopeless for a key that signs nothing."""
    import jwt  # noqa: PLC0415 - and cryptography: a tenth of a second that no other source has to wait for

    claims = {
        "iss": account.email,
        "scope": SCOPE,
        "aud": account.token_uri,
        "iat": int(now),
        "exp": int(now) + ASSERTION_SECONDS,
    }
    try:
        return jwt.encode(claims, account.private_key, algorithm="RS256", headers={"kid": account.key_id})
    except (jwt.PyJWTError, ValueError, TypeError):
        raise _wrong("holds a private_key that is no RSA key in PEM: is it whole?") from None


def _said(text: bytes) -> str:
    """Return the words of a refusal: they are for people, and hold no secret."""
    try:
        found = json.loads(text)
        words = f"{found['error']} {found.get('error_description', '')}"
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError):
        return ""
    return f" ({''.join(letter for letter in words.strip()[:200] if letter.isprintable())})"


def _wrong(problem: str) -> Hopeless:
    return Hopeless(Reason.INVALID_CONFIG, f"{_WHERE} {problem}")
