"""Adds up what pytest wrote as JUnit files and prints one line: the last words of `make test`."""

import sys
import xml.etree.ElementTree as ET
from pathlib import Path


def main(folder: Path) -> int:
    """Return 1 when a test failed, or when none ran."""
    total = failed = skipped = 0
    for path in sorted(folder.glob("*.xml")):
        for suite in ET.parse(path).iter("testsuite"):
            count = {key: int(suite.get(key, 0)) for key in ("tests", "failures", "errors", "skipped")}
            print(f"  {path.stem:<12} {count['tests']:>4} tests  {float(suite.get('time', 0)):6.1f} s")
            total += count["tests"]
            failed += count["failures"] + count["errors"]
            skipped += count["skipped"]
    print(f"{total - failed - skipped} passed, {failed} failed" + (f", {skipped} skipped" if skipped else ""))
    return 1 if failed or not total else 0


if __name__ == "__main__":
    sys.exit(main(Path(sys.argv[1])))
