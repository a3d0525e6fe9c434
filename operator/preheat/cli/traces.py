"""Trace files of ``kubectl preheat simulate``: when requests came, and how long each holds a slot.

A file is known by its columns, gzip by its first bytes; FORMATS is what ``--help`` says.
"""

import csv
import gzip
import json
import math
import zlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from itertools import pairwise
from pathlib import Path
from random import Random

FORMATS = """\
A trace is CSV or JSON lines, gzipped or not, with one of these groups of columns:
  TIMESTAMP [ContextTokens GeneratedTokens]    a request a line; the time is a date and time, or seconds
  timestamp [input_length output_length]       the same, in milliseconds where it is a number
  minute requests                              a minute a line: a date and time, or minutes since the start; how many came
  client window_start_s rate_rps [dist p1]     a client and window a line (ServeGen): requests a second, the law of the
                                               gaps between them (Exponential, Gamma or Weibull) and its shape
A file of times alone is TIMESTAMP with one column. Other columns are ignored."""

LOGS = {
    "TIMESTAMP": ("ContextTokens", "GeneratedTokens"),
    "timestamp": ("input_length", "output_length"),
}
COUNTS = ("minute", "requests")
RATES = ("client", "window_start_s", "rate_rps")
LAWS = ("Exponential", "Gamma", "Weibull")
TOKEN_SECONDS = 0.03
PREFILL_TOKENS_PER_SECOND = 10_000.0
MOST_REQUESTS = 4_000_000
BEGINS = datetime(2026, 1, 5, tzinfo=UTC).timestamp()
"""A trace without dates begins on a Monday at midnight, UTC."""

LEAST_DATE = 1e8
"""Seconds from here on are a date: spring of 1973."""
MOST_TOKENS = 10_000_000
STEPS = 20
"""In how many steps a rate goes over into that of the next window."""

Request = tuple[float, float | None]
"""When it came, and how long it holds a slot; None where the file does not say."""
Row = tuple[int, Mapping[str, object]]
"""The number of a line, and what it holds."""


class InvalidTraceError(ValueError):
    """A trace file means nothing; the message says where, and what was expected."""


@dataclass(frozen=True, slots=True)
class Trace:
    """Requests in the order in which they came."""

    begins: float
    """Unix seconds."""
    arrivals: Sequence[float]
    """Seconds since then."""
    services: Sequence[float]
    """How long each holds a slot, in seconds."""

    @property
    def seconds(self) -> float:
        """How long it is."""
        return self.arrivals[-1] + 1.0


@dataclass(frozen=True, slots=True)
class Drawing:
    """What is drawn where a file does not say it, and how much of a file is taken."""

    seed: int = 1
    share: float = 1.0
    """Of the requests; of rates, what they are multiplied with."""
    speed: float = 1.0
    """So many times as fast as it was."""
    request_seconds: float = 6.0
    """The mean time that a request holds its slot, where the file has no tokens."""


def read(path: Path, drawing: Drawing) -> Trace:
    """Return the requests of a file. Raises InvalidTraceError."""
    rng = Random(drawing.seed)  # noqa: S311
    rows, columns = _rows(path, _lines(path))
    column = next((name for name in LOGS if name in columns), None)
    if columns.issuperset(RATES):
        requests = _drawn(path, rows, drawing, rng)
    elif columns.issuperset(COUNTS):
        requests = _counted(path, rows, drawing, rng)
    elif column:
        requests = _logged(path, rows, column, drawing, rng)
    else:
        told = ", ".join(sorted(columns))[:120]
        raise InvalidTraceError(f"{path}, line 1: no known columns in {told!r}\n{FORMATS}")
    if not requests:
        raise InvalidTraceError(f"{path}: it holds no request, or --share leaves none")
    requests.sort(key=lambda one: one[0])
    first, mean = requests[0][0], drawing.request_seconds
    return Trace(
        begins=first if first >= LEAST_DATE else BEGINS,
        arrivals=[(at - first) / drawing.speed for at, _ in requests],
        services=[rng.expovariate(1 / mean) if seconds is None else seconds for _, seconds in requests],
    )


