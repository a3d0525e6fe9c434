"""Where the warmer does not go: a user's URI must not read the metadata service of a cloud.

Asked before a request (where does the name lead?) and again after it (whom did we really talk to?): a
name may lead elsewhere a moment later.
"""

import asyncio
import ipaddress
import socket
from urllib.parse import urlsplit

import httpx

from preheat_warmer.errors import Hopeless, Passing, Reason

_Address = ipaddress.IPv4Address | ipaddress.IPv6Address
FORBIDDEN = tuple(
    ipaddress.ip_network(network)
    for network in (
        "169.254.0.0/16",  # link-local: AWS, Google, Azure, OpenStack, Oracle
        "fe80::/10",  # link-local
        "fd00:ec2::254/128",  # AWS
        "100.100.100.200/32",  # Alibaba
    )
)
_NAT64 = ipaddress.IPv6Network("64:ff9b::/96")


async def check_address(url: str, shown: str) -> None:
    """Raise Hopeless for a URL that leads to a forbidden address, Passing when its host is not found."""
    try:
        parts = urlsplit(url)
        port = parts.port or (443 if parts.scheme == "https" else 80)
    except ValueError as error:
        raise Hopeless(Reason.ADDRESS_REFUSED, f"{shown}: {error}") from error
    if parts.scheme not in {"http", "https"} or not parts.hostname:
        raise Hopeless(Reason.ADDRESS_REFUSED, f"{shown}: only http and https addresses are followed")
    try:
        loop = asyncio.get_running_loop()
        found = await loop.getaddrinfo(parts.hostname, port, type=socket.SOCK_STREAM)
    except (OSError, UnicodeError) as error:
        raise Passing(Reason.SOURCE_UNAVAILABLE, f"{parts.hostname} is not found: {error}") from error
    for *_, address in found:
        _refuse_forbidden(str(address[0]), shown)


def check_peer(answer: httpx.Response, shown: str) -> None:
    """Raise Hopeless when the answer came from a forbidden address."""
    stream = answer.extensions.get("network_stream")
    try:
        address = stream.get_extra_info("server_addr") if stream is not None else None
    except OSError as error:  # it hung up already
        raise Passing(Reason.SOURCE_UNAVAILABLE, f"{shown}: {error}") from error
    if address:
        _refuse_forbidden(str(address[0]), shown)


def is_forbidden(address: str) -> bool:
    """Tell whether an IP address, also one inside another (mapped, 6to4, NAT64), is forbidden."""
    plain = _unwrapped(ipaddress.ip_address(address.partition("%")[0]))
    return any(plain in network for network in FORBIDDEN)


def _unwrapped(address: _Address) -> _Address:
    if isinstance(address, ipaddress.IPv4Address):
        return address
    if address in _NAT64:
        return ipaddress.IPv4Address(int(address) & 0xFFFFFFFF)
    return address.ipv4_mapped or address.sixtofour or address


def _refuse_forbidden(address: str, shown: str) -> None:
    if is_forbidden(address):
        raise Hopeless(
            Reason.ADDRESS_REFUSED,
            f"{shown} leads to {address}: the addresses of metadata services are not fetched from",
        )
