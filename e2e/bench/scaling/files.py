"""Trace files: logs with a line per request, and rate files with a line per client and window (ServeGen's form).

A file is known by its columns, not by its name; gzip is known by its first bytes.

| columns | is |
|---|---|
| TIMESTAMP (a date and time, or seconds), ContextTokens, GeneratedTokens | a log: CSV or JSONL; the tokens may be missing |
| timestamp (a date and time, or milliseconds), input_length, output_length | a log: CSV or JSONL; the tokens may be missing |
| client, window_start_s, rate_rps, dist, p1 | rates: dist is Gamma or Weibull, p1 its shape, or Exponential or empty; more columns are ignored |
"""

import csv
import gzip
import io
import json
import math
import zlib
from array import array
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from itertools import chain
from pathlib import Path
from typing import TextIO

import numpy as np

from e2e.bench.scaling.trace import DAY, Floats, Trace, drawn_services, holding_seconds, mean_service

LOGS = {
    "TIMESTAMP": ("ContextTokens", "GeneratedTokens"),
    "timestamp": ("input_length", "output_length"),
}
RATES = ("client", "window_start_s", "rate_rps", "dist", "p1")
MOST_REQUESTS = 8_000_000
"""A longer log is thinned to this."""
MOST_TOKENS = 10_000_000
KNOTS = 30
"""In how many steps a rate changes within a window."""


class TraceFileError(Exception):
    """A trace file cannot be used; the message says what is wrong where, and what to do."""


@dataclass(frozen=True, slots=True)
class Log:
    """Requests as they were logged: seconds since the first, and tokens where the file has them."""

    arrivals: Floats
    input_tokens: Floats | None
    output_tokens: Floats | None


@dataclass(frozen=True, slots=True)
class Window:
    """What a client did for a while: how many requests a second, and the law of the gaps between them."""

    start: float
    rate: float
    law: str
    shape: float


@dataclass(frozen=True, slots=True)
class Rates:
    """All clients of a rate file."""

    clients: Mapping[str, Sequence[Window]]
    window_seconds: float


def read(path: Path) -> Log | Rates:
    """Read a trace file.

    Raises:
        TraceFileError: it is not there, or not of a known form, or a line makes no sense.
    """
    with opened(path) as text:
        first = text.readline()
        if not first.strip():
            raise TraceFileError(f"{path}: the file is empty")
        if first.lstrip().startswith("{"):
            return read_log(path, json_rows(path, chain([first], text)))
        columns = [name.strip().lstrip("\ufeff") for name in next(csv.reader([first]))]
        rows = csv_rows(path, text, columns)
        if set(RATES) <= set(columns):
            return read_rates(path, rows)
        if any(name in columns for name in LOGS):
            return read_log(path, rows)
        raise TraceFileError(
            f"{path}, line 1: no known columns in {', '.join(columns)[:200]!r}; a log has TIMESTAMP or timestamp, "
            f"a rate file has {', '.join(RATES)}"
        )


@contextmanager
def opened(path: Path) -> Iterator[TextIO]:
    """Open a file, gzipped or not, and say in words what goes wrong while it is read."""
    try:
        with path.open("rb") as raw:
            packed = raw.read(2) == b"\x1f\x8b"
            raw.seek(0)
            plain = gzip.GzipFile(fileobj=raw) if packed else raw
            with io.TextIOWrapper(plain, encoding="utf-8", newline="") as text:
                yield text
    except FileNotFoundError:
        raise TraceFileError(f"{path}: there is no such file") from None
    except UnicodeDecodeError:
        raise TraceFileError(
            f"{path}: not text in UTF-8: is it a CSV or JSONL file, gzipped or not?"
        ) from None
    except (gzip.BadGzipFile, EOFError, zlib.error) as error:
        raise TraceFileError(
            f"{path}: the gzip data is damaged or cut off ({error}): fetch the file anew"
        ) from error
    except OSError as error:
        raise TraceFileError(f"{path}: cannot be read: {error.strerror or error}") from error


def csv_rows(path: Path, text: TextIO, columns: Sequence[str]) -> Iterator[tuple[int, dict[str, str]]]:
    """Yield the lines of a CSV file with their numbers, empty ones left out."""
    reader = csv.reader(text)
    try:
        for row in reader:
            if not row:
                continue
            if len(row) != len(columns):
                raise TraceFileError(
                    f"{path}, line {reader.line_num + 1}: {len(row)} values for {len(columns)} columns"
                )
            yield reader.line_num + 1, dict(zip(columns, row, strict=True))
    except csv.Error as error:
        raise TraceFileError(f"{path}, line {reader.line_num + 1}: not CSV: {error}") from error


