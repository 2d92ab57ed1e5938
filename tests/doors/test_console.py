"""The console without a browser: who sees which page, what a form does, and what is told once."""

import re
from collections.abc import AsyncIterator, Callable, Mapping
from html import escape, unescape
from itertools import count
from typing import Any
from urllib.parse import parse_qs, urlsplit

import httpx2
import pytest
import pytest_asyncio

from mcp_gateway.core.identity.passwords import Passwords
from tests.serving import Door, open_door

pytestmark = pytest.mark.asyncio(loop_scope="module")

PASSWORD = "a quiet river in May"
_numbers = count(1)


@pytest_asyncio.fixture(loop_scope="module", scope="module")
async def door(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Door]:
    async with open_door(tmp_path_factory.mktemp("console"), users={"registration": "open"}) as door:
        door.gateway.sign_in._passwords.close()
        door.gateway.sign_in._passwords = Passwords(time_cost=1, memory_kib=8)
        yield door
        await door.nothing_is_left()


class Reader:
    """A browser without scripts, of somebody who has just registered."""

    def __init__(self, door: Door, email: str) -> None:
        self.door = door
        self.email = email
        self.cookie = ""

    async def get(self, path: str, **headers: str) -> httpx2.Response:
        return await self.door.http.get(path, headers=self._headers(headers))

    async def send(
        self, path: str, _headers: dict[str, str] | None = None, **fields: str | list[str]
    ) -> httpx2.Response:
        named = {name.replace("__", "."): value for name, value in fields.items()}
        answer = await self.door.http.post(path, data=named, headers=self._headers(_headers or {}))
        for name, value in answer.headers.multi_items():
            if name == "set-cookie":
                self.cookie = value.partition(";")[0]
        return answer

    def _headers(self, more: Mapping[str, str]) -> dict[str, str]:
        cookie = {"cookie": self.cookie} if self.cookie else {}
        return cookie | {"sec-fetch-site": "same-origin"} | dict(more)


@pytest_asyncio.fixture(loop_scope="module")
async def reader(door: Door) -> Reader:
    reader = Reader(door, f"reader{next(_numbers)}@example.com")
    here = {"counted_as": "127.0.0.1", "agent": "tests", "address": "127.0.0.1"}
    signed = await door.gateway.sign_in.register(reader.email, PASSWORD, secret=None, **here)
    reader.cookie = f"__Host-gw_console={signed.cookie}"
    return reader


async def key_made(reader: Reader, **fields: Any) -> tuple[str, str]:
    """The id of a new key, and its secret as the page shows it."""
    answer = await reader.send("/console/keys", **fields)
    assert answer.status_code == 200, answer.text
    (raw,) = set(re.findall(r"gw_(?:live|test)_[\w-]{20,}", answer.text))
    listed = await reader.get("/console/keys")
    return re.findall(r"/console/keys/(key_\w+)", listed.text)[0], raw


# Who sees what


async def test_without_a_session_every_page_leads_to_the_one_where_people_sign_in(door: Door) -> None:
    for path in ("/console/keys", "/console/keys/new", "/console/keys/key_1?changed=1"):
        answer = await door.http.get(path)
        location = urlsplit(answer.headers["location"])
        assert (answer.status_code, location.path) == (303, "/console/sign-in")
        assert parse_qs(location.query)["next"] == [path]


async def test_who_registers_is_signed_in_and_is_told_at_its_field_what_is_wrong(door: Door) -> None:
    newcomer = Reader(door, "newcomer@example.com")
    refused = await newcomer.send("/console/register", email=newcomer.email, password="short")
    assert refused.status_code == 400
    assert 'id="password-error"' in refused.text
    answer = await newcomer.send("/console/register", email=newcomer.email, password=PASSWORD)
    assert (answer.status_code, answer.headers["location"]) == (303, "/console/keys"), answer.text
    assert newcomer.email in (await newcomer.get("/console/keys")).text
    taken = await newcomer.send("/console/register", email=newcomer.email, password=PASSWORD)
    assert taken.status_code == 409


async def test_a_password_is_chosen_by_a_secret_that_works_once(door: Door, reader: Reader) -> None:
    people = door.gateway.sign_in.people
    (person,) = await people.page(before_id=None, limit=2, account_id=None, email=reader.email)
    secret = (await people.password_secret(person.id)).raw
    assert secret in (await reader.get(f"/console/password?token={secret}")).text
    chosen = await reader.send("/console/password", token=secret, password="another river in June")
    assert "The password is set" in chosen.text
    again = await reader.send("/console/password", token=secret, password="another river in June")
    assert again.status_code >= 400


