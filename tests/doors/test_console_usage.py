"""Usage and requests on pages of the console: the sums of bars, cards, files and the API are one, and links lead on."""

import csv
import io
import re
from collections.abc import AsyncIterator
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from html import unescape
from typing import Any, NamedTuple
from zoneinfo import ZoneInfo

import orjson
import pytest
import pytest_asyncio

from mcp_gateway.core.ids import now_ms
from mcp_gateway.core.inference.parts import Call
from mcp_gateway.core.observe.records import NoteFailedAttempt
from tests.databases import store_of
from tests.recorded import recorded, write_records
from tests.serving import FREE, PRICED, Door, open_door

pytestmark = pytest.mark.asyncio(loop_scope="module")
MODELS = [FREE | {"backend_model": "demo/echo"}, PRICED | {"backend_model": "demo/echo"}]
HOSTILE = "<script>alert(1)</script>"


class Account(NamedTuple):
    door: Door
    token: str
    key_id: str
    account_id: str

    async def page(self, path: str, status: int = 200, *, is_part: bool = False) -> str:
        sent = {"authorization": f"Bearer {self.token}"} | ({"x-part": "1"} if is_part else {})
        answer = await self.door.http.get(path, headers=sent)
        assert answer.status_code == status, answer.text
        return answer.text


@pytest_asyncio.fixture(loop_scope="module", scope="module")
async def holder(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Account]:
    """With three requests that were paid, two that were free, and one that was refused."""
    async with open_door(tmp_path_factory.mktemp("usage"), models=MODELS) as door:
        account_id = await door.account("5")
        key, raw = await door.gateway.keys.create(account_id, name=HOSTILE)
        for model in (PRICED["id"],) * 3 + (FREE["id"],) * 2 + ("none/such",):
            await door.chat(raw, model=model)
        yield Account(door, await door.person(account_id), key.id, account_id)
        await door.nothing_is_left()


def card(page: str, name: str) -> Decimal:
    return Decimal(re.findall(rf'<dt>{name}</dt><dd><data value="([^"]+)"', page)[0])


def bars(page: str) -> Decimal:
    """What the bars add up to, as they are read out."""
    tips = (unescape(tip) for tip in re.findall(r'data-tip="([^"]+)"', page))
    return sum((Decimal(re.findall(r"total \$?([\d.,]+)", tip)[0].replace(",", "")) for tip in tips), Decimal(0))


@pytest.mark.parametrize("by", ["model", "key", "surface", "status"])
async def test_bars_cards_files_and_the_api_tell_one_sum(holder: Account, by: str) -> None:
    told = orjson.loads(await holder.page("/v1/usage"))["totals"]
    for span in ("24h", "7d", "month"):
        page = await holder.page(f"/console/usage?range={span}&by={by}&show=cost")
        assert card(page, "Cost") == bars(page) == Decimal(told["cost_usd"]) > 0
        assert card(page, "Requests") == told["requests"]
        assert bars(await holder.page(f"/console/usage?range={span}&by={by}&show=requests")) == told["requests"]
        assert bars(await holder.page(f"/console/usage?range={span}&by={by}&show=tokens")) == told["total_tokens"]
        rows = list(
            csv.DictReader(io.StringIO(await holder.page(f"/console/usage/export?range={span}&by={by}&format=csv")))
        )
        assert sum(Decimal(row["cost_usd"]) for row in rows) == Decimal(told["cost_usd"])
        lines = (await holder.page(f"/console/usage/export?range={span}&by={by}&format=jsonl")).splitlines()
        assert sum(orjson.loads(line)["requests"] for line in lines) == told["requests"]


async def test_errors_are_those_of_the_requests(holder: Account) -> None:
    page = await holder.page("/console/usage?show=errors&range=7d")
    assert card(page, "Errors") == bars(page) == 1
    links = [unescape(link) for link in re.findall(r'class="bar" data-tip="[^"]*" href="([^"]+)"', page)]
    found = [re.findall(r"/console/requests/(req_\w+)", await holder.page(link)) for link in links]
    assert len([one for some in found for one in some]) == 1
    assert "least_status=400" in links[0]
    shown = await holder.page("/console/requests?least_status=400")
    assert 'value="400" checked' in shown
    assert "least_status=400" in unescape(re.findall(r'href="(/console/requests/export[^"]+)"', shown)[0])


async def test_keys_are_told_by_their_names_as_text(holder: Account) -> None:
    page = await holder.page("/console/usage?by=key")
    assert HOSTILE not in page
    assert HOSTILE in unescape(page)
    assert f"key={holder.key_id}" in page