def json_rows(path: Path, lines: Iterator[str]) -> Iterator[tuple[int, dict[str, object]]]:
    """Yield the lines of a JSONL file with their numbers, empty ones left out."""
    for number, line in enumerate(lines, 1):
        if not line.strip():
            continue
        try:
            row = json.loads(line)
        except ValueError as error:
            raise TraceFileError(f"{path}, line {number}: not JSON: {error}") from error
        if not isinstance(row, dict):
            raise TraceFileError(f"{path}, line {number}: not an object with a timestamp")
        yield number, row


def read_log(path: Path, rows: Iterable[tuple[int, Mapping[str, object]]]) -> Log:
    """Read a log; its times may be out of order, its tokens may be missing throughout."""
    times, tokens = array("d"), (array("d"), array("d"))
    column = ""
    for number, row in rows:
        column = column or next((name for name in LOGS if name in row), "")
        if column not in row:
            raise TraceFileError(f"{path}, line {number}: no {column or 'TIMESTAMP or timestamp'}")
        try:
            times.append(when(column, row[column]))
            for name, found in zip(LOGS[column], tokens, strict=True):
                if name in row:
                    found.append(number_of(name, row[name], 0, MOST_TOKENS))
        except ValueError as error:
            raise TraceFileError(f"{path}, line {number}: {error}") from None
    if not times:
        raise TraceFileError(f"{path}: it holds no request")
    for name, found in zip(LOGS[column], tokens, strict=True):
        if found and len(found) != len(times):
            raise TraceFileError(
                f"{path}: {name} is missing in {len(times) - len(found)} of {len(times)} lines"
            )
    arrivals = np.array(times)
    order = np.argsort(arrivals, kind="stable")
    inputs, outputs = (np.array(found)[order] if found else None for found in tokens)
    return Log(arrivals[order] - arrivals[order[0]], inputs, outputs)


def read_rates(path: Path, rows: Iterable[tuple[int, Mapping[str, str]]]) -> Rates:
    """Read a rate file."""
    clients: dict[str, dict[float, Window]] = {}
    for number, row in rows:
        where = f"{path}, line {number}"
        try:
            start = number_of("window_start_s", row["window_start_s"], 0, 1e10)
            rate = number_of("rate_rps", row["rate_rps"], 0, 1e6)
            law, shape = row["dist"].strip() or "Exponential", 1.0
            if law in {"Gamma", "Weibull"}:
                shape = number_of("p1", row["p1"], 0.01, 1e6)
        except ValueError as error:
            raise TraceFileError(f"{where}: {error}") from None
        if law not in {"Gamma", "Weibull", "Exponential"}:
            raise TraceFileError(f"{where}: dist is {law!r}; known are Gamma, Weibull and Exponential")
        of_client = clients.setdefault(row["client"], {})
        if start in of_client:
            raise TraceFileError(f"{where}: client {row['client']} has window {start:g} twice")
        of_client[start] = Window(start, rate, law, shape)
    starts = sorted({start for of_client in clients.values() for start in of_client})
    if len(starts) < 2:
        raise TraceFileError(f"{path}: a rate file needs two windows or more; it holds {len(starts)}")
    steps = np.diff(starts)
    width = float(steps.min())
    if not np.allclose(np.round(steps / width), steps / width):
        raise TraceFileError(
            f"{path}: windows do not start at multiples of {width:g} s: cannot tell how long they are"
        )
    ordered = {name: [of_client[start] for start in sorted(of_client)] for name, of_client in clients.items()}
    return Rates(ordered, width)


def when(column: str, value: object) -> float:
    """Read a time: a date and time, or seconds under TIMESTAMP, milliseconds under timestamp.

    Raises:
        ValueError: it is neither.
    """
    text = str(value).strip()
    try:
        if text[4:5] != "-":
            return number_of(column, text, -1e15, 1e15) / (1000 if column == "timestamp" else 1)
        at = datetime.fromisoformat(text)
    except ValueError:
        unit = "milliseconds" if column == "timestamp" else "seconds"
        raise ValueError(
            f"{column} is {text[:60]!r}: neither a date and time like 2023-11-16 18:15:46.680 nor {unit}"
        ) from None
    return (at if at.tzinfo else at.replace(tzinfo=UTC)).timestamp()


def number_of(column: str, value: object, least: float, most: float) -> float:
    """Read a number within bounds.

    Raises:
        ValueError: it is none, or not within them.
    """
    try:
        number = float(str(value))
    except ValueError:
        raise ValueError(f"{column} is {str(value)[:60]!r}, not a number") from None
    if not least <= number <= most or math.isinf(number):
        raise ValueError(f"{column} is {number:g}; it must be between {least:g} and {most:g}")
    return number