async def test_a_wrong_password_and_an_unknown_address_are_told_alike(door: Door, reader: Reader) -> None:
    stranger = Reader(door, "")
    wrong = await stranger.send("/console/sign-in", email=reader.email, password="another river in June")
    unknown = await stranger.send("/console/sign-in", email="nobody@example.com", password="another river in June")
    assert wrong.status_code == unknown.status_code == 401
    assert wrong.text.replace(reader.email, "") == unknown.text.replace("nobody@example.com", "")
    assert "another river" not in wrong.text


async def test_who_signs_in_goes_on_where_they_were_and_nowhere_else(door: Door, reader: Reader) -> None:
    for wanted, found in (
        ("/console/keys?state=live", "/console/keys?state=live"),
        ("//evil.example", "/console/keys"),
    ):
        again = Reader(door, reader.email)
        answer = await again.send("/console/sign-in", email=reader.email, password=PASSWORD, next=wanted)
        assert (answer.status_code, answer.headers["location"]) == (303, found)
        assert (await again.get("/console/keys")).status_code == 200


async def test_who_has_to_register_first_goes_on_where_they_were_and_nowhere_else(door: Door) -> None:
    wanted = "/console/authorize?client_id=a&state=b"
    for path, other in (("sign-in", "register"), ("register", "sign-in")):
        page = (await door.http.get(f"/console/{path}", params={"next": wanted})).text
        (link,) = re.findall(rf'href="(/console/{other}\?[^"]*)"', page)
        assert parse_qs(urlsplit(unescape(link)).query)["next"] == [wanted]
        assert f'name="next" value="{escape(wanted)}"' in page
    for going_on, found in ((wanted, wanted), ("//evil.example", "/console/keys")):
        newcomer = Reader(door, f"newcomer{next(_numbers)}@example.com")
        refused = await newcomer.send("/console/register", email=newcomer.email, password="short", next=going_on)
        assert f'name="next" value="{escape(going_on)}"' in refused.text
        answer = await newcomer.send("/console/register", email=newcomer.email, password=PASSWORD, next=going_on)
        assert (answer.status_code, answer.headers["location"]) == (303, found)


async def test_who_signs_out_is_out_with_the_cookie_that_was(reader: Reader) -> None:
    before = reader.cookie
    assert (await reader.send("/console/sign-out")).headers["location"] == "/console/sign-in"
    reader.cookie = before
    assert (await reader.get("/console/keys")).status_code == 303


async def test_the_page_of_another_site_can_neither_read_nor_do_anything(reader: Reader) -> None:
    assert (await reader.send("/console/keys", {"sec-fetch-site": "cross-site"}, name="x")).status_code == 403
    assert (await reader.send("/console/keys", {"sec-fetch-site": "same-site"}, name="x")).status_code == 403
    assert "x</a>" not in (await reader.get("/console/keys")).text


async def test_every_answer_is_framed_by_nobody_and_kept_by_nobody(reader: Reader) -> None:
    for path in ("/console/keys", "/console/sign-in", "/console/nowhere", "/console"):
        answer = await reader.get(path)
        policy = answer.headers["content-security-policy"]
        assert "frame-ancestors 'none'" in policy
        assert "'unsafe" not in policy
        assert answer.headers["cache-control"] == "no-store"
        assert "text/html" in answer.headers.get("content-type", "text/html")


async def test_a_page_that_is_not_there_says_so_as_a_page(reader: Reader) -> None:
    answer = await reader.get("/console/nowhere/at/all")
    assert answer.status_code == 404
    assert "<h1>Not Found</h1>" in answer.text


# Files


async def test_what_pages_refer_to_is_kept_for_good_by_its_version(reader: Reader) -> None:
    page = (await reader.get("/console/keys")).text
    for path in set(re.findall(r'(?:href|src)="(/console/static/[^"]+)"', page)):
        answer = await reader.get(path)
        assert answer.status_code == 200
        assert "immutable" in answer.headers["cache-control"]
        old = await reader.get(re.sub(r"static/\w+/", "static/0123456789ab/", path))
        assert (old.content, "immutable" in old.headers.get("cache-control", "")) == (answer.content, False)
    assert (await reader.get("/console/static/0123456789ab/../../app.py")).status_code == 404
    assert (await reader.get("/console/static/0123456789ab/none.js")).status_code == 404


# Keys


