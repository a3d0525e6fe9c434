"""Traces that are made here: one for each thing that traffic does to a scaler.

A shape says how many slots are wanted at a time; arrivals are Poisson with the rate that keeps them busy.
"""

import zlib
from collections.abc import Callable

import numpy as np

from e2e.bench.scaling.trace import DAY, Floats, Trace, drawn_services, mean_service

HOUR = 3600.0
GRID_SECONDS = 10.0

Shape = Callable[[Floats], Floats]


def made(
    name: str,
    shape: Shape,
    seconds: float,
    history_seconds: float,
    seed: int,
    gpus: tuple[tuple[float, int], ...] = (),
) -> Trace:
    """Draw a trace: ``shape`` maps seconds to the mean number of busy slots."""
    rng = np.random.default_rng([seed, zlib.crc32(name.encode())])
    grid = np.arange(0.0, seconds, GRID_SECONDS)
    rates = np.maximum(shape(grid + GRID_SECONDS / 2), 0.0) / mean_service()
    counts = rng.poisson(rates * GRID_SECONDS)
    arrivals = np.sort(np.repeat(grid, counts) + rng.random(int(counts.sum())) * GRID_SECONDS)
    return Trace(name, arrivals, drawn_services(arrivals.size, rng), history_seconds, seconds, gpus)


def step(base: float, factor: float, at: float, until: float = np.inf) -> Shape:
    """``factor`` times as much from ``at`` to ``until``."""
    return lambda t: np.where((t >= at) & (t < until), base * factor, base)


def ramp(base: float, factor: float, at: float, length: float) -> Shape:
    """Up to ``factor`` times as much within ``length`` seconds."""
    return lambda t: base * (1 + (factor - 1) * np.clip((t - at) / length, 0, 1))


def silence(base: float, at: float, length: float, factor: float) -> Shape:
    """Nothing for ``length`` seconds, then ``factor`` times as much for an hour."""
    return lambda t: (
        base
        * np.where(t < at, 1.0, np.where(t < at + length, 0.0, np.where(t < at + length + HOUR, factor, 1.0)))
    )


def daily(t: Floats) -> Floats:
    """Office hours: 0.25 at night, up to 1.75 in the afternoon; 1 on the average."""
    return 1 - 0.75 * np.cos(2 * np.pi * (t / DAY - 3 / 24))


def weekly(base: float, holiday: int) -> Shape:
    """Days like ``daily``, weekends at 40 %, and one working day that is a holiday at 30 %."""

    def shape(t: Floats) -> Floats:
        day = np.floor(t / DAY).astype(int)
        level = np.where(day % 7 >= 5, 0.4, 1.0)
        return base * daily(t) * np.where(day == holiday, 0.3, level)

    return shape


def growth(base: float, a_day: float) -> Shape:
    """Days like ``daily`` that grow by a factor each day."""
    return lambda t: base * daily(t) * a_day ** (t / DAY)


def on_off(base: float, starts: tuple[float, ...], length: float) -> Shape:
    """Each day work of ``length`` seconds that starts at these hours, with nothing between."""

    def shape(t: Floats) -> Floats:
        hours = (t % DAY) / HOUR
        on = np.zeros(t.shape, dtype=bool)
        for start in starts:
            on |= (hours >= start) & (hours < start + length / HOUR)
        return np.where(on, base, 0.0)

    return shape


def trickle(base: float) -> Shape:
    """So little that most hours have a handful of requests, and nights none."""
    return lambda t: base * np.where(np.cos(2 * np.pi * (t / DAY - 14 / 24)) > -0.3, 1.0, 0.02)


def synthetic(seed: int) -> dict[str, Callable[[], Trace]]:
    """Return how to make each synthetic trace."""
    at = 12 * HOUR
    base = 4 * 8 * 0.7  # four replicas of eight slots, 70 % busy
    return {
        "step": lambda: made("step", step(base, 5, at), 18 * HOUR, 6 * HOUR, seed),
        "ramp": lambda: made("ramp", ramp(base, 5, at, HOUR / 2), 18 * HOUR, 6 * HOUR, seed),
        "flash": lambda: made("flash", step(base, 5, at, at + 600), 18 * HOUR, 6 * HOUR, seed),
        "surge": lambda: made("surge", silence(base, at - 3 * HOUR, 3 * HOUR, 3), 18 * HOUR, 6 * HOUR, seed),
        "weekly": lambda: made("weekly", weekly(3 * 8, 9), 12 * DAY, 7 * DAY, seed),
        "growth": lambda: made("growth", growth(2 * 8, 1.12), 9 * DAY, 3 * DAY, seed),
        "no-history": lambda: made("no-history", lambda t: 4 * 8 * daily(t), 1.5 * DAY, 0.0, seed),
        "on-off": lambda: made("on-off", on_off(6, (1, 9, 13.5, 18), 2 * HOUR), 6 * DAY, 3 * DAY, seed),
        "trickle": lambda: made("trickle", trickle(0.02), 14 * DAY, 5 * DAY, seed),
        "stock-out": lambda: made(
            "stock-out",
            step(base, 5, at),
            18 * HOUR,
            6 * HOUR,
            seed,
            ((0.0, 1000), (at, 8), (at + HOUR, 1000)),
        ),
    }
