"""Every source is spoken to as it is, and nothing unverified, dangerous or out of place comes in."""

import json
import os
import random
import struct
from pathlib import Path

import pytest

from tests.runtime.warmer.origin import Answer, Origin, sha256
from tests.runtime.warmer.run import Start
from tests.unit.warmer.pickled import Evil, archive, state

COMMIT = "a" * 40
NAME = "org/model-1"


def some_bytes(count: int, seed: int = 1) -> bytes:
    return random.Random(seed).randbytes(count)


def safetensors(data: bytes, *, says: int | None = None) -> bytes:
    end = len(data) if says is None else says
    header = json.dumps({"w": {"dtype": "U8", "shape": [end], "data_offsets": [0, end]}}).encode()
    return struct.pack("<Q", len(header)) + header + data


def model(cache: Path) -> dict[str, bytes]:
    folder = cache / "model"
    return {
        path.relative_to(folder).as_posix(): path.read_bytes()
        for path in folder.rglob("*")
        if path.is_file() and path.name != ".preheat-manifest.json"
    }


def hub_files() -> dict[str, bytes]:
    index = {"weight_map": {"a": "model-1.safetensors", "b": "model-2.safetensors"}}
    return {
        "model-1.safetensors": safetensors(some_bytes(50_000, 1)),
        "model-2.safetensors": safetensors(some_bytes(60_000, 2)),
        "model.safetensors.index.json": json.dumps(index).encode(),
        "config.json": b'{"model_type": "llama"}',
        "sub/tokenizer.json": b"{}",
    }


def test_a_hub_is_spoken_to_as_it_is(origin: Origin, elsewhere: Origin, start: Start, cache: Path) -> None:
    """Pages, LFS files on another host, small files by their git digest; and the token stays at home."""
    files = hub_files()
    extra = {"pytorch_model.bin": b"pickle", "a\\b.png": b"x", "README.md": b"hi", "run.py": b"import os"}
    origin.hub(NAME, COMMIT, {**files, **extra}, page=2)
    for path in ("model-1.safetensors", "model-2.safetensors"):
        here = f"/{NAME}/resolve/{COMMIT}/{path}"
        elsewhere.files[f"/cdn/{path}?signature=s3cret"] = origin.files.pop(here)
        origin.redirects[here] = f"{elsewhere.url}/cdn/{path}?signature=s3cret"
    words = start(
        f"hf://{NAME}", "main", hfEndpoint=origin.url, environment={"HF_TOKEN": "hf_abc"}
    ).published()
    assert model(cache) == files
    assert words["resolvedRevision"] == COMMIT
    assert all(asked.headers.get("authorization") == "Bearer hf_abc" for asked in origin.asked)
    assert len(elsewhere.asked) == 2
    assert not any("authorization" in asked.headers for asked in elsewhere.asked)
    assert sum("cursor=" in asked.path for asked in origin.asked) == 4


def test_a_redirected_download_goes_on_where_it_was(
    origin: Origin, elsewhere: Origin, start: Start, cache: Path
) -> None:
    content = safetensors(some_bytes(2 << 20))
    origin.hub(NAME, COMMIT, {"m.safetensors": content})
    origin.redirects[f"/{NAME}/resolve/{COMMIT}/m.safetensors"] = f"{elsewhere.url}/cdn"
    elsewhere.files["/cdn"] = content
    elsewhere.next("/cdn", Answer(cut=1 << 20))
    words = start(f"hf://{NAME}", hfEndpoint=origin.url).published()
    assert words["bytesFetched"] == len(content)
    assert elsewhere.requests("/cdn")[1].headers["range"] == f"bytes={1 << 20}-"


