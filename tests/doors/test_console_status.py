"""The status page and what is beside it: how everything is, for everybody and about nobody, and open pages change."""

import asyncio
import re
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import replace
from datetime import datetime
from pathlib import Path
from xml.etree import ElementTree as Xml

import httpx2
import pytest
import pytest_asyncio

from http_api.console.pages import status as pages
from http_api.console.pages.status import _chosen, _described, _of_late, _runs
from http_api.status import ShownComponent, StatusDoor, _badge
from mcp_gateway.core.observe.activity import Activity
from mcp_gateway.core.observe.status_board import Component, ComponentPast, ComponentState, SeenMinutes
from mcp_gateway.core.service_notice import SwitchMaintenance, TellIncident
from tests.databases import store_of
from tests.patience import PATIENCE_S, eventually
from tests.recorded import recorded
from tests.serving import FREE, Door, open_door

pytestmark = pytest.mark.asyncio(loop_scope="module")
MODELS = [FREE | {"backend_model": "demo/echo"}, {"id": "gone/<b>", "free": True}]
TEXT = "A <disk> is full & we change it."


@pytest_asyncio.fixture(loop_scope="module", scope="module")
async def door(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Door]:
    pages_looked, pages._LOOK_S = pages._LOOK_S, 0.01
    async with open_door(tmp_path_factory.mktemp("status"), models=MODELS) as door:
        yield door
        await door.nothing_is_left()
    pages._LOOK_S = pages_looked


