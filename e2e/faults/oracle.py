"""Tells whether a case ended as it must: the same things as undisturbed, made the same way, told truly, and at rest."""

import json
import re
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

from preheat.api.constants import (
    ANNOTATION_NODE,
    API_VERSION,
    COMPONENT_PULLER,
    LABEL_COMPONENT,
    LABEL_DEPLOYMENT,
    LABEL_REVISION,
)
from preheat.api.modelcache import ModelCache
from preheat.api.parse import parse
from preheat.resources import names
from preheat.resources.caching import cache_key

from e2e.faults.plane import Body, Change
from e2e.faults.workloads import CACHE_LABEL, Case

FROM_THE_NAMESPACE = ("preheat.dev/applied", "controller-uid", "batch.kubernetes.io/controller-uid")
"""Labels and annotations that are hashes of names, or uids."""
MADE_BY_OTHERS = ("uid", "resourceVersion", "creationTimestamp", "managedFields", "generation", "selfLink",
                  "deletionTimestamp", "deletionGracePeriodSeconds", "finalizers")  # fmt: skip
POD = re.compile(r"\b(m-[\w-]+)-[bcdf-hj-np-tv-xz24-9]{6,10}-[bcdf-hj-np-tv-xz24-9]{5}\b")
"""The name of a pod of a Deployment: its end is random, without vowels."""
ON_A_NODE = re.compile(r"(-POD on )NODE\d+")
"""Of several pods that fail any may be the first: where it ran is as much chance as its name."""
TIME = re.compile(r"^\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d(\.\d+)?Z$")
# Whether a generation is the newest is asked of every status, in every case: see untruths().
MASKED = frozenset(
    {"uid", "resourceVersion", "clusterIP", "clusterIPs", "observedGeneration", *FROM_THE_NAMESPACE}
)


@dataclass(frozen=True, slots=True)
class Outcome:
    """What a case left behind, without what differs from run to run."""

    objects: dict[str, Body]
    created: Counter[str]
    deleted: Counter[str]


@dataclass
class Reference:
    """The undisturbed runs of a workload. What differs between them is masked, and counted."""

    outcomes: list[Outcome] = field(default_factory=list)

    @property
    def masked(self) -> list[str]:
        """Return the paths in which the undisturbed runs differ."""
        first, *others = self.outcomes
        return sorted({path for other in others for path, _, _ in differences(first.objects, other.objects)})

    def judge(self, outcome: Outcome) -> list[str]:
        """Return what is not as it was undisturbed."""
        first, masked = self.outcomes[0], set(self.masked)
        found = [
            _told(path, wanted, now)
            for path, wanted, now in differences(first.objects, outcome.objects)
            if path not in masked
        ]
        for what, now, wanted in (
            ("created", outcome.created, [o.created for o in self.outcomes]),
            ("deleted", outcome.deleted, [o.deleted for o in self.outcomes]),
        ):
            found += [
                f"{name} {what} {now[name]} times instead of {wanted[0][name]}"
                for name in sorted({*now, *wanted[0]})
                if now[name] not in {counts[name] for counts in wanted}
            ]
        return found


def outcome_of(case: Case, changes: Iterable[Change]) -> Outcome:
    """Return what a case left behind, and what came and went on the way."""
    spell = Spelling(_words(case))
    objects: dict[str, Body] = {}
    for key, body in sorted(case.plane.eyes.objects.items(), key=lambda item: item[0]):
        if case.owns(key, body):
            name = spell.name(body)
            while name in objects:
                name += "'"
            objects[name] = spell.plain(body)
    created: Counter[str] = Counter()
    deleted: Counter[str] = Counter()
    for change in changes:
        if case.owns(change.key, change.body):
            counts, name = created if change.created else deleted, spell.name(change.body)
            counts[name] = 1 if _is_tried(case, change.body) else counts[name] + 1
    return Outcome(objects, created, deleted)


def _is_tried(case: Case, body: Body) -> bool:
    """Tell whether it is a pod of a revision that fails: how many there are depends on how soon its verdict can be written."""
    good = case.plane.hands.good.get(case.id)
    if body["kind"] != "Pod" or not good:
        return False
    return (body["metadata"].get("labels") or {}).get(LABEL_REVISION) not in {*good, None}