def _lines(path: Path) -> list[str]:
    try:
        raw = path.read_bytes()
        text = (gzip.decompress(raw) if raw[:2] == b"\x1f\x8b" else raw).decode("utf-8-sig")
    except FileNotFoundError:
        raise InvalidTraceError(f"{path}: there is no such file") from None
    except UnicodeDecodeError:
        raise InvalidTraceError(
            f"{path}: is no text in UTF-8; CSV or JSON lines are expected, gzipped or not"
        ) from None
    except (gzip.BadGzipFile, EOFError, zlib.error) as error:
        raise InvalidTraceError(f"{path}: the gzip data is damaged or cut off: {error}") from error
    except OSError as error:
        raise InvalidTraceError(f"{path}: cannot be read: {error.strerror or error}") from error
    lines = text.splitlines()
    if not any(line.strip() for line in lines):
        raise InvalidTraceError(f"{path}: the file is empty")
    return lines


def _rows(path: Path, lines: Sequence[str]) -> tuple[Iterator[Row], frozenset[str]]:
    """Return the lines with their numbers, and the names of the columns."""
    if lines[0].lstrip().startswith("{"):
        return _objects(path, lines), frozenset(next(_objects(path, lines))[1])
    columns = [name.strip() for name in next(csv.reader(lines[:1]))]
    return _records(path, lines, columns), frozenset(columns)


def _objects(path: Path, lines: Sequence[str]) -> Iterator[Row]:
    for number, line in enumerate(lines, 1):
        if not line.strip():
            continue
        try:
            row = json.loads(line)
        except ValueError as error:
            raise InvalidTraceError(f"{path}, line {number}: is no JSON: {error}") from error
        if not isinstance(row, dict):
            raise InvalidTraceError(f"{path}, line {number}: is no object; one with a timestamp is expected")
        yield number, row


def _records(path: Path, lines: Sequence[str], columns: Sequence[str]) -> Iterator[Row]:
    for number, line in enumerate(lines[1:], 2):
        if not line.strip():
            continue
        try:
            values = next(csv.reader([line], strict=True))
        except csv.Error as error:
            raise InvalidTraceError(f"{path}, line {number}: is no CSV: {error}") from error
        if len(values) != len(columns):
            raise InvalidTraceError(
                f"{path}, line {number}: {len(values)} values, {len(columns)} are expected: {', '.join(columns)[:120]}"
            )
        yield number, dict(zip(columns, values, strict=True))


def _logged(path: Path, rows: Iterator[Row], column: str, drawing: Drawing, rng: Random) -> list[Request]:
    """Return the requests of a log: each is kept with the probability ``share``."""
    inputs, outputs = LOGS[column]
    found: list[Request] = []
    for number, row in rows:
        where = f"{path}, line {number}"
        at = _time(where, column, row, 0.001 if column == "timestamp" else 1.0)
        seconds = None
        if outputs in row:
            prompt = _number(where, inputs, row, 0, MOST_TOKENS) if inputs in row else 0.0
            answer = max(1.0, _number(where, outputs, row, 0, MOST_TOKENS))
            seconds = prompt / PREFILL_TOKENS_PER_SECOND + answer * TOKEN_SECONDS
        if drawing.share >= 1 or rng.random() < drawing.share:
            found.append((at, seconds))
    return _few(path, found)


def _counted(path: Path, rows: Iterator[Row], drawing: Drawing, rng: Random) -> list[Request]:
    """Return requests at random moments of their minutes."""
    found: list[Request] = []
    for number, row in rows:
        where = f"{path}, line {number}"
        begin = _time(where, "minute", row, 60.0)
        many = _number(where, "requests", row, 0, MOST_REQUESTS) * drawing.share
        whole = int(many) + (rng.random() < many % 1)
        found += [(begin + 60 * rng.random(), None) for _ in range(whole)]
        _few(path, found)
    return found