async def test_a_new_key_is_in_one_answer_and_works(door: Door, reader: Reader) -> None:
    key_id, raw = await key_made(reader, name="the laptop", test="true", requests_per_minute="7")
    assert (await door.chat(raw, model="demo/echo")).status_code == 200
    for path in ("/console/keys", f"/console/keys/{key_id}"):
        page = (await reader.get(path)).text
        assert "the laptop" in page
        assert raw not in page
    assert 'value="7"' in (await reader.get(f"/console/keys/{key_id}")).text


async def test_the_same_form_sent_twice_makes_one_key_and_shows_it_once(reader: Reader) -> None:
    fields: dict[str, Any] = {"name": "clicked twice", "once": "a-token-of-the-form"}
    first, second = await reader.send("/console/keys", **fields), await reader.send("/console/keys", **fields)
    assert "gw_live_" in first.text
    assert second.status_code == 200
    assert "done before" in second.text
    assert not re.search(r"gw_live_[\w-]{20,}", second.text)
    assert (await reader.get("/console/keys")).text.count("clicked twice") == 1


async def test_what_is_wrong_stands_at_its_field_and_what_was_typed_stays(reader: Reader) -> None:
    answer = await reader.send(
        "/console/keys", name="kept", requests_per_minute="zero", budgets__0__amount_usd="12.50",
        budgets__0__window="day", scopes=["read"],
    )  # fmt: skip
    assert answer.status_code == 400
    assert re.search(r'id="requests_per_minute"[^>]*value="zero"[^>]*aria-invalid', answer.text)
    assert 'id="requests_per_minute-error"' in answer.text
    assert 'value="kept"' in answer.text
    assert 'value="12.50"' in answer.text
    assert re.search(r'value="read" checked', answer.text)


async def test_a_budget_that_is_no_amount_is_told_at_its_field(reader: Reader) -> None:
    answer = await reader.send("/console/keys", budgets__0__amount_usd="much", budgets__0__window="day")
    assert answer.status_code == 400
    assert 'id="budgets.0.amount_usd-error"' in answer.text


async def test_a_key_has_the_budget_scopes_models_and_end_that_were_asked_for(reader: Reader) -> None:
    key_id, _ = await key_made(
        reader, name="narrow", budgets__0__amount_usd="5", budgets__0__window="day", scopes=["inference", "read"],
        models="demo/echo\r\n", expires_at="2999-01-31",
    )  # fmt: skip
    page = (await reader.get(f"/console/keys/{key_id}")).text
    for shown in ("Budget, day", "inference, read", "demo/echo", "2999-01-31"):
        assert shown in page


async def test_a_change_sets_what_was_changed_alone_and_an_empty_field_clears(door: Door, reader: Reader) -> None:
    key_id, _ = await key_made(reader, name="before", note="a note", tags="one\ntwo")
    shown = form_of((await reader.get(f"/console/keys/{key_id}")).text)
    answer = await reader.send(f"/console/keys/{key_id}", **{**shown, "name": "after", "note": "", "in_flight": "3"})
    assert answer.headers["location"] == f"/console/keys/{key_id}?changed=1"
    key = await door.gateway.keys.get(key_id)
    assert (key.name, key.particulars.note, key.particulars.tags) == ("after", None, ("one", "two"))
    assert key.limits.as_object() == {
        "requests_per_minute": "default", "requests_per_day": "default", "tokens_per_minute": "default", "in_flight": 3,
    }  # fmt: skip
    assert "holds from the next request on" in (await reader.get(answer.headers["location"])).text


async def test_a_change_that_is_refused_says_so_on_the_page_of_the_key(reader: Reader) -> None:
    key_id, _ = await key_made(reader, name="before")
    answer = await reader.send(f"/console/keys/{key_id}", name="after", networks="nowhere")
    assert answer.status_code == 400
    assert 'id="networks-error"' in answer.text
    assert 'value="after"' in answer.text


async def test_a_key_is_rotated_and_revoked(door: Door, reader: Reader) -> None:
    key_id, raw = await key_made(reader, name="rotated", test="true")
    answer = await reader.send(f"/console/keys/{key_id}/rotate", expires_old_in_s="0")
    (new,) = set(re.findall(r"gw_test_[\w-]{20,}", answer.text))
    assert new != raw
    assert (await door.chat(raw, model="demo/echo")).status_code == 401
    assert (await door.chat(new, model="demo/echo")).status_code == 200
    assert (await reader.send(f"/console/keys/{key_id}/revoke")).headers["location"] == "/console/keys"
    assert (await door.chat(new, model="demo/echo")).status_code == 401
    assert "revoked" in (await reader.get("/console/keys?state=revoked")).text


