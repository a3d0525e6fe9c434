"""What the front reads in a slice, and what it says: pure."""

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from preheat.api.constants import PORTS_OF_DEPLOYMENTS
from preheat.cluster.kinds import KINDS
from preheat.decide.front import port_of
from preheat.resources.front import make_front_slice
from preheat.resources.serving import make_service
from preheat_front import answers
from preheat_front.asking import Asked, parse_head, path_of
from preheat_front.config import ConfigError, from_environment
from preheat_front.grpc import Exchange, RefusedError
from preheat_front.slices import SELECTOR, Sleeper, read, sleepers

from tests.builders import a_service

NOW = 1_767_225_600.0


def test_both_watch_the_same_slices_and_none_of_kubernetes() -> None:
    """Kubernetes' own have the labels of their Service, by which they would be ours."""
    assert KINDS["EndpointSlice"].selector == SELECTOR
    labels = make_front_slice(a_service(), 20007, "IPv4", [], "", "")["metadata"]["labels"]
    wanted = dict(pair.split("=") for pair in SELECTOR.split(","))
    assert wanted.items() <= labels.items()
    assert not wanted.items() <= make_service(a_service())["metadata"]["labels"].items()


def test_it_reads_what_the_operator_writes() -> None:
    body = make_front_slice(a_service(), 20007, "IPv4", ["10.0.0.1"], "2026-01-01T00:01:00Z", "")
    assert read(body) == Sleeper("default", "llama", 20007, ready_at=NOW + 60)
    asleep = make_front_slice(a_service(), 20007, "IPv4", [], "", "90")
    assert read(asleep) == Sleeper("default", "llama", 20007, wakes_in=90.0)


@pytest.mark.parametrize("text", ["soon", "2026-01-01T00:00:00", "-1", "1e99", "nan", ""])
def test_what_is_no_time_is_unknown(text: str) -> None:
    found = read(make_front_slice(a_service(), 20007, "IPv4", [], text, text))
    assert found == Sleeper("default", "llama", 20007)


def test_of_two_with_one_port_the_older_has_it() -> None:
    def of(name: str, age: str) -> dict[str, Any]:
        body = make_front_slice(a_service(name), 20007, "IPv4", [], "", "")
        return {**body, "metadata": {**body["metadata"], "creationTimestamp": age}}

    pair = [of("young", "2026-01-02T00:00:00Z"), of("old", "2026-01-01T00:00:00Z")]
    assert sleepers(pair, 20000, 23999)[20007].name == "old"
    assert sleepers(pair, 20008, 23999) == {}


@pytest.mark.parametrize("first", [{"name": "all"}, {"name": "x", "port": 1}, {"port": None}])
def test_it_takes_for_a_slices_port_what_the_operator_takes_for_it(first: dict[str, Any]) -> None:
    """One that anybody made, older than ours: where both read another port in it, ours would never be asked for."""
    body = make_front_slice(a_service(), 20007, "IPv4", [], "", "")
    theirs = {**body, "ports": [first, *body["ports"]]}
    found = sleepers([theirs], 20000, 23999)
    assert set(found) == {port_of(theirs)} & set(PORTS_OF_DEPLOYMENTS)


@pytest.mark.parametrize(
    ("sleeper", "seconds"),
    [
        (Sleeper("n", "m", 1), 60),
        (Sleeper("n", "m", 1, ready_at=NOW + 0.1), 1),
        (Sleeper("n", "m", 1, ready_at=NOW + 59.2), 60),
        (Sleeper("n", "m", 1, ready_at=NOW + 10**6), 3600),
        (Sleeper("n", "m", 1, ready_at=NOW - 10), 5),
        (Sleeper("n", "m", 1, wakes_in=80.5), 85),
        (Sleeper("n", "m", 1, wakes_in=0.0), 4),
        (Sleeper("n", "m", 1, wakes_in=86_400.0), 3600),
    ],
)
def test_when_to_come_again(sleeper: Sleeper, seconds: int) -> None:
    assert answers.retry_seconds(sleeper, NOW) == seconds
    assert f"{seconds} s" in answers.words(sleeper, NOW, counted=True)
    assert f"Retry-After: {seconds}\r\n".encode() in answers.http(sleeper, NOW, counted=True)


def test_only_who_wakes_it_is_told_so() -> None:
    asleep = Sleeper("n", "m", 1, wakes_in=80)
    assert "this request wakes it" in answers.words(asleep, NOW, counted=True)
    assert "this request wakes it" not in answers.words(asleep, NOW, counted=False)


@given(st.binary(max_size=300))
def test_whatever_comes_is_a_request_or_is_not(head: bytes) -> None:
    asked = parse_head(head)
    assert asked is None or isinstance(asked.counts, bool)
    assert isinstance(path_of(head), str)


def test_an_absolute_target_is_read_as_its_path() -> None:
    asked = parse_head(b"GET http://m.ns.svc:8000/v2/models/m/ready HTTP/1.1\r\n\r\n")
    assert asked == Asked("GET", "/v2/models/m/ready")
    assert not asked.counts


@given(st.lists(st.binary(max_size=400), max_size=5))
def test_whatever_comes_as_http2_ends_well_or_is_refused(parts: list[bytes]) -> None:
    exchange = Exchange(lambda _asked: ([(":status", "503")], b"{}"))
    try:
        exchange.receive(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n")
        for part in parts:
            exchange.receive(part)
    except RefusedError:
        pass


@pytest.mark.parametrize(
    ("given_", "words"),
    [("[]", "must be a JSON object"), ("{", "is no JSON"), ('{"firstPort": 80}', "between 1024 and 65535"),
     ('{"connections": true}', "connections"), ('{"headSeconds": "x"}', "could not convert"), ("{}", "apiServer is missing")],
)  # fmt: skip
def test_a_wrong_configuration_names_what_is_wrong(given_: str, words: str) -> None:
    environment = {"PREHEAT_FRONT_CONFIG": given_}
    if words != "apiServer is missing":
        environment |= {"KUBERNETES_SERVICE_HOST": "10.0.0.1", "KUBERNETES_SERVICE_PORT": "443"}
    with pytest.raises(ConfigError, match=words):
        from_environment(environment)


def test_in_a_cluster_it_needs_no_configuration() -> None:
    found = from_environment({"KUBERNETES_SERVICE_HOST": "fd00::1", "KUBERNETES_SERVICE_PORT": "443"})
    assert found.api_server == "https://[fd00::1]:443"
