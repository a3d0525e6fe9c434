"""The schema of spec.template, from the type tables of the Kubernetes client: typed, bounded, nothing pruned.

Only the generator (``crd``) imports this file, and it is the only one of this package that knows the client.

A field is offered when Kubernetes 1.31, the oldest that we install on, knows it. Fields of a pod's spec that
are refused are in the schema all the same, so that a user reads what to do instead of "unknown field".
There is no default below spec.template: a new one would change the revision of every object that has a template.
"""

from collections.abc import Mapping
from typing import Any, Final

from kubernetes.client import models

from preheat.api import template as t
from preheat.api.base import KEY
from preheat.api.constants import NODE_LABEL_PREFIX, PROPAGATED_LABEL_PREFIXES

Schema = dict[str, Any]

NEWER: Final[Mapping[str, frozenset[str]]] = {
    "V1ConfigMapVolumeSource": frozenset({"defaultUser"}),
    "V1Container": frozenset({"restartPolicyRules"}),
    "V1DownwardAPIVolumeFile": frozenset({"user"}),
    "V1DownwardAPIVolumeSource": frozenset({"defaultUser"}),
    "V1EmptyDirVolumeSource": frozenset({"mode"}),
    "V1EnvVarSource": frozenset({"fileKeyRef"}),
    "V1GRPCAction": frozenset({"mode"}),
    "V1HTTPGetAction": frozenset({"protocol"}),
    "V1KeyToPath": frozenset({"user"}),
    "V1Lifecycle": frozenset({"stopSignal"}),
    "V1PodSecurityContext": frozenset({"seLinuxChangePolicy"}),
    "V1ProjectedVolumeSource": frozenset({"defaultUser"}),
    "V1SecretVolumeSource": frozenset({"defaultUser"}),
    "V1ServiceAccountTokenProjection": frozenset({"user"}),
    "V1TypedObjectReference": frozenset({"namespace"}),
    "V1VolumeMount": frozenset({"bindMountOptions"}),
    "V1VolumeProjection": frozenset({"podCertificate", "clusterTrustBundle"}),
}
"""Fields that Kubernetes 1.31 does not know, or knows only as alpha."""

ELSEWHERE: Final[Mapping[str, frozenset[str]]] = {
    # GPU nodes run Linux.
    "V1PodSecurityContext": frozenset({"windowsOptions"}),
    "V1SecurityContext": frozenset({"windowsOptions"}),
    # Of an ephemeral volume's claim only these two mean anything.
    "V1ObjectMeta": frozenset(models.V1ObjectMeta.attribute_map.values()) - {"labels", "annotations"},
}

QUANTITIES: Final = frozenset({"limits", "requests", "sizeLimit"})
LONG: Final = frozenset(
    {
        "expirationSeconds",
        "fsGroup",
        "runAsGroup",
        "runAsUser",
        "seconds",
        "supplementalGroups",
        "terminationGracePeriodSeconds",
        "tolerationSeconds",
    }
)
"""Integers of 64 bits; the client's tables do not tell."""

LISTS: Final[Mapping[str, int]] = {
    "args": 128,
    "command": 128,
    "containers": 8,
    "env": 256,
    "initContainers": 8,
    "items": 64,
    "values": 64,
    "volumeMounts": 32,
    "volumes": 32,
}
"""The most items of a list; 16 where nothing is said."""
LIST_KEYS: Final[Mapping[str, list[str]]] = {
    "claims": ["name"],
    "containers": ["name"],
    "env": ["name"],
    "hostAliases": ["ip"],
    "imagePullSecrets": ["name"],
    "initContainers": ["name"],
    "resourceClaims": ["name"],
    "topologySpreadConstraints": ["topologyKey", "whenUnsatisfiable"],
    "volumeDevices": ["devicePath"],
    "volumeMounts": ["mountPath"],
    "volumes": ["name"],
}
"""Lists that Kubernetes merges by key."""

STRINGS: Final[Mapping[str, int]] = {"args": 8192, "command": 8192, "value": 32_768}
"""The most characters of a string; 1024 where nothing is said."""

