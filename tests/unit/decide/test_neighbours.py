"""Who asks the source, who a neighbour, who waits and who serves: case by case, and a whole cluster at a time."""

import json
from collections import Counter
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from preheat.config import OperatorConfig
from preheat.decide.caching import CacheObservation, decide_cache
from preheat.decide.neighbours import (
    RETRY_SECONDS,
    SEEDER_SECONDS,
    SEEDERS_AT_MOST,
    START_SECONDS,
    WARMERS_EACH,
    Neighbourhood,
    Spread,
    spread,
)
from preheat.decide.observed import JobState, JobView, NodeView, PodView, WarmerReport
from preheat.decide.plan import Apply, Delete, Plan
from preheat.resources.caching import cache_key

from tests.builders import a_cache, a_node, a_pod

NOW = datetime(2026, 1, 1, 12, tzinfo=UTC)
KEY = "0123456789abcdef"
KEYS = {"keys": [{"kid": "one", "kty": "RSA"}]}
DIGEST = "d" * 64
IMAGE = f"oci://r.example/m@sha256:{DIGEST}"


def ago(seconds: float) -> datetime:
    return NOW - timedelta(seconds=seconds)


def a_warmer(
    node: str, *peers: str, state: JobState = JobState.ACTIVE, created: float = 60, **more: Any
) -> JobView:
    return JobView(f"w-{node}", f"uid-w-{node}", node, state, None, False, peers=peers, created=ago(created), **more)  # fmt: skip


def a_seeder(node: str, state: JobState = JobState.ACTIVE, created: float = 60, ended: float | None = None, *,
             deleting: bool = False) -> JobView:  # fmt: skip
    stopped = None if ended is None else ago(ended)
    return JobView(f"s-{node}", f"uid-s-{node}", node, state, stopped, deleting, component="seeder", created=ago(created))  # fmt: skip


def a_seeder_pod(node: str, *, ready: bool = True, **more: Any) -> PodView:
    return a_pod(f"seeder-{node}", ready=ready, ip=f"10.1.0.{sum(node.encode()) % 250}", **more)


def a_report(state: str = "Fetching", done: int = 43, reason: str = "", **more: Any) -> WarmerReport:
    return WarmerReport(state, done, 100, 10.0, 1.0, reason, **more)


def decide(names: str = "abc", **seen: Any) -> Spread:
    """Decide for nodes of one letter: those in ``ready`` hold the weights, those in ``warmers`` have a warmer."""
    ready, cordoned = seen.pop("ready", ""), seen.pop("cordoned", "")
    warmers = {job.node: job for job in seen.pop("warmers", ())}
    given: dict[str, Any] = {"pods": {}, "reports": {}, "seeders": (), "seeder_pods": {}}
    return spread(
        Neighbourhood(
            key=KEY,
            missing=[name for name in names if name not in ready and name not in warmers],
            chosen=frozenset(names),
            holders=[a_node(name, caches=frozenset({KEY})) for name in ready if name not in cordoned],
            labelled=frozenset(ready),
            warmers=warmers,
            refused=frozenset(seen.pop("refused", "")),
            **{**given, **seen},
        ),
        NOW,
    )


def peers(wish: Spread) -> dict[str, list[str]]:
    return {node: [peer.node for peer in told] for node, told in wish.begin.items()}


# --- no node holds the weights


def test_one_asks_the_source_and_the_others_wait_for_it() -> None:
    wish = decide()
    ((first, told),) = wish.begin.items()
    assert told == ()
    assert wish.waits == {n: f"{first} fetches it from the source: 0 %" for n in "abc" if n != first}
    assert wish.serve == []


def test_while_one_is_at_it_nobody_else_begins_and_all_are_told_how_far_it_is() -> None:
    wish = decide(warmers=[a_warmer("b")], pods={"b": a_pod()}, reports={"b": a_report()})
    assert wish.begin == {}
    assert wish.waits == dict.fromkeys("ac", "b fetches it from the source: 43 %")


