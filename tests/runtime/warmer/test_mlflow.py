"""Weights of a registered model of a real MLflow server."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.parse import quote

import httpx
import pytest

from tests.runtime.warmer.origin import sha256
from tests.runtime.warmer.run import Start
from tests.runtime.warmer.servers import free_port, mlflow, serving
from tests.runtime.warmer.test_buckets import KEYS, Bucket, bucket, server
from tests.runtime.warmer.test_sources import model, some_bytes

__all__ = ["bucket", "server"]  # fixtures
MIB = 1 << 20
NAME = "llama 3"


class Tracking:
    """A tracking server that hands out artifacts, asked over its REST API."""

    def __init__(self, url: str) -> None:
        self.url = url
        self._client = httpx.Client(trust_env=False, timeout=30)

    def close(self) -> None:
        self._client.close()

    def ask(self, method: str, **body: Any) -> dict[str, Any]:
        answer = self._client.post(f"{self.url}/api/2.0/mlflow/{method}", json=body)
        assert answer.is_success, answer.text
        found: dict[str, Any] = answer.json()
        return found

    def version(self, files: dict[str, bytes], *, sums: bool = True) -> str:
        """Log files, and their SHA256SUMS, to a run; make them a new version of the model and return its number."""
        run = self.ask("runs/create", experiment_id="0")["run"]["info"]
        folder = f"{run['artifact_uri']}/weights"
        for path, content in files.items():
            self.put(f"{folder}/{path}", content)
        if sums:
            lines = "".join(f"{sha256(content)}  {path}\n" for path, content in files.items())
            self.put(f"{folder}/SHA256SUMS", lines.encode())
        made = self.ask("model-versions/create", name=NAME, source=folder, run_id=run["run_id"])
        return str(made["model_version"]["version"])

    def put(self, uri: str, content: bytes) -> None:
        path = quote(uri.removeprefix("mlflow-artifacts:/"))
        url = f"{self.url}/api/2.0/mlflow-artifacts/artifacts/{path}"
        self._client.put(url, content=content).raise_for_status()


@pytest.fixture(scope="module")
def tracking(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Tracking]:
    folder = tmp_path_factory.mktemp("mlflow")
    port = free_port()
    url = f"http://127.0.0.1:{port}"
    command = [
        str(mlflow()), "-m", "mlflow", "server", "--host", "127.0.0.1", "--port", str(port), "--workers", "1",
        "--backend-store-uri", f"sqlite:///{folder}/db.sqlite", "--artifacts-destination", str(folder / "artifacts"),
        "--serve-artifacts",
    ]  # fmt: skip
    quick = {"MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false", "MLFLOW_DISABLE_TELEMETRY": "true"}
    with serving(command, f"{url}/health", folder / "log", quick):
        server = Tracking(url)
        server.ask("registered-models/create", name=NAME)
        yield server
        server.close()


def test_a_version_and_an_alias(tracking: Tracking, start: Start, cache: Path) -> None:
    files = {"a.gguf": some_bytes(3 * MIB), "deep/config.json": b"{}"}
    number = tracking.version(files)
    words = start(f"mlflow://llama%203/{number}", endpoint=tracking.url).published()
    assert model(cache) == files
    assert words["resolvedRevision"] == number
    tracking.ask("registered-models/alias", name=NAME, alias="champion", version=number)
    words = start("mlflow://llama%203@champion", endpoint=tracking.url).published()
    assert words["resolvedRevision"] == number
    assert words["bytesFetched"] == 0
    newer = tracking.version({"a.gguf": b"newer"})
    tracking.ask("registered-models/alias", name=NAME, alias="champion", version=newer)
    words = start("mlflow://llama%203@champion", endpoint=tracking.url).published()
    assert words["resolvedRevision"] == newer
    assert model(cache) == {"a.gguf": b"newer"}


def test_a_killed_download_ends_right(tracking: Tracking, start: Start, cache: Path) -> None:
    content = some_bytes(8 * MIB, 7)
    number = tracking.version({"a.gguf": content})
    run = start(f"mlflow://llama%203/{number}", endpoint=tracking.url, maxBytesPerSecond=4 * MIB)
    run.kill_at(cache / ".partial/a.gguf.part", 2 * MIB)
    start(f"mlflow://llama%203/{number}", endpoint=tracking.url).published()
    assert model(cache) == {"a.gguf": content}


def test_a_version_that_lies_in_a_bucket(
    tracking: Tracking, bucket: Bucket, start: Start, cache: Path, secret: Any
) -> None:
    source = bucket.folder("of-mlflow", {"a.gguf": b"weights"})
    made = tracking.ask("model-versions/create", name=NAME, source=source)["model_version"]
    keys = secret({**KEYS, "AWS_ENDPOINT_URL": bucket.url})
    uri = f"mlflow://llama%203/{made['version']}"
    start(uri, endpoint=tracking.url, credentialsDirectory=keys).published()
    assert model(cache) == {"a.gguf": b"weights"}


def test_artifacts_without_digests(tracking: Tracking, start: Start, cache: Path) -> None:
    uri = f"mlflow://llama%203/{tracking.version({'a.gguf': b'weights'}, sums=False)}"
    assert "SHA256SUMS" in start(uri, endpoint=tracking.url).failed(2, "NoDigest")
    files = [{"path": "a.gguf", "sha256": sha256(b"weights")}]
    start(uri, endpoint=tracking.url, files=files).published()
    assert model(cache) == {"a.gguf": b"weights"}


def test_what_is_not_there(tracking: Tracking, start: Start) -> None:
    for uri in ("mlflow://llama%203/999", "mlflow://llama%203@nobody", "mlflow://nothing/1"):
        assert "no such model" in start(uri, endpoint=tracking.url).failed(2, "NotFound")
    start("mlflow://m/1", endpoint="http://169.254.169.254").failed(2, "AddressRefused")
    start("mlflow://m/1").failed(2, "InvalidConfig")
