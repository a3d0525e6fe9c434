"""Turns the pydantic types into CustomResourceDefinitions: structural, bounded, with defaults and CEL.

``python -m preheat.api.crd DIRECTORY...`` writes crds/ and the chart's copy; `make generate` runs it.

What is bent, and why (left: what pydantic emits, right: what a structural schema needs):
``$ref`` is inlined; ``anyOf [X, null]`` becomes X, optional; ``const`` becomes a one-element enum;
``title`` goes; integers get ``format: int64`` where they may pass 2**31; objects with properties lose
``additionalProperties``; a pattern gives way to the rules beside it, which say the same in words; what
``propertyNames`` ask of a map's keys becomes rules.
"""

import copy
import sys
from pathlib import Path
from typing import Any

import yaml

from preheat.api import podschema
from preheat.api.base import APIModel
from preheat.api.constants import GROUP, VERSION
from preheat.api.llmdeployment import LLMDeployment, LLMDeploymentSpec, LLMDeploymentStatus
from preheat.api.modelcache import ModelCache, ModelCacheSpec, ModelCacheStatus

Schema = dict[str, Any]

_KEPT = (
    "description", "type", "enum", "pattern", "format", "default", "minLength", "maxLength", "minimum",
    "maximum", "minItems", "maxItems", "maxProperties", "items", "properties", "required",
    "additionalProperties", "x-kubernetes-list-type", "x-kubernetes-list-map-keys",
    "x-kubernetes-validations",
)  # fmt: skip


def structural(model: type[APIModel]) -> Schema:
    """Return the structural schema of a model."""
    schema = model.model_json_schema(by_alias=True, mode="validation")
    return _convert(schema, schema.get("$defs", {}))


def _convert(node: Schema, definitions: dict[str, Schema]) -> Schema:
    node = _inline(node, definitions)
    if "x-preheat-schema" in node:
        described = {"description": " ".join(node["description"].split())}
        return podschema.schema(node["x-preheat-schema"], described)
    if "anyOf" in node:
        (only,) = [option for option in node["anyOf"] if option.get("type") != "null"]
        # what is said beside the anyOf (the description) wins over what the type says of itself
        rest = {key: value for key, value in node.items() if key not in {"anyOf", "default"}}
        return _convert({**_inline(only, definitions), **rest}, definitions)
    if "const" in node:
        node = {**node, "enum": [node["const"]]}
    # Copied: a type that is used twice would be written with YAML's anchors.
    result: Schema = {key: copy.deepcopy(node[key]) for key in _KEPT if key in node}
    if "x-kubernetes-validations" in result:
        result.pop("pattern", None)
    if "description" in result:
        result["description"] = " ".join(result["description"].split())
    if "properties" in node:
        result |= _properties(node, definitions)
        result.pop("additionalProperties", None)
    elif _values(node) is not None:
        result |= _map(node, definitions)
    if "items" in node:
        result["items"] = _convert(node["items"], definitions)
    if result.get("type") == "integer":
        large = max(result.get("maximum", 2**62), 0) > 2**31 - 1
        result["format"] = "int64" if large else "int32"
    return result


def _properties(node: Schema, definitions: dict[str, Schema]) -> Schema:
    children = {name: _convert(child, definitions) for name, child in sorted(node["properties"].items())}
    # The API server fills in the defaults below an empty object.
    return {"properties": children} | ({"default": {}} if "default" in node else {})


def _values(node: Schema) -> Schema | None:
    """Return the schema of a map's values, None for what is no map. Keys with a pattern are their pattern's."""
    (values,) = node.get("patternProperties", {"": node.get("additionalProperties")}).values()
    return values if isinstance(values, dict) else None


def _map(node: Schema, definitions: dict[str, Schema]) -> Schema:
    result: Schema = {"additionalProperties": _convert(_values(node) or {}, definitions)}
    keys = node.get("propertyNames", {})
    of_keys = [
        {**rule, "rule": f"self.all(k, {rule['rule'].replace('self', 'k')})"}
        for rule in keys.get("x-kubernetes-validations", [])
    ]
    if "maxLength" in keys:
        limit = keys["maxLength"]
        rule = f"self.all(k, k.size() <= {limit})"
        of_keys.append({"rule": rule, "message": f"keys must be at most {limit} characters"})
    if of_keys:
        result["x-kubernetes-validations"] = [*node.get("x-kubernetes-validations", []), *of_keys]
    return result


def _inline(node: Schema, definitions: dict[str, Schema]) -> Schema:
    if "$ref" not in node:
        return node
    target = definitions[node["$ref"].rsplit("/", 1)[1]]
    return _inline({**target, **{k: v for k, v in node.items() if k != "$ref"}}, definitions)


def _column(name: str, path: str, description: str, kind: str = "string", *, wide: bool = False) -> Schema:
    column = {"name": name, "type": kind, "jsonPath": path, "description": description}
    return {**column, "priority": 1} if wide else column


def _condition(kind: str, field: str) -> str:
    return f'.status.conditions[?(@.type=="{kind}")].{field}'


_AGE = _column("Age", ".metadata.creationTimestamp", "Time since the object was created.", "date")

