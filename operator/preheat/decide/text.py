"""Numbers as people read them."""

_BYTES = ("B", "kB", "MB", "GB", "TB", "PB")


def duration(seconds: float) -> str:
    """Return a time span with two units at most, coarse enough not to flicker.

    >>> duration(7.2), duration(43), duration(200), duration(5400)
    ('7s', '45s', '3m20s', '1h30m')
    """
    if seconds < 10:
        return f"{max(1, round(seconds))}s"
    if seconds < 60:
        return f"{5 * round(seconds / 5)}s" if seconds < 57.5 else "1m"
    if seconds < 600:
        minutes, rest = divmod(10 * round(seconds / 10), 60)
        return f"{minutes}m{rest}s" if rest else f"{minutes}m"
    minutes = round(seconds / 60)
    if minutes < 60:
        return f"{minutes}m"
    hours, minutes = divmod(minutes, 60)
    return f"{hours}h{minutes}m" if minutes else f"{hours}h"


def size(count: float) -> str:
    """Return a number of bytes with three digits at most, in powers of 1000.

    >>> size(0), size(98362432), size(330e9)
    ('0 B', '98.4 MB', '330 GB')
    """
    for unit in _BYTES:
        if count < 999.5 or unit == _BYTES[-1]:
            return f"{count:.3g} {unit}"
        count /= 1000
    raise AssertionError("unreachable")


def speed(bytes_per_second: float) -> str:
    """Return a speed with two digits: what flickers in the third is not worth a write.

    >>> speed(11_342_000), speed(219_900_000)
    ('11 MB/s', '220 MB/s')
    """
    return f"{size(float(f'{bytes_per_second:.2g}'))}/s"