@pytest.mark.parametrize(
    ("why", "seen"),
    [
        ("it failed for good", {"warmers": [a_warmer("b", state=JobState.FAILED)]}),
        ("its pod cannot be made", {"warmers": [a_warmer("b", complaint="exceeded quota")]}),
        ("no node takes its pod", {"warmers": [a_warmer("b")],
                                   "pods": {"b": a_pod(phase="Pending", unschedulable="0/3 nodes")}}),
        ("its image is not there", {"warmers": [a_warmer("b")],
                                    "pods": {"b": a_pod(phase="Pending", waiting_reason="ErrImagePull")}}),
        ("its pod does not run for minutes", {"warmers": [a_warmer("b", created=START_SECONDS + 1)],
                                              "pods": {"b": a_pod(phase="Pending")}}),
        ("its node has no room", {"warmers": [a_warmer("b", created=1, suspended=True)], "refused": "b"}),
        ("room is made for minutes", {"warmers": [a_warmer("b", created=START_SECONDS + 1, suspended=True)]}),
        ("its disk is full", {"warmers": [a_warmer("b")], "pods": {"b": a_pod()},
                              "reports": {"b": a_report("Failed", reason="DiskFull")}}),
    ],
)  # fmt: skip
def test_when_the_first_one_does_not_get_on_another_begins(why: str, seen: dict[str, Any]) -> None:
    assert len(decide(**seen).begin) == 1, why


@pytest.mark.parametrize(
    ("why", "seen"),
    [
        ("its pod is starting", {"warmers": [a_warmer("b", created=START_SECONDS - 1)],
                                 "pods": {"b": a_pod(phase="Pending")}}),
        ("room is being made for it", {"warmers": [a_warmer("b", created=9, suspended=True)]}),
        ("its pod is not known yet", {"warmers": [a_warmer("b", created=1)]}),
        ("the source is away for all", {"warmers": [a_warmer("b")], "pods": {"b": a_pod()},
                                        "reports": {"b": a_report("Failed", reason="SourceUnavailable")}}),
        ("it is silent for a moment", {"warmers": [a_warmer("b", created=9999)], "pods": {"b": a_pod()}}),
    ],
)  # fmt: skip
def test_otherwise_it_is_waited_for(why: str, seen: dict[str, Any]) -> None:
    assert decide(**seen).begin == {}, why


def test_a_warmer_on_a_node_that_went_away_holds_up_nobody() -> None:
    """Its Job is still there, its node takes no pods any more."""
    wish = decide("ac", warmers=[a_warmer("b")], pods={"b": a_pod()})
    assert len(wish.begin) == 1


def test_between_the_end_of_the_first_and_its_label_nobody_asks_the_source() -> None:
    done = replace(a_warmer("b", state=JobState.COMPLETE), ended=ago(1))
    wish = decide(warmers=[done])
    assert wish.begin == {}
    assert wish.look_again_seconds == SEEDER_SECONDS - 1
    never_labelled = replace(done, ended=ago(SEEDER_SECONDS + 1))
    assert len(decide(warmers=[never_labelled]).begin) == 1


# --- some hold them


def test_two_that_hold_them_serve_the_others_which_wait_for_a_seeder() -> None:
    wish = decide("abcdef", ready="abc")
    assert wish.begin == {}
    assert len(wish.serve) == 2
    assert set(wish.serve) < set("abc")
    assert wish.look_again_seconds == SEEDER_SECONDS
    assert set(wish.waits) == set("def")
    assert "about to serve it" in wish.waits["d"]


def test_the_choice_is_stable() -> None:
    first = decide("abcdef", ready="abc").serve
    assert first == decide("fedcba", ready="cba").serve
    (one, two) = first
    assert decide("abcdef", ready="abc", seeders=[a_seeder(one)]).serve == [one, two]


