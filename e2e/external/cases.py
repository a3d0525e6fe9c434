"""The cases: who scales what, and what must come of it (issue 6)."""

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace

from e2e.campaign import Tell
from e2e.external.judge import Outcome, condition
from e2e.external.play import FOLLOW_SECONDS, Play
from e2e.external.stage import Stage

HPA, KEDA, PERSON = "kube-controller-manager/scale", "keda/scale", "kubectl/scale"
APPLIED = "kubectl-client-side-apply"
"""Who made the object has what the schema put there, until somebody scales it."""
STAYS_SECONDS = 35.0
"""Two looks of an autoscaler, and a little."""


@dataclass(frozen=True, slots=True)
class Case:
    """One case. ``writers``: who may have the field spec.replicas at its end."""

    name: str
    words: str
    run: Callable[[Play], None]
    writers: frozenset[str]

    def play(self, stage: Stage, tell: Tell) -> Outcome:
        """Run it; what goes wrong on the way is its outcome as well."""
        started = time.monotonic()
        try:
            stage.install_keda() if KEDA in self.writers else stage.serve_metric()
            with Play(stage, self.name, tell) as play:
                self.run(play)
                outcome = play.outcome()
                if not set(outcome.writers) <= self.writers:
                    words = f"spec.replicas was written by {', '.join(outcome.writers)}"
                    outcome = replace(outcome, problems=[*outcome.problems, words])
        except (AssertionError, RuntimeError) as error:
            tell(str(error))
            outcome = Outcome(self.name, problems=[str(error).partition("\n")[0]])
        return replace(outcome, seconds=round(time.monotonic() - started, 1))


# --- the HorizontalPodAutoscaler of kube-controller-manager


def _average(play: Play) -> None:
    """Up and down; the manifest applied again says nothing of replicas, and moves nothing."""
    play.begin(scaling={"maxReplicas": 2})
    play.gauge(5)
    play.autoscale(1, 2)
    play.gauge(20)
    play.follows(2)
    play.stage.apply(play.name, scaling={"maxReplicas": 2})
    play.stays(2, 2, STAYS_SECONDS)
    play.gauge(5)
    play.follows(1)


def _value(play: Play) -> None:
    """The number is divided by nothing: how many pods are Ready is counted by status.selector."""
    play.begin()
    play.gauge(10)
    play.autoscale(1, 2, "Value")
    play.gauge(20)
    play.follows(2)
    play.gauge(10)
    play.stays(2, 2, STAYS_SECONDS)
    play.gauge(5)
    play.follows(1)


def _above(play: Play) -> None:
    """It may ask for three where one is allowed: one is there, and that is told; the next load goes as it should."""
    play.begin(scaling={"maxReplicas": 1})
    play.gauge(30)
    play.autoscale(1, 3)
    play.step("3 asked for", lambda: play.asked == 3)
    words = "spec.replicas is 3; spec.scaling.maxReplicas allows 1."
    play.step("Accepted tells", lambda: words in play.accepted, 30)
    play.step("an Event tells", lambda: play.told("ScalingLimited") == [words], 30)
    play.stays(1, 3, STAYS_SECONDS)
    play.gauge(5)
    play.follows(1)
    play.step("nothing more is told", lambda: play.accepted == "The spec is valid.", 30)


def _ignored(play: Play) -> None:
    """Preheat decides: what is asked for moves nothing, and that is told with who asked."""
    play.begin(scaling={"mode": "Predictive", "minReplicas": 1, "maxReplicas": 2})
    play.gauge(5)
    play.autoscale(1, 2)
    play.expect("told before it asked", play.told("ScalingIgnored"), [])
    play.gauge(20)
    play.step("2 asked for", lambda: play.asked == 2)
    accepted = "kube-controller-manager set it to 2 through /scale."
    play.step("Accepted tells", lambda: play.accepted.endswith(accepted), 30)
    event = (
        "kube-controller-manager set spec.replicas to 2, and nothing follows from that: spec.scaling.mode is Predictive. "
        "Take an autoscaler that writes it away, or set the mode to External."
    )
    play.step("an Event tells", lambda: play.told("ScalingIgnored") == [event], 30)
    play.stays(1, 2, STAYS_SECONDS)


