"""A model that is cut off or lacks a shard is noticed before an engine is."""

import json
import struct
from contextlib import suppress
from pathlib import Path
from tempfile import TemporaryDirectory

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from preheat_warmer.errors import Hopeless, Reason
from preheat_warmer.manifest import File, Manifest
from preheat_warmer.publish import check_complete


def packed(header: object, data: bytes = b"") -> bytes:
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    return struct.pack("<Q", len(text)) + text + data


def check(files: dict[str, bytes]) -> None:
    with TemporaryDirectory() as name:
        for path, content in files.items():
            Path(name, path).parent.mkdir(parents=True, exist_ok=True)
            Path(name, path).write_bytes(content)
        check_complete(Path(name), Manifest(tuple(File(path, None) for path in files)))


def tensor(begin: object, end: object) -> dict[str, object]:
    return {"dtype": "U8", "shape": [1], "data_offsets": [begin, end]}


@pytest.mark.parametrize(
    "content",
    [
        packed({"w": tensor(0, 4)}, b"1234"),
        packed({"__metadata__": {"format": "pt"}, "a": tensor(2, 4), "b": tensor(0, 2)}, b"1234"),
        packed({}),
        packed(b'{"w":{"dtype":"U8","shape":[0],"data_offsets":[0,0]}}   '),
    ],
)
def test_whole_files(content: bytes) -> None:
    check({"m.safetensors": content})


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"1234567",
        struct.pack("<Q", 2**63) + b"{}",
        struct.pack("<Q", 3) + b"{}",
        packed({"w": tensor(0, 5)}, b"1234"),
        packed({"w": tensor(0, 3)}, b"1234"),
        packed({"w": tensor(-1, 4)}, b"1234"),
        packed({"w": tensor(4, 0)}, b"1234"),
        packed({"w": tensor("0", 4), "v": tensor(0, "x")}, b"1234"),
        packed({"w": {"dtype": "U8"}}),
        packed({"w": 5}),
        packed([]),
        packed(b"{]"),
        packed(b"\xff\xff"),
        packed(b"[" * 90_000),
    ],
)
def test_broken_files(content: bytes) -> None:
    with pytest.raises(Hopeless) as caught:
        check({"m.safetensors": content})
    assert caught.value.reason is Reason.INCOMPLETE_MODEL
    assert "m.safetensors" in str(caught.value)


@settings(max_examples=100, deadline=None)
@given(st.binary(max_size=60), st.booleans())
def test_any_bytes_are_judged_in_words(content: bytes, framed: bool) -> None:
    """Anything but a verdict would be a traceback in a user's Job."""
    with suppress(Hopeless):
        check({"m.safetensors": packed(content) if framed else content, "m.safetensors.index.json": content})


SHARD = packed({"w": tensor(0, 1)}, b"1")


def test_all_shards_of_an_index_must_be_there() -> None:
    index = json.dumps({"weight_map": {"a": "1.safetensors", "b": "2.safetensors"}}).encode()
    there = {"x/1.safetensors": SHARD, "x/model.safetensors.index.json": index}
    with pytest.raises(Hopeless, match=r"2\.safetensors \(1 of 2"):
        check(there)
    with pytest.raises(Hopeless):
        check({**there, "2.safetensors": SHARD})  # beside the folder, not in it
    check({**there, "x/2.safetensors": SHARD})


@pytest.mark.parametrize(
    "index", [b"", b"[]", b"{}", b'{"weight_map": 3}', b'{"weight_map": {"a": ["x"]}}', b"[" * 90_000]
)
def test_an_index_that_is_none(index: bytes) -> None:
    with pytest.raises(Hopeless):
        check({"model.safetensors.index.json": index})
