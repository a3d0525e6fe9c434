"""What ``plan`` says of a rollout: the planner's own steps on paper, with what loads took. Pure."""

from preheat.decide.rollout.gather import Question
from preheat.decide.rollout.preview import Moment, Preview, Times
from preheat.decide.text import duration

MOST_LINES = 24


def lines(
    found: Preview | None, before: str | None, question: Question, times: Times, observations: int
) -> list[str]:
    """Return what happens to the replicas. ``before``: the revision that is there."""
    after = question.goal.revision
    revision = (
        f"  revision  {after}, as it is" if before == after else f"  revision  {before or 'none'} -> {after}"
    )
    if found is None:
        return [f"{revision}: no replica moves from one revision to another"]
    way = found.chosen or "decided when the weights lie on a node"
    return [
        revision,
        f"  GPUs      {_gpus(question)}",
        f"  rollout   {way}: {found.why}",
        *_moments(found.moments, question),
        f"  serving   {_serving(found)}",
        f"  ends      {_end(found)}",
        f"  by        a load of {duration(times.load)}, {_source(observations)}; weights that are not there yet: "
        f"{duration(times.weights)}",
    ]


def _gpus(question: Question) -> str:
    goal = question.goal
    wanted = ", ".join(f"{share * goal.gpus} {gpu_type}" for gpu_type, share in goal.shares.items()) or "none"
    return f"{wanted}; the weights go to {', '.join(question.nodes_first) or 'no node'} first"


def _moments(moments: tuple[Moment, ...], question: Question) -> list[str]:
    rows = [
        f"    +{duration(moment.at_seconds) if moment.at_seconds else '0s':<7} old {moment.old:>3}  new {moment.new:>3}  "
        f"answering {moment.serving:>3}  {_share(moment, question)}{moment.step.phase}"
        for moment in moments
    ]
    if len(rows) <= MOST_LINES:
        return rows
    half = MOST_LINES // 2
    return [*rows[:half], f"    ... {len(rows) - 2 * half} steps more", *rows[-half:]]


def _share(moment: Moment, question: Question) -> str:
    """Return what new replicas get through a gateway; nothing where there is none, or where it goes by replicas."""
    share = moment.step.share
    return f"gateway {share:>3} %  " if question.limits.routed and share is not None else ""


def _serving(found: Preview) -> str:
    if found.gap_seconds:
        return f"nothing answers for {duration(found.gap_seconds)}"
    if found.short_seconds:
        least = f"at least {found.least_serving} {'answers' if found.least_serving == 1 else 'answer'} at any time"
        return f"{least}; fewer than are wanted for {duration(found.short_seconds)}"
    return "as many answer as are wanted, at any time"


def _end(found: Preview) -> str:
    if found.ends:
        return f"after about {duration(found.seconds)}" if found.seconds else "at once"
    return f"not by itself: {found.message}"


def _source(observations: int) -> str:
    return f"the median of {observations} observed" if observations else "assumed from the model's size"
