"""Progress bars for a terminal."""

WIDTH = 28
_PARTS = " ▏▎▍▌▋▊▉█"


def bar(percent: float, width: int = WIDTH) -> str:
    """Return a bar that is `percent` full, drawn in eighths of a character.

    >>> bar(0, 4), bar(50, 4), bar(53.2, 4), bar(100, 4)
    ('▕    ▏', '▕██  ▏', '▕██▏ ▏', '▕████▏')
    """
    eighths = round(max(0.0, min(100.0, percent)) / 100 * width * 8)
    full, rest = divmod(eighths, 8)
    body = "█" * full + (_PARTS[rest] if rest else "")
    return f"▕{body.ljust(width)}▏"
