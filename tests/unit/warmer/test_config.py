"""The configuration is right, or it is refused with the field's name."""

import json
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from preheat_warmer.config import ROOM_VARIABLE, VARIABLE, Config, KeepConfig, from_environment
from preheat_warmer.errors import Hopeless, Reason

NOWHERE = Path("/nonexistent")
SMALLEST: dict[str, Any] = {"source": {"uri": "http://store/m/"}, "destination": "/cache"}


def parse(given: object, credentials: Path = NOWHERE, **environment: str) -> Config:
    config = from_environment({VARIABLE: json.dumps(given), **environment}, credentials)
    assert isinstance(config, Config)
    return config


def test_the_smallest_has_defaults() -> None:
    config = parse(SMALLEST)
    assert (config.revision, config.files, config.include, config.allow_pickle) == ("", (), (), False)
    assert (config.listen_port, config.parallelism, config.max_bytes_per_second) == (9081, 4, None)
    assert config.hf_endpoint == "https://huggingface.co"
    assert config.token is None


def test_what_the_operator_writes_is_read() -> None:
    config = parse(
        {
            **SMALLEST,
            "source": {"uri": "hf://org/name", "revision": "refs/pr/1"},
            "hfEndpoint": "https://mirror.example/hf/",
            "files": [{"path": "a.gguf", "sizeBytes": 1, "sha256": "AB" * 32}],
            "include": ["*.gguf"],
            "sourceDirectory": "/source",
            "maxBytesPerSecond": None,
            "nodeName": "n",
            "of a later version": 1,
        }
    )
    assert config.hf_endpoint == "https://mirror.example/hf"
    assert (config.files[0].size, config.files[0].sha256) == (1, "ab" * 32)
    assert config.scheme == "hf"


@pytest.mark.parametrize(
    "uri", ["s3://b/x", "gs://b", "oci://r:5000/a/b:v1", f"oci://r/m@sha256:{'a' * 64}", "mlflow://m@best"]
)
def test_every_scheme_is_known(uri: str) -> None:
    config = parse({**SMALLEST, "source": {"uri": uri}, "endpoint": "http://store:9000/"})
    assert config.scheme == uri.partition("://")[0]
    assert config.endpoint == "http://store:9000"


FILE = {"path": "a", "sha256": "a" * 64}


@pytest.mark.parametrize(
    ("change", "word"),
    [
        ({"task": "sweep"}, "task 'sweep' is none"),
        ({"task": 5}, "task must be a string"),
        ({"roomBytes": -1}, "roomBytes"),
        ({"roomBytes": "5"}, "roomBytes must be a whole number"),
        ({"source": None}, "source is missing"),
        ({"source": {}}, "source.uri is missing"),
        ({"source": {"uri": ""}}, "source.uri is empty"),
        ({"source": {"uri": 5}}, "source.uri must be a string"),
        ({"source": {"uri": "ftp://x/"}}, "scheme"),
        ({"source": {"uri": "http:///x"}}, "no host"),
        ({"source": {"uri": "hf://a/b/c"}}, "hf://ORG/NAME"),
        ({"source": {"uri": "hf://a/../b"}}, "hf://ORG/NAME"),
        ({"source": {"uri": "hf://a/b?x"}}, "hf://ORG/NAME"),
        ({"source": {"uri": "http://a\nb/"}}, "control"),
        ({"source": {"uri": "http://[::/"}}, "no URI"),
        ({"source": {"uri": "s3:///x"}}, "s3://BUCKET/PREFIX"),
        ({"source": {"uri": "oci://r.example/m"}}, "oci://REGISTRY/REPOSITORY:TAG"),
        ({"source": {"uri": "oci://r.example/m@sha256:ab"}}, "oci://REGISTRY/REPOSITORY:TAG"),
        ({"source": {"uri": "mlflow://m"}}, "mlflow://MODEL/VERSION"),
        ({"source": {"uri": "mlflow://m/1"}}, "endpoint is missing"),
        ({"source": {"uri": "s3://b/x"}, "endpoint": "ftp://x"}, "endpoint must be"),
        ({"source": {"uri": "hf://a/b", "revision": "../x"}}, "source.revision"),
        ({"source": {"uri": "hf://a/b", "revision": "a b"}}, "source.revision"),
        ({"destination": None}, "destination is missing"),
        ({"hfEndpoint": "ftp://x"}, "hfEndpoint"),
        ({"hfEndpoint": "http://u:p@x"}, "hfEndpoint"),
        ({"allowPickle": "false"}, "allowPickle must be true or false"),
        ({"allowPickle": 1}, "allowPickle must be true or false"),
        ({"parallelism": 0}, "parallelism"),
        ({"parallelism": True}, "parallelism"),
        ({"parallelism": "4"}, "parallelism must be a whole number"),
        ({"maxBytesPerSecond": 0}, "maxBytesPerSecond"),
        ({"maxBytesPerSecond": -5}, "maxBytesPerSecond"),
        ({"listenPort": 70000}, "listenPort"),
        ({"include": "*.gguf"}, "include must be a list"),
        ({"include": [""]}, "include"),
        ({"files": {}}, "files must be a list"),
        ({"files": ["a"]}, "files[0]"),
        ({"files": [{"sha256": "a" * 64}]}, "files[0].path is missing"),
        ({"files": [FILE, {**FILE, "sha256": "a" * 63}]}, "files[1].sha256"),
        ({"files": [{**FILE, "sizeBytes": -1}]}, "files[0].sizeBytes"),
        ({"files": [{**FILE, "sizeBytes": True}]}, "files[0].sizeBytes"),
    ],
)
def test_what_is_wrong_is_named(change: dict[str, Any], word: str) -> None:
    with pytest.raises(Hopeless) as caught:
        parse({**SMALLEST, **change})
    assert caught.value.reason is Reason.INVALID_CONFIG
    assert word in str(caught.value)


