"""The cases: what is done to a model that serves, and what must come of it (issue 7)."""

import math
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Any

from e2e.campaign import Tell
from e2e.cluster import GPU_NODES
from e2e.rollout import gateway
from e2e.rollout.judge import (
    MARGIN_SECONDS,
    Outcome,
    Span,
    Verdict,
    first_moved,
    first_pulled,
    first_ready,
    lost,
    percent_of,
    problems_of_gap,
    problems_of_loss,
    problems_of_pull,
    problems_of_reason,
    problems_of_share,
    problems_of_traffic,
    unserved,
    weighted,
)
from e2e.rollout.play import BEFORE_REQUESTS, RECOVERY_SECONDS, Play
from e2e.rollout.revisions import ALL, BAD, GOOD, MORE_BAD, OTHER_IMAGE, SLOW_LOAD, Revision
from e2e.rollout.stage import Stage, a_holder
from e2e.rollout.traffic import failed

LEAST_REQUESTS = 20
"""Of each protocol: fewer prove nothing."""
COMPARED_REQUESTS = 100
"""What takes traffic is compared with its predecessor, of which so many must be known: 30 are the least."""
ROLLOUT_SECONDS = 240.0
STUCK_SECONDS, STUCK_FOR_SECONDS = 120.0, 10.0
TOLD_SECONDS = 30.0
STAYS_SECONDS = 20.0
PATIENCE_SECONDS = 20
L4, A10G = "nvidia-l4", "nvidia-a10g"
TWO_TYPES = {"gpu": {"types": [L4, A10G], "patienceSeconds": PATIENCE_SECONDS}}
KILLS_AT_MOST = 6


@dataclass(frozen=True, slots=True)
class Case:
    """One case. ``run`` returns its outcome, without name and time."""

    name: str
    words: str
    run: Callable[[Play], Outcome]
    replicas: int = 1
    gpus: int = 1
    """Per replica. There are two of the first type, all on one node."""

    def play(self, stage: Stage, tell: Tell) -> Outcome:
        """Run it; what goes wrong on the way is its outcome as well."""
        started = time.monotonic()
        try:
            stage.clear()
            with Play(stage, self.name, tell, replicas=self.replicas, gpus=self.gpus) as play:
                outcome = self.run(play)
        except (AssertionError, RuntimeError) as error:
            tell(str(error))
            outcome = Outcome(self.name, problems=[str(error).partition("\n")[0]])
        return replace(outcome, case=self.name, seconds=round(time.monotonic() - started, 1))


# --- good revisions


def _good(play: Play) -> Outcome:
    """Roll a good revision out where an old replica can stay until the new one serves: not one request fails."""
    play.begin()
    play.apply(GOOD[1])
    return _rolled_out(play, GOOD[1])


def _good_without_room(play: Play) -> Outcome:
    """Roll a good revision out where the only replica must make room: one gap, announced before it begins."""
    play.begin()
    play.apply(GOOD[1])
    return _rolled_out(play, GOOD[1], gap=True)


def _other_image(play: Play) -> Outcome:
    """Roll a good revision out whose image is new to the nodes: nobody makes room before one of them has it."""
    play.begin()
    play.apply(GOOD[1], **OTHER_IMAGE)
    outcome = _rolled_out(play, GOOD[1])
    pulled = first_pulled(play.eyes.seen(), play.changed)
    moved = first_moved(play.history, play.good, play.replicas, play.changed)
    return replace(outcome, problems=[*outcome.problems, *problems_of_pull(pulled, moved)])


def _slow_load(play: Play) -> Outcome:
    """A load that takes ten times as long as the one before, and makes progress all the while, is not given up."""
    play.begin()
    play.apply(SLOW_LOAD)
    outcome = _rolled_out(play, SLOW_LOAD)
    restarts = sum(replica.restarts for replica in play.eyes.now.replicas.values())
    tried = {r.name for moment in play.history for r in moment.others(play.good)}
    problems = [f"the engine was restarted {restarts} times"] if restarts else []
    problems += [f"{len(tried)} pods were made for one replica"] if len(tried) > 1 else []
    return replace(outcome, problems=[*outcome.problems, *problems])


