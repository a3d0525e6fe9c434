"""nginx with the same files under three addresses: plain, as a hub, as a bucket. It sends from the page cache."""

import hashlib
import json
import os
import struct
import subprocess
import tempfile
import time
import urllib.error
import urllib.request
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

from e2e.tools import nginx

NAME = "bench/model"
COMMIT = "0123456789abcdef0123456789abcdef01234567"
BUCKET = "bucket"
BLOCK_BYTES = 8 << 20


@dataclass(frozen=True, slots=True)
class Served:
    """A model that is being served. ``files``: size and SHA-256 by name."""

    url: str
    files: dict[str, tuple[int, str]]

    @property
    def total(self) -> int:
        return sum(size for size, _ in self.files.values())

    def urls(self) -> list[str]:
        return [f"{self.url}/m/{name}" for name in self.files]


@contextmanager
def serving(sizes: Sequence[int]) -> Iterator[Served]:
    """Serve safetensors files of these sizes; they lie in memory where there is a tmpfs."""
    memory = Path("/dev/shm")
    with tempfile.TemporaryDirectory(
        prefix="preheat-bench-", dir=memory if memory.is_dir() else None
    ) as name:
        root = Path(name)
        files = _write_model(root, sizes)
        port = 18080 + os.getpid() % 1000
        (root / "nginx.conf").write_text(_configuration(root, files, port))
        process = subprocess.Popen([nginx(), "-c", str(root / "nginx.conf"), "-e", str(root / "error.log")])
        try:
            served = Served(f"http://127.0.0.1:{port}", files)
            _wait_for(f"{served.url}/m/SHA256SUMS", process)
            yield served
        finally:
            process.terminate()
            process.wait()


def _write_model(root: Path, sizes: Sequence[int]) -> dict[str, tuple[int, str]]:
    """Write the files, what a hub says of them, and the list of a bucket."""
    (root / "m").mkdir()
    noise = os.urandom(BLOCK_BYTES)
    files = {}
    for number, size in enumerate(sizes, 1):
        name = f"model-{number:05d}-of-{len(sizes):05d}.safetensors"
        files[name] = (size, _write_file(root / "m" / name, size, noise))
    sums = "".join(f"{digest}  {name}\n" for name, (_, digest) in files.items())
    (root / "m/SHA256SUMS").write_text(sums)
    api = root / "api/models" / NAME
    described = {
        "_id": "0" * 24, "id": NAME, "modelId": NAME, "sha": COMMIT, "private": False, "tags": [], "downloads": 0,
        "siblings": [{"rfilename": name} for name in files],
    }  # fmt: skip
    for revision in ("main", COMMIT):
        _write(api / "revision" / revision, json.dumps(described))
    tree = [
        {"type": "file", "path": name, "size": size, "oid": "0" * 40,
         "lfs": {"oid": digest, "size": size, "pointerSize": 134}}
        for name, (size, digest) in files.items()
    ]  # fmt: skip
    _write(api / "tree" / COMMIT, json.dumps(tree))
    keys = "".join(
        f"<Contents><Key>m/{name}</Key><LastModified>2026-01-01T00:00:00.000Z</LastModified><ETag>&quot;"
        f"{_etag(root / 'm' / name)}&quot;</ETag><Size>{size}</Size><StorageClass>STANDARD</StorageClass></Contents>"
        for name, (size, _) in files.items()
    )
    (root / "list.xml").write_text(
        '<?xml version="1.0" encoding="UTF-8"?><ListBucketResult xmlns="http://s3.amazonaws.com/doc/2006-03-01/">'
        f"<Name>{BUCKET}</Name><Prefix>m/</Prefix><KeyCount>{len(files)}</KeyCount><MaxKeys>1000</MaxKeys>"
        f"<IsTruncated>false</IsTruncated>{keys}</ListBucketResult>"
    )
    return files


def _write_file(path: Path, size: int, noise: bytes) -> str:
    """Write a safetensors file with one tensor; return its SHA-256."""
    header = b""
    for _ in range(2):  # the header's own length is part of what it must say
        data = size - 8 - len(header)
        header = json.dumps({"w": {"dtype": "U8", "shape": [data], "data_offsets": [0, data]}}).encode()
        header = header.ljust(128)
    digest = hashlib.sha256()
    with path.open("wb") as out:
        head = struct.pack("<Q", len(header)) + header
        for start in range(0, size, BLOCK_BYTES):
            block = (head + noise if start == 0 else noise)[: min(BLOCK_BYTES, size - start)]
            out.write(block)
            digest.update(block)
    return digest.hexdigest()


def _etag(path: Path) -> str:
    """Return nginx's ETag of a file: what a bucket lists must be what it serves."""
    stat = path.stat()
    return f"{int(stat.st_mtime):x}-{stat.st_size:x}"


def _write(path: Path, text: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)


def _configuration(root: Path, files: dict[str, tuple[int, str]], port: int) -> str:
    digests = "\n".join(f'    ~/{name}$ "\\"{digest}\\"";' for name, (_, digest) in files.items())
    sizes = "\n".join(f"    ~/{name}$ {size};" for name, (size, _) in files.items())
    user = "user root;" if os.geteuid() == 0 else ""
    temporary = "\n".join(
        f"  {kind}_temp_path {root}/t-{kind};"
        for kind in ("client_body", "proxy", "fastcgi", "uwsgi", "scgi")
    )
    return f"""
{user}
daemon off;
worker_processes 2;
pid {root}/nginx.pid;
events {{ worker_connections 512; }}
http {{
  access_log off;
  sendfile on;
  tcp_nopush on;
  keepalive_requests 100000;
  default_type application/octet-stream;
{temporary}
  map $uri $linked_etag {{
{digests}
  }}
  map $uri $linked_size {{
{sizes}
  }}
  server {{
    listen 127.0.0.1:{port};
    root {root};
    location /api/ {{ default_type application/json; }}
    location ~ ^/{NAME}/resolve/[^/]+/(?<file>.*)$ {{
      alias {root}/m/$file;
      add_header X-Repo-Commit {COMMIT};
      add_header X-Linked-Etag $linked_etag;
      add_header X-Linked-Size $linked_size;
    }}
    location = /{BUCKET} {{ default_type application/xml; alias {root}/list.xml; }}
    location = /{BUCKET}/ {{ default_type application/xml; alias {root}/list.xml; }}
    location /{BUCKET}/ {{ alias {root}/; }}
  }}
}}
"""


def _wait_for(url: str, process: subprocess.Popen[bytes]) -> None:
    for _ in range(200):
        if process.poll() is not None:
            raise RuntimeError("nginx does not start")
        with suppress(urllib.error.URLError), urllib.request.urlopen(url):
            return
        time.sleep(0.05)
    raise RuntimeError("nginx does not answer")