def test_a_page_that_a_mirror_links_elsewhere_is_asked_of_the_mirror(
    origin: Origin, elsewhere: Origin, start: Start, cache: Path
) -> None:
    """Dropping it would publish half a model; following it would take the token along."""
    origin.hub(NAME, COMMIT, hub_files(), page=2)
    origin.links = {path: link.replace(origin.url, elsewhere.url) for path, link in origin.links.items()}
    start(f"hf://{NAME}", hfEndpoint=origin.url, environment={"HF_TOKEN": "hf_abc"}).published()
    assert model(cache) == hub_files()
    assert elsewhere.asked == []


def test_a_small_file_of_a_hub_is_verified_too(origin: Origin, start: Start, cache: Path) -> None:
    origin.hub(NAME, COMMIT, hub_files())
    origin.files[f"/{NAME}/resolve/{COMMIT}/config.json"] = b'{"model_type": "LLAMA"}'
    message = start(f"hf://{NAME}", hfEndpoint=origin.url).failed(2, "DigestMismatch")
    assert "config.json" in message


def test_a_branch_that_moves_between_two_runs_is_not_mixed(origin: Origin, start: Start, cache: Path) -> None:
    """Every run resolves the branch again; files of the old commit lie there, verified as of then."""
    old, new = hub_files(), {**hub_files(), "config.json": b'{"model_type": "LLAMA"}'}
    origin.hub(NAME, COMMIT, old)
    origin.next(f"/{NAME}/resolve/{COMMIT}/model-2.safetensors", *[Answer(503, {"Retry-After": "0"})] * 50)
    start(f"hf://{NAME}", "main", hfEndpoint=origin.url, parallelism=1).failed(1, "SourceUnavailable")
    origin.hub(NAME, "b" * 40, new)
    words = start(f"hf://{NAME}", "main", hfEndpoint=origin.url).published()
    assert words["resolvedRevision"] == "b" * 40
    assert model(cache) == new


def test_a_pinned_commit_that_is_published_needs_no_hub(origin: Origin, start: Start, cache: Path) -> None:
    origin.hub(NAME, COMMIT, hub_files())
    first = start(f"hf://{NAME}", COMMIT, hfEndpoint=origin.url).published()
    before = len(origin.asked)
    again = start(f"hf://{NAME}", COMMIT, hfEndpoint=origin.url).published()
    assert len(origin.asked) == before
    assert again["manifestSHA256"] == first["manifestSHA256"]
    # another choice of files is another model
    start(f"hf://{NAME}", COMMIT, hfEndpoint=origin.url, include=["*.safetensors"]).published()
    assert set(model(cache)) == {"model-1.safetensors", "model-2.safetensors"}


def test_a_hub_s_token_is_nothing_for_a_file_server(
    origin: Origin, elsewhere: Origin, start: Start, cache: Path
) -> None:
    uri = origin.folder("m", {"a.gguf": b"weights"})
    origin.redirects["/m/a.gguf"] = f"{elsewhere.url}/a"
    elsewhere.files["/a"] = b"weights"
    start(uri, environment={"HF_TOKEN": "hf_abc"}).published()
    assert not any("authorization" in asked.headers for asked in [*origin.asked, *elsewhere.asked])


@pytest.mark.parametrize(
    ("status", "reason"), [(401, "Unauthorized"), (403, "Unauthorized"), (404, "NotFound"), (410, "NotFound")]
)
def test_what_only_a_person_can_mend_ends_the_job(
    origin: Origin, start: Start, status: int, reason: str
) -> None:
    origin.hub(NAME, COMMIT, hub_files())
    origin.next(f"/api/models/{NAME}/revision/main", Answer(status))
    start(f"hf://{NAME}", "main", hfEndpoint=origin.url).failed(2, reason)


def test_one_file_with_its_digest_beside(origin: Origin, start: Start, cache: Path) -> None:
    content = some_bytes(10_000)
    origin.files["/d/model q4.gguf"] = content
    origin.files["/d/model q4.gguf.sha256"] = f"{sha256(content).upper()} *model q4.gguf\n".encode()
    start(f"{origin.url}/d/model%20q4.gguf").published()
    assert model(cache) == {"model q4.gguf": content}


