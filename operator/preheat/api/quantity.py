"""Amounts as Kubernetes writes them."""

import re
from decimal import Decimal

_UNITS = {
    "": 1, "k": 10**3, "M": 10**6, "G": 10**9, "T": 10**12, "P": 10**15,
    "Ki": 2**10, "Mi": 2**20, "Gi": 2**30, "Ti": 2**40, "Pi": 2**50,
}  # fmt: skip


def parse_bytes(text: str) -> int:
    """Return a quantity in whole bytes.

    Raises ValueError, with what would be one, for anything else.

    >>> parse_bytes("500Gi"), parse_bytes("1.5T"), parse_bytes("1024")
    (536870912000, 1500000000000, 1024)
    """
    found = re.fullmatch(r"([0-9]{1,18}(?:[.][0-9]{1,9})?)(|k|M|G|T|P|Ki|Mi|Gi|Ti|Pi)", text.strip())
    if found is None:
        raise ValueError(f"{text[:64]!r} is no amount of bytes: write it as 500Gi, 2T or 1073741824")
    return int(Decimal(found[1]) * _UNITS[found[2]])


def parse_count(text: object) -> int | None:
    """Return a whole number of at most 18 digits, None for anything else: anybody may write what is to be one.

    ``isdigit`` takes more than ``int`` does, and ``int`` fails on thousands of digits.

    >>> parse_count("1024"), parse_count(8), parse_count("\u00b2"), parse_count("9" * 19), parse_count("")
    (1024, 8, None, None, None)
    """
    digits = str(text)
    return int(digits) if re.fullmatch("[0-9]{1,18}", digits) else None