def _rolled_out(play: Play, revision: Revision, *, gap: bool = False) -> Outcome:
    play.until("the new revision serves", play.rolled_out, ROLLOUT_SECONDS)
    done = time.time()
    requests = play.stop()
    spans = unserved(play.history, play.changed, done)
    problems = problems_of_traffic(requests, LEAST_REQUESTS)
    if gap:
        problems += problems_of_gap(spans, requests, play.eyes.seen(), play.changed)
        missed = [r for r in failed(requests) if not any(span.meets(r) for span in spans)]
    else:
        missed = failed(requests)
        problems += problems_of_loss(missed)
    if not any(request.revision == revision.name for request in requests):
        problems.append("no request was answered by the new revision")
    return Outcome(
        play.case,
        verdict="RolledOut",
        reason=_why(play),
        sent=len(requests),
        failed=len(failed(requests)),
        lost=len(missed),
        seconds_to_verdict=round(done - play.changed, 1),
        seconds_to_recovery=round(sum(span.seconds for span in spans), 1),
        problems=problems,
    )


def _why(play: Play) -> str:
    """Return the way that a rollout was told to take last."""
    ways = [""]
    for glimpse in play.eyes.seen():
        rollout = (glimpse.body.get("status") or {}).get("rollout") or {}
        if glimpse.kind == "LLMDeployment" and glimpse.at > play.changed and rollout.get("chosen"):
            ways.append(str(rollout["chosen"]))
    return ways[-1]


# --- a gateway between

NEW_PERCENT = 10
"""Of the requests that come through the gateway, while one of two replicas is new."""
MEASURED_REQUESTS = 100
FASTER = ("--rate", "40", "--most", "40000")
CANARY_PAUSE_SECONDS = 60


def _canary() -> dict[str, Any]:
    """Return a rollout that gives one of two replicas to the new revision, and less of the requests than of the replicas."""
    steps = [
        {"percent": 50, "weight": NEW_PERCENT, "pauseSeconds": CANARY_PAUSE_SECONDS},
        {"percent": 100},
    ]
    parent = {"name": gateway.NAME, "namespace": gateway.NAMESPACE}
    return {"strategy": "Canary", "steps": steps, "gateway": {"parentRefs": [parent]}}


def _begin_behind(play: Play) -> None:
    """Have a good revision serve, asked over REST through the gateway; gRPC asks the Service."""
    address = gateway.install(play.stage.provider)
    play.begin(asked=COMPARED_REQUESTS, how=["--rest-address", address, *FASTER], rollout=_canary())


def _shared(play: Play) -> Outcome:
    """A good revision gets a tenth of the requests with half of the replicas, then all of both."""
    _begin_behind(play)
    play.apply(GOOD[1], rollout=_canary())
    return _with_share(play, _rolled_out(play, GOOD[1]), GOOD[1])


def _shared_errors(play: Play) -> Outcome:
    """A bad revision gets a tenth of the requests with half of the replicas, until it is found out."""
    revision = ALL["errors"]
    _begin_behind(play)
    return _with_share(play, _found_out(play, revision, rollout=_canary()), revision)


def _with_share(play: Play, outcome: Outcome, revision: Revision) -> Outcome:
    spans = weighted(play.eyes.seen(), play.good, NEW_PERCENT, time.time())
    percent, count = percent_of(play.requests, revision.name, spans)
    wrong = problems_of_share(percent, NEW_PERCENT, count, MEASURED_REQUESTS)
    problems = [*outcome.problems, *wrong]
    return replace(outcome, percent_asked=NEW_PERCENT, percent_measured=round(percent, 2), problems=problems)


# --- bad revisions


def _bad(revision: Revision) -> Callable[[Play], Outcome]:
    def run(play: Play) -> Outcome:
        """Roll a bad revision out: it is found out and taken back, and the good replicas lose no request."""
        play.begin(asked=COMPARED_REQUESTS if revision.serves else BEFORE_REQUESTS)
        return _found_out(play, revision)

    return run


def _found_out(play: Play, revision: Revision, **spec: Any) -> Outcome:
    play.apply(revision, **spec)
    verdict = play.verdict()
    outcome = _taken_back(play, revision, verdict, verdict.at if verdict is not None else None)
    wrong = problems_of_reason(verdict, revision.reasons)
    moved = first_moved(play.history, play.good, play.replicas, play.changed)
    if revision.moves_nothing and moved < math.inf:
        wrong += [f"a good replica went {moved - play.changed:.1f} s after the change"]
    return replace(outcome, problems=[*outcome.problems, *wrong])


