"""What the agent tells Prometheus: the numbers of /signals, under names that it can scrape."""

import asyncio
import json
from collections.abc import Mapping
from pathlib import Path

import httpx
from preheat_agent.config import from_environment
from preheat_agent.exposition import Signals
from preheat_agent.main import Agent
from prometheus_client import CollectorRegistry, generate_latest
from prometheus_client.parser import text_string_to_metric_families

from e2e.cluster.local.controlplane import free_port

TOLD: dict[str, float | None] = {
    "ageSeconds": 0.5, "came": 5, "ended": 2, "failed": 1, "inService": 2, "waiting": 1, "busySeconds": 7.25,
    "promptTokens": 20, "generatedTokens": 411, "slots": 2,
}  # fmt: skip


def page(told: list[Mapping[str, float | None] | None]) -> list[dict[str, float]]:
    """What is scraped at each time."""
    registry, now = CollectorRegistry(), [told[0]]
    registry.register(Signals(lambda: now[0], 1700.0))
    pages = []
    for each in told:
        now[0] = each
        families = text_string_to_metric_families(generate_latest(registry).decode())
        pages.append({sample.name: sample.value for family in families for sample in family.samples})
    return pages


def test_all_that_signals_tells_is_there() -> None:
    (seen,) = page([TOLD])
    assert seen == {
        "preheat_agent_start_time_seconds": 1700, "preheat_agent_requests_received_total": 5,
        "preheat_agent_requests_ended_total": 2, "preheat_agent_requests_failed_total": 1,
        "preheat_agent_service_seconds_total": 7.25, "preheat_agent_prompt_tokens_total": 20,
        "preheat_agent_generated_tokens_total": 411, "preheat_agent_requests_in_service": 2,
        "preheat_agent_requests_waiting": 1, "preheat_agent_slots": 2, "preheat_agent_signals_age_seconds": 0.5,
    }  # fmt: skip


def test_what_is_not_known_has_no_series() -> None:
    (nothing, some) = page([None, {**TOLD, "inService": None, "slots": None}])
    assert nothing == {"preheat_agent_start_time_seconds": 1700}
    assert not {"preheat_agent_requests_in_service", "preheat_agent_slots"} & some.keys()


def test_a_counter_never_goes_back() -> None:
    """Prometheus would take it for one that began anew, and count all of it again."""
    seen = page([TOLD, {**TOLD, "came": 4}, {**TOLD, "came": 6}])
    assert [each["preheat_agent_requests_received_total"] for each in seen] == [5, 5, 6]


async def test_who_scrapes_reaches_nothing_else(tmp_path: Path) -> None:
    main, metrics = free_port(), free_port()
    config = {
        "modelName": "m", "engineHTTP": f"http://127.0.0.1:{free_port()}", "engineGRPC": "127.0.0.1:1",
        "engineMetrics": f"http://127.0.0.1:{free_port()}/metrics", "engineProcess": "no-such-engine",
        "weightsDirectory": str(tmp_path), "listenPort": main, "metricsPort": metrics, "canary": {"prompt": "?"},
    }  # fmt: skip
    agent, stopping = Agent(from_environment({"PREHEAT_AGENT_CONFIG": json.dumps(config)})), asyncio.Event()
    running = asyncio.create_task(agent.run(stopping))
    async with httpx.AsyncClient(trust_env=False) as http:
        for _ in range(200):
            try:
                page = await http.get(f"http://127.0.0.1:{metrics}/metrics")
                break
            except httpx.ConnectError:
                await asyncio.sleep(0.02)
        assert "preheat_agent_start_time_seconds" in page.text
        assert "preheat_agent_ready" in page.text
        for path in ("/drain", "/status", "/signals", "/healthz"):
            assert (await http.get(f"http://127.0.0.1:{metrics}{path}")).status_code == 404, path
        assert (await http.post(f"http://127.0.0.1:{metrics}/advice", json={})).status_code == 405
    stopping.set()
    await running