LLMDEPLOYMENT_COLUMNS = [
    _column("Model", ".spec.model.uri", "Where the weights come from."),
    _column("Ready", _condition("Ready", "status"), "Whether every desired replica serves."),
    _column("Replicas", ".status.replicaSummary", "Ready replicas of desired ones."),
    _column("Loading %", ".status.loading.percent", "Progress of what Reason names.", "integer"),
    _column("ETA", ".status.loading.eta", "Time left of what Reason names."),
    _column("Reason", _condition("Ready", "reason"), "Why Ready is as it is."),
    _AGE,
    _column("Revision", ".status.revision", "The revision that is wanted.", wide=True),
    _column("GPU", ".status.gpuType", "GPU types in use.", wide=True),
    _column("URL", ".status.url", "Where the model answers KServe v2.", wide=True),
]

MODELCACHE_COLUMNS = [
    _column("Source", ".spec.source.uri", "Where the weights come from."),
    _column("Ready", _condition("Ready", "status"), "Whether every desired node holds the weights."),
    _column("Nodes", ".status.nodeSummary", "Ready nodes of desired ones."),
    _column("Percent", ".status.percent", "Share of the bytes that are there.", "integer"),
    _column("Speed", ".status.speed", "Download speed."),
    _column("ETA", ".status.eta", "Time left."),
    _column("In use", ".status.inUse", "Whether replicas mount the weights.", "boolean"),
    _column("Reason", _condition("Ready", "reason"), "Why Ready is as it is."),
    _AGE,
    _column("Key", ".status.key", "Nodes that are ready carry cache.preheat.dev/KEY=ready.", wide=True),
    _column("Bytes", ".status.totalBytes", "Size of the model.", "integer", wide=True),
    _column("Last used", ".status.lastUsedTime", "When replicas mounted them last.", "date", wide=True),
    _column("Message", _condition("Ready", "message"), "Why, in numbers.", wide=True),
]


def _definition(
    *,
    kind: type[APIModel],
    names: Schema,
    spec: type[APIModel],
    status: type[APIModel],
    columns: list[Schema],
    subresources: Schema,
) -> Schema:
    root: Schema = {
        "description": " ".join((kind.__doc__ or "").split()),
        "type": "object",
        "required": ["spec"],
        "properties": {
            "apiVersion": {"type": "string"},
            "kind": {"type": "string"},
            "metadata": {"type": "object"},
            "spec": structural(spec),
            "status": structural(status),
        },
    }
    extra = kind.model_config.get("json_schema_extra")
    if isinstance(extra, dict):
        root |= extra
    return {
        "apiVersion": "apiextensions.k8s.io/v1",
        "kind": "CustomResourceDefinition",
        "metadata": {"name": f"{names['plural']}.{GROUP}"},
        "spec": {
            "group": GROUP,
            "scope": "Namespaced",
            "names": names,
            "versions": [
                {
                    "name": VERSION,
                    "served": True,
                    "storage": True,
                    "schema": {"openAPIV3Schema": root},
                    "subresources": {"status": {}, **subresources},
                    "additionalPrinterColumns": columns,
                    "selectableFields": [
                        {"jsonPath": ".spec.model.uri" if kind is LLMDeployment else ".spec.source.uri"}
                    ],
                }
            ],
        },
    }


def definitions() -> dict[str, Schema]:
    """Return every CustomResourceDefinition by its file name."""
    scale = {
        "scale": {
            "specReplicasPath": ".spec.replicas",
            "statusReplicasPath": ".status.replicas",
            "labelSelectorPath": ".status.selector",
        }
    }
    return {
        "llmdeployments.yaml": _definition(
            kind=LLMDeployment,
            names={
                "kind": "LLMDeployment",
                "listKind": "LLMDeploymentList",
                "plural": LLMDeployment.PLURAL,
                "singular": "llmdeployment",
                "shortNames": ["llmd"],
                "categories": ["preheat"],
            },
            spec=LLMDeploymentSpec,
            status=LLMDeploymentStatus,
            columns=LLMDEPLOYMENT_COLUMNS,
            subresources=scale,
        ),
        "modelcaches.yaml": _definition(
            kind=ModelCache,
            names={
                "kind": "ModelCache",
                "listKind": "ModelCacheList",
                "plural": ModelCache.PLURAL,
                "singular": "modelcache",
                "shortNames": ["mc"],
                "categories": ["preheat"],
            },
            spec=ModelCacheSpec,
            status=ModelCacheStatus,
            columns=MODELCACHE_COLUMNS,
            subresources={},
        ),
    }


HEADER = "# Generated from operator/preheat/api by `make generate`. Do not edit.\n"


def main(directories: list[str]) -> None:
    """Write the definitions into each directory."""
    for name, definition in definitions().items():
        text = HEADER + yaml.safe_dump(definition, sort_keys=False, width=110)
        for directory in directories:
            Path(directory).mkdir(parents=True, exist_ok=True)
            (Path(directory) / name).write_text(text, encoding="utf-8")


if __name__ == "__main__":
    main(sys.argv[1:])
