"""Who has the lock has that of the folder that is there, and not of one that a keeper has taken away."""

import asyncio
import fcntl
from contextlib import ExitStack
from pathlib import Path
from typing import IO
from unittest.mock import patch

import pytest
from preheat_warmer import publish
from preheat_warmer.errors import Passing
from preheat_warmer.publish import LOCK, lock


async def test_a_folder_that_goes_between_the_opening_and_the_lock_is_waited_for_anew(tmp_path: Path) -> None:
    cache, real = tmp_path / "key", publish._locked

    def locked(file: IO[str]) -> bool:
        if not (tmp_path / "removed").exists():
            cache.rename(tmp_path / "removed")
        return real(file)

    with ExitStack() as held, patch.object(publish, "_locked", locked):
        assert await asyncio.wait_for(lock(cache, held), 10), "it had to wait"
        with (cache / LOCK).open() as other, pytest.raises(BlockingIOError):
            fcntl.flock(other, fcntl.LOCK_EX | fcntl.LOCK_NB)


async def test_a_folder_that_cannot_be_made_is_told(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    for wrong in (tmp_path / "file", tmp_path / "file/key"):
        with ExitStack() as held, pytest.raises(Passing, match="cannot be written"):
            await lock(wrong, held)
