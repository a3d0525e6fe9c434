"""Weights in a bucket: a real S3 server, and a server that speaks Google's API."""

import base64
import json
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any
from urllib.parse import quote

import httpx
import pytest
from preheat_warmer.errors import Changed
from preheat_warmer.manifest import File
from preheat_warmer.secret import Secret
from preheat_warmer.sources.bucket import BucketSource
from preheat_warmer.sources.signature import signed_headers
from preheat_warmer.sources.web import Web

from tests.runtime.warmer.origin import sha256
from tests.runtime.warmer.run import Start, ranges
from tests.runtime.warmer.servers import GOOGLE, S3, built, free_port, serving
from tests.runtime.warmer.test_sources import model, some_bytes

MIB = 1 << 20
KEYS = {"AWS_ACCESS_KEY_ID": "preheat", "AWS_SECRET_ACCESS_KEY": "s3cret-s3cret"}


@dataclass
class Bucket:
    """One bucket of one server, and how a test puts objects into it."""

    url: str
    name: str

    def put(self, key: str, content: bytes, *, checksum: bool = False) -> None:
        more = {"x-amz-checksum-sha256": base64.b64encode(bytes.fromhex(sha256(content))).decode()}
        self.send(f"/{quote(key, safe='/-_.~')}", content, more if checksum else {})

    def send(self, path: str, content: bytes, more: dict[str, str]) -> None:
        url = f"{self.url}/{self.name}{path}"
        secret = Secret(
            access_key_id=KEYS["AWS_ACCESS_KEY_ID"], secret_access_key=KEYS["AWS_SECRET_ACCESS_KEY"]
        )
        headers = {**more, "x-amz-content-sha256": sha256(content)}
        signed = signed_headers("PUT", url, headers, secret, "us-east-1", datetime.now(UTC))
        httpx.put(url, content=content, headers=signed, trust_env=False, timeout=30).raise_for_status()

    def folder(self, prefix: str, files: dict[str, bytes]) -> str:
        """Put files and their SHA256SUMS below a prefix; return its URI."""
        for path, content in files.items():
            self.put(f"{prefix}/{path}", content)
        sums = "".join(f"{sha256(content)}  {path}\n" for path, content in files.items())
        self.put(f"{prefix}/SHA256SUMS", sums.encode())
        return f"s3://{self.name}/{prefix}"


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    folder = tmp_path_factory.mktemp("s3")
    port = free_port()
    (folder / "data").mkdir()
    command = [str(built(S3)), "--port", f"127.0.0.1:{port}", "posix", str(folder / "data")]
    keys = {"ROOT_ACCESS_KEY": KEYS["AWS_ACCESS_KEY_ID"], "ROOT_SECRET_KEY": KEYS["AWS_SECRET_ACCESS_KEY"]}
    url = f"http://127.0.0.1:{port}"
    with serving(command, url, folder / "log", keys):
        yield url


@pytest.fixture(scope="module")
def bucket(server: str) -> Bucket:
    bucket = Bucket(server, "models")
    bucket.send("", b"", {})
    return bucket


def test_a_prefix_with_sha256sums(bucket: Bucket, start: Start, cache: Path, secret: Any) -> None:
    files = {"a.gguf": some_bytes(3 * MIB), "deep/config + (1).json": b"{}"}
    uri = bucket.folder("llama/v1", files)
    words = start(uri, endpoint=bucket.url, credentialsDirectory=secret(KEYS)).published()
    assert model(cache) == files
    assert words["bytesFetched"] == sum(map(len, files.values()))


def test_the_checksums_that_the_service_keeps(bucket: Bucket, start: Start, cache: Path, secret: Any) -> None:
    files = {"a.gguf": some_bytes(2 * MIB, 2), "deep/config.json": b"{}"}
    for path, content in files.items():
        bucket.put(f"checked/{path}", content, checksum=True)
    bucket.put("checked/", b"")
    start(f"s3://{bucket.name}/checked/", endpoint=bucket.url, credentialsDirectory=secret(KEYS)).published()
    assert model(cache) == files
    bucket.put("checked/b.gguf", b"nobody knows its sha256")
    message = start(
        f"s3://{bucket.name}/checked", endpoint=bucket.url, credentialsDirectory=secret(KEYS)
    ).failed(2, "NoDigest")
    assert "b.gguf" in message
    assert "SHA256SUMS" in message