def log_trace(name: str, log: Log, seed: int, busy_slots: float | None = None) -> Trace:
    """Make a trace of a log; with ``busy_slots``, thinned so that on the average as many slots are busy."""
    rng = np.random.default_rng([seed, zlib.crc32(name.encode())])
    many = log.arrivals.size
    if log.output_tokens is None:
        services = drawn_services(many, rng)
    else:
        inputs = np.zeros(many) if log.input_tokens is None else log.input_tokens
        services = holding_seconds(inputs, log.output_tokens)
    end = float(log.arrivals[-1]) + max(1.0, float(log.arrivals[-1]) / max(many - 1, 1))
    keep = min(1.0, MOST_REQUESTS / many)
    if busy_slots is not None:
        keep = min(keep, busy_slots / (float(services.sum()) / end))
    kept = rng.random(many) < keep if keep < 1 else np.ones(many, dtype=bool)
    return judged(Trace(name, log.arrivals[kept], services[kept], history_of(end), end))


def rate_trace(name: str, rates: Rates, clients: Sequence[str], seed: int, busy_slots: float) -> Trace:
    """Draw a trace of some clients (none: all), thinned or thickened so that on the average ``busy_slots`` are busy.

    Raises:
        TraceFileError: a client is not in the file, or none of them sent anything.
    """
    unknown = [client for client in clients if client not in rates.clients]
    if unknown:
        known = ", ".join(sorted(rates.clients, key=lambda name: (len(name), name)))
        raise TraceFileError(f"{name}: no client {', '.join(unknown)}; there are {known}")
    rng = np.random.default_rng([seed, zlib.crc32(name.encode())])
    chosen = [rates.clients[client] for client in clients or rates.clients]
    start = min(windows[0].start for windows in rates.clients.values())
    end = max(windows[-1].start for windows in rates.clients.values()) + rates.window_seconds - start
    requests = sum(window.rate for windows in chosen for window in windows) * rates.window_seconds
    if requests <= 0:
        raise TraceFileError(f"{name}: these clients sent nothing")
    factor = busy_slots / mean_service() / (requests / end)
    arrivals = np.sort(
        np.concatenate([drawn(windows, start, end, rates.window_seconds, factor, rng) for windows in chosen])
    )
    return judged(Trace(name, arrivals, drawn_services(arrivals.size, rng), history_of(end), end))


def drawn(
    windows: Sequence[Window], start: float, end: float, width: float, factor: float, rng: np.random.Generator
) -> Floats:
    """Draw the arrivals of one client.

    Gaps have the law of their window with a mean of 1, on a clock that runs as fast as the rate: ten expected requests
    are ten of its seconds. Rates are interpolated between the middles of the windows. So the burstiness is that of the
    file and the rate has no jumps that the file's windows would bring in.
    """
    many = round(end / width)
    rates = np.zeros(many)
    laws: list[Window | None] = [None] * many
    for window in windows:
        place = round((window.start - start) / width)
        rates[place] = window.rate * factor
        laws[place] = window
    edges = np.arange(KNOTS * many + 1) * (width / KNOTS)
    at_edges = np.interp(edges, (np.arange(many) + 0.5) * width, rates)
    clock = np.concatenate([[0.0], np.cumsum((at_edges[1:] + at_edges[:-1]) * (width / KNOTS / 2))])
    found, last, law = [], 0.0, windows[0]
    for place in range(many):
        law = laws[place] or law
        until = float(clock[KNOTS * (place + 1)])
        while last < until:
            points = last + np.cumsum(gaps(law, 16 + int(1.2 * (until - last)), rng))
            inside = int(np.searchsorted(points, until))
            found.append(points[:inside])
            if inside < points.size:
                last = float(points[inside])
                found.append(points[inside : inside + 1])
                break
            last = float(points[-1])
    points = np.concatenate(found) if found else np.zeros(0)
    points = points[points < clock[-1]]
    return np.asarray(np.interp(points, clock, edges))


def gaps(law: Window, many: int, rng: np.random.Generator) -> Floats:
    """Draw gaps of a mean of 1."""
    if law.law == "Exponential":
        return rng.exponential(1.0, many)
    if law.law == "Gamma":
        return rng.gamma(law.shape, 1 / law.shape, many)
    return rng.weibull(law.shape, many) / math.gamma(1 + 1 / law.shape)


def judged(trace: Trace) -> Trace:
    """Return a trace with something in it that counts: without history where all its requests are history.

    Raises:
        TraceFileError: nothing is left of it.
    """
    if not trace.arrivals.size:
        raise TraceFileError(f"{trace.name}: thinned like that no request is left: ask for more --replicas")
    return trace if trace.scored.any() else replace(trace, history_seconds=0.0)


def history_of(end: float) -> float:
    """Return how much of a file is history: three days of six and more, a third of one to six, nothing of less."""
    if end < DAY:
        return 0.0
    return 3 * DAY if end >= 6 * DAY else end / 3
