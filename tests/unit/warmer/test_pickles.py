"""A pickle that may run code is never published, whatever it is wrapped in, and looking costs little."""

import builtins
import bz2
import collections
import gzip
import io
import pickle
import struct
import subprocess
import tarfile
import time
import tracemalloc
import zipfile
import zlib
from contextlib import suppress
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from preheat_warmer.errors import Hopeless, Reason
from preheat_warmer.manifest import File, Manifest
from preheat_warmer.scan import check_pickles

from tests.unit.warmer.pickled import Call, Evil, archive, array, legacy, state

PROTOCOLS = range(6)


def check(name: str, content: bytes, *, allow_pickle: bool = True) -> None:
    with TemporaryDirectory() as folder:
        Path(folder, name).write_bytes(content)
        check_pickles(Path(folder), Manifest((File(name, None),)), allow_pickle=allow_pickle)


def refused(name: str, content: bytes, *, allow_pickle: bool = True) -> str:
    with pytest.raises(Hopeless) as caught:
        check(name, content, allow_pickle=allow_pickle)
    assert caught.value.reason is Reason.PICKLE_REFUSED
    assert caught.value.exit_code == 2
    assert str(caught.value).startswith(name)
    assert "spec.model.include" in str(caught.value)
    return str(caught.value)


@pytest.mark.parametrize("protocol", PROTOCOLS)
def test_weights_are_let_through(protocol: int) -> None:
    pickled = state(protocol, count=300)
    check("model.pt", archive(pickled))
    check("model.bin", archive(pickled, compression=zipfile.ZIP_DEFLATED))
    check("model.pth", legacy(pickled))
    check("model.pkl", pickled)
    check("model.ckpt", pickled + pickle.dumps({"epoch": 3}, protocol))


@pytest.mark.parametrize("protocol", PROTOCOLS)
def test_a_planted_call_is_refused_however_deep(protocol: int) -> None:
    pickled = state(protocol, count=300, planted=Evil())
    for name, content in {
        "model.pt": archive(pickled),
        "pytorch_model.bin": archive(pickled, compression=zipfile.ZIP_DEFLATED),
        "old.pth": legacy(pickled),
        "plain.pkl": pickled,
        "second.ckpt": state(protocol) + pickled,
        "sixth.ckpt": state(protocol) * 5 + pickle.dumps(Evil(), protocol),
        "objects.npy": array("'|O'", pickled),
        "fields.npy": array("[('a', '<f4'), ('b', 'O')]", pickled, version=2),
        "model.npz": archive(b"N.", {"weights.npy": array("'|O'", pickled)}),
        "renamed.pt": archive(state(2), {"model/notes": pickled}),
        "constants.pt": archive(state(2), {"model/constants.pkl": pickled}),
    }.items():
        assert "system" in refused(name, content)


@pytest.mark.parametrize(
    "function",
    [builtins.eval, builtins.getattr, subprocess.Popen, collections.namedtuple, pickle.loads, zipfile.Path],
)
def test_what_is_not_known_to_be_harmless_is_refused(function: Any) -> None:
    name = f"{function.__module__}.{function.__qualname__}"
    assert name in refused("model.pt", archive(state(4, planted=Call(function, "x"))))


@pytest.mark.parametrize(
    "pickled",
    [
        b"cos\nsystem\n(S'id'\ntR.",
        b"(S'id'\nios\nsystem\n.",
        # A name that is remembered under one number and taken from another count.
        b"\x80\x04\x8c\x02osq\x00\x8c\x06systemq\x01\x8c\x05torch\x94\x8c\x04Size\x940h\x00h\x01\x93.",
        # Something else is on top by the time the name is taken.
        b"\x80\x04\x8c\x02os\x8c\x06system\x8c\x05torch\x8c\x04Size00\x93.",
        b"\x80\x04\x8c\x05torch\x8c\x02os\x8c\x06system\x8c\x04Size0\x93.",
        b"\x80\x04\x8c\x05torch\x8c\x04Size\x86\x93.",
        b"\x80\x04\x8c\x05torch\x94\x8c\x02osq\x00h\x00\x8c\x06system\x93.",
        # Remembered anew, as a kind of text that is not followed.
        b"\x80\x04\x8c\x05torchq\x00\x8c\x04Sizeq\x0100U\x02osq\x00U\x06systemq\x0100h\x00h\x01\x93.",
        b"\x8c\x03\xed\xb2\x800cos\nsystem\n.",
        b"\x80\x02\x82\x01.",
        b"\x80\x04\x8c\x0btorch.Size.\x8c\x11__init__.__globals\x93.",
        b"\x80\x04\x8c\x05torch\x8c\x13Size.__reduce__.x.y\x93.",
        b"\x80\x02c\xc3\xa9\nx\n.",
        b"\x80\x02ctorch.storage\n_load_from_bytes\n.",
    ],
)
@pytest.mark.parametrize("name", ["model.pkl", "model.bin"])
def test_hidden_names_are_refused(pickled: bytes, name: str) -> None:
    assert "import" in refused(name, pickled)
    refused("model.pt", archive(pickled))