def _taken_back(play: Play, revision: Revision, verdict: Verdict | None, since: float | None) -> Outcome:
    """Wait until the first revision alone serves again. ``since``: from when on, None for a verdict that never came."""
    back = play.recovery(since) if since is not None else None
    requests = play.stop()
    served = first_ready(play.history, play.good, play.began)
    excused = [Span(served, back or math.inf)] if served < math.inf else []
    missed = lost(requests, revision.name, excused)
    problems = problems_of_traffic(requests, LEAST_REQUESTS) + problems_of_loss(missed)
    if since is not None and back is None:
        problems.append(f"the first revision was not back within {RECOVERY_SECONDS:g} s")
    if served < math.inf and not revision.serves:
        problems.append("a replica of it took traffic")
    after = [r for r in requests if back and r.at > back + MARGIN_SECONDS and r.revision == revision.name]
    problems += [f"{len(after)} requests reached it afterwards"] if after else []
    return Outcome(
        play.case,
        verdict=verdict.word if verdict is not None else "",
        reason=verdict.reason if verdict is not None else "",
        sent=len(requests),
        failed=len(failed(requests)),
        lost=len(missed),
        seconds_to_verdict=round(verdict.at - play.changed, 1) if verdict is not None else None,
        seconds_to_recovery=round(back - since, 1) if back is not None and since is not None else None,
        problems=problems,
    )


# --- going back while a rollout is stuck


def _stuck(play: Play) -> Revision:
    """Have a revision on its way that never comes up and that nobody takes back."""
    revision = ALL["load-stalls"]
    play.begin()
    play.apply(revision, rollout={"autoRollback": False}, health={"stallSeconds": None})
    play.until("a replica of it loads", lambda: _loads(play), STUCK_SECONDS)
    time.sleep(STUCK_FOR_SECONDS)
    return revision


def _loads(play: Play) -> bool:
    new = [replica for replica in play.eyes.now.others(play.good) if not replica.leaving]
    return any(replica.runs for replica in new)


def _by_hand(play: Play) -> Outcome:
    """Go back with `kubectl preheat rollback` while the new revision is stuck."""
    revision = _stuck(play)
    play.preheat("rollback", play.name)
    asked = time.time()
    return _taken_back(play, revision, play.verdict(asked, TOLD_SECONDS), asked)


def _by_spec(play: Play) -> Outcome:
    """Go back by applying the old spec again while the new revision is stuck."""
    revision = _stuck(play)
    play.apply(GOOD[0])
    return _taken_back(play, revision, None, play.changed)


# --- the operator ends in the middle


def _killed(run: Callable[[Play], Outcome]) -> Callable[[Play], Outcome]:
    def killed(play: Play) -> Outcome:
        """The same, and the operator is killed whenever something has changed: the end is the same."""
        with _kills(play) as kills:
            outcome = run(play)
        problems = [*outcome.problems, *(() if kills else ("the operator was never killed",))]
        return replace(outcome, reason=f"{outcome.reason}, {len(kills)} kills", problems=problems)

    return killed


@contextmanager
def _kills(play: Play) -> Iterator[list[float]]:
    """Kill the operator after each change that is seen of the model, from its first revision on; yield when."""
    kills: list[float] = []
    over = threading.Event()

    def work() -> None:
        last = None
        while not over.wait(0.2) and len(kills) < KILLS_AT_MOST:
            state = _state(play) if play.good else None
            if last is not None and state != last:
                kills.append(time.time())
                play.stage.kill_operator()
            last = state

    thread = threading.Thread(target=work)
    thread.start()
    try:
        yield kills
    finally:
        over.set()
        thread.join()


def _state(play: Play) -> tuple[Any, ...]:
    """Return what tells one step of a rollout from the next."""
    conditions = (play.eyes.service.get("status") or {}).get("conditions", ())
    told = tuple((c["type"], c["status"], c["reason"]) for c in conditions)
    return told, frozenset(play.eyes.now.replicas.values())


# --- another GPU type


