"""Which files are taken, and that no path leads out of the model's folder."""

import os.path
from collections.abc import Callable
from typing import TypeVar

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from preheat_warmer.errors import Hopeless, Reason
from preheat_warmer.manifest import (
    File,
    Manifest,
    approve,
    checked_path,
    manifest_digest,
    parse_hub_tree,
    parse_sums,
    render,
    select,
)

Found = TypeVar("Found")
DIGEST = "0123456789abcdef" * 4
NASTY = st.lists(
    st.sampled_from(["..", ".", "/", "\\", "\0", "a", "b.json", "~", " ", "\n", "\x7f", "ü", "\ud800", ".partial",
                     ".preheat-manifest.json", ".preheat-parts", "\u2028", "a" * 300]),
    max_size=8,
).map("".join)  # fmt: skip


def a_manifest(*paths: str) -> Manifest:
    return Manifest(tuple(File(path, 1, DIGEST) for path in paths))


def tried(act: Callable[[], Found]) -> Found | Hopeless:
    try:
        return act()
    except Hopeless as error:
        return error


def refusal(reason: Reason) -> "pytest.RaisesExc[Hopeless]":
    return pytest.raises(Hopeless, check=lambda error: error.reason is reason)


@settings(max_examples=300, deadline=None)
@given(st.one_of(NASTY, st.text(max_size=40)))
def test_a_path_that_is_let_in_stays_in(path: str) -> None:
    allowed = tried(lambda: checked_path(path))
    if isinstance(allowed, Hopeless):
        assert allowed.reason is Reason.PATH_REFUSED
        assert len(str(allowed).encode()) < 1500, "it must be printable, and short"
        return
    assert allowed == path
    joined = os.path.normpath(f"/root/{path}")
    assert joined == f"/root/{path}"
    assert not {"\0", "\\", "\n"} & set(path)
    assert len(path.encode()) <= 512
    assert all(0 < len(part.encode()) <= 250 for part in path.split("/"))
    assert not path.startswith((".partial/", ".preheat", ".lock/"))


@settings(max_examples=200, deadline=None)
@given(st.lists(st.one_of(NASTY, st.sampled_from(["a", "a/b", "a/b/c", "d.json"])), max_size=5))
def test_an_approved_list_can_be_laid_out_as_files(paths: list[str]) -> None:
    approved = tried(lambda: approve(a_manifest(*paths), allow_pickle=True))
    if isinstance(approved, Hopeless):
        assert approved.reason is Reason.PATH_REFUSED
        return
    names = [file.path for file in approved.files]
    assert names == sorted(set(paths))
    assert not any(other.startswith(f"{name}/") for name in names for other in names)


@pytest.mark.parametrize(
    "path",
    ["", "/", "/a", "a/", "a//b", "..", "../a", "a/../b", ".", "./a", "a/.", "a\\b", "a\0", "a\nb", "a\x7f",
     ".partial/a", ".preheat-manifest.json", ".preheat-parts/a", ".lock", "a" * 256, "a/" * 256 + "a"],
)  # fmt: skip
def test_paths_that_are_refused(path: str) -> None:
    with refusal(Reason.PATH_REFUSED):
        checked_path(path)


@pytest.mark.parametrize(
    "path", ["a", "a/b.json", "..a", "a..b/c", ".hidden", "ü/ö", "a b", "model/.partial", "-rf"]
)
def test_paths_that_are_let_in(path: str) -> None:
    assert checked_path(path) == path


@pytest.mark.parametrize(
    "paths", [("a", "a"), ("a", "a/b"), ("a/b/c", "a/b"), ("a", "a.part"), ("a", "a.part/b")]
)
def test_paths_that_cannot_be_together(paths: tuple[str, ...]) -> None:
    with refusal(Reason.PATH_REFUSED):
        approve(a_manifest(*paths), allow_pickle=False)


def test_sums_as_sha256sum_writes_them() -> None:
    text = f"{DIGEST}  a.json\n{DIGEST} *b c.gguf\r\n\n{DIGEST.upper()}  ./d/e.json\n{DIGEST}  SHA256SUMS"
    assert parse_sums(text) == [File(path, None, DIGEST) for path in ("a.json", "b c.gguf", "d/e.json")]


@pytest.mark.parametrize(
    ("line", "reason"),
    [
        ("<html>", Reason.NO_DIGEST),
        (f"{DIGEST[:-1]}  a", Reason.NO_DIGEST),
        (f"{DIGEST}g  a", Reason.NO_DIGEST),
        (f"{DIGEST} a", Reason.NO_DIGEST),
        (f"{DIGEST}  ", Reason.NO_DIGEST),
        (f"\\{DIGEST}  a\\nb", Reason.NO_DIGEST),  # how sha256sum quotes a name with a line break
        (f"{DIGEST}  ../a", Reason.PATH_REFUSED),
        (f"{DIGEST} */etc/passwd", Reason.PATH_REFUSED),
        (f"{DIGEST}  a\u2028b", Reason.PATH_REFUSED),
    ],
)
def test_sums_that_are_refused(line: str, reason: Reason) -> None:
    with refusal(reason):
        parse_sums(line)


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(
        st.sampled_from(["type", "path", "size", "oid", "lfs", "file"]), inner | st.just("file"), max_size=5),
    max_leaves=8,
)  # fmt: skip