FORMS: Final[Mapping[tuple[str, str], Schema]] = {
    ("V1Container", "name"): {"minLength": 1, "maxLength": 63},
    ("V1Volume", "name"): {"minLength": 1, "maxLength": 63},
    ("V1EnvVar", "name"): {"minLength": 1, "maxLength": 253},
    ("V1VolumeMount", "name"): {"minLength": 1, "maxLength": 63},
    ("V1VolumeMount", "mountPath"): {"minLength": 1, "maxLength": 1024},
}
ENUMS: Final[Mapping[tuple[str, str], list[str]]] = {
    ("V1Container", "imagePullPolicy"): ["Always", "IfNotPresent", "Never"],
    ("V1Container", "restartPolicy"): ["Always"],
    ("V1Container", "terminationMessagePolicy"): ["File", "FallbackToLogsOnError"],
    ("V1ContainerPort", "protocol"): ["TCP", "UDP", "SCTP"],
    ("V1EmptyDirVolumeSource", "medium"): ["", "Memory", "HugePages", "HugePages-2Mi", "HugePages-1Gi"],
    ("V1HTTPGetAction", "scheme"): ["HTTP", "HTTPS"],
    ("V1ImageVolumeSource", "pullPolicy"): ["Always", "IfNotPresent", "Never"],
    ("V1LabelSelectorRequirement", "operator"): ["In", "NotIn", "Exists", "DoesNotExist"],
    ("V1NodeSelectorRequirement", "operator"): ["In", "NotIn", "Exists", "DoesNotExist", "Gt", "Lt"],
    ("V1PodSecurityContext", "fsGroupChangePolicy"): ["Always", "OnRootMismatch"],
    ("V1PodSecurityContext", "supplementalGroupsPolicy"): ["Merge", "Strict"],
    ("V1PodSpec", "dnsPolicy"): ["ClusterFirst", "Default", "None"],
    ("V1PodSpec", "preemptionPolicy"): ["Never", "PreemptLowerPriority"],
    ("V1SeccompProfile", "type"): ["RuntimeDefault", "Localhost", "Unconfined"],
    ("V1Toleration", "effect"): ["", "NoSchedule", "PreferNoSchedule", "NoExecute"],
    ("V1Toleration", "operator"): ["Exists", "Equal"],
    ("V1TopologySpreadConstraint", "nodeAffinityPolicy"): ["Honor", "Ignore"],
    ("V1TopologySpreadConstraint", "nodeTaintsPolicy"): ["Honor", "Ignore"],
    ("V1TopologySpreadConstraint", "whenUnsatisfiable"): ["DoNotSchedule", "ScheduleAnyway"],
    ("V1VolumeMount", "mountPropagation"): ["None", "HostToContainer", "Bidirectional"],
}
"""Values of a closed set: a typo is refused when it is applied."""

# Two digits of exponent: Kubernetes computes 1e9999999999 in full, and the API server hangs on it.
QUANTITY: Final = r"^[+]?([0-9]+([.][0-9]*)?|[.][0-9]+)([KMGTPE]i|[numkMGTPE]|[eE][+-]?[0-9]{1,2})?$"


DIVISORS: Final = [0, 1, "0", "1", "1m", *(f"1{unit}" for unit in ("k", "M", "G", "T", "P", "E")), *(
    f"1{unit}i" for unit in ("K", "M", "G", "T", "P", "E")
)]  # fmt: skip
"""All that Kubernetes takes in a resourceFieldRef."""


def schema(name: str, described: Schema) -> Schema:
    """Return the schema for a field that the API types mark with ``x-preheat-schema``."""
    return {"pod": _pod, "labels": _labels, "annotations": _annotations}[name](described)


def _rule(rule: str, message: str) -> Schema:
    return {"rule": rule, "message": message}


def _refused(kind: str, sentence: str) -> Schema:
    """Return the schema of a field that nobody can set: whatever is in it, the sentence is the answer."""
    result: Schema = {"type": kind, "x-kubernetes-validations": [_rule("false", sentence)]}
    if kind == "object":
        result["x-kubernetes-preserve-unknown-fields"] = True
    if kind == "array":
        anything = {"type": "object", "x-kubernetes-preserve-unknown-fields": True}
        result |= {"items": anything, "maxItems": 16}
    if kind == "string":
        result["maxLength"] = 1024
    if kind == "integer":
        result |= _integer("")
    return {"description": f"Refused: {sentence}.", **result}


