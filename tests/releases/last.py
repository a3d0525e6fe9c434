"""Which release is the last one, and what is kept of it."""

from pathlib import Path

RELEASES = Path(__file__).parent


def last_release() -> Path:
    """Return the folder of the newest release."""
    folders = [path for path in RELEASES.iterdir() if path.name[0].isdigit()]
    return max(folders, key=lambda path: tuple(map(int, path.name.split("."))))
