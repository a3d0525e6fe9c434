"""Small rules: addresses, headers, speed, and last words that fit."""

import asyncio
import ipaddress
import json

import httpx
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from preheat_warmer.progress import Progress
from preheat_warmer.sources.fence import is_forbidden
from preheat_warmer.sources.hub import next_page
from preheat_warmer.sources.web import Web, retry_after, shown
from preheat_warmer.tally import Tally
from preheat_warmer.telling import last_words


@pytest.mark.parametrize(
    ("address", "forbidden"),
    [
        ("169.254.169.254", True),
        ("169.254.0.1", True),
        ("fe80::1", True),
        ("fe80::1%eth0", True),
        ("::ffff:169.254.169.254", True),
        ("64:ff9b::a9fe:a9fe", True),
        ("2002:a9fe:a9fe::", True),
        ("fd00:ec2::254", True),
        ("100.100.100.200", True),
        ("127.0.0.1", False),
        ("10.0.0.1", False),
        ("::1", False),
        ("fd00:ec2::255", False),
        ("169.253.255.255", False),
        ("169.255.0.0", False),
    ],
)
def test_addresses_that_are_fenced_off(address: str, forbidden: bool) -> None:
    assert is_forbidden(address) is forbidden


@settings(max_examples=100, deadline=None)
@given(st.ip_addresses(v=4, network="169.254.0.0/16"))
def test_no_link_local_address_gets_by_in_disguise(address: ipaddress.IPv4Address) -> None:
    assert is_forbidden(str(address))
    assert is_forbidden(f"::ffff:{address}")


@pytest.mark.parametrize(
    ("text", "seconds"),
    [
        ("0", 0.0),
        ("7", 7.0),
        ("99999", 300.0),
        ("Thu, 01 Jan 1970 00:01:40 GMT", 90.0),
        ("Thu, 01 Jan 1970 00:00:01 GMT", 0.0),
        ("", None),
        ("soon", None),
        ("-5", None),
        ("²", None),
    ],
)
def test_retry_after_is_a_number_or_a_date(text: str, seconds: float | None) -> None:
    assert retry_after(text, now=10.0) == seconds


def test_the_next_page_is_on_the_host_that_was_asked() -> None:
    here = "https://hub.example/api/models/a/b/tree/c?recursive=true"
    assert next_page("", here) is None
    assert next_page('<https://hub.example/x?cursor=1>; rel="prev"', here) is None
    link = '<https://other.example/api/models/a/b/tree/c?recursive=true&cursor=1>; rel="next"'
    assert next_page(link, here) == f"{here}&cursor=1"
    assert next_page('</p?c=1>; rel="first", </p?c=2>; rel="next"', here) == "https://hub.example/p?c=2"


def test_what_may_be_secret_in_a_url_is_not_shown() -> None:
    assert shown("https://u:p@h:1/a/b?signature=x#y") == "https://h:1/a/b"
    assert "secret" not in shown("http://[bad/?secret")


@settings(max_examples=60, deadline=None)
@given(st.text(max_size=6000) | st.integers(0, 6000).map("\U0001f600".__mul__))
def test_last_words_fit_and_stay_json(message: str) -> None:
    text = last_words({"state": "Failed", "reason": "NotFound", "message": message})
    assert len(text.encode()) < 4096
    told = json.loads(text)
    assert message.startswith(told["message"])
    assert told["message"] == message or len(told["message"]) > 200


KEYS = st.lists(st.text("0123456789abcdef", min_size=16, max_size=16), max_size=400)


@settings(max_examples=30, deadline=None)
@given(KEYS, KEYS, st.text(max_size=300))
def test_a_keeper_s_last_words_fit_and_their_counts_are_whole(
    used: list[str], corrupt: list[str], why: str
) -> None:
    tally = Tally()
    for key in used:
        tally.add_in_use(key)
        tally.add_young(key)
        tally.add_stuck(f"ns/{key}", why)
    for key in corrupt:
        tally.add_corrupt(key, why)
    text = last_words({"state": "Kept", **tally.words(), "bytes": 1 << 50, "free": 1 << 50})
    assert len(text.encode()) < 4096
    told = json.loads(text)
    assert (told["inUseCount"], told["stuckCount"], told["corruptCount"]) == (
        len(used),
        len(used),
        len(corrupt),
    )
    assert told["inUse"] == used[: len(told["inUse"])]
    assert list(told["corrupt"]) == list(dict.fromkeys(corrupt))[: len(told["corrupt"])]
    if told["inUse"] and told["stuck"]:
        assert len(told["corrupt"]) == min(len(set(corrupt)), 200), "what is corrupt is cut last"


class Clock:
    def __init__(self) -> None:
        self.now = 100.0

    def __call__(self) -> float:
        return self.now


def test_the_time_left_is_told_only_after_there_is_evidence() -> None:
    clock = Clock()
    progress = Progress(clock)
    progress.state, progress.bytes_total = "Fetching", 1000
    assert progress.report()["remainingSeconds"] is None
    progress.add(500, fetched=False)  # it was there: this says nothing of the speed
    clock.now += 5
    assert progress.report()["remainingSeconds"] is None
    progress.add(10, fetched=True)
    clock.now += 0.5
    progress.add(10, fetched=True)
    assert progress.report()["remainingSeconds"] is None
    clock.now += 1.5
    progress.add(20, fetched=True)
    assert progress.report()["bytesPerSecond"] == 20
    assert progress.report()["remainingSeconds"] == (1000 - 540) / 20


def test_the_speed_is_of_the_last_seconds_and_sinks_when_nothing_comes() -> None:
    clock = Clock()
    progress = Progress(clock)
    progress.state, progress.bytes_total = "Fetching", 10**9
    for _ in range(100):
        clock.now += 1
        progress.add(1000, fetched=True)
    for _ in range(20):
        clock.now += 1
        progress.add(100, fetched=True)
    assert progress.bytes_per_second == pytest.approx(100, rel=0.01)
    clock.now += 100
    assert progress.bytes_per_second < 20


def test_bytes_that_were_no_good_are_uncounted() -> None:
    progress = Progress(Clock())
    progress.add(10, fetched=True)
    progress.take_back(10)
    assert (progress.bytes_done, progress.bytes_fetched) == (0, 10)


@pytest.mark.parametrize(
    ("leads_to", "keeps"),
    [
        ("https://127.0.0.1/b", True),
        ("/b", True),
        ("http://127.0.0.1/b", False),
        ("https://127.0.0.1:8443/b", False),
        ("https://127.0.0.2/b", False),
    ],
)
def test_the_token_stays_with_its_origin(leads_to: str, keeps: bool) -> None:
    """Scheme, host and port: a redirect from https to http would tell the token to the whole network."""
    asked: list[httpx.Request] = []

    def answer(request: httpx.Request) -> httpx.Response:
        asked.append(request)
        redirect = request.url.path == "/a"
        return (
            httpx.Response(302, headers={"Location": leads_to})
            if redirect
            else httpx.Response(200, text="ok")
        )

    async def ask() -> None:
        web = Web("hf_abc", httpx.MockTransport(answer))
        try:
            await web.text("https://127.0.0.1/a")
        finally:
            await web.close()

    loop = asyncio.new_event_loop()
    try:
        loop.run_until_complete(ask())
    finally:
        loop.run_until_complete(loop.shutdown_default_executor())
        loop.close()
    assert [("authorization" in request.headers) for request in asked] == [True, keeps]
