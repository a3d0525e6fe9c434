"""Preheat's own policy as a scaler: the code that the operator runs, with its defaults, and nothing tuned."""

from preheat.decide.scaling import LoadTime, Memory, Policy, Sample, recommend

from e2e.bench.scaling.scaler import ClusterView, Workload


class Preheat:
    """What the operator does: samples every 15 s, deletion costs, a front that tells of requests at zero."""

    name = "preheat"
    config = "default"
    interval_seconds = 15.0
    wakes_at_once = True
    prefers_idle = True

    def start(self, workload: Workload) -> None:
        """Forget everything."""
        self.memory = Memory()
        self.policy = Policy(
            min_replicas=workload.min_replicas,
            max_replicas=workload.max_replicas,
            slots=float(workload.slots),
            load=LoadTime(workload.load_p50_seconds, workload.load_p90_seconds),
        )
        self.told_until = 0.0
        self.told_ahead = self.untold = 0.0

    def decide(self, view: ClusterView) -> int:
        """Hand over what was seen since the last time."""
        said, self.memory = recommend(self.policy, self.samples(view), self.memory, view.now)
        return said.replicas

    def samples(self, view: ClusterView) -> list[Sample]:
        """Return what is new: a scrape; or, with no replica, that the front holds a request, which a scrape tells again later."""
        front = not view.spec and not view.window_seconds and view.queued > 0
        if front:
            at, arrivals = view.now, max(view.queued - self.told_ahead, 0.0)
            self.told_ahead += arrivals
        else:
            at = view.now - view.scraped_seconds_ago
            again = min(self.told_ahead, view.arrivals)
            self.told_ahead -= again
            self.untold += view.arrivals - again
            if at <= self.told_until:
                return []
            arrivals, self.untold = self.untold, 0.0
        seconds, self.told_until = at - self.told_until, at
        return [
            Sample(
                at=at,
                seconds=seconds,
                arrivals=arrivals,
                in_service=view.in_service,
                queued=view.queued,
                service_seconds=view.service_seconds,
                ready=sum(pod.ready for pod in view.pods),
                loading=tuple(view.eta_seconds),
                available=view.available,
            )
        ]