def _pod(described: Schema) -> Schema:
    table = _fields("V1PodSpec")
    properties: Schema = {}
    for name, (kind, _) in sorted(table.items()):
        if name in t.POD_FIELDS:
            converted = _convert("V1PodSpec", name, kind)
            properties[name] = {"description": t.POD_FIELDS[name], **converted}
        elif name in t.REFUSED_POD_FIELDS:
            properties[name] = _refused(_kind(kind), t.REFUSED_POD_FIELDS[name])
        else:
            value, text = t.REFUSED_POD_VALUES[name]
            rules = [_rule("!self" if value else "self", text)]
            properties[name] = {
                "description": f"Refused: {text}.", "type": "boolean", "x-kubernetes-validations": rules,
            }  # fmt: skip
    _restrict(properties)
    twice = (
        "!has(self.containers) || !has(self.initContainers) || "
        "self.containers.all(c, !self.initContainers.exists(i, i.name == c.name))"
    )
    return {
        **described,
        "type": "object",
        "properties": properties,
        "x-kubernetes-validations": [_rule(twice, t.REFUSED_TWICE)],
    }


def _restrict(properties: Schema) -> None:
    """Add what is refused inside of fields that are taken."""
    properties["nodeSelector"] |= {
        "additionalProperties": _label_value(),
        "x-kubernetes-validations": [
            _keys(),
            _rule(f"self.all(k, !k.startsWith('{NODE_LABEL_PREFIX}'))", t.REFUSED_NODE_LABEL),
        ],
    }
    toleration = properties["tolerations"]["items"]
    toleration["properties"] |= {
        "key": {
            "type": "string",
            "maxLength": 316,
            "x-kubernetes-validations": [_rule(f"self.matches(r'^({KEY})?$')", t.REFUSED_TAINT)],
        },
        "value": _label_value(),
    }
    toleration["x-kubernetes-validations"] = [
        _rule(
            "!has(self.operator) || self.operator != 'Exists' || !has(self.value) || self.value == ''",
            t.REFUSED_TOLERATION_VALUE,
        ),
        _rule(
            "(has(self.key) && self.key != '') || (has(self.operator) && self.operator == 'Exists')",
            t.REFUSED_TOLERATION_KEY,
        ),
    ]
    node = properties["affinity"]["properties"]["nodeAffinity"]["properties"]
    node["requiredDuringSchedulingIgnoredDuringExecution"] = _refused("object", t.REFUSED_NODE_AFFINITY)
    security = properties["securityContext"]["properties"]
    for name, text in t.REFUSED_POD_SECURITY.items():
        security[name] = _refused(security[name]["type"], text)
    volume = properties["volumes"]["items"]
    for name in volume["properties"].keys() - t.VOLUME_SOURCES - {"name"}:
        volume["properties"][name] = _refused("object", t.REFUSED_VOLUME_SOURCE)
    own = ", ".join(f"'{name}'" for name in t.OWN_VOLUMES)
    volume["properties"]["name"]["x-kubernetes-validations"] = [
        _name(),
        _rule(f"!(self in [{own}])", f"this {t.REFUSED_VOLUME_NAME}"),
    ]
    claim = volume["properties"]["persistentVolumeClaim"]["properties"]["claimName"]
    claim["x-kubernetes-validations"] = [_rule(f"!self.matches('{t.OWN_CLAIM}')", f"this {t.REFUSED_CLAIM}")]
    _restrict_containers(properties)


