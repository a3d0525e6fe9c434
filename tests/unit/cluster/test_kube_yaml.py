"""What we apply is JSON that a YAML parser reads as well."""

import pytest
import yaml
from preheat.cluster.kube import _yaml


@pytest.mark.parametrize(
    "text",
    ["\U0001f525", "a\U0001f525\U00010000\U0010ffff", "\\ud83d\\udd25", "\\\U0001f525", "\\\\\U0001f525", "\u00fc\u2028\x7f\x85\ufeff",
     "\x00\x1f\t\n", "$(X) '\"", "{{ }}: - #"],
)  # fmt: skip
def test_every_text_arrives_as_it_is(text: str) -> None:
    assert yaml.safe_load(_yaml({"spec": {text: [text]}})) == {"spec": {text: [text]}}
