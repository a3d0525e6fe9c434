"""The installation's settings: what is not set keeps its default, and what cannot work is named."""

import pytest
from preheat.config import OperatorConfig


def test_an_empty_variable_keeps_its_default() -> None:
    given = {"PREHEAT_RESYNC_SECONDS": "", "PREHEAT_CACHE_ROOT": ""}
    assert OperatorConfig.from_environment(given) == OperatorConfig()


def test_seconds_are_numbers() -> None:
    config = OperatorConfig.from_environment({"PREHEAT_API_TIMEOUT_SECONDS": "2.5"})
    assert config.api_timeout_seconds == 2.5


@pytest.mark.parametrize("value", ["soon", "0", "-1", "nan", "inf", "86401"])
def test_seconds_that_cannot_work_are_named(value: str) -> None:
    with pytest.raises(ValueError, match=r"PREHEAT_RESYNC_SECONDS is .* from 1 to 86400"):
        OperatorConfig.from_environment({"PREHEAT_RESYNC_SECONDS": value})


def test_a_relative_cache_root_is_named() -> None:
    with pytest.raises(ValueError, match="PREHEAT_CACHE_ROOT"):
        OperatorConfig.from_environment({"PREHEAT_CACHE_ROOT": "var/lib"})
