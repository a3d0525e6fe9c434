"""A note that weights were verified counts for a day, on a machine that has not restarted, for these weights."""

import json
import os
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from preheat_warmer.folder import open_folder
from preheat_warmer.verified import (
    NOTE,
    Verified,
    forget_note,
    parse_note,
    read_boot_id,
    read_note,
    write_note,
)

NOW = datetime(2026, 1, 2, 12, tzinfo=UTC)


@pytest.mark.parametrize(
    ("boot", "age", "weights", "holds"),
    [
        ("b", timedelta(), "m", True),
        ("b", timedelta(hours=23, minutes=59), "m", True),
        ("b", timedelta(hours=24), "m", False),
        ("b", timedelta(seconds=-1), "m", False),
        ("another", timedelta(), "m", False),
        ("b", timedelta(), "another", False),
        ("", timedelta(), "m", False),
    ],
)
def test_what_a_note_is_worth(boot: str, age: timedelta, weights: str, holds: bool) -> None:
    assert Verified(boot, NOW - age, weights).holds(boot if not boot else "b", NOW, "m") is holds


@pytest.mark.parametrize(
    ("boot", "age", "weights", "holds"),
    [
        ("b", timedelta(days=2), "m", True),
        ("b", timedelta(days=2, seconds=1), "m", False),
        ("b", timedelta(seconds=-1), "m", False),
        ("another", timedelta(), "m", False),
        ("b", timedelta(), "another", False),
        ("", timedelta(), "m", False),
    ],
)
def test_who_asks_says_how_old_a_note_may_be(boot: str, age: timedelta, weights: str, holds: bool) -> None:
    note = Verified(boot, NOW - age, weights)
    assert note.holds_since(NOW - timedelta(days=2), boot if not boot else "b", NOW, "m") is holds


JSON = st.recursive(
    st.none() | st.integers() | st.text(max_size=9),
    lambda inner: (
        st.lists(inner) | st.dictionaries(st.sampled_from(["bootID", "time", "manifestSHA256"]), inner)
    ),
)


@given(st.text() | JSON.map(json.dumps))
def test_any_text_is_a_note_or_none(text: str) -> None:
    assert parse_note(text) is None


@pytest.mark.parametrize("time", ["2026-01-01", "2026-01-01T00:00:00", 5, None, "soon"])
def test_a_time_without_a_zone_is_none(time: object) -> None:
    assert parse_note(json.dumps({"bootID": "b", "time": time, "manifestSHA256": "m"})) is None


def test_what_is_noted_is_read(tmp_path: Path) -> None:
    folder = open_folder(str(tmp_path))
    try:
        assert read_note(folder) is None
        write_note(folder, "m")
        write_note(folder, "n")
        note = read_note(folder)
        assert note is not None
        assert note.holds(read_boot_id(), datetime.now(UTC), "n")
        assert [path.name for path in tmp_path.iterdir()] == [NOTE]
        forget_note(folder)
        forget_note(folder)
        assert read_note(folder) is None
    finally:
        os.close(folder)


@pytest.mark.parametrize("name", [NOTE, f"{NOTE}.new"])
def test_a_planted_link_leads_nobody_out(tmp_path: Path, name: str) -> None:
    outside, cache = tmp_path / "outside", tmp_path / "cache"
    cache.mkdir()
    outside.write_text("precious")
    (cache / name).symlink_to(outside)
    folder = open_folder(str(cache))
    try:
        assert read_note(folder) is None
        write_note(folder, "m")
        assert read_note(folder) is not None
    finally:
        os.close(folder)
    assert outside.read_text() == "precious"