@pytest.mark.parametrize("text", ["", "{", "[]", "null", "5", "[" * 100_000])
def test_no_object_is_no_configuration(text: str) -> None:
    with pytest.raises(Hopeless) as caught:
        from_environment({VARIABLE: text}, NOWHERE)
    assert caught.value.reason is Reason.INVALID_CONFIG


def test_a_listed_file_needs_a_digest_and_a_path_inside() -> None:
    with pytest.raises(Hopeless) as caught:
        parse({**SMALLEST, "files": [{"path": "a"}]})
    assert caught.value.reason is Reason.NO_DIGEST
    with pytest.raises(Hopeless) as caught:
        parse({**SMALLEST, "files": [{**FILE, "path": "../a"}]})
    assert caught.value.reason is Reason.PATH_REFUSED


def test_a_password_in_the_uri_is_refused_and_not_repeated() -> None:
    with pytest.raises(Hopeless) as caught:
        parse({**SMALLEST, "source": {"uri": "http://me:s3cret@store/"}})
    assert "s3cret" not in str(caught.value)


def test_the_secret_s_token_comes_before_the_environment_s(tmp_path: Path) -> None:
    hub = {**SMALLEST, "source": {"uri": "hf://a/b"}}
    assert parse(hub, HF_TOKEN="hf_env").token == "hf_env"
    (tmp_path / "token").write_text("hf_secret\n")
    assert parse(hub, tmp_path, HF_TOKEN="hf_env").token == "hf_secret"
    assert parse(SMALLEST, tmp_path).token == "hf_secret"
    # a hub's token is nothing for other servers
    assert parse(SMALLEST, HF_TOKEN="hf_env").token is None


@pytest.mark.parametrize("content", [b"two words", b"a\r\nHost: x", b"\xff\xfe"])
def test_a_token_that_is_none_is_refused_and_not_repeated(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "token").write_bytes(content)
    with pytest.raises(Hopeless) as caught:
        parse(SMALLEST, tmp_path)
    assert "Secret" in str(caught.value)
    assert "words" not in str(caught.value)


@pytest.mark.parametrize(
    ("given", "told", "room"),
    [(None, None, None), (5, None, 5), (0, "", 0), (5, "7", 7), (None, "0", 0), (5, " 8 ", 8)],
)
def test_the_room_that_the_variable_tells_wins(given: int | None, told: str | None, room: int | None) -> None:
    environment = {} if told is None else {ROOM_VARIABLE: told}
    assert parse({**SMALLEST, "roomBytes": given}, **environment).room_bytes == room


@pytest.mark.parametrize("told", ["-1", "five", "1e9", "²", "9" * 5000])
def test_a_room_that_is_no_number_is_refused(told: str) -> None:
    with pytest.raises(Hopeless) as caught:
        parse(SMALLEST, **{ROOM_VARIABLE: told})
    assert ROOM_VARIABLE in str(caught.value)


KEY = "0123456789abcdef"
KEEP: dict[str, Any] = {
    "task": "keep",
    "root": "/cache",
    "keep": {"ns": [KEY]},
    "olderThan": "2026-01-01T12:00:00Z",
}


def parse_keep(given: object) -> KeepConfig:
    config = from_environment({VARIABLE: json.dumps(given)}, NOWHERE)
    assert isinstance(config, KeepConfig)
    return config


