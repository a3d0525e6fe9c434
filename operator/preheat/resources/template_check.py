"""Says what spec.template must not hold, as the API server says it by the rules of the schema.

It is asked again here because an object may have been written under an older schema, and because
``kubectl preheat plan`` reads files that no API server has seen. The sentences are those of ``api.template``.
"""

import re
from collections.abc import Iterator, Mapping
from typing import Any

from pydantic import ValidationError

from preheat.api import template as t
from preheat.api.constants import NODE_LABEL_PREFIX, PROPAGATED_LABEL_PREFIXES
from preheat.api.llmdeployment import LLMDeployment
from preheat.api.modelcache import Toleration
from preheat.errors import InvalidSpec
from preheat.resources.overlay import MERGE_KEYS, identity, without_nulls

SHOWN = 5
"""So many problems are told at once."""

Problems = Iterator[tuple[str, str]]
"""Where, below spec.template, and what to do."""


def check_template(service: LLMDeployment) -> None:
    """Raise InvalidSpec for a template that cannot be laid over the model pods; the message names each field."""
    template = service.spec.template
    if template is None:
        return
    problems: list[str] = []
    try:
        for where, text in _problems(service, template):
            problems.append(f"spec.template.{where}: {text}")
    except _Misshapen as odd:
        problems.append(str(odd))
    if problems:
        more = f"; and {len(problems) - SHOWN} more" if len(problems) > SHOWN else ""
        raise InvalidSpec("; ".join(problems[:SHOWN]) + more)


class _Misshapen(Exception):  # noqa: N818
    """A value is of another type than every version of the schema says."""


def _problems(service: LLMDeployment, template: t.PodTemplate) -> Problems:
    if template.metadata is not None:
        yield from _labels(template.metadata.labels or {})
        yield from _prefixes("metadata.annotations", template.metadata.annotations or {})
    pod = without_nulls(template.spec or {})
    yield from _pod_fields(pod)
    yield from _placement(service, pod)
    yield from _tolerations(pod)
    yield from _volumes(pod)
    containers = _items(pod, "containers", "spec.containers")
    before = _items(pod, "initContainers", "spec.initContainers")
    for place, listed, check in (("containers", containers, _main), ("initContainers", before, _init)):
        for container in listed:
            where = f"spec.{place}[{container['name']}]"
            yield from check(where, container)
            yield from _any_container(where, container, service.spec.hardware.gpu.resource_name)
    if {c["name"] for c in containers} & {c["name"] for c in before}:
        yield "spec", t.REFUSED_TWICE


def _labels(labels: Mapping[str, str]) -> Problems:
    yield from _prefixes("metadata.labels", labels)
    if set(labels) & set(t.OWN_LABELS):
        yield "metadata.labels", t.REFUSED_MANAGED_BY
    if set(labels) & set(t.GITOPS_LABELS):
        yield "metadata.labels", t.REFUSED_GITOPS


def _prefixes(where: str, keys: Mapping[str, str]) -> Problems:
    own = (key for key in keys if re.search(t.OWN_METADATA, key))
    if any(not key.startswith(PROPAGATED_LABEL_PREFIXES) for key in own):
        yield where, t.REFUSED_PREFIX
    if any(key.startswith(t.GITOPS_PREFIXES) for key in keys):
        yield where, t.REFUSED_GITOPS


def _pod_fields(pod: Mapping[str, Any]) -> Problems:
    for name, value in pod.items():
        if name in t.REFUSED_POD_FIELDS:
            yield f"spec.{name}", t.REFUSED_POD_FIELDS[name]
        elif name in t.REFUSED_POD_VALUES:
            refused, text = t.REFUSED_POD_VALUES[name]
            if value is refused:
                yield f"spec.{name}", text
            elif not isinstance(value, bool):
                raise _Misshapen(f"spec.template.spec.{name}: must be true or false")
        elif name not in t.POD_FIELDS:
            yield f"spec.{name}", "is no field of a pod's spec that this version knows: correct or remove it"
    for name in _map(pod, "securityContext", "spec.securityContext"):
        if name in t.REFUSED_POD_SECURITY:
            yield f"spec.securityContext.{name}", t.REFUSED_POD_SECURITY[name]


def _placement(service: LLMDeployment, pod: Mapping[str, Any]) -> Problems:
    affinity = _map(pod, "affinity", "spec.affinity")
    for name in affinity:
        terms = _map(affinity, name, f"spec.affinity.{name}")
        for kind in terms:
            if name == "nodeAffinity" and kind.startswith("required"):
                yield f"spec.affinity.{name}.{kind}", t.REFUSED_NODE_AFFINITY
    selector = _map(pod, "nodeSelector", "spec.nodeSelector")
    for key, value in selector.items():
        if not isinstance(value, str):
            raise _Misshapen(f"spec.template.spec.nodeSelector.{key}: must be a string")
    if any(key.startswith(NODE_LABEL_PREFIX) for key in selector):
        yield "spec.nodeSelector", t.REFUSED_NODE_LABEL
    hardware = service.spec.hardware.node_selector
    if any(hardware.get(key, value) != value for key, value in selector.items()):
        yield "spec.nodeSelector", t.REFUSED_SELECTOR


