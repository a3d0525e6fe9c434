"""What the image builder promises before anything is built: keys, contexts, locks."""

import ast
import re
import sys
from dataclasses import replace
from importlib.metadata import packages_distributions
from pathlib import Path

import pytest

REPOSITORY = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(REPOSITORY))

from e2e.images.catalog import IMAGES, Image  # noqa: E402
from e2e.images.once import made_once  # noqa: E402

GENERATED = ("site-packages", "tritonserver", "weights")
LOCKS = sorted(path.name for path in (REPOSITORY / "requirements").glob("*.lock"))


def copied(image: Image) -> list[str]:
    text = (REPOSITORY / image.containerfile).read_text()
    return re.findall(r"^COPY (\S+) \S+$", text, re.MULTILINE)


@pytest.mark.parametrize("image", IMAGES.values(), ids=list(IMAGES))
def test_the_containerfile_copies_only_what_the_context_has(image: Image) -> None:
    assert copied(image)
    for path in copied(image):
        assert path in GENERATED or path.startswith(image.sources), path


@pytest.mark.parametrize("image", IMAGES.values(), ids=list(IMAGES))
def test_the_image_runs_as_the_user_that_pods_name(image: Image) -> None:
    assert "\nUSER 1000:1000\n" in (REPOSITORY / image.containerfile).read_text()


def test_the_same_inputs_have_the_same_key() -> None:
    assert IMAGES["operator"].key("dev") == IMAGES["operator"].key("dev")


def test_the_tag_and_every_source_are_in_the_key() -> None:
    image = IMAGES["operator"]
    keys = {
        image.key("dev"),
        image.key("v1"),
        replace(image, sources=(*image.sources, "LICENSE")).key("dev"),
        replace(image, lock="requirements/agent.lock").key("dev"),
        replace(image, containerfile="runtime/agent/Containerfile").key("dev"),
    }
    assert len(keys) == 5


@pytest.mark.parametrize("lock", LOCKS)
def test_a_lock_names_hashes_and_no_place(lock: str) -> None:
    lines = (REPOSITORY / "requirements" / lock).read_text().splitlines()
    for line in lines:
        assert re.fullmatch(
            r"[a-z0-9.-]+==\S+( ; .*)? \\|    --hash=sha256:[0-9a-f]{64}( \\)?|    # +.*", line
        ), line
        assert "://" not in line


@pytest.mark.parametrize("name", ["operator", "agent", "front", "warmer"])
def test_what_the_code_imports_is_in_the_images_lock(name: str) -> None:
    image = IMAGES[name]
    locked = set(re.findall(r"^([a-z0-9.-]+)==", (REPOSITORY / image.lock).read_text(), re.MULTILINE))
    distributions = packages_distributions()
    for file in (REPOSITORY / image.sources[0]).rglob("*.py"):
        for module in imported(file) - sys.stdlib_module_names - {Path(image.sources[0]).name}:
            found = {re.sub(r"[._]", "-", one).lower() for one in distributions[module]}
            assert found & locked, f"{file.name} imports {module}; name it in requirements/"


def imported(file: Path) -> set[str]:
    """Return the top-level modules that a file imports by their full name."""
    names: set[str] = set()
    for node in ast.walk(ast.parse(file.read_text())):
        if isinstance(node, ast.Import):
            names |= {alias.name.split(".")[0] for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
            names.add(node.module.split(".")[0])
    return names


def test_a_folder_is_made_once(tmp_path: Path) -> None:
    made: list[Path] = []

    def make(folder: Path) -> None:
        made.append(folder)
        (folder / "file").write_text("whole")

    for _ in range(2):
        assert (made_once(tmp_path / "tree", make) / "file").read_text() == "whole"
    assert len(made) == 1


def test_a_folder_that_failed_half_way_is_not_there(tmp_path: Path) -> None:
    def fail(folder: Path) -> None:
        (folder / "file").write_text("half")
        raise OSError("disk full")

    with pytest.raises(OSError, match="disk full"):
        made_once(tmp_path / "tree", fail)
    assert [path.name for path in tmp_path.iterdir()] == ["tree.lock"]