def test_a_seeder_that_is_ready_feeds_four_at_a_time() -> None:
    wish = decide("abcdefg", ready="a", seeders=[a_seeder("a")], seeder_pods={"a": a_seeder_pod("a")})
    assert len(wish.begin) == WARMERS_EACH
    assert set(map(tuple, peers(wish).values())) == {("a",)}
    assert len(wish.waits) == 2
    assert "its turn comes" in next(iter(wish.waits.values()))
    fed = [a_warmer(n, "a") for n in wish.begin]
    busy = decide("abcdefg", ready="a", warmers=fed, seeders=[a_seeder("a")],
                  seeder_pods={"a": a_seeder_pod("a")})  # fmt: skip
    assert busy.begin == {}
    assert len(busy.waits) == 2


@pytest.mark.parametrize(
    "why", [{"unschedulable": "0/9 nodes: Insufficient cpu"}, {"waiting_reason": "ErrImagePull"}, {}]
)
def test_warmers_that_do_not_start_take_no_seat_from_those_that_could(why: dict[str, Any]) -> None:
    """Four nodes without room for a pod kept all others waiting for ever."""
    pods = {node: a_pod(phase="Pending", **why) for node in "bcde"}
    serving: dict[str, Any] = {
        "ready": "a",
        "seeders": [a_seeder("a")],
        "seeder_pods": {"a": a_seeder_pod("a")},
        "pods": pods,
    }
    wish = decide(
        "abcdefg", warmers=[a_warmer(node, "a", created=START_SECONDS + 1) for node in "bcde"], **serving
    )
    assert set(wish.begin) == {"f", "g"}
    assert wish.serve == ["a"]
    fresh = decide("abcdefg", warmers=[a_warmer(node, "a", created=20) for node in "bcde"], **serving)
    if not why:
        assert fresh.begin == {}, "they are about to start"
        assert fresh.look_again_seconds == START_SECONDS - 20


def test_a_warmer_is_told_of_two_neighbours_the_least_busy_first() -> None:
    seeders = {"seeders": [a_seeder(n) for n in "abc"], "seeder_pods": {n: a_seeder_pod(n) for n in "abc"}}
    wish = decide("abcdx", ready="abc", warmers=[a_warmer("x", "a", "b")], **seeders)
    assert peers(wish)["d"][0] == "c"
    assert len(peers(wish)["d"]) == 2
    url = wish.begin["d"][0].url
    assert url.startswith("http://10.1.0.")
    assert url.endswith(":9082")


@pytest.mark.parametrize("pod", [
    a_seeder_pod("a", ready=False), a_seeder_pod("a", deleting=True), replace(a_seeder_pod("a"), ip=None), None,
])  # fmt: skip
def test_nobody_is_sent_to_a_seeder_that_is_not_ready(pod: PodView | None) -> None:
    pods = {"a": pod} if pod else {}
    wish = decide("ab", ready="a", seeders=[a_seeder("a", created=10)], seeder_pods=pods)
    assert wish.begin == {}
    assert wish.look_again_seconds == SEEDER_SECONDS - 10
    late = decide("abc", ready="a", seeders=[a_seeder("a", created=SEEDER_SECONDS)], seeder_pods=pods)
    assert list(peers(late).values()) == [[]], "one asks the source, the other waits for it"
    assert len(late.waits) == 1


def test_more_serve_where_more_wait() -> None:
    names = [chr(n) for n in range(0x100, 0x100 + 200)]
    wish = decide("".join(names), ready="".join(names[:50]))
    assert len(wish.serve) == SEEDERS_AT_MOST
    assert len(decide("abcd", ready="abc").serve) == 2


def test_when_nobody_needs_them_the_seeders_go() -> None:
    seeders = [a_seeder("a"), a_seeder("b")]
    no_room = decide(
        "abc", ready="ab", warmers=[a_warmer("c", "a", suspended=True)], refused="c", seeders=seeders
    )
    assert no_room.end == seeders, "its warmer may wait for days"
    done = decide("abc", ready="abc", seeders=seeders)
    assert done.end == seeders
    fed = decide("abc", ready="ab", warmers=[a_warmer("c", "a")], seeders=seeders)
    assert fed.end == []
    assert fed.serve == ["a", "b"]
    failed = decide("abc", ready="ab", warmers=[a_warmer("c", "a", state=JobState.FAILED)], seeders=seeders)
    assert failed.end == seeders, "it is tried again later; so are they"


