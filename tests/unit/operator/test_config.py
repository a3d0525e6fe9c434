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


def test_bytes_are_quantities() -> None:
    config = OperatorConfig.from_environment(
        {"PREHEAT_NODE_BUDGET_BYTES": "1.5Ti", "PREHEAT_VERIFY_BYTES_PER_SECOND": "200M"}
    )
    assert config.node_budget_bytes == 1_649_267_441_664
    assert config.verify_bytes_per_second == 200_000_000
    assert config.namespace_budget_bytes is None


@pytest.mark.parametrize("value", ["much", "-1", "1 Gi", "1e9", "500GB", "0x10"])
def test_bytes_that_cannot_work_are_named(value: str) -> None:
    with pytest.raises(
        ValueError, match=r"PREHEAT_NODE_BUDGET_BYTES: .* is no amount of bytes: write it as 500Gi"
    ):
        OperatorConfig.from_environment({"PREHEAT_NODE_BUDGET_BYTES": value})


def test_a_switch_is_true_or_false() -> None:
    assert OperatorConfig.from_environment({}).neighbours
    assert OperatorConfig.from_environment({"PREHEAT_NEIGHBOURS": "true"}).neighbours
    assert not OperatorConfig.from_environment({"PREHEAT_NEIGHBOURS": "false"}).neighbours
    with pytest.raises(ValueError, match=r"PREHEAT_NEIGHBOURS is 'off': it must be true or false"):
        OperatorConfig.from_environment({"PREHEAT_NEIGHBOURS": "off"})


def test_a_speed_at_which_nothing_is_ever_done_is_refused() -> None:
    with pytest.raises(ValueError, match="PREHEAT_VERIFY_BYTES_PER_SECOND is '0': at that speed nothing"):
        OperatorConfig.from_environment({"PREHEAT_VERIFY_BYTES_PER_SECOND": "0"})
    assert OperatorConfig.from_environment({"PREHEAT_NODE_BUDGET_BYTES": "0"}).node_budget_bytes == 0


@pytest.mark.parametrize(
    "root", ["/", "//", "/etc", "/data/", "//data/preheat", "/data//preheat", "/data/../etc"]
)
def test_a_cache_root_that_the_kubelet_would_give_away_is_named(root: str) -> None:
    with pytest.raises(ValueError, match=r"PREHEAT_CACHE_ROOT is .* two parts or more"):
        OperatorConfig.from_environment({"PREHEAT_CACHE_ROOT": root})


def test_a_prometheus_is_named_by_an_url_and_labels() -> None:
    given = {
        "PREHEAT_PROMETHEUS_URL": "https://thanos.example/prefix",
        "PREHEAT_PROMETHEUS_LABELS": "cluster=eu, tenant=a b",
    }
    assert OperatorConfig.from_environment(given).prometheus_matchers == {"cluster": "eu", "tenant": "a b"}
    assert OperatorConfig().prometheus_matchers == {}


@pytest.mark.parametrize(
    ("name", "value"),
    [
        *[("URL", url) for url in ("prometheus:9090", "file:///etc/passwd", "http://", "http://me:secret@host",
                                   "http://host/?query=up", "http://[host", "http://host:port")],
        *[("LABELS", labels) for labels in ("cluster", "=eu", "a-b=c", "__name__=up", "a=b,c",
                                         "namespace=prod", "preheat_dev_llmdeployment = a")],
    ],
)  # fmt: skip
def test_a_prometheus_that_cannot_be_asked_is_told_at_start(name: str, value: str) -> None:
    with pytest.raises(ValueError, match=f"PREHEAT_PROMETHEUS_{name}"):
        OperatorConfig.from_environment({f"PREHEAT_PROMETHEUS_{name}": value})