def test_a_killed_download_goes_on_and_a_changed_object_begins_again(
    bucket: Bucket, start: Start, cache: Path, secret: Any
) -> None:
    old, new = some_bytes(8 * MIB, 3), some_bytes(8 * MIB, 4)
    uri = bucket.folder("resumed", {"a.gguf": old})
    part = cache / ".partial/a.gguf.part"

    def half() -> int:
        run = start(uri, endpoint=bucket.url, credentialsDirectory=secret(KEYS), maxBytesPerSecond=4 * MIB)
        return run.kill_at(part, 2 * MIB)

    there = half()
    words = start(uri, endpoint=bucket.url, credentialsDirectory=secret(KEYS)).published()
    assert words["bytesFetched"] == len(old) - there
    bucket.folder("resumed", {"a.gguf": some_bytes(8 * MIB, 5)})
    half()
    bucket.folder("resumed", {"a.gguf": new})
    words = start(uri, endpoint=bucket.url, credentialsDirectory=secret(KEYS)).published()
    assert model(cache) == {"a.gguf": new}
    # were it not noticed, the rest of the new one would come first, and then all of it
    assert words["bytesFetched"] == len(new)


async def test_parts_of_an_object(bucket: Bucket) -> None:
    content = some_bytes(3000)
    bucket.put("parts/a.gguf", content)
    web = Web(None)
    secret = Secret(access_key_id=KEYS["AWS_ACCESS_KEY_ID"], secret_access_key=KEYS["AWS_SECRET_ACCESS_KEY"])
    source = BucketSource(f"s3://{bucket.name}/parts", bucket.url, None, secret, web)
    await ranges(source, "a.gguf", content)
    # another version: all of it from the start, or a refusal, and never a part of it
    try:
        async with source.open(File("a.gguf", 3000), 10, '"another"', 20) as transfer:
            assert (transfer.offset, transfer.version == '"another"') == (0, False)
    except Changed:
        pass
    await web.close()


def test_wrong_keys_and_none(bucket: Bucket, start: Start, secret: Any) -> None:
    uri = bucket.folder("private", {"a.gguf": b"weights"})
    wrong = {**KEYS, "AWS_SECRET_ACCESS_KEY": "wrong"}
    run = start(uri, endpoint=bucket.url, credentialsDirectory=secret(wrong))
    assert "spec.model.credentials" in run.failed(2, "Unauthorized")
    assert "wrong" not in str(run.log)
    start(uri, endpoint=bucket.url).failed(2, "Unauthorized")
    message = start(uri, endpoint=bucket.url, credentialsDirectory=secret({"token": "x"})).failed(
        2, "InvalidConfig"
    )
    assert "AWS_ACCESS_KEY_ID" in message


def test_a_public_bucket_needs_no_keys(server: str, start: Start, cache: Path) -> None:
    public = Bucket(server, "public")
    public.send("", b"", {})
    arn = "arn:aws:s3:::public"
    may = {"Effect": "Allow", "Principal": "*", "Action": ["s3:GetObject", "s3:ListBucket"]}
    policy = {"Version": "2012-10-17", "Statement": [{**may, "Resource": [arn, f"{arn}/*"]}]}
    public.send("/?policy=", json.dumps(policy).encode(), {})
    start(public.folder("m", {"a.gguf": b"weights"}), endpoint=server).published()
    assert model(cache) == {"a.gguf": b"weights"}