def test_a_seeder_on_a_node_that_does_not_hold_them_any_more_goes_at_once() -> None:
    gone = a_seeder("b")
    assert decide("abc", ready="a", seeders=[a_seeder("a"), gone]).end == [gone]


def test_a_node_that_is_cordoned_goes_on_serving_and_begins_nothing() -> None:
    around = {"ready": "ab", "cordoned": "a", "seeder_pods": {"a": a_seeder_pod("a")}}
    wish = decide("abc", seeders=[a_seeder("a")], **around)
    assert wish.end == []
    assert peers(wish) == {"c": ["a"]}
    assert decide("abc", **around).serve == ["b"]


def test_a_seeder_that_ended_is_tried_again_after_a_while() -> None:
    fresh, old = (
        a_seeder("a", JobState.FAILED, ended=10),
        a_seeder("a", JobState.COMPLETE, ended=RETRY_SECONDS + 1),
    )
    assert decide("ab", ready="a", seeders=[fresh]).end == []
    assert decide("ab", ready="a", seeders=[fresh]).serve == []
    assert decide("ab", ready="a", seeders=[old]).end == [old]
    assert decide("ab", ready="a", seeders=[a_seeder("a", deleting=True)]).end == []


# --- the writes


def plan(cache: Any, *, config: OperatorConfig | None = None, **seen: Any) -> Plan:
    given: dict[str, Any] = {"nodes": [a_node(n) for n in "abc"], "jobs": [], "reports": {}, "pods": {},
                             "paths": {}, "issuer_keys": KEYS}  # fmt: skip
    return decide_cache(cache, CacheObservation(**{**given, **seen}), config or OperatorConfig(), NOW)


def jobs(plan: Plan, component: str = "warmer") -> dict[str, dict[str, Any]]:
    found = (w.manifest for w in plan.writes if isinstance(w, Apply) and w.manifest["kind"] == "Job")
    return {
        job["metadata"]["annotations"]["preheat.dev/node"]: job
        for job in found
        if job["metadata"]["labels"]["preheat.dev/component"] == component
    }


def node_of(plan: Plan, name: str) -> dict[str, Any]:
    assert plan.status is not None
    return next(node for node in plan.status["nodes"] if node["name"] == name)


@pytest.mark.parametrize(
    ("why", "spec", "seen"),
    [
        ("a claim is in the cluster", {"source": {"uri": "pvc://claim/x"}}, {}),
        ("kubelets pull images", {"source": {"uri": IMAGE}, "storage": {"mode": "Image"}}, {}),
        ("the API server gives no keys", {}, {"issuer_keys": None}),
        ("switched off", {}, {"config": OperatorConfig(neighbours=False)}),
    ],
)
def test_without_neighbours_all_ask_the_source_at_once(
    why: str, spec: dict[str, Any], seen: dict[str, Any]
) -> None:
    decided = plan(a_cache(**spec), seeders=[a_seeder("a")], **seen)
    assert set(jobs(decided)) == set("abc"), why
    assert [w.name for w in decided.writes if isinstance(w, Delete)] == ["s-a"]


def test_a_node_that_waits_says_for_whom() -> None:
    decided = plan(a_cache())
    (first,) = jobs(decided)
    waiting = node_of(decided, next(n for n in "abc" if n != first))
    assert waiting["state"] == "Pending"
    assert waiting["reason"] == "WaitsForNeighbour"
    assert waiting["message"] == f"{first} fetches it from the source: 0 %"
    (ready,) = [c for c in (decided.status or {})["conditions"] if c["type"] == "Ready"]
    assert (ready["status"], ready["reason"]) == ("False", "WeightsFetching")


def held(name: str = "a") -> dict[str, Any]:
    key = cache_key(a_cache())
    return {"nodes": [a_node(n, caches=frozenset({key}) if n == name else frozenset()) for n in "abc"]}


def test_where_nobody_knows_what_the_weights_must_be_nobody_serves() -> None:
    decided = plan(a_cache(), **held())
    assert jobs(decided, "seeder") == {}
    assert len(jobs(decided)) == 1