async def test_the_key_of_another_account_is_not_there(door: Door, reader: Reader) -> None:
    other = (await door.gateway.keys.create(await door.account(), name="theirs"))[0]
    for path in (f"/console/keys/{other.id}", f"/console/keys/{other.id}?changed=1"):
        assert (await reader.get(path)).status_code == 404
    for path in (f"/console/keys/{other.id}", f"/console/keys/{other.id}/rotate", f"/console/keys/{other.id}/revoke"):
        assert (await reader.send(path, name="mine", expires_old_in_s="0")).status_code == 404
    assert (await door.gateway.keys.get(other.id)).name == "theirs"


async def test_who_may_only_look_is_offered_nothing_to_change_and_may_change_nothing(door: Door) -> None:
    account_id = await door.account()
    key, _ = await door.gateway.keys.create(account_id, name="of the account")
    headers = {"authorization": f"Bearer {await door.person(account_id, role='viewer')}"}
    listed = await door.http.get("/console/keys", headers=headers)
    assert "of the account" in listed.text
    assert "Create key" not in listed.text
    assert "<h2>Change</h2>" not in (await door.http.get(f"/console/keys/{key.id}", headers=headers)).text
    assert (await door.http.get("/console/keys/new", headers=headers)).status_code == 403
    assert (await door.http.post(f"/console/keys/{key.id}/revoke", headers=headers)).status_code == 403


async def test_text_of_users_is_shown_as_text(reader: Reader) -> None:
    name = "<script>alert('x')</script>\"'"
    key_id, _ = await key_made(reader, name=name)
    for path in ("/console/keys", f"/console/keys/{key_id}"):
        page = (await reader.get(path)).text
        assert "<script>alert" not in page
        assert name in unescape(page)


async def test_a_list_goes_on_where_a_page_ends_and_a_script_is_given_its_part(reader: Reader) -> None:
    for number in range(51):
        await reader.send("/console/keys", name=f"key number {number}")
    page = (await reader.get("/console/keys", **{"x-part": "1"})).text
    assert page.strip().startswith('<div id="key-table">')
    older = unescape(re.findall(r'href="([^"]+)" rel="next"', page)[0])
    assert (await reader.get(f"/console/keys{older}")).text.count("key number") == 1


# Pages that are not there, and those that fail


@pytest.mark.parametrize(
    "path", ["/console/nowhere", "/console/admin/users", "/status/nowhere", "/console/keys/key_none"]
)
async def test_what_is_not_there_is_told_by_a_page(reader: Reader, path: str) -> None:
    page = await reader.get(path, accept="text/html")
    assert (page.status_code, page.headers["content-type"]) == (404, "text/html; charset=utf-8")
    assert "<h1>Not Found</h1>" in page.text
    assert '<header class="top">' in page.text
    assert "default-src 'none'" in page.headers["content-security-policy"]


async def test_beside_the_status_page_a_program_is_told_in_json(door: Door) -> None:
    assert (await door.http.get("/status/nowhere")).json()["error"]["code"] == "unknown_url"


@pytest.mark.parametrize("path", ["/console/keys", "/status"])
async def test_a_failure_of_ours_is_a_page_with_the_id_to_report(
    door: Door, reader: Reader, monkeypatch: pytest.MonkeyPatch, path: str
) -> None:
    with monkeypatch.context() as patched:
        patched.setattr("http_api.console.templates._theme_in", broken_once())
        page = await reader.get(path)
    assert page.status_code == 500
    assert "<h1>Internal Server Error</h1>" in page.text
    assert f"request {page.headers['x-request-id']}" in page.text
    assert "secret detail" not in page.text
    door.errors.clear()


def broken_once() -> Callable[[Any], None]:
    """Fails where a page is written, and not where its failure is told."""
    left = [RuntimeError("secret detail")]

    def theme(_scope: Any) -> None:
        if left:
            raise left.pop()

    return theme


# Forms


def form_of(page: str) -> dict[str, Any]:
    """What a browser would send of the form in which a key is changed, were nothing typed."""
    form = page.split("<h2>Change</h2>")[1].split("</form>")[0]
    fields = dict(re.findall(r'<input id="[^"]+" name="([^"]+)" type="text" value="([^"]*)"', form))
    fields |= dict(re.findall(r'<textarea id="[^"]+" name="([^"]+)"[^>]*>([^<]*)</textarea>', form))
    return {name: unescape(value).replace("\n", "\r\n") for name, value in fields.items()} | {"optimize_mode": ""}


async def test_a_body_that_is_no_form_is_refused(door: Door) -> None:
    answer = await door.http.post("/console/sign-in", json={"email": "a@example.com"})
    assert answer.status_code == 400
    assert "Send a form" in answer.text