def _restrict_containers(properties: Schema) -> None:
    both = [
        _rule(
            "!has(self.volumeMounts) || "
            "self.volumeMounts.all(m, m.name != 'weights' || (has(m.readOnly) && m.readOnly))",
            t.REFUSED_WEIGHTS_MOUNT,
        ),
        _rule(
            f"!has(self.ports) || self.ports.all(p, !(p.containerPort in {list(t.OWN_PORTS)}))",
            t.REFUSED_PORT,
        ),
        {
            # An object that has one already keeps it, as long as its ports stay as they are.
            **_rule(
                "!has(self.ports) || self.ports.all(p, !has(p.hostPort) || p.hostPort == 0) || "
                "(oldSelf.hasValue() && has(oldSelf.value().ports) && oldSelf.value().ports == self.ports)",
                t.REFUSED_HOST_PORT,
            ),
            "optionalOldSelf": True,
        },
    ]
    names = ", ".join(f"'{name}'" for name in t.OWN_VARIABLES)
    variables = f"self.env.all(e, !(e.name in [{names}]) && !e.name.startsWith('{t.OWN_VARIABLE_PREFIX}'))"
    engine = [
        *(
            {
                **_rule(f"self.name != 'engine' || !has(self.{name})", f"`{name}` of the engine: {text}"),
                "fieldPath": f".{name}",
            }
            for name, text in sorted(t.REFUSED_ENGINE_FIELDS.items())
        ),
        _rule(f"self.name != 'engine' || !has(self.env) || {variables}", t.REFUSED_VARIABLE),
        _rule(f"self.name != 'engine' || !has(self.volumeMounts) || {_mounts()}", t.REFUSED_MOUNT),
        _rule("self.name != 'agent'", t.REFUSED_AGENT_HERE),
        _rule("!has(self.restartPolicy)", t.REFUSED_RESTART),
    ]
    containers = properties["containers"]["items"]
    more = sorted(containers["properties"].keys() - t.AGENT_FIELDS)
    agent = [
        _rule(
            "self.name != 'agent' || (" + " && ".join(f"!has(self.{name})" for name in more) + ")",
            t.REFUSED_AGENT_FIELD,
        ),
        _rule(f"self.name != 'agent' || !has(self.env) || {variables}", t.REFUSED_VARIABLE),
        _rule("self.name != 'engine'", t.REFUSED_ENGINE_HERE),
    ]
    image = "self.name in ['engine', 'agent'] || has(self.image)"
    for place, rules in (("containers", engine), ("initContainers", agent)):
        properties[place]["items"]["properties"]["name"]["x-kubernetes-validations"] = [_name()]
        properties[place]["items"]["x-kubernetes-validations"] = [
            *rules, *(dict(rule) for rule in both), _rule(image, t.REFUSED_WITHOUT_IMAGE),
        ]  # fmt: skip


def _mounts() -> str:
    """Return the rule that a mount neither covers one of ours nor lies in it; both end in a slash here."""
    path = "(m.mountPath.endsWith('/') ? m.mountPath : m.mountPath + '/')"
    plain = "m.mountPath.startsWith('/') && !m.mountPath.matches('//|/[.][.]?(/|$)')"
    apart = " && ".join(
        f"!{path}.startsWith('{own}/') && !'{own}/'.startsWith({path})" for own in t.OWN_MOUNTS
    )
    return f"self.volumeMounts.all(m, {plain} && {apart})"


def _labels(described: Schema) -> Schema:
    own = " || ".join(f"k == '{key}'" for key in t.OWN_LABELS)
    gitops = " || ".join(
        [
            *(f"k.startsWith('{p}')" for p in t.GITOPS_PREFIXES),
            *(f"k == '{k}'" for k in t.GITOPS_LABELS),
        ]
    )
    return {
        **described,
        "type": "object",
        "maxProperties": 32,
        "additionalProperties": _label_value(),
        "x-kubernetes-validations": [
            _keys(),
            _own_prefixes(),
            _rule(f"self.all(k, !({own}))", t.REFUSED_MANAGED_BY),
            _rule(f"self.all(k, !({gitops}))", t.REFUSED_GITOPS),
        ],
    }


def _annotations(described: Schema) -> Schema:
    gitops = " || ".join(f"k.startsWith('{p}')" for p in t.GITOPS_PREFIXES)
    return {
        **described,
        "type": "object",
        "maxProperties": 64,
        "additionalProperties": {"type": "string", "maxLength": 16_384},
        "x-kubernetes-validations": [
            _keys(),
            _own_prefixes(),
            _rule(f"self.all(k, !({gitops}))", t.REFUSED_GITOPS),
        ],
    }


def _label_value() -> Schema:
    return {
        "type": "string",
        "maxLength": 63,
        "x-kubernetes-validations": [
            _rule(
                "self.matches('^([A-Za-z0-9]([-A-Za-z0-9_.]*[A-Za-z0-9])?)?$')",
                "must be a label's value: A-Z, a-z, 0-9, '-', '_' and '.', with a letter or digit at both ends, or "
                "empty",
            )
        ],
    }


