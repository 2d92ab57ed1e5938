"""What holds of every page of the console: who is let in, what another account's ids lead to, weight, text, times."""

import re
from collections.abc import AsyncIterator
from dataclasses import dataclass
from typing import Any

import httpx2
import pytest
import pytest_asyncio

from http_api.app import pages_in
from http_api.operations import Access, AnyOperation
from tests.serving import PRICED, Door, bearer, open_door

pytestmark = pytest.mark.asyncio(loop_scope="module")
HOSTILE = "<script>alert(1)</script>"
_FILES = (".csv", ".json", ".jsonl", "/export", "/ledger", "/live", ".atom", ".svg")
_MOST_BYTES = 60_000


@dataclass(frozen=True, slots=True)
class Visit:
    """A gateway, its administrator, and what there is to see of their account, or of another."""

    door: Door
    token: str
    ids: dict[str, str]

    def path_of(self, row: AnyOperation) -> str:
        return re.sub(r"{(\w+)}", lambda name: self.ids[name[1]], row.path)

    async def get(self, path: str) -> httpx2.Response:
        return await self.door.http.get(path, headers=bearer(self.token))


@pytest_asyncio.fixture(loop_scope="module", scope="module")
async def door(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Door]:
    odd = PRICED | {"id": f"odd/{HOSTILE}", "name": HOSTILE, "description": HOSTILE, "backend_model": "demo/echo"}
    async with open_door(tmp_path_factory.mktemp("pages"), models=[odd], publish_discovered=False) as door:
        yield door
        await door.nothing_is_left()


async def ids_of(door: Door, account_id: str) -> dict[str, str]:
    key, raw = await door.gateway.keys.create(account_id, name=HOSTILE)
    answer = await door.chat(raw, model=f"odd/{HOSTILE}")
    (person, *_) = await door.gateway.sign_in.people.page(before_id=None, limit=1, account_id=account_id, email=None)
    named = {"account_id": account_id, "key_id": key.id, "user_id": person.id}
    return named | {
        "request_id": answer.headers["x-request-id"],
        "session_id": "ses_none",
        "budget_id": "bud_none",
        "month": "2026-01",
    }


@pytest_asyncio.fixture(loop_scope="module", scope="module")
async def visit(door: Door) -> Visit:
    account_id = await door.account("5")
    token = await door.person(account_id, is_administrator=True)
    return Visit(door, token, await ids_of(door, account_id))


def rows_of(door: Door) -> list[AnyOperation]:
    rows = pages_in(door.gateway, door.mcp_door, base_url=door.url)
    return [row for row in rows if row.method in ("GET", "POST") and "static" not in row.path]


async def test_without_a_session_all_but_public_pages_lead_to_where_people_sign_in(door: Door, visit: Visit) -> None:
    closed = [row for row in rows_of(door) if row.access in (Access.PERSON, Access.ADMINISTRATOR)]
    assert len(closed) > 40
    for row in closed:
        answer = await door.http.request(row.method, visit.path_of(row))
        assert answer.status_code in (303, 401), row.path
        assert answer.headers["location"].startswith("/console/sign-in"), row.path


async def test_what_is_another_account_s_is_not_there(door: Door, visit: Visit) -> None:
    stranger = Visit(door, await door.person(await door.account()), visit.ids)
    named = ("{key_id}", "{request_id}", "{user_id}", "{session_id}")
    rows = [row for row in rows_of(door) if any(name in row.path for name in named)]
    assert len(rows) > 12
    for row in rows:
        path = stranger.path_of(row)
        form: dict[str, Any] = {"data": {"name": "mine", "expires_old_in_s": "0"}} if row.method == "POST" else {}
        answer = await door.http.request(row.method, path, headers=bearer(stranger.token), **form)
        assert answer.status_code == 404, (row.method, path, answer.text[-600:])
    assert (await door.gateway.keys.get(visit.ids["key_id"])).revoked_at_ms is None


async def test_every_page_is_small_shows_text_as_text_and_says_of_times_that_they_are_utc(
    door: Door, visit: Visit
) -> None:
    weights, seen = {}, 0
    loaded: dict[str, int] = {}
    for row in rows_of(door):
        if row.method != "GET" or row.path.endswith(_FILES):
            continue
        path = visit.path_of(row)
        answer = await visit.get(path)
        if answer.status_code != 200:
            assert answer.status_code == 303, (path, answer.status_code)
            continue
        page = answer.text
        assert "<script>alert" not in page, path
        assert answer.headers["cache-control"] == "no-store", path
        times = re.findall(r"<time[^>]*>[^<]*</time>", page)
        assert all(re.fullmatch(r'<time datetime="[^"]+\+00:00"[^>]*>[-\d]+ [\d:]+ UTC</time>', one) for one in times)
        seen += len(times)
        for file in re.findall(r'(?:href|src)="(/console/static/[^"]+)"', page):
            if file not in loaded:
                loaded[file] = len((await visit.get(file)).content)
        files = set(re.findall(r'(?:href|src)="(/console/static/[^"]+)"', page))
        weights[path] = len(answer.content) + sum(loaded[file] for file in files)
    assert len(weights) > 20
    assert seen > 10
    assert {path: weight for path, weight in weights.items() if weight > _MOST_BYTES} == {}