def _words(case: Case) -> dict[str, str]:
    """Return the names and hashes that depend on the case's namespace, each with what it is called in every case."""
    eyes = case.plane.eyes
    words = {case.id: "CASE", names.namespace_key(case.id): "NAMESPACE-KEY"}
    for number, node in enumerate(case.nodes, 1):
        words[names.digest(node, 8)] = words[node] = f"NODE{number}"
    # A revision's hash has the node selector in it, and with it the case's name. The first one made is 1.
    made = (c.body for c in eyes.changes if c.created and c.key[:2] == ("ControllerRevision", case.id))
    for number, revision in enumerate(
        dict.fromkeys(b["metadata"]["labels"][LABEL_REVISION] for b in made), 1
    ):
        words[revision] = f"REVISION{number}"
    for change in eyes.changes:
        metadata = change.body["metadata"]
        if change.key[:2] == ("Job", case.id) and metadata["labels"].get(LABEL_COMPONENT) == COMPONENT_PULLER:
            # Its name is a hash of the images and the node.
            words[metadata["name"]] = f"PULLER-ON-{words[metadata['annotations'][ANNOTATION_NODE]]}"
    seen = {c.key: c.body for c in eyes.changes if c.key[:2] == ("ModelCache", case.id)}
    for (_, _, name), body in seen.items():
        words[cache_key(parse(ModelCache, {"apiVersion": API_VERSION, **body}))] = f"KEY-OF-{name}"
    return words


class Spelling:
    """Spells what differs from run to run the same way in every case."""

    def __init__(self, words: dict[str, str]) -> None:
        self._words = words
        self._pattern = re.compile("|".join(re.escape(word) for word in sorted(words, key=len, reverse=True)))

    def name(self, body: Body) -> str:
        """Return kind and name. A pod is called after what it was made for: its own name is random."""
        metadata = body["metadata"]
        if body["kind"] == "Pod":
            labels = metadata["labels"]
            whose = labels.get("batch.kubernetes.io/job-name") or labels.get("preheat.dev/revision", "?")
            return self.text(f"Pod of {whose}")
        return self.text(f"{body['kind']} {metadata['name']}")

    def text(self, value: str) -> str:
        text = POD.sub(r"\1-POD", self._pattern.sub(lambda match: self._words[match[0]], value))
        return ON_A_NODE.sub(r"\1its node", text)

    def plain(self, body: Body) -> Body:
        """Return an object without what differs from run to run."""
        metadata = {k: v for k, v in body["metadata"].items() if k not in MADE_BY_OTHERS}
        if body["kind"] == "Pod":
            return {
                "metadata": {"labels": self.value(_stable_labels(metadata))},
                "leaving": "deletionTimestamp" in body["metadata"],
                "phase": (body.get("status") or {}).get("phase"),
            }
        if body["kind"] == "Node":
            labels = {k: v for k, v in metadata["labels"].items() if k.startswith(CACHE_LABEL)}
            return {"metadata": {"labels": self.value(labels)}}
        result: Body = self.value({**body, "metadata": metadata})
        if body["kind"] not in {"LLMDeployment", "ModelCache"}:
            result.pop("status", None)
        return result

    def value(self, value: Any) -> Any:
        """Return a value without what differs from run to run."""
        if isinstance(value, dict):
            return {self.text(k): self.value(v) for k, v in value.items() if k not in MASKED}
        if isinstance(value, list):
            items = [self.value(item) for item in value]
            named = all(isinstance(item, dict) and "name" in item for item in items)
            # Revisions are sorted by their hashes, which differ from case to case.
            return sorted(items, key=lambda item: str(item["name"])) if named else items
        if isinstance(value, str):
            if value.startswith("{") and value.endswith("}"):
                return self._json(value)
            return "TIME" if TIME.match(value) else self.text(value)
        return value

    def _json(self, text: str) -> Any:
        """Return what an annotation holds: a verdict has the time in it, and the node of the pod that it tells of."""
        try:
            value = json.loads(text)
        except ValueError:
            return self.text(text)
        (value.get("evidence") or {}).pop("node", None)
        return self.value(value)


def _stable_labels(metadata: Body) -> dict[str, str]:
    return {k: v for k, v in metadata["labels"].items() if "uid" not in k and k != "pod-template-hash"}


