"""The console's pages for administrators: what they change is noted as theirs, and nobody else finds them."""

import re
from collections.abc import AsyncIterator
from dataclasses import dataclass

import httpx2
import pytest
import pytest_asyncio

from http_api.app import pages_in
from tests.serving import Door, bearer, open_door

pytestmark = pytest.mark.asyncio(loop_scope="module")
ACCOUNTS = "/console/admin/accounts"
AUDIT = "/console/admin/audit"
HOSTILE = "<script>alert(1)</script>"


@dataclass(frozen=True, slots=True)
class Administration:
    """A gateway, its administrator's token, and an account that they see to."""

    door: Door
    token: str
    account_id: str

    async def get(self, path: str) -> httpx2.Response:
        return await self.door.http.get(path, headers=bearer(self.token))

    async def send(self, path: str, **fields: str) -> httpx2.Response:
        return await self.door.http.post(path, data=fields, headers=bearer(self.token))

    @property
    def page(self) -> str:
        return f"{ACCOUNTS}/{self.account_id}"


@pytest_asyncio.fixture(loop_scope="module", scope="module")
async def door(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Door]:
    async with open_door(tmp_path_factory.mktemp("admin")) as door:
        yield door
        await door.nothing_is_left()


@pytest_asyncio.fixture(loop_scope="module")
async def admin(door: Door) -> Administration:
    return Administration(door, await door.person(is_administrator=True), await door.account())


async def test_nobody_but_administrators_finds_any_of_their_pages_and_forms(door: Door) -> None:
    rows = pages_in(door.gateway, door.mcp_door, base_url=door.url)
    admins = [(row.method, row.path) for row in rows if row.path.startswith("/console/admin/")]
    account_id = await door.account()
    outsiders = [await door.person(account_id), await door.person(account_id, role="member")]
    assert len(admins) >= 9
    for method, path in admins:
        there = path.replace("{account_id}", account_id)
        for token in outsiders:
            told = await door.http.request(method, there, headers=bearer(token))
            assert (told.status_code, "There is no such page." in told.text) == (404, True), (method, there)
        nobody = await door.http.request(method, there)
        assert (nobody.status_code, "/console/sign-in" in nobody.headers["location"]) == (303, True), (method, there)
        key = await door.http.request(method, there, headers=bearer(await door.key(account_id)))
        assert key.status_code in (303, 404), (method, there)
    assert "Audit log" not in (await door.get("/console/keys", outsiders[0])).text


async def test_an_account_is_made_and_found_by_its_name_which_is_text(admin: Administration) -> None:
    made = await admin.send(ACCOUNTS, name=HOSTILE)
    assert made.status_code == 303, made.text
    page = (await admin.get(made.headers["location"])).text
    assert HOSTILE not in page
    assert "&lt;script&gt;alert(1)" in page
    found = (await admin.get(f"{ACCOUNTS}?name=%3Cscript%3Ealert(1)%3C/script%3E&active=")).text
    assert re.findall(r"<code>(acc_\w+)", found) == [made.headers["location"].rpartition("/")[2]]
    none = (await admin.get(f"{ACCOUNTS}?name=nobody&active=true")).text
    assert "There is no such account." in none
    refused = await admin.send(ACCOUNTS, name="x" * 1000)
    assert (refused.status_code, 'id="name-error"' in refused.text) == (400, True)


async def test_accounts_and_changes_are_read_page_by_page(admin: Administration) -> None:
    await admin.send(ACCOUNTS, name="one more")
    for path, ids in ((f"{ACCOUNTS}?limit=1", r"<code>(acc_\w+)"), (f"{AUDIT}?limit=1", r'<time datetime="([^"]+)"')):
        first = (await admin.get(path)).text
        (older,) = re.findall(r'href="(\?[^"]+)" rel="next"', first)
        second = await admin.get(path.partition("?")[0] + older.replace("&amp;", "&"))
        assert second.status_code == 200
        assert len(re.findall(ids, first)) == 1
    assert (await admin.get(f"{AUDIT}?cursor=nonsense")).status_code == 400


