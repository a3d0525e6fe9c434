"""How many slots are wanted: the requests that would be in service if nobody ever waited.

What is in flight is a bad measure of it. While a replica loads, requests pile up, and in-flight plus queue asks for
many times what is needed once it is there. So arrivals are replayed through a station with room for everybody
(M/G/infinity): each request holds a slot for the mean service time from the moment it comes, whether it really got
one or not. A backlog cannot inflate that.
"""

import math
from dataclasses import dataclass

from preheat.decide.scaling.sample import Known

MEMORY_SECONDS = 300.0
"""How long what was seen of service times counts."""
LEAST_ENDED = 1e-6
"""The last that was seen is never forgotten altogether."""
SUPPOSED_SECONDS = 10.0
"""How long a request holds its slot as long as none has ended: while the first replica loads, say."""
CORRECTION = 0.25
"""How much of the difference to what is really in service is taken over at a time, while nobody waits."""


@dataclass(frozen=True, slots=True)
class Offered:
    """The replay as it stands."""

    at: float = -math.inf
    """The end of the last window."""
    slots: float = 0.0
    """Wanted at its end."""
    mean: float = 0.0
    """Wanted over it, on the average."""
    held: float = 0.0
    """Seconds that requests held slots, of late; what was seen long ago counts less."""
    ended: float = 0.0
    """How many requests those were."""
    queued_at: float = -math.inf
    """When somebody waited last: what is in service since may still be what waited."""

    @property
    def service_seconds(self) -> float:
        """The mean time that a request holds its slot."""
        return self.held / self.ended if self.ended > 0 else SUPPOSED_SECONDS

    def after(self, sample: Known) -> "Offered":
        """Return the replay after one more window."""
        arrivals, in_service, queued = sample.arrivals, sample.in_service, sample.queued
        fade = math.exp(-max(0.0, sample.at - self.at) / MEMORY_SECONDS)
        held, ended = self.held * fade, self.ended * fade
        if sample.service_seconds is not None:
            many = max(1.0, in_service * sample.seconds / sample.service_seconds)
            held, ended = held + many * sample.service_seconds, ended + many
        elif ended < LEAST_ENDED:
            held, ended = self.held, self.ended
        queued_at = sample.at if queued > 0 else self.queued_at
        service = held / ended if ended else SUPPOSED_SECONDS
        steady = arrivals / sample.seconds * service
        left = math.exp(-sample.seconds / service)
        mean = steady + (self.slots - steady) * service / sample.seconds * (1 - left)
        slots = steady + (self.slots - steady) * left
        if sample.at - queued_at > 3 * service:
            correction = CORRECTION * (in_service - slots)
            mean, slots = max(0.0, mean + correction), max(0.0, slots + correction)
        return Offered(sample.at, slots, mean, held, ended, queued_at)