def test_what_a_keeper_is_told() -> None:
    config = parse_keep({**KEEP, "verify": {"ns": [KEY]}, "maxBytesPerSecond": 5, "nodeName": "n"})
    assert config.keep == config.verify == {"ns": frozenset({KEY})}
    assert config.older_than.isoformat() == "2026-01-01T12:00:00+00:00"
    assert (config.max_bytes_per_second, config.node_name, config.listen_port) == (5, "n", 9081)
    assert parse_keep({**KEEP, "keep": {}}).keep == {}, "that nothing stays must be said"
    assert config.fresh_since == {}
    fresh = parse_keep({**KEEP, "freshSince": {KEY: "2026-01-01T12:00:00Z"}}).fresh_since
    assert fresh == {KEY: config.older_than}


@pytest.mark.parametrize(
    ("change", "word"),
    [
        ({"root": None}, "root is missing"),
        ({"keep": None}, "keep is missing"),
        ({"keep": [KEY]}, "keep must be an object"),
        ({"keep": {"ns": KEY}}, "keep.ns must be a list"),
        ({"keep": {"ns": ["x"]}}, "16 hexadecimal digits"),
        ({"keep": {"ns": [5]}}, "16 hexadecimal digits"),
        ({"keep": {"ns": [KEY.upper()]}}, "16 hexadecimal digits"),
        ({"keep": {"..": [KEY]}}, "no namespace"),
        ({"keep": {"a/b": [KEY]}}, "no namespace"),
        ({"verify": {"ns": ["f" * 16]}}, "not in keep"),
        ({"verify": {"other": [KEY]}}, "not in keep"),
        ({"olderThan": None}, "olderThan is missing"),
        ({"olderThan": "yesterday"}, "olderThan"),
        ({"olderThan": "2026-01-01T12:00:00"}, "time zone"),
        ({"freshSince": [KEY]}, "freshSince must be an object"),
        ({"freshSince": {"x": "2026-01-01T12:00:00Z"}}, 'freshSince: "x" is no key'),
        ({"freshSince": {KEY: "soon"}}, f"freshSince.{KEY} 'soon' is no time"),
        (
            {"freshSince": {KEY: "2026-01-01T12:00:00"}},
            f"freshSince.{KEY} '2026-01-01T12:00:00' has no time zone",
        ),
        ({"freshSince": {KEY: 5}}, f"freshSince.{KEY} must be a string"),
        ({"freshSince": {KEY: None}}, f"freshSince.{KEY} is missing"),
        ({"maxBytesPerSecond": 0}, "maxBytesPerSecond"),
        ({"listenPort": -1}, "listenPort"),
    ],
)
def test_what_is_wrong_for_a_keeper_is_named(change: dict[str, Any], word: str) -> None:
    with pytest.raises(Hopeless) as caught:
        parse_keep({**KEEP, **change})
    assert caught.value.reason is Reason.INVALID_CONFIG
    assert word in str(caught.value)


KEEP_VALUES = st.sampled_from(
    [
        None,
        5,
        "",
        "x",
        [],
        {},
        {"ns": None},
        {"ns": [None]},
        {"": []},
        {"ns": {}},
        {"n\ud800": []},
        "9999-99-99",
    ]
)


@settings(max_examples=100, deadline=None)
@given(
    st.dictionaries(
        st.sampled_from(["root", "keep", "verify", "olderThan", "freshSince", "nodeName"]), KEEP_VALUES
    )
)
def test_any_json_for_a_keeper_is_read_or_refused_in_words(change: dict[str, Any]) -> None:
    with suppress(Hopeless):
        parse_keep({**KEEP, **change})


VALUES = st.sampled_from(
    [None, True, -1, 10**30, 0.5, float("nan"), "", "x", "http://[", "hf://a", [], [[]], [None], ["*"], {}, {"uri": "x://"},
     {"uri": "http://\ud800/"}, {"uri": []}, [{"path": "a"}], [{"path": 1, "sha256": {}}], {"uri": "http://h:x/"}]
)  # fmt: skip
FIELDS = [
    "source",
    "files",
    "include",
    "hfEndpoint",
    "destination",
    "parallelism",
    "maxBytesPerSecond",
    "allowPickle",
]


@settings(max_examples=150, deadline=None)
@given(st.dictionaries(st.sampled_from(FIELDS), VALUES))
def test_any_json_is_read_or_refused_in_words(change: dict[str, Any]) -> None:
    with suppress(Hopeless):
        assert parse({**SMALLEST, **change}).parallelism >= 1