def _tolerations(pod: Mapping[str, Any]) -> Problems:
    for number, toleration in enumerate(_list(pod, "tolerations", "spec.tolerations")):
        try:
            asked = Toleration.model_validate(toleration)
        except ValidationError as error:
            problem = error.errors(include_url=False)[0]
            where = ".".join(map(str, problem["loc"]))
            raise _Misshapen(f"spec.template.spec.tolerations[{number}].{where}: {problem['msg']}") from error
        if asked.operator == "Exists" and asked.value:
            yield f"spec.tolerations[{number}].value", t.REFUSED_TOLERATION_VALUE
        if asked.operator != "Exists" and not asked.key:
            yield f"spec.tolerations[{number}].key", t.REFUSED_TOLERATION_KEY


def _volumes(pod: Mapping[str, Any]) -> Problems:
    for volume in _items(pod, "volumes", "spec.volumes"):
        where = f"spec.volumes[{volume['name']}]"
        if volume["name"] in t.OWN_VOLUMES:
            yield f"{where}.name", f"this {t.REFUSED_VOLUME_NAME}"
        for source in sorted(volume.keys() - t.VOLUME_SOURCES - {"name"}):
            yield f"{where}.{source}", t.REFUSED_VOLUME_SOURCE
        claim = _map(volume, "persistentVolumeClaim", where).get("claimName")
        if isinstance(claim, str) and re.search(t.OWN_CLAIM, claim):
            yield f"{where}.persistentVolumeClaim.claimName", f"this {t.REFUSED_CLAIM}"


def _main(where: str, container: Mapping[str, Any]) -> Problems:
    if container["name"] == t.AGENT:
        yield where, t.REFUSED_AGENT_HERE
    if "restartPolicy" in container:
        yield where, t.REFUSED_RESTART
    if container["name"] != t.ENGINE:
        return
    for name in sorted(container.keys() - t.ENGINE_FIELDS - {"restartPolicy"}):
        text = t.REFUSED_ENGINE_FIELDS.get(name, "is no field of a container: correct or remove it")
        yield f"{where}.{name}", f"`{name}` of the engine: {text}"
    yield from _variables(where, container)
    if any(_clashes(mount["mountPath"]) for mount in _items(container, "volumeMounts", where)):
        yield where, t.REFUSED_MOUNT


def _init(where: str, container: Mapping[str, Any]) -> Problems:
    if container["name"] == t.ENGINE:
        yield where, t.REFUSED_ENGINE_HERE
    if container["name"] == t.AGENT:
        if container.keys() - t.AGENT_FIELDS:
            yield where, t.REFUSED_AGENT_FIELD
        yield from _variables(where, container)


def _any_container(where: str, container: Mapping[str, Any], gpu: str) -> Problems:
    mounts = _items(container, "volumeMounts", where)
    if any(m.get("name") == t.OWN_VOLUMES[0] and m.get("readOnly") is not True for m in mounts):
        yield where, t.REFUSED_WEIGHTS_MOUNT
    if any(p.get("containerPort") in t.OWN_PORTS for p in _items(container, "ports", where)):
        yield where, t.REFUSED_PORT
    if container["name"] not in {t.ENGINE, t.AGENT} and "image" not in container:
        yield where, t.REFUSED_WITHOUT_IMAGE
    if _map(container, "securityContext", f"{where}.securityContext").get("privileged") is True:
        yield f"{where}.securityContext.privileged", t.REFUSED_PRIVILEGED
    resources = _map(container, "resources", f"{where}.resources")
    if any(
        gpu in _map(resources, kind, f"{where}.resources.{kind}")
        for kind in ("limits", "requests")
        if kind in resources
    ):
        yield where, t.REFUSED_GPU


def _variables(where: str, container: Mapping[str, Any]) -> Problems:
    names = [variable["name"] for variable in _items(container, "env", where)]
    if any(name in t.OWN_VARIABLES or name.startswith(t.OWN_VARIABLE_PREFIX) for name in names):
        yield where, t.REFUSED_VARIABLE


def _clashes(path: str) -> bool:
    """Tell whether a mount of the engine covers one of ours, lies in it, or hides where it goes."""
    if not path.startswith("/") or re.search(r"//|/[.][.]?(/|$)", path):
        return True
    end = path if path.endswith("/") else f"{path}/"
    return any(end.startswith(f"{own}/") or f"{own}/".startswith(end) for own in t.OWN_MOUNTS)


def _map(parent: Mapping[str, Any], name: str, where: str) -> Mapping[str, Any]:
    value = parent.get(name, {})
    if not isinstance(value, dict):
        raise _Misshapen(f"spec.template.{where}: must be an object")
    return value


def _list(parent: Mapping[str, Any], name: str, where: str) -> list[Any]:
    value = parent.get(name, [])
    if not isinstance(value, list):
        raise _Misshapen(f"spec.template.{where}: must be a list")
    return value


def _items(parent: Mapping[str, Any], name: str, where: str) -> list[dict[str, Any]]:
    """Return the items of a list that is merged by key. Each must have its key, and no two the same."""
    path = where if where.endswith(name) else f"{where}.{name}"
    items = _list(parent, name, path)
    key, seen = MERGE_KEYS[name][0], set()
    wanted = int if key == "containerPort" else str
    for number, item in enumerate(items):
        here = f"spec.template.{path}[{number}]"
        if not isinstance(item, dict) or not isinstance(item.get(key), wanted):
            raise _Misshapen(f"{here}: must be an object with `{key}`")
        who = identity(item, name)
        if not all(isinstance(part, str | int) for part in who):
            raise _Misshapen(f"{here}: {', '.join(MERGE_KEYS[name])} must be plain values")
        if who in seen:
            raise _Misshapen(
                f"{here}: there is another of the same {', '.join(MERGE_KEYS[name])}: remove one"
            )
        seen.add(who)
    return items