@settings(max_examples=200, deadline=None)
@given(st.lists(JSON, max_size=3), st.text(max_size=120))
def test_listings_of_any_kind_are_read_or_refused_in_words(entries: list[object], text: str) -> None:
    for read in (lambda: parse_hub_tree(entries), lambda: parse_sums(text)):
        files = tried(read)
        assert isinstance(files, Hopeless) or all(isinstance(file, File) for file in files)


def test_a_hub_tells_large_files_by_sha256_and_small_ones_by_their_blob() -> None:
    tree = [
        {"type": "directory", "path": "d", "oid": "0" * 40, "size": 0},
        {
            "type": "file",
            "path": "a",
            "size": 9,
            "oid": "1" * 40,
            "lfs": {"oid": DIGEST, "size": 9, "pointerSize": 134},
        },
        {"type": "file", "path": "b", "size": 2, "oid": "2" * 40},
        {
            "type": "file",
            "path": "c",
            "size": 2,
            "oid": "2" * 40,
            "lfs": {"oid": f"sha256:{DIGEST}", "size": 7},
        },
        {"type": "file", "path": "d/none", "size": 2, "oid": "not a digest"},
    ]
    expected = [File("a", 9, DIGEST), File("b", 2, None, "2" * 40), File("c", 7, DIGEST), File("d/none", 2)]
    assert parse_hub_tree(tree) == expected
    with refusal(Reason.NO_DIGEST):
        approve(Manifest(tuple(expected)), allow_pickle=False)


def chosen(paths: list[str], *include: str, allow_pickle: bool = False) -> list[str]:
    return [file.path for file in select(a_manifest(*paths), include, allow_pickle=allow_pickle).files]


def test_by_default_what_an_engine_needs_is_taken_and_code_is_not() -> None:
    repository = ["m.safetensors", "config.json", "tokenizer.model", "merges.txt", "chat_template.jinja", "README.md",
                  "modeling.py", "pytorch_model.bin", "original/consolidated.00.pth", "sub/x.json", "logo.png"]  # fmt: skip
    expected = [
        "chat_template.jinja",
        "config.json",
        "m.safetensors",
        "merges.txt",
        "sub/x.json",
        "tokenizer.model",
    ]
    assert chosen(repository) == expected


def test_a_model_whose_weights_are_a_pickle_is_refused_not_published_without_weights() -> None:
    with refusal(Reason.PICKLE_REFUSED):
        chosen(["pytorch_model.bin", "config.json"])
    assert chosen(["pytorch_model.bin", "config.json"], allow_pickle=True) == [
        "config.json",
        "pytorch_model.bin",
    ]


def test_what_only_training_needs_is_taken_when_it_is_named() -> None:
    repository = [
        "a/pytorch_model.bin",
        "training_args.bin",
        "a/optimizer.pt",
        "optimizer.json",
        "rng_state_0.pth",
    ]
    assert chosen(repository, allow_pickle=True) == ["a/pytorch_model.bin", "optimizer.json"]
    assert chosen(repository, "*.bin", allow_pickle=True) == ["a/pytorch_model.bin", "training_args.bin"]


@pytest.mark.parametrize(
    "name", ["a.bin", "a.PT", "x/a.pth", "a.ckpt", "a.pkl", "a.Pickle", "a.joblib", "a.npy", "a.dill"]
)
def test_a_pickle_that_is_asked_for_by_name_is_refused(name: str) -> None:
    with refusal(Reason.PICKLE_REFUSED):
        chosen([name, "m.safetensors"], "*")
    with refusal(Reason.PICKLE_REFUSED):
        approve(a_manifest(name), allow_pickle=False)
    assert chosen([name, "m.safetensors"], "*.safetensors") == ["m.safetensors"]


def test_no_file_that_matches_is_told() -> None:
    with refusal(Reason.NOT_FOUND):
        chosen(["a.onnx"], "*.gguf")


def test_a_bad_path_that_nobody_asks_for_spoils_nothing() -> None:
    assert chosen(["m.safetensors", "pic\\ture.png"]) == ["m.safetensors"]
    with refusal(Reason.PATH_REFUSED):
        chosen(["m.safetensors", "con\\fig.json"])


def test_the_manifest_s_digest_is_of_paths_and_digests_alone() -> None:
    one, two = File("a", 1, DIGEST), File("b", None, "f" * 64)
    digest = manifest_digest(Manifest((one, two)))
    assert digest == manifest_digest(Manifest((two, one), "some revision"))
    assert digest != manifest_digest(Manifest((one,)))
    assert digest != manifest_digest(Manifest((File("c", 1, DIGEST), two)))
    # fixed: nodes of different versions of the warmer must agree
    assert digest == "700085232288162d9b67f0278f78f4ef0112f7680d50315208191b19365cf892"
    assert render(Manifest((one,)), "http://x/", [])["manifestSHA256"] == manifest_digest(Manifest((one,)))