def _name() -> Schema:
    return _rule(
        "self.matches('^[a-z0-9]([-a-z0-9]*[a-z0-9])?$')",
        "must be a name of at most 63 characters of a-z, 0-9 and '-', with a letter or digit at both ends",
    )


def _keys() -> Schema:
    return _rule(
        f"self.all(k, k.size() <= 316 && k.matches(r'^{KEY}$'))",
        "keys must be label names: at most 63 characters of A-Z, a-z, 0-9, '-', '_' and '.', optionally after a "
        "domain and '/', for example example.com/team",
    )


def _own_prefixes() -> Schema:
    free = " || ".join(f"k.startsWith('{prefix}')" for prefix in PROPAGATED_LABEL_PREFIXES)
    return _rule(f"self.all(k, !k.matches('{t.OWN_METADATA}') || {free})", t.REFUSED_PREFIX)


def _fields(model: str) -> dict[str, tuple[str, bool]]:
    """Return the fields of a type by their names in the API: its type, and whether it must be there."""
    cls = getattr(models, model)
    hidden = NEWER.get(model, frozenset()) | ELSEWHERE.get(model, frozenset())
    required = {
        field.serialization_alias or field.alias or name
        for name, field in cls.model_fields.items()
        if field.is_required()
    }
    return {
        name: (cls.openapi_types[attribute], name in required)
        for attribute, name in cls.attribute_map.items()
        if name not in hidden
    }


def _kind(kind: str) -> str:
    words = {"str": "string", "int": "integer", "bool": "boolean"}
    return words.get(kind, "array" if kind.startswith("List[") else "object")


def _convert(owner: str, name: str, kind: str) -> Schema:
    if kind.startswith("List["):
        return _list(owner, name, kind[5:-1])
    if kind.startswith("Dict["):
        value = _quantity() if name in QUANTITIES else {"type": "string", "maxLength": STRINGS["value"]}
        return {"type": "object", "maxProperties": 32, "additionalProperties": value}
    if name in QUANTITIES:
        return _quantity()
    if name == "divisor":
        return {"x-kubernetes-int-or-string": True, "enum": [*DIVISORS]}
    if kind.startswith(("V1", "CoreV1")):
        return _object(kind)
    scalars: Mapping[str, Schema] = {
        "bool": {"type": "boolean"},
        "int": _integer(name),
        "str": _string(owner, name),
        "object": {"x-kubernetes-int-or-string": True},
    }
    return scalars[kind]


def _object(model: str) -> Schema:
    table = _fields(model)
    properties = {name: _convert(model, name, kind) for name, (kind, _) in sorted(table.items())}
    required = sorted(name for name, (_, needed) in table.items() if needed)
    return {"type": "object", "properties": properties, **({"required": required} if required else {})}


def _list(owner: str, name: str, item: str) -> Schema:
    keys = LIST_KEYS.get(name)
    items = _convert(owner, name, item)
    result: Schema = {"type": "array", "maxItems": LISTS.get(name, 16), "items": items}
    if keys and items["type"] == "object":
        items["required"] = sorted({*items.get("required", []), *keys})
        return {**result, "x-kubernetes-list-type": "map", "x-kubernetes-list-map-keys": [*keys]}
    return {**result, "x-kubernetes-list-type": "atomic"}


def _integer(name: str) -> Schema:
    if name in LONG:
        return {"type": "integer", "format": "int64", "minimum": 0}
    return {"type": "integer", "format": "int32", "minimum": 0, "maximum": 2**31 - 1}


def _string(owner: str, name: str) -> Schema:
    if (owner, name) in ENUMS:
        return {"type": "string", "enum": [*ENUMS[owner, name]]}
    return {"type": "string", **FORMS.get((owner, name), {"maxLength": STRINGS.get(name, 1024)})}


def _quantity() -> Schema:
    rule = _rule(
        f"type(self) == int || self.matches(r'{QUANTITY}')",
        'must be an amount as Kubernetes has them: a number with an optional unit, "500m", "16Gi"',
    )
    return {"x-kubernetes-int-or-string": True, "maxLength": 64, "x-kubernetes-validations": [rule]}
