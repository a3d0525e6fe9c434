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


def rules(*pairs: tuple[str, str]) -> dict[str, Any]:
    """Return CEL rules for ``json_schema_extra``: (rule, message that says what to do) pairs."""
    return {"x-kubernetes-validations": [{"rule": rule, "message": message} for rule, message in pairs]}


Name = Annotated[str, Field(min_length=1, max_length=253, pattern=r"^[a-z0-9]([-.a-z0-9]*[a-z0-9])?$")]
"""A DNS subdomain, as Kubernetes names objects."""

LabelKey = Annotated[str, Field(min_length=1, max_length=316)]
LabelValue = Annotated[str, Field(max_length=63)]
Labels = Annotated[dict[LabelKey, LabelValue], Field(max_length=32)]

Sha256 = Annotated[str, Field(min_length=64, max_length=64, pattern=r"^[a-f0-9]{64}$")]

QUANTITY_PATTERN = r"^[0-9]+(\.[0-9]+)?(m|k|M|G|T|P|Ki|Mi|Gi|Ti|Pi)?$"
Quantity = Annotated[str, Field(min_length=1, max_length=24, pattern=QUANTITY_PATTERN)]
"""A Kubernetes quantity, always as a string: "4", "500m", "16Gi"."""
