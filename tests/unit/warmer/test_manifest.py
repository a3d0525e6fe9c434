"""Which files make up a model: what is refused, what is left out, what a digest covers."""

from contextlib import suppress
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from preheat_warmer.errors import Hopeless, Reason
from preheat_warmer.manifest import (
    File,
    Manifest,
    checked_path,
    manifest_digest,
    parse_hub_tree,
    parse_rendered,
    parse_sums,
    render,
    select,
)

DIGEST = "a" * 64


@pytest.mark.parametrize(
    "path",
    [
        "",
        "/etc/passwd",
        "../x",
        "a/../../x",
        "a//b",
        "./a",
        "a\\b",
        "a\0b",
        "a\nb",
        ".partial/x",
        "x" * 600,
        "a/.",
    ],
)
def test_paths_that_could_leave_the_folder_are_refused(path: str) -> None:
    with pytest.raises(Hopeless) as refused:
        checked_path(path)
    assert refused.value.reason is Reason.PATH_REFUSED


@given(st.text(max_size=40))
def test_a_path_that_passes_stays_inside(path: str) -> None:
    try:
        checked = checked_path(path)
    except Hopeless:
        return
    assert not checked.startswith("/")
    assert ".." not in checked.split("/")


def test_pickles_are_refused_unless_asked_for() -> None:
    manifest = Manifest((File("model.bin", 1, DIGEST),))
    with pytest.raises(Hopeless) as refused:
        select(manifest, ["*"], allow_pickle=False)
    assert refused.value.reason is Reason.PICKLE_REFUSED
    assert select(manifest, ["*"], allow_pickle=True).files == manifest.files


def test_a_file_without_a_digest_is_refused() -> None:
    with pytest.raises(Hopeless) as refused:
        select(Manifest((File("a.safetensors", 1),)), [], allow_pickle=False)
    assert refused.value.reason is Reason.NO_DIGEST


def test_by_default_pickles_and_pictures_stay_behind() -> None:
    files = [File(p, 1, DIGEST) for p in ("a.safetensors", "config.json", "pytorch_model.bin", "cat.png")]
    chosen = select(Manifest(tuple(files)), [], allow_pickle=False)
    assert [file.path for file in chosen.files] == ["a.safetensors", "config.json"]


def test_a_file_that_is_a_folder_too_is_refused() -> None:
    manifest = Manifest((File("a.json", 1, DIGEST), File("a.json/b.json", 1, DIGEST)))
    with pytest.raises(Hopeless):
        select(manifest, [], allow_pickle=False)


def test_sums_are_read_as_sha256sum_writes_them() -> None:
    files = parse_sums(f"{DIGEST}  a.gguf\n{DIGEST} *sub/b.json\n\n")
    assert [(f.path, f.sha256) for f in files] == [("a.gguf", DIGEST), ("sub/b.json", DIGEST)]


@pytest.mark.parametrize("text", ["nonsense", f"{DIGEST}", f"{DIGEST[:10]}  a", f"{DIGEST}  ../a"])
def test_sums_that_are_none_are_refused(text: str) -> None:
    with pytest.raises(Hopeless):
        parse_sums(text)


def test_the_hub_names_large_files_by_sha256_and_small_ones_by_git() -> None:
    tree = [
        {"type": "directory", "path": "d", "oid": "x"},
        {"type": "file", "path": "m.safetensors", "size": 5, "oid": "p", "lfs": {"oid": DIGEST, "size": 99}},
        {"type": "file", "path": "config.json", "size": 5, "oid": "b" * 40},
    ]
    assert parse_hub_tree(tree) == [
        File("m.safetensors", 99, DIGEST),
        File("config.json", 5, None, "b" * 40),
    ]


def test_one_digest_for_the_same_bytes_whatever_the_order() -> None:
    one, two = File("a", 1, DIGEST), File("b", 2, "b" * 64)
    assert manifest_digest(Manifest((one, two))) == manifest_digest(Manifest((two, one)))
    assert manifest_digest(Manifest((one,))) != manifest_digest(Manifest((two,)))


RENDERED = render(Manifest((File("a/w", 5, DIGEST), File("b", 0, None, "b" * 40)), "r"), "hf://a/b", ["*"])


def test_what_was_rendered_is_read() -> None:
    assert parse_rendered(RENDERED) == Manifest((File("a/w", 5, DIGEST), File("b", 0, None, "b" * 40)), "r")


@pytest.mark.parametrize(
    ("change", "told"),
    [
        ({"path": "../w"}, "path"),
        ({"path": "/w"}, "path"),
        ({"path": "b"}, "twice"),
        ({"path": 5}, "no manifest"),
        ({"path": "c"}, "its own digest"),
        ({"sizeBytes": None}, "no size"),
        ({"sizeBytes": -1}, "no size"),
        ({"sizeBytes": True}, "no size"),
        ({"sizeBytes": 1 << 60}, "no size"),
        ({"sha256": "x"}, "no digest"),
        ({"sha256": None}, "no manifest"),
        ({"sha256": "b" * 64}, "its own digest"),
    ],
)
def test_a_manifest_that_somebody_changed_is_none(change: dict[str, Any], told: str) -> None:
    first, second = RENDERED["files"]
    with pytest.raises(ValueError, match=told):
        parse_rendered({**RENDERED, "files": [{**first, **change}, second]})


ANY = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=5),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(st.sampled_from([*RENDERED, "path", "sizeBytes", "sha256", "gitSHA1"]), inner)
    ),
)


@settings(max_examples=200, deadline=None)
@given(ANY)
def test_any_json_is_a_manifest_or_none(found: Any) -> None:
    with suppress(ValueError):
        parse_rendered(found)