async def test_an_empty_time_says_so_and_a_wrong_one_says_what_to_change(holder: Account) -> None:
    assert "Nothing was asked for" in await holder.page("/console/usage?since=2001-01-01&until=2001-01-31")
    assert "takes a date" in await holder.page("/console/usage?since=yesterday", 400)
    assert "later than" in await holder.page("/console/usage?since=2001-02-01&until=2001-01-01", 400)
    assert "takes a date" in await holder.page("/console/usage?until=9999-12-31", 400)
    assert "days or fewer" in await holder.page("/console/usage?since=2001-01-01&until=2009-01-01", 400)


@pytest.mark.parametrize("span", ["24h", "7d", "30d", "month"])
@pytest.mark.parametrize("by", ["model", "key", "surface", "status"])
async def test_links_lead_to_the_very_requests_that_are_summed(holder: Account, span: str, by: str) -> None:
    page = await holder.page(f"/console/usage?range={span}&by={by}&show=requests")
    links = [unescape(link) for link in re.findall(r'class="button second" href="(/console/requests\?[^"]+)"', page)]
    found = [set(re.findall(r"/console/requests/(req_\w+)", await holder.page(link))) for link in links]
    assert all(found)
    without_model = 1 if by == "model" else 0
    assert sum(map(len, found)) == card(page, "Requests") - without_model


@pytest.mark.parametrize("span", ["24h", "month"])
async def test_bars_lead_to_the_very_requests_that_they_sum(holder: Account, span: str) -> None:
    page = await holder.page(f"/console/usage?range={span}&show=requests")
    drawn = re.findall(r'class="bar" data-tip="([^"]+)" href="([^"]+)"', page)
    assert [unescape(link) for _, link in drawn] == [
        unescape(link) for link in re.findall(r'<th scope="row"><a href="([^"]+)"', page)
    ][::-1]
    for tip, link in drawn:
        count = int(re.findall(r"total (\d+)", tip)[0])
        if count or (tip, link) == drawn[0]:
            found = await holder.page(unescape(link))
            assert len(set(re.findall(r"/console/requests/(req_\w+)", found))) == count
    leads = re.findall(r'<li data-with="([^"]+)"', page)
    last = unescape([link for tip, link in drawn if "total 0" not in tip][-1])
    found = await holder.page(f"{last}&{unescape(leads[0])}")
    assert len(set(re.findall(r"/console/requests/(req_\w+)", found))) in (2, 3)


async def test_several_models_and_keys_are_summed_at_once_and_led_on(holder: Account) -> None:
    both = f"model={PRICED['id']}&model={FREE['id']}&key={holder.key_id}"
    for chosen, count in ((both, 5), (f"model={FREE['id']}", 2), ("model=a//b", 0), ("key=key_none", 0)):
        page = await holder.page(f"/console/usage?range=7d&show=requests&{chosen}")
        told = orjson.loads(await holder.page(f"/v1/usage?{chosen}&latency=true"))
        assert card(page, "Requests") == bars(page) == told["totals"]["requests"] == count
        assert told["latency"]["requests"] == count
        lines = await holder.page(f"/console/usage/export?range=7d&format=jsonl&{chosen}")
        assert sum(orjson.loads(line)["requests"] for line in lines.splitlines()) == count
        if not count:
            continue
        assert page.count(" checked>") == chosen.count("=")
        link = unescape(re.findall(r'class="bar" data-tip="[^"]+" href="([^"]+)"', page)[-1])
        found = await holder.page(link)
        assert len(set(re.findall(r"/console/requests/(req_\w+)", found))) == count
        again = unescape(re.findall(r'data-again="([^"]+)"', found)[0])
        assert again.count("model=") == chosen.count("model=")


async def test_the_page_tells_how_long_answers_took(holder: Account) -> None:
    page = await holder.page("/console/usage?range=7d")
    assert re.search(r"<dt>Answer in all</dt><dd>\d+ ms<span[^>]+>median; 95 of 100 within \d+ ms", page)
    assert "latency" not in orjson.loads(await holder.page("/v1/usage"))


async def test_a_page_of_ninety_days_is_small(holder: Account) -> None:
    for by in ("model", "key"):
        assert len(await holder.page(f"/console/usage?range=90d&by={by}")) < 60_000


