"""Why a pod does not start: the scheduler's words, the kubelet's, and what reason they amount to. Pure."""

import re
from dataclasses import dataclass

from preheat.api.conditions import Reason
from preheat.decide.observed import PodView

_MISSING = re.compile(
    r"\b(secret|configmap|persistentvolumeclaim|serviceaccount)s? \"(?!preheat-[0-9a-f]{16}-)[^\"]+\" not found"
    r"|couldn't find key|non-existent (secret|config) key",
    re.IGNORECASE,
)
"""A Secret, ConfigMap or claim that is not there, or lacks a key, in the words of kubelet and scheduler.

A claim of our own that the scheduler does not know yet is nobody's to create.
"""

_IMAGES = frozenset({"ErrImagePull", "ImagePullBackOff", "InvalidImageName", "ErrImageNeverPull"})
CRASHING = "CrashLoopBackOff"
STARTS_NOTHING = frozenset({Reason.IMAGE_UNAVAILABLE, Reason.REFERENCE_MISSING, Reason.POD_NOT_STARTING})
"""Reasons that may be the revision's fault, once they last."""
MOUNTING = "NotStarting"
"""What is told by an Event alone is called so: mostly a volume that cannot be mounted."""


@dataclass(frozen=True, slots=True)
class Trouble:
    """What keeps a pod from starting. ``told``: what whoever refused it calls it."""

    reason: Reason
    told: str
    message: str


def trouble_of(pod: PodView) -> Trouble | None:
    """Return what keeps a pod from starting, None when nothing is known to. A crash is not a start."""
    if pod.unschedulable is not None:
        return Trouble(_reason_of_scheduler(pod.unschedulable), "Unschedulable", pod.unschedulable)
    if pod.waiting_reason is not None and pod.waiting_reason != CRASHING:
        words = pod.waiting_message or pod.waiting_reason
        return Trouble(_reason(pod.waiting_reason, words), pod.waiting_reason, words)
    if pod.complaint is not None and (not pod.begun or names_missing(pod.complaint)):
        # Of a pod that has begun there may be old words, of a probe that did not answer yet.
        return Trouble(_reason("", pod.complaint), MOUNTING, pod.complaint)
    return None


def _reason_of_scheduler(words: str) -> Reason:
    """Words that name volumes alone are old: the scheduler has not looked again since the weights came."""
    if names_missing(words):
        return Reason.REFERENCE_MISSING
    is_about_volumes = "volume" in words.lower() and "Insufficient" not in words
    return Reason.PODS_PENDING if is_about_volumes else Reason.NO_CAPACITY


def sentence(words: str) -> str:
    """Return the words of others with one full stop, whether they brought one or not.

    >>> sentence("it is not found"), sentence("not helpful for scheduling. ")
    ('it is not found.', 'not helpful for scheduling.')
    """
    return f"{words.rstrip('. ')}."


def names_missing(words: str) -> bool:
    """Tell whether words are about an object that is named and is not there."""
    return _MISSING.search(words) is not None


def _reason(waiting: str, words: str) -> Reason:
    if waiting in _IMAGES:
        return Reason.IMAGE_UNAVAILABLE
    return Reason.REFERENCE_MISSING if names_missing(words) else Reason.POD_NOT_STARTING


def what_to_do(reason: Reason, namespace: str) -> str:
    """Return the sentence that follows the words of others, empty where they say enough."""
    if reason is Reason.REFERENCE_MISSING:
        return f" Create it in namespace {namespace}, or name another; what waits for it is tried again by itself."
    return ""
