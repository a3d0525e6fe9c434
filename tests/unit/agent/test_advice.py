"""What the operator tells an agent: read as it is, refused where it is none, and only for this very pod."""

import json
from dataclasses import replace
from typing import Any

import httpx
import pytest
from preheat.cluster import sidecars
from preheat.decide.observed import HealingReport
from preheat.decide.plan import Advise
from preheat_agent.config import from_environment
from preheat_agent.main import Agent
from preheat_agent.ration import AWAY_SECONDS, Advice, may_step, read
from preheat_agent.server import Server

CONFIG = {
    "modelName": "m", "engineHTTP": "http://127.0.0.1:1", "engineGRPC": "127.0.0.1:1", "engineMetrics": "http://x",
    "weightsDirectory": "/tmp", "adminKey": "uid-1", "canary": {"prompt": "Hi"},
}  # fmt: skip


def test_a_word_of_one_thing_leaves_the_other_as_it_was() -> None:
    first = read({"healing": {"grant": 2, "seconds": 20}}, Advice(), 100.0)
    assert first == Advice(at=100.0, step=2, until=120.0)
    second = read({"loadSeconds": 90}, first, 101.0)
    assert second == Advice(at=100.0, step=2, until=120.0, load_seconds=90.0)
    assert read({"healing": {"grant": None}}, second, 102.0).step is None


NONE: list[Any] = [
    [], "x", 1, {"loadSeconds": -1}, {"loadSeconds": "long"}, {"loadSeconds": 1e12}, {"healing": {}},
    {"healing": {"grant": 1}}, {"healing": {"grant": 1, "seconds": 1e9}}, {"healing": {"grant": -1, "seconds": 1}},
    {"healing": "yes"}, {"loadSeconds": float("nan")},
]  # fmt: skip


@pytest.mark.parametrize("body", NONE)
def test_what_is_no_advice_is_refused(body: Any) -> None:
    with pytest.raises((KeyError, TypeError, ValueError)):
        read(body, Advice(), 0.0)


def test_an_operator_that_says_no_is_not_away() -> None:
    silent, refused = Advice(), Advice(at=1000.0)
    for spread in (0.0, 1.0):
        assert not may_step(silent, 1, 1000.0, spread, 1000.0 + AWAY_SECONDS * (1 + spread) - 1)
        assert may_step(silent, 1, 1000.0, spread, 1000.0 + AWAY_SECONDS * (1 + spread))
    assert not may_step(refused, 1, 0.0, 0.0, 1000.0 + AWAY_SECONDS - 1)


async def test_advice_is_taken_for_this_very_pod_alone() -> None:
    agent = Agent(from_environment({"PREHEAT_AGENT_CONFIG": json.dumps(CONFIG)}))
    server = Server({"/status": agent._status}, {"/advice": agent._advised})
    url = f"http://127.0.0.1:{await server.start(0, '127.0.0.1')}"
    async with httpx.AsyncClient(trust_env=False) as http:
        advice = {"schema": 1, "loadSeconds": 90}
        assert (await http.post(f"{url}/advice", json=advice)).status_code == 403
        other = {"admin-key": "uid-2"}
        assert (await http.post(f"{url}/advice", json=advice, headers=other)).status_code == 403
        mine = {"admin-key": "uid-1"}
        assert (await http.post(f"{url}/advice", json=["x"], headers=mine)).status_code == 400
        assert (await http.post(f"{url}/advice", content=b"x" * 5000, headers=mine)).status_code == 413
        assert (await http.post(f"{url}/status", json=advice, headers=mine)).status_code == 405
        assert (await http.get(f"{url}/advice")).status_code == 404
        assert (await http.get(f"{url}/status")).json()["stall"]["loadSeconds"] is None
        assert (await http.post(f"{url}/advice", json=advice, headers=mine)).status_code == 200
        status = (await http.get(f"{url}/status")).json()
        assert status["stall"]["loadSeconds"] == 90
        assert status["healing"] == {"illSeconds": None, "steps": 0, "stepsAtMost": 5, "waitsFor": None}
        assert status["canary"]["protocols"].keys() == {"GRPC", "HTTP"}
    await server.stop()
    await agent._engine.close()


async def test_what_the_operator_sends_is_what_an_agent_takes(monkeypatch: pytest.MonkeyPatch) -> None:
    """Both ends of the contract, over a socket: the status is read, the advice is taken, for one pod of two."""
    agent = Agent(from_environment({"PREHEAT_AGENT_CONFIG": json.dumps(CONFIG)}))
    server = Server({"/status": agent._status}, {"/advice": agent._advised})
    monkeypatch.setattr(sidecars, "PORT_AGENT", await server.start(0, "127.0.0.1"))
    client = sidecars.Sidecars.open()
    report = (await client.agents({"a": "127.0.0.1"}))["a"]
    assert report.healing == HealingReport(None, 0, 5, waits=False)
    assert report.told_load_seconds is None
    grant = Advise("127.0.0.1", "uid-1", waits=True, grant=2, grant_seconds=20.0, load_seconds=90.0)
    await client.advise([replace(grant, uid="uid-2", grant=5), grant, replace(grant, ip="127.0.0.99")])
    assert agent._advice.step == 2
    assert (await client.agents({"a": "127.0.0.1"}))["a"].told_load_seconds == 90
    await client.advise([replace(grant, grant=None, load_seconds=None)])
    assert (agent._advice.step, agent._advice.load_seconds) == (None, 90)
    await client.close()
    await server.stop()
    await agent._engine.close()