def _drawn(path: Path, rows: Iterator[Row], drawing: Drawing, rng: Random) -> list[Request]:
    """Return drawn requests of all clients: gaps of a window's law, on a clock as fast as its rate."""
    clients: dict[str, dict[float, tuple[float, str, float]]] = {}
    for number, row in rows:
        where = f"{path}, line {number}"
        start = _number(where, "window_start_s", row, 0, 1e10)
        rate = _number(where, "rate_rps", row, 0, 1e6) * drawing.share
        law = str(row.get("dist") or "").strip() or LAWS[0]
        if law not in LAWS:
            raise InvalidTraceError(f"{where}: dist is {law[:60]!r}; {', '.join(LAWS)} are expected")
        shape = 1.0 if law == LAWS[0] else _number(where, "p1", row, 0.01, 1e6)
        windows = clients.setdefault(str(row["client"]), {})
        if start in windows:
            raise InvalidTraceError(
                f"{where}: client {row['client']} has window {start:g} twice; once is expected"
            )
        windows[start] = (rate, law, shape)
    starts = sorted({start for windows in clients.values() for start in windows})
    width = min((b - a for a, b in pairwise(starts)), default=0.0)
    if not width:
        raise InvalidTraceError(f"{path}: two windows or more are expected, it holds {len(starts)}")
    expected = sum(rate for windows in clients.values() for rate, _, _ in windows.values()) * width
    if expected > MOST_REQUESTS:
        share = 0.9 * drawing.share * MOST_REQUESTS / expected
        raise InvalidTraceError(
            f"{path}: about {expected:,.0f} requests, more than {MOST_REQUESTS:,}: take a part of them, --share {share:.2g} or less"
        )
    found: list[Request] = []
    for windows in clients.values():
        ahead = 0.0  # until the next request, in mean gaps
        for start, (rate, law, shape) in sorted(windows.items()):
            after = windows.get(start + width, (rate,))[0]
            for step in range(STEPS):
                now = rate + (after - rate) * (step + 0.5) / STEPS
                begin, left = start + width * step / STEPS, now * width / STEPS
                while ahead < left:
                    found.append((begin + ahead / now, None))
                    ahead += _gap(law, shape, rng)
                ahead -= left
    return found


def _gap(law: str, shape: float, rng: Random) -> float:
    """Return a gap of a law whose mean is 1."""
    if law == "Gamma":
        return rng.gammavariate(shape, 1 / shape)
    if law == "Weibull":
        return rng.weibullvariate(1 / math.gamma(1 + 1 / shape), shape)
    return rng.expovariate(1.0)


def _few(path: Path, found: list[Request]) -> list[Request]:
    if len(found) > MOST_REQUESTS:
        raise InvalidTraceError(_too_many(path))
    return found


def _too_many(path: Path) -> str:
    return f"{path}: more than {MOST_REQUESTS:,} requests: take a part of them, for example with --share 0.1"


def _time(where: str, column: str, row: Mapping[str, object], unit: float) -> float:
    """Return a time in seconds. ``unit``: how many seconds a plain number counts."""
    text = str(row.get(column, "")).strip()
    try:
        if text[4:5] != "-":
            return _number(where, column, row, 0, 1e15) * unit
        at = datetime.fromisoformat(text)
    except ValueError as error:
        if isinstance(error, InvalidTraceError) and _is_number(text):
            raise
        raise InvalidTraceError(
            f"{where}: {column} is {text[:60]!r}; a date and time like 2023-11-16 18:15:46 or a number is expected"
        ) from None
    return (at if at.tzinfo else at.replace(tzinfo=UTC)).timestamp()


def _is_number(text: str) -> bool:
    try:
        float(text)
    except ValueError:
        return False
    return True


def _number(where: str, column: str, row: Mapping[str, object], least: float, most: float) -> float:
    """Return a number within bounds."""
    text = str(row.get(column, "")).strip()
    if not _is_number(text) or not least <= float(text) <= most:
        raise InvalidTraceError(
            f"{where}: {column} is {text[:60]!r}; a number from {least:g} to {most:g} is expected"
        )
    return float(text)