async def test_times_of_a_filter_stand_in_their_fields_as_moments(holder: Account) -> None:
    page = await holder.page("/console/requests?since=2026-01-31&until=2026-01-31")
    assert re.findall(r'type="datetime-local" value="([^"]*)"', page) == ["2026-01-31T00:00", "2026-02-01T00:00"]


async def test_a_script_is_given_the_part_that_changes(holder: Account) -> None:
    page = await holder.page("/console/usage?show=tokens", is_part=True)
    assert page.strip().startswith('<div id="usage">')


async def test_requests_are_listed_filtered_and_told_one_by_one(holder: Account) -> None:
    page = await holder.page("/console/requests")
    ids = re.findall(r"/console/requests/(req_\w+)", page)
    assert len(ids) == 6
    assert HOSTILE not in page
    assert "model_not_found" in page
    of_one = await holder.page(f"/console/requests?model={PRICED['id']}&status=200&key={holder.key_id}")
    assert len(re.findall(r"/console/requests/(req_\w+)", of_one)) == 3
    request = await holder.page(f"/console/requests/{ids[0]}")
    assert ids[0] in request
    await holder.page("/console/requests/req_none", 404)


async def test_a_list_goes_on_behind_its_last_row_with_the_same_filter(holder: Account) -> None:
    page = await holder.page("/console/requests?limit=4&status=200")
    older = unescape(re.findall(r'href="([^"]+)" rel="next"', page)[0])
    assert "status=200" in older
    rest = await holder.page(f"/console/requests{older}")
    first, second = (set(re.findall(r"/console/requests/(req_\w+)", text)) for text in (page, rest))
    assert (len(first), len(second), first & second) == (4, 1, set())


async def test_a_filter_by_script_brings_links_to_the_files_of_what_it_filters(holder: Account) -> None:
    part = await holder.page("/console/requests?status=200&model=&key=", is_part=True)
    assert re.findall(r'href="([^"]+format=csv)"', unescape(part)) == ["/console/requests/export?status=200&format=csv"]


async def test_the_file_has_what_the_filter_has(holder: Account) -> None:
    text = await holder.page(f"/console/requests/export?model={PRICED['id']}&format=csv")
    assert len(list(csv.DictReader(io.StringIO(text)))) == 3
    await holder.page("/console/requests/export", 400)


async def test_what_is_not_one_s_own_is_not_there(holder: Account) -> None:
    stranger = holder._replace(token=await holder.door.person())
    page = await holder.page("/console/requests")
    (request_id, *_) = re.findall(r"/console/requests/(req_\w+)", page)
    await stranger.page(f"/console/requests/{request_id}", 404)
    assert "req_" not in re.sub(r"<header.*?</header>", "", await stranger.page("/console/requests"))
    told: Any = card(await stranger.page("/console/usage"), "Requests")
    assert told == 0


async def test_a_list_holds_still_and_tells_how_many_have_come_since(holder: Account) -> None:
    page = await holder.page("/console/requests?status=200")
    again = unescape(re.findall(r'data-again="([^"]+)"', page)[0])
    assert "Look for new ones" in page
    assert "0 in flight" in page
    assert "Look for new ones" in await holder.page(again, is_part=True)
    key, raw = await holder.door.gateway.keys.create(holder.account_id, name="another")
    for model in (FREE["id"], "none/such", FREE["id"]):
        await holder.door.chat(raw, model=model)
    news = await holder.page(again, is_part=True)
    assert news.strip().startswith('<p id="newer"')
    assert ">2 new<" in news
    here = unescape(re.findall(r'href="([^"]+)"', news)[0])
    assert here == "/console/requests?status=200"
    found = await holder.page(f"{here}&key={key.id}")
    assert len(set(re.findall(r"/console/requests/(req_\w+)", found))) == 2
    older = re.findall(r'href="([^"]+)" rel="next"', await holder.page("/console/requests?limit=1"))[0]
    assert "data-again" not in await holder.page(f"/console/requests{unescape(older)}")