def test_without_a_digest_nothing_is_fetched(origin: Origin, start: Start, cache: Path) -> None:
    origin.files["/d/m.gguf"] = b"weights"
    assert "m.gguf.sha256" in start(f"{origin.url}/d/m.gguf").failed(2, "NoDigest")
    assert "SHA256SUMS" in start(f"{origin.url}/d/").failed(2, "NoDigest")
    files = [{"path": "m.gguf", "sizeBytes": 7}]
    assert "m.gguf" in start(f"{origin.url}/d/", files=files).failed(2, "NoDigest")
    assert origin.requests("/d/m.gguf") == []
    assert [path.name for path in cache.iterdir()] == [".lock"]


def test_pickles_are_refused_unless_trusted(origin: Origin, start: Start, cache: Path) -> None:
    uri = origin.folder("m", {"pytorch_model.bin": b"\x80\x04.", "config.json": b"{}"})
    assert "pytorch_model.bin" in start(uri).failed(2, "PickleRefused")
    start(uri, include=["*"]).failed(2, "PickleRefused")
    files = [{"path": "pytorch_model.bin", "sha256": sha256(b"\x80\x04.")}]
    start(uri, files=files).failed(2, "PickleRefused")
    assert origin.requests("/m/pytorch_model.bin") == []
    start(uri, allowPickle=True).published()
    assert set(model(cache)) == {"pytorch_model.bin", "config.json"}


@pytest.mark.parametrize("path", ["../evil.gguf", "/etc/evil.gguf", "a/../../evil.gguf", "a\\..\\evil.gguf"])
def test_a_path_that_leads_out_is_refused(origin: Origin, start: Start, cache: Path, path: str) -> None:
    origin.files["/m/SHA256SUMS"] = f"{sha256(b'x')}  {path}\n".encode()
    message = start(f"{origin.url}/m/").failed(2, "PathRefused")
    assert "evil.gguf" in message
    assert not list(cache.parent.rglob("evil*"))


@pytest.mark.parametrize(
    "uri",
    [
        "http://169.254.169.254/latest/",
        "http://[::ffff:169.254.169.254]/latest/",
        "http://[fe80::1]/latest/",
    ],
)
def test_metadata_services_are_out_of_reach(start: Start, uri: str) -> None:
    start(uri).failed(2, "AddressRefused")


def test_no_redirect_leads_to_a_metadata_service(origin: Origin, start: Start, cache: Path) -> None:
    uri = origin.folder("m", {"a.gguf": b"weights"})
    origin.redirects["/m/a.gguf"] = "http://169.254.169.254/latest/meta-data/"
    message = start(uri).failed(2, "AddressRefused")
    assert "169.254.169.254" in message
    origin.redirects["/m/a.gguf"] = "file:///etc/passwd"
    start(uri).failed(2, "AddressRefused")


def test_a_signed_address_does_not_get_into_the_messages(
    origin: Origin, elsewhere: Origin, start: Start
) -> None:
    uri = origin.folder("m", {"a.gguf": b"weights"})
    origin.redirects["/m/a.gguf"] = f"{elsewhere.url}/a?signature=s3cret"
    run = start(uri)
    run.failed(2, "NotFound")
    assert "s3cret" not in json.dumps(run.log) + run.last_words.read_text()


@pytest.mark.parametrize(
    ("files", "word"),
    [
        ({"m.safetensors": safetensors(b"abc", says=5)}, "cut off"),
        (
            {
                "x/1.safetensors": safetensors(b"a"),
                "x/model.safetensors.index.json": b'{"weight_map": {"a": "1.safetensors", "b": "2.safetensors"}}',
            },
            "2.safetensors",
        ),
    ],
)
def test_half_a_model_with_right_digests_is_not_published(
    origin: Origin, start: Start, cache: Path, files: dict[str, bytes], word: str
) -> None:
    assert word in start(origin.folder("m", files)).failed(2, "IncompleteModel")
    assert not (cache / "model").exists()