def test_what_follows_a_name_that_fails_is_not_what_is_looked_at() -> None:
    """What ran before it breaks has run."""
    pickled = state(4, planted=Evil())
    for length in range(pickled.index(b"system") + 8, len(pickled), 3):
        refused("model.bin", pickled[:length])


@pytest.mark.parametrize("name", ["model.pt", "model.pkl", "model.bin"])
@pytest.mark.parametrize("protocol", [2, 3, 4, 5])
def test_a_truncated_pickle_is_refused(name: str, protocol: int) -> None:
    pickled = state(protocol)
    for length in (3, len(pickled) // 2, len(pickled) - 1):
        assert "cut off" in refused(name, pickled[:length])
        assert "cut off" in refused(name, archive(pickled[:length]))
    assert "cut off" in refused("old.pt", legacy(pickled)[: len(pickled)])


def test_an_archive_that_is_cut_off_is_refused() -> None:
    whole = archive(state(2))
    for length in range(30, len(whole), 97):
        refused("model.pt", whole[:length])


def test_a_bomb_costs_little() -> None:
    """One gigabyte in a megabyte, where the pickle should be: neither time nor memory."""
    out = io.BytesIO()
    with (
        zipfile.ZipFile(out, "w", zipfile.ZIP_DEFLATED, compresslevel=1) as made,
        made.open("model/data.pkl", "w") as entry,
    ):
        entry.write(b"\x80\x02B" + struct.pack("<I", 1 << 30))
        for _ in range(1 << 10):
            entry.write(bytes(1 << 20))
        entry.write(b"0.")
    started = time.process_time()
    tracemalloc.start()
    try:
        assert "MiB" in refused("model.pt", out.getvalue())
        assert tracemalloc.get_traced_memory()[1] < 16 << 20
    finally:
        tracemalloc.stop()
    assert time.process_time() - started < 10


def test_many_steps_are_not_looked_through() -> None:
    assert "steps" in refused("model.pkl", b"\x80\x02" + b"N0" * 5_000_001 + b"N.")


def test_a_long_list_of_entries_is_not_held() -> None:
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w") as made:
        for number in range(100):
            made.writestr(f"{number}" + "x" * 60_000, b"")
    assert "list of entries" in refused("model.pt", out.getvalue())


def test_only_the_pickles_of_a_large_file_are_read(tmp_path: Path) -> None:
    """Three gigabytes of a tensor, as a hole: read at all, they would take seconds."""
    with zipfile.ZipFile(tmp_path / "model.pt", "w") as made:
        made.writestr("model/data.pkl", state(2))
        made.writestr("model/data/0", b"")
    # The entry's real size is written over, and the list of entries moved behind the tensor.
    content = bytearray((tmp_path / "model.pt").read_bytes())
    size = 3 << 30
    listed = content.index(b"PK\x01\x02")
    ended = content.index(b"PK\x05\x06")
    local = content.rindex(b"PK\x03\x04")
    entry = content.rindex(b"PK\x01\x02")
    for place in (local + 18, local + 22, entry + 20, entry + 24):
        content[place : place + 4] = struct.pack("<I", size)
    content[ended + 16 : ended + 20] = struct.pack("<I", listed + size)
    with (tmp_path / "model.pt").open("wb") as out:
        out.write(content[:listed])
        out.seek(size, 1)
        out.write(content[listed:])
    started = time.process_time()
    check_pickles(tmp_path, Manifest((File("model.pt", None),)), allow_pickle=True)
    assert time.process_time() - started < 0.5


def test_archives_that_two_readers_read_differently_are_refused() -> None:
    """Python takes the list of entries right before the end, torch's reader the one at the offset told there."""
    good, evil = archive(state(2)), archive(state(2, planted=Evil()))
    refused("model.pt", evil + good)
    refused("model.pt", good + b"#!")
    refused("model.pkl", pickle.dumps(1) + good)
    start = good.index(b"PK\x01\x02")
    refused("model.pt", good[:start] + b"PADDING" + good[start:])
    refused("model.pt", good + b"PK\x05\x06" + bytes(18))


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("model.joblib", zlib.compress(pickle.dumps(Evil()))),
        ("model.pkl", gzip.compress(pickle.dumps(Evil()), mtime=0)),
        ("model.bin", bz2.compress(pickle.dumps(Evil()))),
        ("model.pt", archive(state(2), {"inner.pt": archive(state(2, planted=Evil()))})),
        ("model.mar", archive(b"N.", {"handler.py": b"import os"})),
        ("model.npy", array("'|O'", b"")),
        ("model.npy", array("__import__('os')", b"")),
        ("model.npy", b"\x93NUMPY\x02\x00" + struct.pack("<I", 1 << 31)),
        ("model.pkl", b"no pickle"),
        ("model.pkl", b""),
        ("model.joblib", b"\x80\x04cjoblib.numpy_pickle\nNumpyArrayWrapper\n."),
    ],
)
def test_what_cannot_be_looked_into_is_refused(name: str, content: bytes) -> None:
    refused(name, content)