@pytest.fixture(autouse=True)
def is_made_anew(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("http_api.status._FRESH_MS", 0)


@asynccontextmanager
async def told(door: Door, text: str) -> AsyncIterator[None]:
    await store_of(door.gateway).write(TellIncident(text))
    try:
        yield
    finally:
        await store_of(door.gateway).write(TellIncident(None))


@asynccontextmanager
async def feed_of(door: Door) -> AsyncIterator[AsyncIterator[str]]:
    """The boards that an open page is sent, one after the other."""
    async with door.http.stream("GET", "/status/live") as answer:
        assert answer.headers["content-type"] == "text/event-stream; charset=utf-8"
        yield boards_in(answer)


async def boards_in(answer: httpx2.Response) -> AsyncIterator[str]:
    lines: list[str] = []
    async for line in answer.aiter_lines():
        if line.startswith("data: "):
            lines.append(line.removeprefix("data: "))
        elif not line and lines:
            yield "\n".join(lines)
            lines = []


async def next_with(boards: AsyncIterator[str], text: str) -> str:
    async with asyncio.timeout(PATIENCE_S):
        async for board in boards:
            if text in board:
                return board
    raise AssertionError(f"the feed ended without {text}")


async def test_everybody_sees_each_part_with_its_state_in_a_word(door: Door) -> None:
    answer = await door.http.get("/status")
    assert (answer.status_code, answer.headers["cache-control"]) == (200, "no-store")
    assert "default-src 'none'" in answer.headers["content-security-policy"]
    names = re.findall(r"<strong>(.*?)</strong> <span class=\"state \w+\">(\w+)</span>", answer.text)
    assert names == [
        ("API", "degraded"), ("MCP", "degraded"), ("free/tiny", "operational"), ("gone/&lt;b&gt;", "down"),
    ]  # fmt: skip
    assert "not looked at yet" in answer.text
    assert "127.0.0.1" not in answer.text


async def test_a_minute_that_was_counted_shows_as_a_day(door: Door) -> None:
    written = door.gateway.board.note_minute()
    assert written is not None
    await written
    text = (await door.http.get("/status")).text
    assert "0.000 % up, 1 day with trouble" in text
    assert "100.000 % up, no day with trouble" in text
    summary = (await door.http.get("/status/summary.json")).json()
    uptimes = {one["name"]: one["uptime_percent"] for one in summary["components"]}
    assert uptimes == {"API": 100.0, "MCP": 100.0, "free/tiny": 100.0, "gone/<b>": 0.0}
    assert {one["name"]: one["last_day_uptime_percent"] for one in summary["components"]} == uptimes
    assert "0.000 % up in 24 hours" in text


async def test_the_summary_is_statuspages(door: Door) -> None:
    summary = (await door.http.get("/status/summary.json")).json()
    assert summary["status"]["indicator"] == "minor"
    assert [one["status"] for one in summary["components"]] == [
        "degraded_performance", "degraded_performance", "operational", "major_outage",
    ]  # fmt: skip
    assert (summary["incidents"], summary["scheduled_maintenances"]) == ([], [])
    async with told(door, "First."):
        await store_of(door.gateway).write(TellIncident(TEXT))
        (incident,) = (await door.http.get("/status/summary.json")).json()["incidents"]
    assert (incident["name"], incident["status"], incident["resolved_at"]) == ("First.", "investigating", None)
    assert [one["body"] for one in incident["incident_updates"]] == [TEXT, "First."]


async def test_maintenance_is_told_as_such_while_it_lasts(door: Door) -> None:
    store = store_of(door.gateway)
    await store.write(SwitchMaintenance(is_on=True))
    summary = (await door.http.get("/status/summary.json")).json()
    page = (await door.http.get("/status")).text
    badge = (await door.http.get("/status/badge.svg")).text
    await store.write(SwitchMaintenance(is_on=False))
    assert summary["status"]["indicator"] == "maintenance"
    assert {one["status"] for one in summary["components"]} == {"under_maintenance"}
    (maintenance,) = summary["scheduled_maintenances"]
    assert (maintenance["status"], maintenance["scheduled_for"]) == ("in_progress", maintenance["started_at"])
    assert "In maintenance" in page
    assert "status: maintenance" in badge
    assert ": over</li>" in (await door.http.get("/status")).text


async def test_the_history_is_a_feed_of_whole_entries(door: Door) -> None:
    async with told(door, TEXT):
        pass
    answer = await door.http.get("/status/history.atom")
    assert answer.headers["content-type"] == "application/atom+xml; charset=utf-8"
    space = {"": "http://www.w3.org/2005/Atom"}
    feed = Xml.fromstring(answer.text)
    newest = feed.findall("entry", space)[0]
    content = newest.findtext("content", "", space).splitlines()
    assert newest.findtext("title", "", space) == TEXT
    assert [line.partition(": ")[2] for line in content] == ["It is over.", TEXT]


@pytest.mark.parametrize("path", ["/status/summary.json", "/status/history.atom", "/status/badge.svg"])
async def test_who_has_an_answer_already_is_not_sent_it_again(door: Door, path: str) -> None:
    first = await door.http.get(path)
    assert first.headers["cache-control"] == "no-cache"
    tag = first.headers["etag"]
    for known in (tag, f'"x", W/{tag}', "*"):
        again = await door.http.get(path, headers={"if-none-match": known})
        assert (again.status_code, again.content, again.headers["etag"]) == (304, b"", tag)
    assert (await door.http.get(path, headers={"if-none-match": '"x"'})).status_code == 200


@pytest.mark.parametrize("path", ["/status/summary.json", "/status/history.atom", "/status/badge.svg"])
async def test_asked_for_the_head_alone_it_tells_the_same_without_the_body(door: Door, path: str) -> None:
    whole = await door.http.get(path)
    tag = whole.headers["etag"]
    head = await door.http.head(path)
    assert (head.status_code, head.content, head.headers["etag"]) == (200, b"", tag)
    assert head.headers["content-type"] == whole.headers["content-type"]
    known = await door.http.head(path, headers={"if-none-match": tag})
    assert (known.status_code, known.content, known.headers["etag"]) == (304, b"", tag)


@pytest.mark.parametrize("state", ["operational", "degraded", "down", "maintenance"])
async def test_the_badge_is_an_image_that_says_the_state_in_a_word(state: ComponentState) -> None:
    svg = Xml.fromstring(_badge(state))
    assert svg.tag == "{http://www.w3.org/2000/svg}svg"
    assert (svg.get("role"), svg.get("aria-label")) == ("img", f"status: {state}")
    words = [text.text for text in svg.iter("{http://www.w3.org/2000/svg}text")]
    assert words == ["status", state]


async def test_the_feed_of_the_history_has_what_atom_asks_for(door: Door) -> None:
    async with told(door, TEXT):
        pass
    atom = "{http://www.w3.org/2005/Atom}"
    feed = Xml.fromstring((await door.http.get("/status/history.atom")).text)
    entries = feed.findall(f"{atom}entry")
    for part in (feed, *entries):
        for name in ("id", "title", "updated"):
            (only,) = part.findall(f"{atom}{name}")
            assert only.text
        assert datetime.fromisoformat(part.findtext(f"{atom}updated", "")).tzinfo is not None
    assert feed.findtext(f"{atom}author/{atom}name")
    assert {link.get("rel") for link in feed.findall(f"{atom}link")} == {"self", "alternate"}
    ids = [entry.findtext(f"{atom}id") for entry in entries]
    assert len(set(ids)) == len(ids) > 0


async def test_an_open_page_is_told_of_a_change(door: Door) -> None:
    async with feed_of(door) as boards:
        assert TEXT not in await next_with(boards, 'id="board"')
        async with told(door, TEXT):
            board = await next_with(boards, '<p class="notice bad">')
            assert "A &lt;disk&gt; is full &amp; we change it." in board


async def test_a_feed_that_is_silent_says_so_now_and_then(door: Door, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pages, "_SILENCE_LOOKS", 1)
    async with door.http.stream("GET", "/status/live") as answer, asyncio.timeout(PATIENCE_S):
        assert ":" in [line async for line in _until_comment(answer)]


async def _until_comment(answer: httpx2.Response) -> AsyncIterator[str]:
    async for line in answer.aiter_lines():
        yield line
        if line == ":":
            return


async def test_one_address_has_so_many_feeds_and_one_that_many_share_any(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(pages, "_MOST_FEEDS", 1)
    one = {"x-forwarded-for": "203.0.113.7"}
    async with open_door(tmp_path, trusted_proxies=["127.0.0.1"]) as door:
        async with door.http.stream("GET", "/status/live", headers=one) as answer:
            await next_with(boards_in(answer), 'id="board"')
            assert (await door.http.get("/status/live", headers=one)).status_code == 429
            async with feed_of(door) as first, feed_of(door) as second:
                assert await next_with(first, 'id="board"') == await next_with(second, 'id="board"')
        await eventually(lambda: not door.gateway.lifecycle.in_flight)


async def test_feeds_end_when_the_gateway_does(tmp_path: Path) -> None:
    async with open_door(tmp_path) as door:
        async with feed_of(door) as boards:
            await next_with(boards, 'id="board"')
            door.gateway.lifecycle.begin_draining()
            async with asyncio.timeout(PATIENCE_S):
                assert [board async for board in boards] == []
        assert not door.errors


@pytest.mark.parametrize("path", ["", "/live", "/summary.json", "/history.atom", "/badge.svg"])
async def test_with_public_stats_off_there_is_none(tmp_path: Path, path: str) -> None:
    async with open_door(tmp_path, public_stats="off") as door:
        assert (await door.http.get(f"/status{path}")).status_code == 404


async def test_with_status_alone_nothing_is_told_of_models(tmp_path: Path) -> None:
    async with open_door(tmp_path, public_stats="status", incident="Planned work.", models=MODELS) as door:
        summary = (await door.http.get("/status/summary.json")).json()
        page = (await door.http.get("/status")).text
    assert [one["name"] for one in summary["components"]] == ["API", "MCP"]
    assert [one["name"] for one in summary["incidents"]] == ["Planned work."]
    assert "Planned work." in page
    assert "free/tiny" not in page
    assert "first token" not in page


async def test_bars_are_runs_of_days_of_one_kind() -> None:
    days = [None, None, SeenMinutes(10), SeenMinutes(1000, 0, 5), SeenMinutes(10, 1, 0), SeenMinutes(10, 0, 5)]
    assert list(_runs(days)) == [
        ("unseen", "M0 14h7"), ("full", "M8 14h3"), ("most", "M12 14h7"), ("less", "M20 14h3"),
    ]  # fmt: skip
    shown = ShownComponent(Component("a", "a", "down"), ComponentPast(days, 0.9999999, 0.5), 120)
    assert _described(shown) == "99.999 % up, 3 days with trouble"
    assert _of_late(shown) == "50.000 % up in 24 hours, first token after 120 ms"
    assert _of_late(replace(shown, past=ComponentPast(days, 0.9, None))) == "first token after 120 ms"


async def test_of_many_models_those_that_do_not_work_are_shown() -> None:
    states: list[ComponentState] = [*["operational"] * 60, "down"]  # type: ignore[list-item]
    many = [Component(str(number), "", state) for number, state in enumerate(states)]
    shown = _chosen(many)
    assert len(shown) == 50
    assert [one.id for one in shown][:4] == ["0", "1", "60", "2"]


async def test_a_state_is_made_once_for_all_who_ask_at_once(door: Door, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("http_api.status._FRESH_MS", 500)
    now_ms = [1_900_000_000_000]
    activity = Activity(lambda: now_ms[0])
    activity.note(recorded(now_ms[0], first_token_ms=7))
    status = StatusDoor(
        door.gateway.board, door.gateway.notices, activity, lambda: now_ms[0], base_url="", is_full=True
    )
    first = status.status()
    now_ms[0] += 499
    assert status.status() is first
    now_ms[0] += 1
    second = status.status()
    assert second is not first
    assert (second.changed_at_ms, second.first_token_ms) == (1_900_000_000_000, 7)
