"""Neighbours: nodes that hold the very weights and serve them (``../seeder.py``).

They are asked for the manifest, which must have the digest that the configuration names, and then for files, each
request of the one that has the least to do for us; of those, of the one that was asked for the least so far. Nobody
trusts them: every file is verified as one from anywhere. A neighbour that fails, keeps us waiting or sends wrong bytes
falls out for the rest of the run. When none is left, NO_NEIGHBOUR is raised, and the run goes on with the source
(``../main.py``).
"""

from collections import defaultdict
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import replace
from pathlib import Path
from urllib.parse import quote

from preheat_warmer.errors import Changed, Hopeless, Passing, Reason, WarmerError
from preheat_warmer.manifest import File, Manifest, manifest_digest, parse_published
from preheat_warmer.publish import MANIFEST, PUBLISHED
from preheat_warmer.sources.base import Pipe, Transfer
from preheat_warmer.sources.direct import Direct
from preheat_warmer.sources.web import Web
from preheat_warmer.telling import log

CONNECT_SECONDS = 2.0
READ_SECONDS = 10.0
"""In one cluster, who is silent for longer is gone, or has no time for us."""


class Neighbours:
    """A source: those of the neighbours that have not fallen out."""

    def __init__(self, peers: Sequence[str], token: Path, manifest_sha256: str) -> None:
        def authorize(_method: str, _url: str) -> Mapping[str, str]:
            return {"Authorization": f"Bearer {_read(token)}"}

        # Addresses of pods: a proxy of the environment is never asked for them.
        self._web = Web(None, Direct(CONNECT_SECONDS, READ_SECONDS)).authorized(authorize)
        self._wanted = manifest_sha256
        self._busy = dict.fromkeys(peers, 0)
        """Those that have not fallen out, each with how much it sends us right now."""
        self._asked: defaultdict[str, int] = defaultdict(int)
        """Neighbour -> for how many bytes it was asked."""
        self._gave: defaultdict[str, set[str]] = defaultdict(set)
        """Path -> who sent something of it."""
        self._one_at_a_time: set[str] = set()
        """Paths of which somebody sent wrong bytes, nobody knows who: the next one sends all of it."""

    async def close(self) -> None:
        """Release the sockets."""
        await self._web.close()

    async def list(self) -> Manifest:
        """Return the manifest of the first neighbour that has the right one."""
        for peer in tuple(self._busy):
            try:
                text, _ = await self._web.text(f"{peer}/{PUBLISHED}/{MANIFEST}")
                manifest = parse_published(text)
            except WarmerError as error:
                self._drop(peer, str(error))
                continue
            if manifest_digest(manifest) == self._wanted:
                return manifest
            self._drop(peer, "it holds other weights")
        raise _nobody()

    async def size(self, file: File) -> int | None:
        """Return what the manifest said."""
        return file.size

    @asynccontextmanager
    async def open(
        self,
        file: File,
        offset: int,
        version: str,  # noqa: ARG002
        end: int | None = None,
    ) -> AsyncIterator[Transfer]:
        """Read a part of a file from one of them. Weights have no versions: their digest tells them apart."""
        peer = self._choose(file)
        self._busy[peer] += 1
        self._asked[peer] += (end or file.size or 0) - offset
        self._gave[file.path].add(peer)
        try:
            url = f"{peer}/{PUBLISHED}/{quote(file.path)}"
            async with self._web.file(url, offset, "", end) as transfer:
                yield _checked(transfer, file, offset, end)
        except (WarmerError, Changed) as error:
            self._drop(peer, str(error))
            raise Passing(Reason.SOURCE_UNAVAILABLE, str(error), retry_after_seconds=0.0) from error
        finally:
            if peer in self._busy:
                self._busy[peer] -= 1

    def would_send_other(self, file: File) -> bool:
        """Hear that a file came whole and wrong; tell whether it was a neighbour's fault. Who lies falls out."""
        gave = self._gave.pop(file.path, set())
        if len(gave) > 1:
            self._one_at_a_time.add(file.path)
            return True
        for peer in gave:
            self._drop(peer, f"{file.path} is not what its digest says")
        return bool(gave)

    def _choose(self, file: File) -> str:
        if not self._busy:
            raise _nobody()
        if file.path in self._one_at_a_time:
            return next(iter(self._busy))
        return min(self._busy, key=lambda peer: (self._busy[peer], self._asked[peer]))

    def _drop(self, peer: str, why: str) -> None:
        if self._busy.pop(peer, None) is not None:
            log("neighbour falls out", peer=peer, why=why, left=len(self._busy))


class _Whole:
    """A pipe that notices when less comes than was promised."""

    def __init__(self, pipe: Pipe, expected: int) -> None:
        self._pipe = pipe
        self._left = expected
        self.break_off = pipe.break_off
        self.wait_short = pipe.wait_short

    def read_into(self, memory: memoryview) -> int:
        """Bring the next bytes, none at the end. Raises Passing when that comes too early."""
        count = self._pipe.read_into(memory)
        self._left -= count
        if not count and self._left > 0:
            raise Passing(Reason.SOURCE_UNAVAILABLE, f"the answer ended {self._left:,} bytes early")
        return count


def _checked(transfer: Transfer, file: File, offset: int, end: int | None) -> Transfer:
    """Return a transfer that brings what was asked for. Raises Passing for any other, and later if it ends early."""
    if not transfer.ranged or transfer.offset != offset:
        raise Passing(Reason.SOURCE_UNAVAILABLE, f"{file.path}: it sends another part than the one asked for")
    if transfer.total != file.size or transfer.pipe is None:
        raise Passing(Reason.SOURCE_UNAVAILABLE, f"{file.path}: its size is not what the manifest says")
    whole = _Whole(transfer.pipe, (end or transfer.total or 0) - offset)
    return replace(transfer, version="", pipe=whole, from_peer=True)


def _read(token: Path) -> str:
    """Return the token of now: the kubelet renews it. Raises Hopeless."""
    try:
        return token.read_text("ascii").strip()
    except (OSError, ValueError) as error:
        raise Hopeless(Reason.UNAUTHORIZED, f"the token {token} cannot be read: {error}") from error


def _nobody() -> Passing:
    return Passing(Reason.NO_NEIGHBOUR, "no neighbour is left that serves these weights")