def _gpus_taken(play: Play) -> Outcome:
    """Somebody else holds every GPU of the first type: the replica comes up on the second, and stays there."""
    with _stranger(play.stage):
        play.begin(hardware=TWO_TYPES)
        came = time.time()
        gpu = _gpu(play)
        before = set(play.eyes.now.replicas)
    time.sleep(STAYS_SECONDS)
    problems = (
        [] if set(play.eyes.now.replicas) == before else ["it was torn down when the first type was free"]
    )
    return _fell_back(play, gpu, came, problems)


def _gpus_gone(play: Play) -> Outcome:
    """The GPUs of the first type are gone, and the replica on them: it comes up on the second."""
    play.begin(hardware=TWO_TYPES)
    (pod,) = play.eyes.now.replicas
    first, _ = play.stage.provider.nodes()
    play.stage.set_gpus(first, 0)
    try:
        play.changed = time.time()
        play.stage.kubectl("-n", play.stage.namespace, "delete", "pod", pod, "--wait=false")
        play.until(
            "a replica elsewhere", lambda: pod not in play.eyes.now.replicas and play.eyes.now.ready(), 180
        )
        return _fell_back(play, _gpu(play), time.time(), [])
    finally:
        play.stage.set_gpus(first, GPU_NODES[0].count)


def _fell_back(play: Play, gpu: str, came: float, problems: Sequence[str]) -> Outcome:
    requests = play.stop()
    missed = lost(requests, "", unserved(play.history, play.changed, came))
    return Outcome(
        play.case,
        verdict="FellBack",
        reason=gpu,
        sent=len(requests),
        failed=len(failed(requests)),
        lost=len(missed),
        seconds_to_recovery=round(came - play.changed, 1),
        problems=[
            *problems,
            *problems_of_loss(missed),
            *([] if gpu == A10G else [f"it runs on {gpu}, not on {A10G}"]),
        ],
    )


def _gpu(play: Play) -> str:
    return ",".join(
        sorted({replica.gpu_type for replica in play.eyes.now.replicas.values() if replica.ready})
    )


@contextmanager
def _stranger(stage: Stage) -> Iterator[None]:
    """Have a pod of somebody else's hold both GPUs of the first type."""
    stage.put("stranger", a_holder("stranger", stage.provider.nodes()[0], GPU_NODES[0].count))
    try:
        stage.kubectl("-n", stage.namespace, "wait", "--for=condition=Ready", "pod/stranger", "--timeout=60s")
        yield
    finally:
        stage.kubectl("-n", stage.namespace, "delete", "pod", "stranger", "--ignore-not-found", "--wait=true")


FULL = ("bad-image", "missing-secret", "load-raises", "empty-answers", "errors", "stub-crash")
"""The bad revisions that are also tried where no GPU is free: two replicas, and one of them must make room."""

CASES: Mapping[str, Case] = {
    case.name: case
    for case in (
        Case("good/spare", "a GPU is free", _good),
        Case("good/two-full", "none is free, one of two replicas serves on", _good, replicas=2),
        Case("good/one-full", "none is free for the only replica", _good_without_room, gpus=2),
        Case("good/image", "a GPU is free, the image is new", _other_image),
        Case("good/image-full", "none is free, the image is new", _other_image, replicas=2),
        Case("slow-load", "ten times the usual load", _slow_load),
        *(Case(f"bad/{revision.name}", "a GPU is free", _bad(revision)) for revision in (*BAD, *MORE_BAD)),
        *(Case(f"bad-full/{name}", "none is free", _bad(ALL[name]), replicas=2) for name in FULL),
        Case("gateway/canary", "a tenth through a gateway", _shared, replicas=2),
        Case("gateway/errors", "a tenth, and it is bad", _shared_errors, replicas=2),
        Case("back/by-hand", "stuck, kubectl preheat rollback", _by_hand),
        Case("back/by-spec", "stuck, the old spec", _by_spec),
        Case("back/by-hand-full", "stuck, none is free", _by_hand, replicas=2),
        Case("killed/rollout", "a good revision", _killed(_good)),
        Case("killed/rollback", "a bad revision", _killed(_bad(ALL["load-raises"]))),
        Case("gpu/taken", "others hold the first type", _gpus_taken),
        Case("gpu/gone", "the first type is gone", _gpus_gone),
    )
}
