"""A trace: when requests come, and how long each holds a slot."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]

DAY = 86_400.0
TOKEN_SECONDS = 0.03
PREFILL_TOKENS_PER_SECOND = 10_000.0

# Every twentieth of the requests of AzureLLMInferenceTrace_conv_2023 (CC-BY 4.0), the longest cut off.
INPUT_TOKENS = (
    2, 181, 207, 372, 387, 396, 403, 414, 703, 984, 1020, 1045, 1071, 1097, 1130, 1189, 1315, 1876, 2734, 4083, 8000,
)  # fmt: skip
OUTPUT_TOKENS = (
    7, 41, 54, 67, 77, 85, 91, 96, 103, 113, 129, 151, 177, 217, 384, 395, 400, 411, 424, 451, 600,
)  # fmt: skip


@dataclass(frozen=True, slots=True)
class Trace:
    """Requests of one deployment, and what the cluster has for it."""

    name: str
    arrivals: Floats
    """Seconds since the start, ascending."""
    services: Floats
    """How long each holds its slot, in seconds."""
    history_seconds: float
    """Every policy runs through what comes before; only what comes after counts."""
    end_seconds: float
    gpus: tuple[tuple[float, int], ...] = ()
    """From when on how many replicas can have a GPU; empty: as many as anybody asks for."""

    @property
    def scored(self) -> NDArray[np.bool_]:
        """Which requests count."""
        return (self.arrivals >= self.history_seconds) & (self.arrivals < self.end_seconds)

    def available(self, now: float) -> int | None:
        """Return how many replicas can have a GPU now."""
        found = None
        for since, many in self.gpus:
            if since <= now:
                found = many
        return found


def holding_seconds(input_tokens: Floats, output_tokens: Floats) -> Floats:
    """Return how long requests hold a slot: their prefill, then a token after another, one at least."""
    return input_tokens / PREFILL_TOKENS_PER_SECOND + np.maximum(output_tokens, 1.0) * TOKEN_SECONDS


def drawn_services(many: int, rng: np.random.Generator) -> Floats:
    """Draw how long requests of a conversation hold a slot: 6.3 s on the average."""
    quantiles = np.linspace(0, 1, len(INPUT_TOKENS))
    return holding_seconds(
        np.interp(rng.random(many), quantiles, INPUT_TOKENS),
        np.interp(rng.random(many), quantiles, OUTPUT_TOKENS),
    )


def mean_service() -> float:
    """Return the mean of ``drawn_services``."""
    means = [
        float(np.trapezoid(tokens, dx=1 / (len(tokens) - 1))) for tokens in (INPUT_TOKENS, OUTPUT_TOKENS)
    ]
    return means[0] / PREFILL_TOKENS_PER_SECOND + means[1] * TOKEN_SECONDS
