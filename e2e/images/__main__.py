"""`python -m e2e.images`: build, list."""

import argparse
import json
import os
import shutil
import sys
import tempfile
import time
from pathlib import Path

from e2e.images.base import BaseError
from e2e.images.builders import Builder, BuildError, find_builder
from e2e.images.catalog import IMAGES, Image
from e2e.images.once import cache_directory, locked
from e2e.images.packages import FetchError
from e2e.images.triton_tree import WrongModelError


def main() -> int:
    """Run one command; the exit code is 1 when an image could not be built."""
    arguments = _parser().parse_args()
    cache = cache_directory()
    names = arguments.names or list(IMAGES)
    if unknown := sorted(set(names) - set(IMAGES)):
        print(f"no such image: {', '.join(unknown)}; there are {', '.join(IMAGES)}", file=sys.stderr)
        return 2
    os.umask(0o022)  # what is copied into an image must be readable for its user
    try:
        if arguments.command == "build":
            with locked(cache / "images/build.lock"):
                build([IMAGES[name] for name in names], arguments.tag, cache)
        elif arguments.command == "list":
            show([IMAGES[name] for name in names], arguments.tag, cache)
        else:
            for name in names:
                context = Path(arguments.into) / name
                context.mkdir(parents=True)
                IMAGES[name].lay_out(cache, context)
    except (BuildError, BaseError, FetchError, WrongModelError) as error:
        print(error, file=sys.stderr)
        return 1
    return 0


def build(images: list[Image], tag: str, cache: Path) -> None:
    """Build what changed and write the index. Raises BuildError, BaseError, FetchError and WrongModelError."""
    builder: Builder | None = None
    for image in images:
        key = image.key(tag)
        archive = cache / "images" / f"{image.name}-{key}.tar"
        if _is_current(cache, image.name, archive):
            say(f"{image.name}: unchanged")
            continue
        started_seconds = time.monotonic()
        builder = builder or find_builder(cache, say)
        digest = _build_one(builder, image, tag, archive, cache)
        _note(cache, image, tag, archive, digest)
        megabytes = archive.stat().st_size / 1e6
        say(
            f"{image.name}: {image.reference(tag)}, {megabytes:.0f} MB, {time.monotonic() - started_seconds:.1f} s"
        )


def show(images: list[Image], tag: str, cache: Path) -> None:
    """Print what is built, and whether it is what the sources say."""
    index = read_index(cache)
    for image in images:
        entry = index.get(image.name)
        if entry is None:
            print(f"{image.name:12} not built")
            continue
        current = Path(str(entry["tar"])).name == f"{image.name}-{image.key(tag)}.tar"
        print(f"{image.name:12} {'current' if current else 'out of date':12} {entry['tar']}")


def read_index(cache: Path) -> dict[str, dict[str, str | int]]:
    """Return what is built: name -> tag, reference, tar, digest, bytes."""
    path = cache / "images/index.json"
    index: dict[str, dict[str, str | int]] = json.loads(path.read_text()) if path.exists() else {}
    return index


def say(line: str) -> None:
    """Print one line of progress at once."""
    print(line, flush=True)


def _build_one(builder: Builder, image: Image, tag: str, archive: Path, cache: Path) -> str:
    archive.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=archive.parent) as folder:
        context = Path(folder) / "context"
        context.mkdir()
        image.lay_out(cache, context)
        containerfile = Path(folder) / "Containerfile"
        shutil.copyfile(Path(__file__).parents[2] / image.containerfile, containerfile)
        partial = Path(folder) / "image.tar"
        digest = builder.build(containerfile, context, image.reference(tag), partial)
        partial.rename(archive)
    return digest


def _is_current(cache: Path, name: str, archive: Path) -> bool:
    entry = read_index(cache).get(name)
    return entry is not None and entry["tar"] == str(archive) and archive.exists()


def _note(cache: Path, image: Image, tag: str, archive: Path, digest: str) -> None:
    """Enter the image into the index and delete the files that are no longer in it."""
    index = read_index(cache)
    index[image.name] = {
        "tag": tag,
        "reference": image.reference(tag),
        "tar": str(archive),
        "digest": digest,
        "bytes": archive.stat().st_size,
    }
    path = cache / "images/index.json"
    partial = path.with_suffix(".partial")
    partial.write_text(json.dumps(index, indent=2, sort_keys=True) + "\n")
    partial.rename(path)
    for old in path.parent.glob(f"{image.name}-????????????????.tar"):
        if old != archive:
            old.unlink()


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m e2e.images", description="Build the project's container images."
    )
    commands = parser.add_subparsers(dest="command", required=True)
    texts = {
        "build": "build what changed, as image files in the cache",
        "list": "show what is built, and whether it is current",
        "context": "only lay out the build contexts, for a build by hand",
    }
    for name, text in texts.items():
        command = commands.add_parser(name, help=text, description=text)
        command.add_argument(
            "names", nargs="*", metavar="NAME", help=f"of {', '.join(IMAGES)}; all if none is given"
        )
        if name == "context":
            command.add_argument(
                "--into", required=True, metavar="FOLDER", help="a folder NAME is made in it"
            )
        else:
            command.add_argument("--tag", default="dev")
    return parser


if __name__ == "__main__":
    sys.exit(main())