def _zero(play: Play) -> None:
    """A person stops the model: the autoscaler sleeps, the weights stay, and at one it goes on."""
    play.begin()
    play.gauge(20)
    play.autoscale(1, 2)
    play.follows(2)
    play.stage.kubectl("-n", play.stage.namespace, "scale", f"llmd/{play.name}", "--replicas=0")
    play.settles(0)
    play.expect("Ready", play.stage.ready(play.name).get("reason"), "ScaledToZero")
    play.step("its HPA sleeps", lambda: condition(play.autoscaler, "ScalingActive").get("status") == "False")
    play.expect("why it sleeps", condition(play.autoscaler, "ScalingActive").get("reason"), "ScalingDisabled")
    play.expect("nodes with weights", (play.body["status"].get("cache") or {}).get("readyNodes"), 1)
    play.stage.kubectl("-n", play.stage.namespace, "scale", f"llmd/{play.name}", "--replicas=1")
    play.follows(2)


def _away(play: Play) -> None:
    """It asks while the operator is away: nothing moves, and the next operator follows."""
    play.begin()
    play.gauge(5)
    play.autoscale(1, 2)
    play.stage.set_operators(0)
    try:
        play.gauge(20)
        play.step("2 asked for", lambda: play.asked == 2)
        play.stays(1, 2, 10)
    finally:
        play.stage.set_operators(1)
    play.settles(2)


def _rollout(play: Play) -> None:
    """A new revision has one replica more for a while: the autoscaler does not take it for one that was asked for."""
    play.begin()
    play.gauge(10)
    play.autoscale(1, 2)
    before = play.body["status"]["revision"]
    play.stage.apply(play.name, health={"canary": {"maxTokens": 9}})

    def is_new() -> bool:
        play.expect("asked for", play.asked, 1)
        status = play.body["status"]
        return bool(
            status.get("servingRevision") not in {None, before}
            and play.stage.ready(play.name).get("status") == "True"
        )

    play.step("the new revision serves", is_new, 2 * FOLLOW_SECONDS)
    play.settles(1)
    play.stays(1, 1, STAYS_SECONDS)


# --- KEDA


def _activation(play: Play) -> None:
    """0, 1, 2, 1, 0; what is not more than the activation wakes nothing."""
    play.begin(0)
    play.hand_to_keda(activation=4, minReplicaCount=0, maxReplicaCount=2)
    play.gauge(4)
    play.stays(0, 0, STAYS_SECONDS)
    play.gauge(8)
    play.follows(1)
    play.gauge(20)
    play.follows(2)
    play.gauge(8)
    play.follows(1)
    play.gauge(0)
    play.follows(0)
    play.expect("Ready", play.stage.ready(play.name).get("reason"), "ScaledToZero")


def _idle(play: Play) -> None:
    """Two at least where anything is asked, none where nothing is."""
    play.begin()
    play.hand_to_keda(idleReplicaCount=0, minReplicaCount=1, maxReplicaCount=2)
    play.follows(0)
    play.gauge(1)
    play.follows(1)
    play.gauge(0)
    play.follows(0)


def _floor(play: Play) -> None:
    """KEDA asks for none where one must stay: one stays, and that is told."""
    play.begin(scaling={"minReplicas": 1})
    play.hand_to_keda(minReplicaCount=0, maxReplicaCount=2)
    play.step("0 asked for", lambda: play.asked == 0)
    words = "spec.replicas is 0; spec.scaling.minReplicas asks for 1."
    play.step("Accepted tells", lambda: words in play.accepted, 30)
    play.step("an Event tells", lambda: play.told("ScalingLimited") == [words], 30)
    play.stays(1, 0, STAYS_SECONDS)
    play.gauge(20)
    play.follows(2)


CASES: Mapping[str, Case] = {
    case.name: case
    for case in (
        Case("hpa/average", "one replica, two, one, by AverageValue", _average, frozenset({HPA})),
        Case("hpa/value", "the same by Value: ready pods are counted", _value, frozenset({HPA})),
        Case("hpa/above-max", "three asked for, one allowed", _above, frozenset({HPA})),
        Case("hpa/predictive", "an autoscaler where Preheat decides", _ignored, frozenset({HPA})),
        Case("hpa/zero", "a person stops the model, and starts it", _zero, frozenset({HPA, PERSON})),
        Case("hpa/operator-away", "two asked for without an operator", _away, frozenset({HPA})),
        Case("hpa/rollout", "a new revision meanwhile", _rollout, frozenset({APPLIED})),
        Case("keda/activation", "none, one, two, one, none", _activation, frozenset({HPA, KEDA})),
        Case("keda/idle", "idleReplicaCount: none while nothing is asked", _idle, frozenset({HPA, KEDA})),
        Case("keda/floor", "none asked for, one must stay", _floor, frozenset({HPA, KEDA})),
    )
}
