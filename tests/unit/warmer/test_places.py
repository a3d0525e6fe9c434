"""Buckets, registries and model versions: what their answers mean, and where they are."""

import base64
import json
from contextlib import suppress
from datetime import UTC, datetime
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from preheat_warmer.errors import Hopeless, Reason
from preheat_warmer.secret import Secret
from preheat_warmer.sources.bucket import bucket_url, parse_listing, region_of, sha256_of
from preheat_warmer.sources.mlflow import ModelVersionSource
from preheat_warmer.sources.registry import TITLE, parse_manifest, realm_of
from preheat_warmer.sources.signature import signed_headers
from preheat_warmer.sources.web import Web

DIGEST = "ab" * 32


@pytest.mark.parametrize(
    ("scheme", "bucket", "endpoint", "url"),
    [
        ("s3", "models", "", "https://models.s3.eu-west-1.amazonaws.com"),
        ("s3", "my.models", "", "https://s3.eu-west-1.amazonaws.com/my.models"),
        ("s3", "models", "http://store:9000", "http://store:9000/models"),
        ("gs", "models", "", "https://storage.googleapis.com/models"),
        ("gs", "models", "http://fake", "http://fake/models"),
    ],
)
def test_where_a_bucket_is(scheme: str, bucket: str, endpoint: str, url: str) -> None:
    assert bucket_url(scheme, bucket, endpoint, "eu-west-1") == url


@pytest.mark.parametrize(
    ("endpoint", "region"),
    [
        ("", "us-east-1"),
        ("http://store:9000", "us-east-1"),
        ("https://s3.eu-central-1.amazonaws.com", "eu-central-1"),
        ("https://s3-eu-west-3.amazonaws.com", "eu-west-3"),
        ("https://s3.cn-north-1.amazonaws.com.cn", "cn-north-1"),
    ],
)
def test_the_region_that_an_endpoint_names(endpoint: str, region: str) -> None:
    assert region_of(endpoint) == region


def test_what_is_signed() -> None:
    """The example of a listing that the service's own guide publishes, with its signature."""
    secret = Secret(
        access_key_id="AKIAIOSFODNN7EXAMPLE", secret_access_key="wJalrXUtnFEMI/K7MDENG/bPxRfiCYEXAMPLEKEY"
    )
    at = datetime(2013, 5, 24, tzinfo=UTC)
    url = "https://examplebucket.s3.amazonaws.com/?max-keys=2&prefix=J"
    headers = signed_headers("GET", url, {}, secret, "us-east-1", at)
    assert headers["Authorization"].endswith(
        "Signature=34b48302e7b5fa45bde8084f4b7868a86f0a534bc59db6670ed5711ef69dc6f7"
    )
    more = signed_headers("HEAD", url, {"x-amz-checksum-mode": "ENABLED"}, secret, "us-east-1", at)
    assert "SignedHeaders=host;x-amz-checksum-mode;x-amz-content-sha256;x-amz-date," in more["Authorization"]
    assert secret.secret_access_key not in str(more)
    session = Secret(access_key_id="a", secret_access_key="b", session_token="c")
    assert signed_headers("GET", url, {}, session, "x", at)["x-amz-security-token"] == "c"


def test_a_checksum_of_the_whole_object_is_its_sha256() -> None:
    whole = base64.b64encode(bytes.fromhex(DIGEST)).decode()
    assert sha256_of(whole) == DIGEST
    for other in (f"{whole}-3", "", "AAAA", "no base64!", "ü"):
        assert sha256_of(other) is None


LISTING = """<?xml version="1.0"?><ListBucketResult xmlns="http://s3.amazonaws.com/doc/2006-03-01/">
<IsTruncated>{more}</IsTruncated><NextContinuationToken>next</NextContinuationToken>
<Contents><Key>m/</Key><Size>0</Size></Contents>
<Contents><Key>m/a b.gguf</Key><Size>7</Size></Contents></ListBucketResult>"""