def test_seeders_and_warmers_fit_together() -> None:
    cache = a_cache(status={"manifestSHA256": DIGEST})
    first = plan(cache, **held())
    assert list(jobs(first, "seeder")) == ["a"]
    assert jobs(first) == {}
    (policy,) = [
        w.manifest for w in first.writes if isinstance(w, Apply) and w.manifest["kind"] == "NetworkPolicy"
    ]
    seeder = jobs(first, "seeder")["a"]
    stamp = seeder["metadata"]["annotations"]["preheat.dev/applied"]
    running = {
        **held(),
        "seeders": [replace(a_seeder("a"), applied=stamp)],
        "seeder_pods": {"a": a_seeder_pod("a")},
    }
    warmer = jobs(plan(cache, **running))["b"]
    theirs = json.loads(_variable(seeder)), json.loads(_variable(warmer))
    assert theirs[1]["manifestSHA256"] == DIGEST
    assert warmer["metadata"]["annotations"]["preheat.dev/peers"] == "a"
    (token,) = [v for v in _pod(warmer)["volumes"] if v["name"] == "peer"]
    (source,) = token["projected"]["sources"]
    assert (
        source["serviceAccountToken"]["audience"]
        == theirs[0]["audience"]
        == f"preheat.dev/default/{cache_key(cache)}"
    )
    assert theirs[0]["issuerKeys"] == KEYS
    assert theirs[0]["namespace"] == "default"
    # Who may come is who comes, and where they come to is where they may.
    labels = _labels(seeder), _labels(warmer)
    rule = policy["spec"]["ingress"][0]
    assert policy["spec"]["podSelector"]["matchLabels"].items() <= labels[0].items()
    assert rule["from"][0]["podSelector"]["matchLabels"].items() <= labels[1].items()
    assert rule["ports"] == [{"port": 9082, "protocol": "TCP"}]
    assert policy["spec"]["egress"] == []
    assert _pod(seeder)["volumes"][0]["persistentVolumeClaim"]["readOnly"] is True


def test_a_warmer_without_neighbours_has_no_token() -> None:
    (warmer,) = jobs(plan(a_cache())).values()
    assert [v["name"] for v in _pod(warmer)["volumes"]] == ["make", "warm"]


def test_a_seeder_with_other_keys_is_made_anew_once_nobody_is_served_by_it() -> None:
    cache, old = a_cache(status={"manifestSHA256": DIGEST}), replace(a_seeder("a"), applied="other")
    around = {**held(), "seeders": [old], "seeder_pods": {"a": a_seeder_pod("a")}}
    idle = plan(cache, **around)
    assert [w.name for w in idle.writes if isinstance(w, Delete)] == ["s-a"]
    assert jobs(idle, "seeder") == {}
    serving = plan(cache, jobs=[a_warmer("b", "a")], pods={"b": a_pod()}, **around)
    assert [w.name for w in serving.writes if isinstance(w, Delete)] == []


def _pod(job: dict[str, Any]) -> dict[str, Any]:
    pod: dict[str, Any] = job["spec"]["template"]["spec"]
    return pod


def _variable(job: dict[str, Any]) -> str:
    (container,) = _pod(job)["containers"]
    return str(next(e["value"] for e in container["env"] if e["name"] == "PREHEAT_WARMER_CONFIG"))


def _labels(job: dict[str, Any]) -> dict[str, str]:
    labels: dict[str, str] = job["spec"]["template"]["metadata"]["labels"]
    return labels


# --- a whole cluster