def test_what_is_not_there(bucket: Bucket, start: Start, secret: Any) -> None:
    keys = secret(KEYS)
    message = start("s3://nowhere/llama", endpoint=bucket.url, credentialsDirectory=keys).failed(
        2, "NotFound"
    )
    assert "no such bucket" in message
    message = start(f"s3://{bucket.name}/nowhere", endpoint=bucket.url, credentialsDirectory=keys).failed(
        2, "NotFound"
    )
    assert "check the prefix" in message
    files = [{"path": "gone.gguf", "sha256": "a" * 64}]
    uri = f"s3://{bucket.name}/llama"
    message = start(uri, endpoint=bucket.url, credentialsDirectory=keys, files=files).failed(2, "NotFound")
    assert "gone.gguf" in message


def test_listed_files_need_nothing_else(bucket: Bucket, start: Start, cache: Path, secret: Any) -> None:
    bucket.put("listed/a.gguf", b"weights")
    files = [{"path": "a.gguf", "sha256": sha256(b"weights")}]
    start(
        f"s3://{bucket.name}/listed", endpoint=bucket.url, credentialsDirectory=secret(KEYS), files=files
    ).published()
    assert model(cache) == {"a.gguf": b"weights"}


def test_a_name_that_leads_out(bucket: Bucket, start: Start, cache: Path, secret: Any) -> None:
    bucket.put("evil/SHA256SUMS", f"{sha256(b'x')}  ../evil.gguf\n".encode())
    start(f"s3://{bucket.name}/evil", endpoint=bucket.url, credentialsDirectory=secret(KEYS)).failed(
        2, "PathRefused"
    )
    assert not list(cache.parent.rglob("evil*"))


def test_an_endpoint_that_is_a_metadata_service(start: Start, secret: Any) -> None:
    start("s3://latest/x", endpoint="http://169.254.169.254").failed(2, "AddressRefused")
    start("gs://latest/x", endpoint="http://[fe80::1]").failed(2, "AddressRefused")


# --- Google's API


@pytest.fixture(scope="module")
def google(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    folder = tmp_path_factory.mktemp("gs")
    port = free_port()
    url = f"http://127.0.0.1:{port}"
    command = [str(built(GOOGLE)), "-scheme", "http", "-host", "127.0.0.1", "-port", str(port)]
    more = ["-backend", "memory", "-public-host", f"127.0.0.1:{port}", "-external-url", url]
    with serving([*command, *more], f"{url}/storage/v1/b", folder / "log"):
        httpx.post(f"{url}/storage/v1/b", json={"name": "models"}, trust_env=False).raise_for_status()
        yield url


def put(google: str, key: str, content: bytes) -> None:
    url = f"{google}/upload/storage/v1/b/models/o?uploadType=media&name={quote(key, safe='')}"
    httpx.post(url, content=content, trust_env=False).raise_for_status()


def test_a_bucket_of_google_s(google: str, start: Start, cache: Path) -> None:
    content = some_bytes(8 * MIB, 6)
    put(google, "llama/v1/a.gguf", content)
    put(google, "llama/v1/SHA256SUMS", f"{sha256(content)}  a.gguf\n".encode())
    run = start("gs://models/llama/v1", endpoint=google, maxBytesPerSecond=4 * MIB)
    part = cache / ".partial/a.gguf.part"
    there = run.kill_at(part, 2 * MIB)
    words = start("gs://models/llama/v1", endpoint=google).published()
    assert model(cache) == {"a.gguf": content}
    assert words["bytesFetched"] == len(content) - there


async def test_parts_of_an_object_of_google_s(google: str) -> None:
    content = some_bytes(3000)
    put(google, "parts/a.gguf", content)
    web = Web(None)
    await ranges(BucketSource("gs://models/parts", google, None, Secret(), web), "a.gguf", content)
    await web.close()


def test_google_knows_no_sha256(google: str, start: Start) -> None:
    put(google, "bare/a.gguf", b"weights")
    assert "a.gguf" in start("gs://models/bare", endpoint=google).failed(2, "NoDigest")
    start("gs://models/nowhere", endpoint=google).failed(2, "NotFound")
