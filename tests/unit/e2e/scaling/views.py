"""Views of a deployment, as a scaler would see them."""

from e2e.bench.scaling.scaler import ClusterView, PodView, Workload

WORKLOAD = Workload(slots=8, load_p50_seconds=300.0, load_p90_seconds=340.0, min_replicas=1, max_replicas=200)
FROM_ZERO = Workload(
    slots=8, load_p50_seconds=300.0, load_p90_seconds=340.0, min_replicas=0, max_replicas=200
)


def a_view(
    now: float,
    *,
    ready: int = 1,
    loading: int = 0,
    in_service: float = 0.0,
    queued: float = 0.0,
    arrivals: float = 0.0,
    service_seconds: float | None = None,
) -> ClusterView:
    """Ready replicas share what is in service."""
    each = in_service / ready if ready else 0.0
    return ClusterView(
        now=now,
        spec=ready + loading,
        pods=[PodView(ready=True, age_seconds=9999.0, in_service=each, queued=0.0)] * ready
        + [PodView(ready=False, age_seconds=1.0, in_service=0.0, queued=0.0)] * loading,
        in_service=in_service,
        queued=queued,
        arrivals=arrivals,
        service_seconds=service_seconds,
        scraped_seconds_ago=0.0,
        window_seconds=15.0,
        eta_seconds=[300.0] * loading,
        available=None,
    )