@dataclass
class Cluster:
    """Nodes that do what the plan says, a turn of ten seconds at a time. ``broken``: where no seeder ever gets ready."""

    nodes: int
    broken: frozenset[int] = frozenset()
    failing: frozenset[int] = frozenset()
    """Nodes whose warmer fails for good."""
    now: datetime = NOW
    ready: set[str] = field(default_factory=set)
    warmers: dict[str, JobView] = field(default_factory=dict)
    seeders: dict[str, JobView] = field(default_factory=dict)
    from_source: int = 0
    turns: int = 0

    @property
    def names(self) -> list[str]:
        return [f"n{number:03}" for number in range(self.nodes)]

    def number(self, name: str) -> int:
        return int(name[1:])

    def turn(self) -> None:
        """Decide, check what may never be, and let ten seconds pass."""
        self.turns += 1
        pods = {
            node: a_seeder_pod("x", ready=self.number(node) not in self.broken)
            for node, job in self.seeders.items()
            if job.created is not None and job.created < self.now
        }
        seen = Neighbourhood(
            key=KEY,
            missing=[n for n in self.names if n not in self.ready and n not in self.warmers],
            chosen=frozenset(self.names),
            holders=[a_node(n) for n in sorted(self.ready)],
            labelled=frozenset(self.ready),
            warmers=self.warmers,
            pods=dict.fromkeys(self.warmers, a_pod()),
            reports={},
            refused=frozenset(),
            seeders=list(self.seeders.values()),
            seeder_pods=pods,
        )
        wish = spread(seen, self.now)
        assert not set(wish.begin) & set(wish.waits)
        assert set(wish.begin) | set(wish.waits) == set(seen.missing), "each begins or says why not"
        for job in wish.end:
            del self.seeders[job.node]
        for node in wish.serve:
            assert node in self.ready
            self.seeders.setdefault(node, replace(a_seeder(node), created=self.now))
        at_work = {n: j for n, j in self.warmers.items() if j.state is JobState.ACTIVE}
        for node, told in wish.begin.items():
            self.from_source += not told
            self.warmers[node] = at_work[node] = replace(
                a_warmer(node, *(p.node for p in told)), created=self.now
            )
        assert sum(not job.peers for job in at_work.values()) <= 1, "one at the source"
        load = Counter(peer for job in at_work.values() for peer in job.peers)
        assert all(count <= WARMERS_EACH for count in load.values())
        self.now += timedelta(seconds=10)
        for node, job in at_work.items():
            if job.created is not None and job.created < self.now - timedelta(seconds=10):
                failed = self.number(node) in self.failing
                self.warmers[node] = replace(
                    job, state=JobState.FAILED if failed else JobState.COMPLETE, ended=self.now
                )
                if not failed:
                    self.ready.add(node)

    @property
    def settled(self) -> bool:
        wanted = {name for name in self.names if self.number(name) not in self.failing}
        return self.ready == wanted and not self.seeders


def settle(cluster: Cluster) -> Cluster:
    while not cluster.settled:
        assert cluster.turns < 40 + 8 * cluster.nodes, cluster
        cluster.turn()
    return cluster


def test_the_source_is_asked_once_and_the_nodes_that_hold_the_weights_multiply() -> None:
    three, hundred = settle(Cluster(3)), settle(Cluster(100))
    assert three.from_source == hundred.from_source == 1
    assert hundred.turns < 25, "4 + 8 + 16: not one after the other"


@settings(max_examples=60, deadline=None)
@given(
    nodes=st.integers(1, 24),
    broken=st.frozensets(st.integers(0, 23)),
    failing=st.frozensets(st.integers(0, 23)),
)
def test_whatever_fails_every_node_gets_the_weights_in_the_end(
    nodes: int, broken: frozenset[int], failing: frozenset[int]
) -> None:
    cluster = settle(Cluster(nodes, broken, failing))
    assert cluster.from_source <= nodes
    if not broken and not failing:
        assert cluster.from_source == 1


def test_a_node_view_without_taints_is_a_holder() -> None:
    """What ``holders`` are is decided by placement: a cordoned node serves nobody."""
    key = cache_key(a_cache())
    nodes: list[NodeView] = [
        a_node("a", caches=frozenset({key}), schedulable=False),
        a_node("b"),
        a_node("c"),
    ]
    decided = plan(a_cache(status={"manifestSHA256": DIGEST}), nodes=nodes)
    assert jobs(decided, "seeder") == {}
    assert len(jobs(decided)) == 1