@pytest.mark.parametrize("zone", ["Asia/Kolkata", "America/Los_Angeles", "Europe/Berlin", "Australia/Lord_Howe"])
async def test_days_of_a_zone_tell_the_same_sums_and_lead_to_the_same_requests(holder: Account, zone: str) -> None:
    """Over a change of clocks: each request is in one day, the one in which its hour of UTC begins."""
    store, first = store_of(holder.door.gateway), datetime(2025, 10, 24, tzinfo=UTC)
    account_id = await holder.door.account()
    other = holder._replace(account_id=account_id, token=await holder.door.person(account_id))
    hours = range(0, 24 * 12, 5)
    for hour in hours:
        at = first + timedelta(hours=hour, minutes=hour % 60)
        cost_nano = 100_003 * (hour + 1)
        await write_records(store, recorded(int(at.timestamp() * 1000), account_id=account_id, cost_nano=cost_nano))
    sent = {"authorization": f"Bearer {other.token}"}
    chosen = await holder.door.http.patch("/v1/auth/me", headers=sent, json={"zone": zone})
    assert chosen.json()["zone"] == zone
    asked = "since=2025-10-20&until=2025-11-10"
    page = await other.page(f"/console/usage?{asked}&show=cost")
    told = orjson.loads(await other.page(f"/v1/usage?{asked}&zone={zone}&group_by=day"))
    days = {row["day"]: row for row in told["data"]}
    exact = sum(100_003 * (hour + 1) for hour in hours)
    assert card(page, "Cost") == bars(page) == Decimal(told["totals"]["cost_usd"]) == Decimal(exact) / 10**9
    assert sum(Decimal(row["cost_usd"]) for row in days.values()) == Decimal(exact) / 10**9
    text = await other.page(f"/console/usage/export?{asked}&format=csv")
    assert sum(Decimal(row["cost_usd"]) for row in csv.DictReader(io.StringIO(text))) == Decimal(exact) / 10**9
    assert f"in {zone}" in page
    assert ("Days begin at 00:30 there" in page) == (zone == "Asia/Kolkata")
    counted = dict.fromkeys(days, 0)
    for hour in hours:
        counted[f"{(first + timedelta(hours=hour)).astimezone(ZoneInfo(zone)):%Y-%m-%d}"] += 1
    assert counted == {day: row["requests"] for day, row in days.items()}
    rows = re.findall(r'<th scope="row"><a href="([^"]+)">([\d-]+)</a>', page)
    for link, day in rows[::3]:
        found = await other.page(f"{unescape(link)}&limit=100")
        assert len(set(re.findall(r"/console/requests/(req_\w+)", found))) == counted.get(day, 0), day


async def test_a_zone_is_chosen_on_the_account_s_page_and_titles_times(holder: Account) -> None:
    person = holder._replace(token=await holder.door.person(holder.account_id))
    sent = {"authorization": f"Bearer {person.token}"}
    wrong = await holder.door.http.post("/console/account/zone", headers=sent, data={"zone": "Mars/Olympus"})
    assert (wrong.status_code, "name one as in Europe/Berlin" in wrong.text) == (400, True)
    for zone, title in (("Asia/Kolkata", "Asia/Kolkata"), ("", None)):
        chosen = await holder.door.http.post("/console/account/zone", headers=sent, data={"zone": zone})
        assert chosen.status_code == 303
        times = re.findall(r"<time [^>]+>", await person.page("/console/requests"))
        assert times
        assert all(("title=" in time) == (title is not None) for time in times)
        assert all(title in time for time in times if title)
    hours = await person.page("/console/usage?range=24h")
    assert "each hour in UTC" in hours
    unknown = await holder.door.http.get("/v1/usage?zone=Mars/Olympus", headers=sent)
    assert (unknown.status_code, unknown.json()["error"]["param"]) == (400, "zone")


async def test_a_request_that_runs_is_counted_and_new_once_it_has_ended(holder: Account) -> None:
    gateway = holder.door.gateway
    caller = await gateway.authenticator.identify(holder.token)
    with await gateway.inference.admit(caller, Call(gateway.new_id("req"), "http", "chat")):
        assert "1 in flight" in await holder.page("/console/requests")
    assert "0 in flight" in await holder.page("/console/requests")


async def test_a_request_tells_who_failed_before_and_what_to_do(holder: Account) -> None:
    store, at_ms = store_of(holder.door.gateway), now_ms()
    record = recorded(at_ms, account_id=holder.account_id, http_status=502, error_code="backend_error")
    await write_records(store, record)
    for number, backend in enumerate(("vllm-7", "vllm-8"), 1):
        await store.write(NoteFailedAttempt(holder.account_id, record.id, number, backend, "connect_failed"))
    assert "attempt 3" in await holder.page("/console/requests?status=502")
    page = await holder.page(f"/console/requests/{record.id}")
    assert "vllm-7: connect_failed" in page
    assert "choose another model" in page
    told = orjson.loads(await holder.page(f"/v1/requests/{record.id}"))["failed_attempts"]
    assert [one["backend"] for one in told] == ["vllm-7", "vllm-8"]
