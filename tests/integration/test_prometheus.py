"""The second source against a real Prometheus, which scrapes pages of the agent's own code over HTTP."""

import asyncio
import http.server
import json
import os
import signal
import subprocess
import threading
import time
from collections.abc import Iterator, Mapping

import httpx
import pytest
from preheat.api.constants import PROMETHEUS_LABEL_DEPLOYMENT
from preheat.cluster.prometheus import Prometheus
from preheat.config import OperatorConfig
from preheat.decide import scraped
from preheat.decide.scaling import LoadTime, Memory, Policy
from preheat.decide.scaling.past import with_past
from preheat.decide.scraped import FRESH_SECONDS, STEP_SECONDS
from preheat_agent.exposition import Signals
from prometheus_client import CollectorRegistry, generate_latest

from e2e.cluster.local.controlplane import free_port
from e2e.tools import prometheus

pytestmark = pytest.mark.timeout(120)
DAY = 86_400
DAYS = 2
POLICY = Policy(1, 8, slots=4, load=LoadTime(300, 400))
EVERY = 60
"""Seconds between two scrapes of the days before."""


class Agents:
    """Two pods' pages, made by the agent's code; what they count is what a test says."""

    def __init__(self) -> None:
        self.told: dict[str, dict[str, float | None]] = {"llama-0": {}, "llama-1": {}}
        self.began = {"llama-0": 1000.0, "llama-1": 1000.0}
        self.silent: set[str] = set()
        pages = self

        class Handler(http.server.BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                pod = self.path.strip("/")
                if pod in pages.silent or pod not in pages.told:
                    self.send_error(503)
                    return
                registry = CollectorRegistry()
                registry.register(Signals(lambda: pages.told[pod], pages.began[pod]))
                self.send_response(200)
                self.send_header("Content-Type", "text/plain; version=0.0.4; charset=utf-8")
                self.end_headers()
                self.wfile.write(generate_latest(registry))

            def log_message(self, *args: object) -> None:
                pass

        self.server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        threading.Thread(target=self.server.serve_forever, daemon=True).start()

    def tell(self, pod: str, many: float, waiting: float = 0) -> None:
        """Have it say that so many requests came and ended, each after two seconds."""
        self.told[pod] = {"came": many, "ended": many, "busySeconds": 2 * many, "waiting": waiting,
                          "inService": 0, "slots": 4, "ageSeconds": 0.5}  # fmt: skip


def history(now: float) -> str:
    """Two days of two pods: 0.5 requests a second each, four times as many from the 6th to the 10th hour of a day.

    One began anew in the middle. Of one hour half of the scrapes failed, in another Prometheus was away.
    """
    first = int(now // STEP_SECONDS * STEP_SECONDS) - DAYS * DAY
    lines: dict[str, list[str]] = {}
    for number, pod in enumerate(("llama-0", "llama-1")):
        labels = f'namespace="default",{PROMETHEUS_LABEL_DEPLOYMENT}="llama",pod="{pod}",job="agents"'
        came = 1000.0
        for at in range(first, int(now // STEP_SECONDS * STEP_SECONDS) - 4 * 3600, EVERY):
            since = at - first
            came += EVERY * (2.0 if 6 * 3600 <= since % DAY < 10 * 3600 else 0.5)
            if since == DAY and number == 0:
                came = 0.0
            if 12 * 3600 <= since < 13 * 3600:
                continue
            down = number == 1 and 14 * 3600 <= since < 15 * 3600
            lines.setdefault("up", []).append(f"up{{{labels}}} {int(not down)} {at}")
            if down:
                continue
            for name, value in (("requests_received_total", came), ("requests_ended_total", came),
                                ("service_seconds_total", 2 * came), ("requests_waiting", 0)):  # fmt: skip
                series = f"preheat_agent_{name}"
                lines.setdefault(series, []).append(f"{series}{{{labels}}} {value} {at}")
    text = ""
    for name, samples in lines.items():
        counter = name.endswith("_total")
        text += f"# TYPE {name.removesuffix('_total')} {'counter' if counter else 'gauge'}\n"
        text += "\n".join(samples) + "\n"
    return text + "# EOF\n"


@pytest.fixture(scope="module")
def agents() -> Iterator[Agents]:
    made = Agents()
    yield made
    made.server.shutdown()
    made.server.server_close()


@pytest.fixture(scope="module")
def url(agents: Agents, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """A Prometheus with two days behind it, that scrapes the pages every second."""
    program, tool = prometheus()
    folder, port = tmp_path_factory.mktemp("prometheus"), free_port()
    (folder / "history").write_text(history(time.time()))
    blocks = [tool, "tsdb", "create-blocks-from", "openmetrics", "--max-block-duration=48h",
              str(folder / "history"), str(folder / "data")]  # fmt: skip
    subprocess.run(blocks, check=True, capture_output=True)
    jobs = [
        {"job_name": pod, "metrics_path": f"/{pod}", "static_configs": [{
            "targets": [f"127.0.0.1:{agents.server.server_address[1]}"],
            "labels": {"namespace": "default", PROMETHEUS_LABEL_DEPLOYMENT: "llama", "pod": pod},
        }]}
        for pod in agents.told
    ]  # fmt: skip
    config = {"global": {"scrape_interval": "1s", "scrape_timeout": "1s"}, "scrape_configs": jobs}
    (folder / "config.yml").write_text(json.dumps(config))
    with (folder / "log").open("wb") as log:
        process = subprocess.Popen(
            [program, f"--config.file={folder / 'config.yml'}", f"--storage.tsdb.path={folder / 'data'}",
             f"--web.listen-address=127.0.0.1:{port}"],
            env={**os.environ, "GOMAXPROCS": "1"}, stdout=log, stderr=log,
        )  # fmt: skip
    try:
        deadline = time.monotonic() + 60
        while True:
            assert process.poll() is None, (folder / "log").read_text()
            try:
                if httpx.get(f"http://127.0.0.1:{port}/-/ready", trust_env=False).status_code == 200:
                    break
            except httpx.HTTPError:
                pass
            assert time.monotonic() < deadline, (folder / "log").read_text()
            time.sleep(0.1)
        yield f"http://127.0.0.1:{port}"
    finally:
        process.send_signal(signal.SIGKILL)
        process.wait(10)


PODS = {"llama-0": "uid-0", "llama-1": "uid-1"}


class Asked:
    """Our client, and what came of its questions."""

    def __init__(self, url: str) -> None:
        self.outcomes: list[tuple[str, str]] = []
        config = OperatorConfig(prometheus_url=url)
        client = Prometheus.open(config, lambda *what: self.outcomes.append(what))
        assert client is not None
        self.client = client

    async def scrapes(self, name: str = "llama") -> scraped.Scrapes:
        found = await self.client.recent("default", name, PODS)
        assert found is not None
        return found

    async def until(self, what: str, pods: Mapping[str, float]) -> scraped.Scrapes:
        """Return the scrapes as soon as the last of each pod says that so many came."""
        deadline = time.monotonic() + 30
        while True:
            found = await self.scrapes()
            if {uid: each[-1].reading.came for uid, each in found.items()} == pods:
                return found
            assert time.monotonic() < deadline, (what, found)
            await asyncio.sleep(0.2)


async def test_what_it_scraped_is_a_window_and_what_it_did_not_is_unknown(url: str, agents: Agents) -> None:
    asked = Asked(url)
    agents.tell("llama-0", 100)
    agents.tell("llama-1", 0)
    began = await asked.until("both pages are scraped", {"uid-0": 100, "uid-1": 0})
    known_at = max(each[-1].at for each in began.values())
    agents.tell("llama-0", 160, waiting=3)
    agents.tell("llama-1", 30)
    found = await asked.until("both are scraped anew", {"uid-0": 160, "uid-1": 30})
    both, now = frozenset(PODS.values()), time.time()
    window = scraped.window(both, 0, found, now, known_at, (), None)
    assert window is not None
    assert window.share == 1
    assert window.sample.arrivals == pytest.approx(90, rel=0.35), "each of a time of its own"
    assert window.sample.service_seconds == pytest.approx(2)
    assert window.sample.queued == 3
    assert scraped.slots(found) == [4, 4]
    assert await asked.scrapes("another") == {}
    assert scraped.window(both, 0, found, now + FRESH_SECONDS + 5, known_at, (), None) is None, "stale"

    agents.silent.add("llama-1")
    agents.began["llama-0"] = 2000.0
    agents.tell("llama-0", 500)
    await asked.until("another agent tells", {"uid-0": 500, "uid-1": 30})
    again = scraped.window(both, 0, await asked.scrapes(), time.time(), now, (), None)
    assert again is None or again.sample.arrivals is None or again.sample.arrivals < 100, "it began anew"
    agents.silent.clear()
    assert {outcome for _, outcome in asked.outcomes} <= {"told", "empty"}
    await asked.client.close()


async def test_its_last_days_are_the_season(url: str) -> None:
    asked, now = Asked(url), time.time()
    first = int(now // STEP_SECONDS * STEP_SECONDS) - DAYS * DAY
    windows = await asked.client.past("default", "llama", now)
    await asked.client.close()
    memory, learnt = with_past(POLICY, Memory(), windows, now)

    def at(hour: float) -> float | None:
        return memory.season.at(int(first + hour * 3600) // STEP_SECONDS)

    assert learnt == pytest.approx((44 - 2) * 6, abs=8), (
        "two hours of two days are not known, and the last four"
    )
    for day in (0, 24):
        assert at(day + 3) == pytest.approx(2, rel=0.05), "0.5 requests a second of each, two seconds each"
        assert at(day + 8) == pytest.approx(8, rel=0.05)
    assert at(12.5) is None, "Prometheus was away"
    assert at(14.5) is None, "half of the scrapes failed"
    assert at(23.9) == pytest.approx(2, rel=0.1)
    assert at(24.05) == pytest.approx(2, rel=0.1), "one began anew, and nothing rushed in"
    assert 6 < memory.record < 8, "the most of a slot, and older ones count less"


async def test_what_it_refuses_is_said_with_its_words(url: str, caplog: pytest.LogCaptureFixture) -> None:
    asked = Asked(url + "/no/such/prefix")
    assert await asked.client.recent("default", "llama", PODS) is None
    await asked.client.close()
    assert asked.outcomes == [("recent", "failed")]
    assert "404" in caplog.text
