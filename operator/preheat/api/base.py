"""What every API type shares: camelCase on the wire, snake_case in Python, nothing mutable."""

from typing import Annotated, Any

from pydantic import BaseModel, ConfigDict, Field
from pydantic.alias_generators import to_camel

_ACRONYMS = {"Uri": "URI", "Url": "URL", "Grpc": "GRPC", "Http": "HTTP", "Sha256": "SHA256"}


def camel(name: str) -> str:
    """Return the API spelling of a field: words joined, acronyms upper case unless they come first.

    >>> camel("size_bytes"), camel("manifest_sha256"), camel("sha256"), camel("allow_uri")
    ('sizeBytes', 'manifestSHA256', 'sha256', 'allowURI')
    """
    first, *rest = name.split("_")
    words = [to_camel(word).capitalize() for word in rest]
    return first + "".join(_ACRONYMS.get(word, word) for word in words)


class APIModel(BaseModel):
    """A part of an API object. Unknown fields are dropped as the API server drops them."""

    model_config = ConfigDict(
        alias_generator=camel, populate_by_name=True, frozen=True, extra="ignore", use_enum_values=False
    )

    def to_api(self) -> dict[str, Any]:
        """Return the wire form, without fields that are not set."""
        return self.model_dump(mode="json", by_alias=True, exclude_none=True)


Rule = tuple[str, str] | tuple[str, str, str]
"""A CEL rule, a message that says what to do, and the path (".model.format") that the message is about."""


def rules(*given: Rule) -> dict[str, Any]:
    """Return CEL rules for ``json_schema_extra``. Without a path a rule is about the object it stands at.

    A rule with ``oldSelf`` is about changes only, unless it asks whether there is one: ``oldSelf.hasValue()``.
    """
    return {
        "x-kubernetes-validations": [
            {
                "rule": rule,
                "message": message,
                **({"fieldPath": path[0]} if path else {}),
                **({"optionalOldSelf": True} if "oldSelf.hasValue()" in rule else {}),
            }
            for rule, message, *path in given
        ]
    }


def worded(pattern: str, message: str, *more: Rule, **limits: Any) -> Any:
    """Return a Field for a text that must match a pattern, whose refusal is told in words.

    The CRD gets a rule with this message instead of the pattern: of a pattern the API server prints the
    regular expression, and nobody learns from that what to write. The pattern must hold no quote.
    """
    extra = rules((f"self.matches(r'{pattern}')", message), *more)
    return Field(pattern=pattern, json_schema_extra=extra, **limits)


_LABEL = r"[a-z0-9]([-a-z0-9]*[a-z0-9])?"
DNS_NAME = rf"{_LABEL}(\.{_LABEL})*"
"""A DNS subdomain, as Kubernetes names objects. Without anchors."""
_QUALIFIED = r"[A-Za-z0-9]([-A-Za-z0-9_.]{0,61}[A-Za-z0-9])?"
KEY = rf"({DNS_NAME}/)?{_QUALIFIED}"
"""A qualified name: the key of a label or a taint."""
EXTENDED_RESOURCE = rf"{DNS_NAME}/{_QUALIFIED}"

Name = Annotated[
    str,
    worded(
        f"^{DNS_NAME}$",
        "must be a name as Kubernetes has them: a-z, 0-9, '-' and '.', with a letter or digit at both ends",
        min_length=1,
        max_length=253,
    ),
]

DNSLabel = Annotated[
    str,
    worded(
        f"^{_LABEL}$",
        "must be a name of a-z, 0-9 and '-', with a letter or digit at both ends",
        min_length=1,
        max_length=63,
    ),
]
"""As Kubernetes names namespaces."""

Hostname = Annotated[
    str,
    worded(
        rf"^(\*\.)?{DNS_NAME}$",
        "must be a host's name, without a scheme, a port or a path: a-z, 0-9, '-' and '.'; `*.` may stand before it",
        (
            "!self.matches(r'^[0-9]+([.][0-9]+){3}$')",
            "must be a name, and no IP address: Gateway API routes none",
        ),
        min_length=1,
        max_length=253,
    ),
]
"""What Gateway API takes in an HTTPRoute's hostnames."""

LabelKey = Annotated[
    str,
    worded(
        f"^{KEY}$",
        "keys must be label names: at most 63 characters of A-Z, a-z, 0-9, '-', '_' and '.', "
        "optionally after a domain and '/', for example topology.kubernetes.io/zone",
        min_length=1,
        max_length=316,
    ),
]
LabelValue = Annotated[
    str,
    worded(
        "^([A-Za-z0-9]([-A-Za-z0-9_.]*[A-Za-z0-9])?)?$",
        "must be a label's value: A-Z, a-z, 0-9, '-', '_' and '.', with a letter or digit at both ends, or empty",
        max_length=63,
    ),
]
Labels = Annotated[dict[LabelKey, LabelValue], Field(max_length=32)]

Sha256 = Annotated[
    str,
    worded(
        "^[a-f0-9]{64}$",
        "must be a SHA-256: 64 digits of 0-9 and a-f, as sha256sum prints it",
        max_length=128,
    ),
]


def quantity(least: str, most: str, **limits: Any) -> Any:
    """Return a Field for a Kubernetes quantity, always as a string: "4", "500m", "16Gi"."""
    return worded(
        r"^[0-9]+(\.[0-9]+)?(m|k|M|G|T|P|Ki|Mi|Gi|Ti|Pi)?$",
        'must be a number with an optional unit (m, k, M, G, T, P, Ki, Mi, Gi, Ti or Pi): "4", "500m", "16Gi"',
        (
            f"!isQuantity(self) || (quantity(self).compareTo(quantity('{least}')) >= 0 "
            f"&& quantity(self).compareTo(quantity('{most}')) <= 0)",
            f"must be at least {least} and at most {most}",
        ),
        min_length=1,
        max_length=24,
        **limits,
    )