def differences(wanted: Any, now: Any, path: str = "") -> list[tuple[str, Any, Any]]:
    """Return where two values differ, as (path, wanted, now).

    >>> differences({"a": [1, 2]}, {"a": [1, 3], "b": 0})
    [('a.1', 2, 3), ('b', None, 0)]
    """
    if isinstance(wanted, Mapping) and isinstance(now, Mapping):
        pairs = [(key, wanted.get(key), now.get(key)) for key in sorted({*wanted, *now})]
    elif isinstance(wanted, list) and isinstance(now, list) and len(wanted) == len(now):
        pairs = [(str(i), a, b) for i, (a, b) in enumerate(zip(wanted, now, strict=True))]
    else:
        return [] if wanted == now else [(path, wanted, now)]
    return [found for key, a, b in pairs for found in differences(a, b, f"{path}.{key}".lstrip("."))]


def _told(path: str, wanted: Any, now: Any) -> str:
    if wanted is None and isinstance(now, dict):
        return f"{path} is there"
    if now is None and isinstance(wanted, dict):
        return f"{path} is missing"
    return f"{path} is {_short(now)}, not {_short(wanted)}"


def _short(value: Any) -> str:
    text = json.dumps(value, default=str)
    return text if len(text) <= 100 else f"{text[:97]}..."


def untruths(case: Case) -> list[str]:
    """Return what a status says that is not so."""
    found = []
    for body in [*case.all("LLMDeployment"), *case.all("ModelCache")]:
        who, status = body["kind"], body.get("status") or {}
        conditions = {c["type"]: c for c in status.get("conditions", ())}
        generation = body["metadata"]["generation"]
        if status.get("observedGeneration") != generation:
            found.append(f"{who}: observedGeneration {status.get('observedGeneration')} of {generation}")
        found += [
            f"{who}: {name} is of generation {c.get('observedGeneration')}, not {generation}"
            for name, c in conditions.items()
            if c.get("observedGeneration") != generation
        ]
        if conditions.get("Ready", {}).get("status") == "True":
            wrong = {"Stalled": "True", "Reconciling": "True", "Available": "False", "Accepted": "False"}
            found += [
                f"{who}: Ready and {name}={value}"
                for name, value in wrong.items()
                if conditions.get(name, {}).get("status") == value
            ]
    service = case.service
    if service is not None:
        status = service.get("status") or {}
        ready = sum(_is_ready(pod) for pod in case.pods())
        if (status.get("readyReplicas") or 0) != ready:
            found.append(f"readyReplicas is {status.get('readyReplicas')}, and {ready} pods are Ready")
        if (status.get("replicas") or 0) != len(case.pods()):
            found.append(f"replicas is {status.get('replicas')}, and there are {len(case.pods())} pods")
    found += _untrue_labels(case)
    return found


def _untrue_labels(case: Case) -> list[str]:
    caches = {(body.get("status") or {}).get("key"): body for body in case.all("ModelCache")}
    labels: dict[str, set[str]] = {}
    for node in case.nodes:
        body = case.plane.eyes.objects.get(("Node", "", node))
        for label in body["metadata"]["labels"] if body else ():
            if label.startswith(CACHE_LABEL):
                labels.setdefault(label.removeprefix(CACHE_LABEL), set()).add(node)
    found = [f"a node is labelled for a cache that is gone: {key}" for key in labels if key not in caches]
    for key, body in caches.items():
        # Weights that are not asked for any more stay where they are, and their label with them.
        status = body.get("status") or {}
        told = {node["name"] for node in status.get("nodes", ()) if node["state"] == "Ready"}
        if len(told) != (status.get("readyNodes") or 0) or not told <= labels.get(str(key), set()):
            found.append(f"{body['metadata']['name']}: nodes {sorted(told)} are called ready, wrongly")
    return found


def _is_ready(pod: Body) -> bool:
    conditions = (pod.get("status") or {}).get("conditions", ())
    return any(c["type"] == "Ready" and c["status"] == "True" for c in conditions)


def orphans(case: Case) -> list[str]:
    """Return children without the owner that deletes them."""
    return [
        f"{body['kind']} {body['metadata']['name']} has no owner"
        for kind in ("Deployment", "Service", "ControllerRevision", "ModelCache", "Job")
        for body in case.all(kind)
        if LABEL_DEPLOYMENT in body["metadata"].get("labels", {})
        and not body["metadata"].get("ownerReferences")
    ]