def test_a_listing_is_read_page_by_page() -> None:
    files, page = parse_listing(LISTING.format(more="true"), "m/", "here")
    assert [(file.path, file.size, file.sha256) for file in files] == [("a b.gguf", 7, None)]
    assert page == "next"
    assert parse_listing(LISTING.format(more="false"), "m/", "here")[1] == ""


@pytest.mark.parametrize("text", ["", "<html>", "{}", LISTING.format(more="true").replace("7", "x")])
def test_what_is_no_listing(text: str) -> None:
    with pytest.raises(Hopeless) as caught:
        parse_listing(text, "m/", "here")
    assert caught.value.reason is Reason.NOT_FOUND


def layer(title: str, digest: str = f"sha256:{DIGEST}", **notes: str) -> dict[str, Any]:
    return {"digest": digest, "size": 7, "annotations": {TITLE: title, **notes}}


def manifest(*layers: Any) -> bytes:
    return json.dumps({"schemaVersion": 2, "layers": layers}).encode()


def test_an_artifact_s_layers_are_its_files() -> None:
    other: dict[str, Any] = {"digest": f"sha256:{DIGEST}", "size": 1}
    artifact = parse_manifest(manifest(layer("a.gguf"), layer("b.json", "sha512:ff"), other), "oci://r/m:1")
    assert artifact.digest.startswith("sha256:")
    assert [(file.path, file.size, file.sha256) for file in artifact.files.values()] == [
        ("a.gguf", 7, DIGEST),
        ("b.json", 7, None),
    ]


@pytest.mark.parametrize(
    ("body", "reason"),
    [
        (manifest(), Reason.NOT_FOUND),
        (b"<html>", Reason.NOT_FOUND),
        (b"[]", Reason.NOT_FOUND),
        (b'{"layers": 5}', Reason.NOT_FOUND),
        (b'{"manifests": []}', Reason.NOT_FOUND),
        (manifest(layer("a"), layer("a")), Reason.PATH_REFUSED),
        (manifest(layer("a", **{"io.deis.oras.content.unpack": "true"})), Reason.NO_DIGEST),
    ],
)
def test_what_is_no_artifact(body: bytes, reason: Reason) -> None:
    with pytest.raises(Hopeless) as caught:
        parse_manifest(body, "oci://r/m:1")
    assert caught.value.reason is reason


@settings(max_examples=100, deadline=None)
@given(st.recursive(st.none() | st.integers() | st.text(max_size=5), lambda s: st.lists(s) | st.dictionaries(
    st.sampled_from(["layers", "annotations", "manifests", "digest", "size", TITLE]), s)))  # fmt: skip
def test_any_answer_of_a_registry_is_read_or_refused(body: Any) -> None:
    with suppress(Hopeless):
        assert parse_manifest(json.dumps(body).encode(), "oci://r/m:1").files


def test_a_realm_is_asked_for_reading_alone() -> None:
    url = "http://r.example/v2/m/manifests/1"
    assert realm_of('Bearer realm="/token"', url, "a/b") == (
        "http://r.example/token?scope=repository%3Aa%2Fb%3Apull"
    )
    assert realm_of('Bearer service="s",realm="https://x.example/t?a=1"', url, "m") == (
        "https://x.example/t?a=1&service=s&scope=repository%3Am%3Apull"
    )


@pytest.mark.parametrize(
    "challenge", ["Bearer", 'Bearer service="x"', 'Bearer realm="http://evil.example/token"']
)
def test_no_password_goes_out_in_the_clear(challenge: str) -> None:
    with pytest.raises(Hopeless) as caught:
        realm_of(challenge, "https://r.example/v2/m/manifests/1", "m")
    assert caught.value.reason is Reason.UNAUTHORIZED


@pytest.mark.parametrize("where", ["dbfs:/models/x", "/data/x", "file:///data/x", "abfss://c@a/x"])
def test_artifacts_that_no_warmer_gets_to(where: str) -> None:
    source = ModelVersionSource("mlflow://m/1", "http://t", None, Secret(), Web(None))
    with pytest.raises(Hopeless) as caught:
        source._source(where)
    assert "--serve-artifacts" in str(caught.value)