async def test_a_change_counts_and_is_in_the_audit_log_as_the_administrator_s(admin: Administration) -> None:
    page = (await admin.get(admin.page)).text
    assert 'name="requests_per_minute"' in page
    changed = await admin.send(
        admin.page, name="Ada & Co", margin_percent="12.5", zone="Europe/Berlin", requests_per_minute="30", proxy="true"
    )
    assert (changed.status_code, changed.headers["location"]) == (303, f"{admin.page}?changed=1")
    told = (await admin.door.get(f"/v1/admin/accounts/{admin.account_id}", admin.token)).json()
    assert (told["name"], told["margin_percent"], told["zone"]) == ("Ada & Co", "12.5", "Europe/Berlin")
    assert (told["limits"]["requests_per_minute"], told["limits"]["in_flight"]) == (30, "default")
    assert "Done; it counts" in (await admin.get(changed.headers["location"])).text
    me = (await admin.door.get("/auth/me", admin.token)).json()
    audit = (await admin.get(f"{AUDIT}?subject={admin.account_id}&by={me['id']}&action=&since=&until=")).text
    assert "account." in audit
    assert me["id"] in audit
    nothing = (await admin.get(f"{AUDIT}?subject={admin.account_id}&by=nobody")).text
    assert "No change was noted" in nothing


async def test_what_is_wrong_is_told_at_its_field_and_changes_nothing(admin: Administration) -> None:
    for fields, field in (({"margin_percent": "much"}, "margin_percent"), ({"zone": "Nowhere/Town"}, "zone")):
        refused = await admin.send(admin.page, name="never", **fields)
        assert (refused.status_code, f'id="{field}-error"' in refused.text) == (400, True)
    for fields, field in (
        ({"kind": "gift", "amount_usd": "1"}, "kind"),
        ({"kind": "credit", "amount_usd": "1", "expires_in_days": "6"}, "expires_in_days"),
        ({"kind": "grant", "amount_usd": "a lot"}, "amount_usd"),
        ({"kind": "grant", "amount_usd": "1", "expires_in_days": "1.5"}, "expires_in_days"),
        ({"kind": "grant", "amount_usd": "1", "expires_in_days": "0"}, "expires_in_days"),
    ):
        refused = await admin.send(f"{admin.page}/entries", **fields)
        assert refused.status_code == 400, field
    told = (await admin.door.get(f"/v1/admin/accounts/{admin.account_id}", admin.token)).json()
    assert told["name"] != "never"
    assert (await admin.get(f"{ACCOUNTS}/acc_nobody")).status_code == 404


async def test_money_is_entered_once_for_each_form(admin: Administration) -> None:
    before = await admin.door.balance_nano(admin.account_id)
    for kind, amount in (("credit", "5.00"), ("grant", "2.00"), ("adjustment", "-1.00")):
        fields = {"kind": kind, "amount_usd": amount, "once": f"form-of-{kind}", "note": HOSTILE}
        if kind == "grant":
            fields["expires_in_days"] = "30"
        for _ in range(2):
            entered = await admin.send(f"{admin.page}/entries", **fields)
            assert entered.status_code == 303, entered.text
    assert await admin.door.balance_nano(admin.account_id) == before + 6_000_000_000
    audit = (await admin.get(f"{AUDIT}?subject={admin.account_id}")).text
    assert HOSTILE not in audit


async def test_automatic_top_ups_are_switched_off(admin: Administration) -> None:
    answer = await admin.send(f"{admin.page}/auto-topup-off")
    assert answer.status_code == 303, answer.text
    told = await admin.door.get(f"/v1/admin/accounts/{admin.account_id}/billing/auto-topup", admin.token)
    assert told.json()["enabled"] is False


async def test_the_audit_log_is_a_file_of_all_that_is_found(admin: Administration) -> None:
    await admin.send(ACCOUNTS, name="filed")
    for suffix, media_type in (("csv", "text/csv; charset=utf-8"), ("jsonl", "application/x-ndjson")):
        file = await admin.get(f"{AUDIT}.{suffix}?action=account.create")
        api = await admin.door.get(f"/v1/admin/audit?action=account.create&format={suffix}", admin.token)
        assert (file.headers["content-type"], file.text) == (media_type, api.text)
        assert "filed" in file.text