def claim(tmp_path: Path, files: dict[str, bytes]) -> Path:
    folder = tmp_path / "source/models/llama"
    sums = ""
    for path, content in files.items():
        (folder / path).parent.mkdir(parents=True, exist_ok=True)
        (folder / path).write_bytes(content)
        sums += f"{sha256(content)}  ./{path}\n"
    (folder / "SHA256SUMS").write_text(sums)
    return tmp_path / "source"


def test_weights_are_copied_from_a_claim(start: Start, cache: Path, tmp_path: Path) -> None:
    files = {"a.gguf": some_bytes(3 << 20), "deep/config.json": b"{}"}
    source = claim(tmp_path, files)
    words = start("pvc://weights/models/llama", sourceDirectory=str(source)).published()
    assert model(cache) == files
    assert words["bytesFetched"] == sum(map(len, files.values()))


def test_a_claim_is_verified_and_nothing_outside_it_is_read(
    start: Start, cache: Path, tmp_path: Path
) -> None:
    source = claim(tmp_path, {"a.gguf": b"weights", "b.gguf": b"other"})
    (source / "models/llama/a.gguf").write_bytes(b"WEIGHTS")
    start("pvc://weights/models/llama", sourceDirectory=str(source)).failed(2, "DigestMismatch")
    (tmp_path / "secret").write_bytes(b"weights")
    (source / "models/llama/a.gguf").unlink()
    (source / "models/llama/a.gguf").symlink_to(tmp_path / "secret")
    start("pvc://weights/models/llama", sourceDirectory=str(source)).failed(2, "PathRefused")
    (source / "models/llama/a.gguf").unlink()
    os.mkfifo(source / "models/llama/a.gguf")
    start("pvc://weights/models/llama", sourceDirectory=str(source)).failed(2, "NotFound")
    (source / "models/llama/SHA256SUMS").unlink()
    start("pvc://weights/models/llama", sourceDirectory=str(source)).failed(2, "NoDigest")


def test_a_half_copied_claim_goes_on_where_it_was(start: Start, cache: Path, tmp_path: Path) -> None:
    content = some_bytes(4 << 20)
    source = claim(tmp_path, {"a.gguf": content})
    start("pvc://w/models/llama", sourceDirectory=str(source), file_limit=1 << 20).failed(1, "DiskFull")
    words = start("pvc://w/models/llama", sourceDirectory=str(source)).published()
    assert words["bytesFetched"] == len(content) - (1 << 20)


@pytest.mark.parametrize("uri", ["http://user:pw@host/", "nonsense"])
def test_a_uri_that_is_none_is_told(start: Start, uri: str) -> None:
    message = start(uri).failed(2, "InvalidConfig")
    assert "source.uri" in message
    assert "pw" not in message


def test_a_folder_that_cannot_be_written_is_told(start: Start, origin: Origin, tmp_path: Path) -> None:
    uri = origin.folder("m", {"a.gguf": b"weights"})
    (tmp_path / "file").write_bytes(b"")
    message = start(uri, destination=str(tmp_path / "file")).failed(1, "DiskError")
    assert "1000" in message


def test_a_pickle_that_would_run_something_is_not_published(
    origin: Origin, start: Start, cache: Path
) -> None:
    """Its digest is right, and the user allows pickles: it is looked into all the same."""
    origin.folder("m", {"good.bin": archive(state(2)), "deep/bad.pt": archive(state(2, planted=Evil()))})
    message = start(f"{origin.url}/m/", allowPickle=True).failed(2, "PickleRefused")
    assert "deep/bad.pt imports" in message
    assert "system" in message
    assert not (cache / "model").exists()
    start(f"{origin.url}/m/", allowPickle=True, include=["good.bin"]).published()
    assert list(model(cache)) == ["good.bin"]