def test_a_tar_archive_is_refused_also_one_that_begins_like_a_pickle() -> None:
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w") as made:
        entry = tarfile.TarInfo("N.")
        made.addfile(entry)
    assert "tar" in refused("model.pt", out.getvalue())


def test_an_encrypted_entry_is_refused() -> None:
    content = bytearray(archive(state(2)))
    content[content.index(b"PK\x01\x02") + 8] |= 1
    assert "encrypted" in refused("model.pt", bytes(content))


def test_numbers_alone_are_let_through() -> None:
    check("openvino.bin", struct.pack("<1000f", *range(1000)))
    check("model.npy", array("'<f4'", b"\x80\x04\x93" + bytes(5)))
    check("model.npz", archive(b"N.", {"w.npy": array("[('a', '<f4'), ('Out', '<i8')]", bytes(24))}))
    check(
        "script.pt",
        archive(b"\x80\x02c__torch__\nNet\n)\x81.", {"model/code/__torch__.py": b"class Net: ..."}),
    )


@pytest.mark.parametrize("name", ["model.safetensors", "config.json", "weights.dat"])
def test_a_pickle_by_another_name_needs_the_same_word(name: str) -> None:
    assert "is a pickle" in refused(name, state(2), allow_pickle=False)
    assert "system" in refused(name, state(4, planted=Evil()))
    check(name, state(2))
    check(name, b"\x80\x02 but no pickle", allow_pickle=False)


@given(st.binary(max_size=300), st.sampled_from(PROTOCOLS))
@settings(max_examples=300, deadline=None)
def test_whatever_is_there_it_is_let_through_or_refused(noise: bytes, protocol: int) -> None:
    for content in (noise, state(protocol)[:40] + noise, archive(state(protocol), {"model/data/2": noise})):
        with suppress(Hopeless):
            check("model.bin", content)


@given(st.data())
@settings(max_examples=300, deadline=None)
def test_a_damaged_planted_file_is_never_let_through_with_the_call_in_it(data: st.DataObject) -> None:
    """One byte is changed before the call. Where it is let through, loading it does not get to the call."""
    pickled = bytearray(
        pickle.dumps([{"a": 1.5, "b": "text"}, Evil()], data.draw(st.sampled_from(PROTOCOLS)))
    )
    end = pickled.index(b"system")
    pickled[data.draw(st.integers(0, end - 12))] = data.draw(st.integers(0, 255))
    try:
        check("model.bin", bytes(pickled))
    except Hopeless:
        return

    class Caught(pickle.Unpickler):
        def find_class(self, module: str, name: str) -> Any:
            assert (module, name) == ("collections", "OrderedDict")
            return super().find_class(module, name)

    try:
        Caught(io.BytesIO(bytes(pickled))).load()
    except AssertionError:
        raise
    except Exception:  # noqa: BLE001 - it does not get there
        return
