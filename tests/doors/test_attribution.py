"""Cost by user and by tag: recorded where an account asks for it, in every surface, and nothing else."""

from collections.abc import AsyncIterator
from typing import Any

import pytest
import pytest_asyncio

from mcp_gateway.core.identity.particulars import Particulars
from mcp_gateway.core.money import parse_usd
from mcp_gateway.core.record import MOST_NAMES_A_DAY, Attribution
from mcp_gateway.core.store.sql import attribution as attribution_sql
from tests.cases import each
from tests.databases import store_of
from tests.recorded import recorded, write_records
from tests.replaying import ReplayingBackend, whole
from tests.serving import FREE, PRICED, Door, bearer, error_of, open_door
from tests.surfaces import Spoken, answers, every_surface

pytestmark = pytest.mark.asyncio(loop_scope="module")
Served = tuple[Door, ReplayingBackend]
MIDNIGHT_MS = 20_000 * 86_400_000  # 2024-10-04


@pytest_asyncio.fixture(loop_scope="module", scope="module")
async def served(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Served]:
    limits = {"listing_requests_per_minute": 1_000_000}
    async with (
        ReplayingBackend() as backend,
        open_door(
            tmp_path_factory.mktemp("attribution"), vllm_urls=[backend.url], models=[FREE, PRICED], limits=limits
        ) as door,
    ):
        yield door, backend
        await door.nothing_is_left()


async def switch(door: Door, key: str, *, is_on: bool = True) -> dict[str, Any]:
    response = await door.http.put("/v1/attribution", json={"enabled": is_on}, headers=bearer(key))
    assert response.status_code == 200
    told: dict[str, Any] = response.json()
    return told


async def asking_key(door: Door, tags: tuple[str, ...] = (), credit: str = "1") -> str:
    """Of an account that has its requests attributed."""
    key = await door.key(await door.account(credit), particulars=Particulars(tags=tags))
    await switch(door, key)
    return key


async def newest(door: Door, key: str) -> tuple[Any, Any]:
    """Whom the last request was recorded as made for, and its tags."""
    await door.gateway.lifecycle.wait_until_idle(10)
    await door.gateway.ledger._store.flushed()
    row = (await door.get("/v1/requests?limit=1", key)).json()["data"][0]
    return row["user"], row["tags"]


@every_surface
async def test_each_surface_has_its_user_and_tags_recorded(served: Served, spoken: Spoken) -> None:
    door, backend = served
    key = await asking_key(door, ("team",))
    backend.answer_with(answers(spoken))
    answer = await spoken.ask(door, key, user="ann", metadata={"tags": ["red", "blue"], "note": "x"})
    assert answer.status_code == 200
    assert await newest(door, key) == ("ann", ["red", "blue", "team"])


async def test_it_is_off_until_the_account_asks_for_it_and_from_then_on_at_once(served: Served) -> None:
    door, backend = served
    backend.answer_with()
    key = await door.key(await door.account("1"), particulars=Particulars(tags=("team",)))
    asked = {"user": "ann", "metadata": {"tags": "red"}}
    told = (await door.get("/v1/attribution", key)).json()
    assert told["enabled"] is False
    assert told["user_from"][0] == "X-OpenWebUI-User-Id (header)"
    await door.chat(key, **asked)
    assert await newest(door, key) == (None, [])
    assert (await switch(door, key))["enabled"] is True
    assert (await door.get("/v1/attribution", key)).json()["enabled"] is True
    await door.chat(key, **asked)
    assert await newest(door, key) == ("ann", ["red", "team"])
    await switch(door, key, is_on=False)
    await door.chat(key, **asked)
    assert await newest(door, key) == (None, [])


async def test_a_member_sees_whether_names_are_recorded_and_an_owner_decides_that(served: Served) -> None:
    """Of all users of the account: as where its webhook goes."""
    door, _ = served
    account_id = await door.account()
    member = await door.person(account_id, role="member")
    refused = await door.http.put("/v1/attribution", json={"enabled": True}, headers=bearer(member))
    assert error_of(refused)["code"] == "insufficient_scope"
    assert (await door.get("/v1/attribution", member)).json()["enabled"] is False
    assert (await switch(door, await door.person(account_id)))["enabled"] is True


async def test_a_guest_has_nothing_attributed_and_no_switch(served: Served) -> None:
    door, _ = served
    for response in (
        await door.get("/v1/attribution"),
        await door.http.put("/v1/attribution", json={"enabled": True}),
    ):
        assert (response.status_code, error_of(response)["code"]) == (401, "missing_credentials")


@each(
    ("headers", "body", "user", "ignored"),
    [
        ({"X_OpenWebUI_User_Id": "u1"}, {"user": "ann"}, "u1", None),
        ({"x_litellm_end_user_id": "u2"}, {}, "u2", None),
        ({"Helicone_User_Id": "u3"}, {"user": "ann"}, "u3", None),
        ({}, {"user": " ann "}, "ann", None),
        ({"X_OpenWebUI_User_Id": ""}, {"user": "ann"}, "ann", None),
        ({"X_OpenWebUI_User_Id": "u" * 129}, {"user": "ann"}, "ann", "X-OpenWebUI-User-Id"),
        ({"X_OpenWebUI_User_Email": "ann@example.com"}, {}, None, None),
        ({}, {"safety_identifier": "hash"}, "hash", None),
        ({}, {"metadata": {"user_id": "ann"}}, "ann", None),
        ({}, {"user": "", "metadata": {"user_id": "u" * 128}}, "u" * 128, None),
        ({}, {"user": "a\nb"}, None, "user"),
        ({}, {"user": "u" * 2000}, None, "user"),
        ({}, {"metadata": {"user_id": "u" * 129}}, None, "metadata.user_id"),
    ],
)  # fmt: skip
async def test_the_user_is_the_first_that_is_told(
    served: Served, headers: dict[str, str], body: dict[str, Any], user: str | None, ignored: str | None
) -> None:
    door, backend = served
    backend.answer_with()
    key = await asking_key(door)
    sent = bearer(key) | {name.replace("_", "-"): value for name, value in headers.items()}
    chat = {"model": "free/tiny", "messages": [{"role": "user", "content": "hi"}], "max_tokens": 4} | body
    answer = await door.http.post("/v1/chat/completions", json=chat, headers=sent)
    assert answer.status_code == 200
    assert (await newest(door, key))[0] == user
    named = answer.headers.get("x-ignored-parameters", "").split(", ")
    assert [name for name in named if name not in ("", "safety_identifier")] == ([ignored] if ignored else [])


async def test_a_header_that_is_no_text_names_nobody(served: Served) -> None:
    door, backend = served
    backend.answer_with()
    key = await asking_key(door)
    chat = b'{"model":"free/tiny","messages":[{"role":"user","content":"hi"}],"max_tokens":4}'
    head = f"POST /v1/chat/completions HTTP/1.1\r\nhost: a\r\nauthorization: Bearer {key}\r\nconnection: close\r\n"
    told = b"content-type: application/json\r\ncontent-length: %d\r\nhelicone-user-id: \xff\xfe\r\n\r\n" % len(chat)
    answer = await door.raw(head.encode() + told + chat)
    assert answer.startswith(b"HTTP/1.1 200")
    assert b"Helicone-User-Id" in answer
    assert await newest(door, key) == (None, [])


@each(
    ("tags", "recorded_as"),
    [
        (["red", " red ", "blue"], ["red", "blue"]), ("red, blue,,", ["red", "blue"]), ("", []), ([], []), (None, []),
        ([f"t{n}" for n in range(8)], [f"t{n}" for n in range(8)]), ([f"t{n}" for n in range(9)], None),
        (["x" * 65], None), (["a\nb"], None), ([""], None), ([1], None), ({"a": 1}, None), (7, None),
        ("x" * 2000, None), (["x"] * 2000, None), (["x" * 200] * 9, None),
    ],
)  # fmt: skip
async def test_tags_are_short_labels_and_what_is_none_refuses_nothing(
    served: Served, tags: Any, recorded_as: list[str] | None
) -> None:
    door, backend = served
    backend.answer_with()
    key = await asking_key(door)
    answer = await door.chat(key, metadata={"tags": tags})
    assert answer.status_code == 200
    assert await newest(door, key) == (None, recorded_as or [])
    is_told = "metadata.tags" in answer.headers.get("x-ignored-parameters", "")
    assert is_told == (recorded_as is None)


@each("metadata", ["text", [], 5, None])
async def test_metadata_of_another_kind_says_nothing(served: Served, metadata: Any) -> None:
    door, backend = served
    backend.answer_with()
    key = await asking_key(door)
    assert (await door.chat(key, metadata=metadata)).status_code == 200
    assert await newest(door, key) == (None, [])


async def test_what_is_refused_before_it_is_read_counts_for_its_header_and_its_key(served: Served) -> None:
    door, _ = served
    key = await asking_key(door, ("team",))
    refused = await door.post(b"{", key, x_openwebui_user_id="ann")
    assert refused.status_code == 400
    assert await newest(door, key) == ("ann", ["team"])


async def test_over_mcp_the_arguments_of_the_tool_say_it(served: Served) -> None:
    door, backend = served
    backend.answer_with()
    key = await asking_key(door)
    arguments: dict[str, Any] = {"model": "free/tiny", "messages": [{"role": "user", "content": "hi"}]}
    await door.call("chat_completion", key, **arguments, user="ann", metadata={"tags": ["red"]})
    assert await newest(door, key) == ("ann", ["red"])
    told = await door.call("chat_completion", key, **arguments, metadata={"tags": 7})
    assert "metadata.tags" in told.json()["result"]["structuredContent"]["ignored_parameters"]


async def test_sums_by_user_come_to_what_was_charged_and_by_tag_each_counts(served: Served) -> None:
    door, backend = served
    key = await asking_key(door)
    (account,) = {row.account_id for row in await door.gateway.keys.list() if key.startswith(row.prefix)}
    before = await door.balance_nano(account)
    for fields in ({"user": "ann", "metadata": {"tags": ["red", "blue"]}}, {"metadata": {"tags": ["red"]}}, {}):
        backend.answer_with()
        assert (await door.chat(key, model="priced/tiny", **fields)).status_code == 200
    backend.answer_with(whole(b"{}", 500))
    await door.chat(key, model="priced/tiny", user="ann")
    spent_nano = before - await door.balance_nano(account)
    by_user = (await door.get("/v1/usage?group_by=user", key)).json()
    assert [(row["user"], row["requests"]) for row in by_user["data"]] == [("ann", 2), (None, 2)]
    assert sum(parse_usd(row["cost_usd"]) for row in by_user["data"]) == spent_nano > 0
    by_tag = (await door.get("/v1/usage?group_by=tag", key)).json()
    assert [(row["tag"], row["requests"]) for row in by_tag["data"]] == [("red", 2), ("blue", 1), (None, 2)]
    for report in (by_user, by_tag):
        assert (report["totals"]["requests"], parse_usd(report["totals"]["cost_usd"])) == (4, spent_nano)
    both = (await door.get("/v1/usage?group_by=user,tag&format=csv", key)).text
    assert "ann,blue" in both.splitlines()[-4] + both


@each(("query", "found"), [("user=ann", 2), ("tag=red", 2), ("user=ann&tag=red", 1), ("tag=green", 0), ("user=", None)])
async def test_requests_are_found_by_user_and_tag(served: Served, query: str, found: int | None) -> None:
    door, _ = served
    account = await door.account()
    key = await door.key(account)
    said = [Attribution("ann", ("red", "blue")), Attribution("ann", ()), Attribution(None, ("red",)), None]
    rows = [recorded(MIDNIGHT_MS + n, account_id=account, attribution=one) for n, one in enumerate(said)]
    await write_records(store_of(door.gateway), *rows)
    response = await door.get(f"/v1/requests?{query}", key)
    if found is None:
        assert error_of(response)["param"] == "user"
    else:
        assert len(response.json()["data"]) == found
        lines = (await door.get(f"/v1/requests?{query}&format=jsonl", key)).text.splitlines()
        assert len(lines) == found


async def test_further_names_of_a_day_are_the_others_and_another_day_has_its_own(
    served: Served, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert MOST_NAMES_A_DAY == 1000
    monkeypatch.setattr(attribution_sql, "MOST_NAMES_A_DAY", 2)
    door, _ = served
    account = await door.account()
    key = await door.key(account)
    store = store_of(door.gateway)
    for day in (0, 1, 4):
        for user, tags in (("a", ("x", "y", "z")), ("b", ()), ("c", ("z", "w")), ("a", ("x",))):
            at_ms = MIDNIGHT_MS + day * 86_400_000
            await write_records(store, recorded(at_ms, account_id=account, attribution=Attribution(user, tags)))
    usage = (await door.get("/v1/usage?since=2024-10-04&until=2024-10-04&group_by=user", key)).json()["data"]
    assert [(row["user"], row["requests"]) for row in usage] == [("b", 1), ("a", 2), ("(other)", 1)]
    usage = (await door.get("/v1/usage?since=2024-10-04&until=2024-10-04&group_by=tag", key)).json()["data"]
    assert [(row["tag"], row["requests"]) for row in usage] == [("y", 1), ("x", 2), ("(other)", 2), (None, 1)]
    assert len((await door.get("/v1/requests?user=(other)", key)).json()["data"]) == 3
    days = await door.rows("SELECT DISTINCT day FROM attributed_names WHERE account_id = ? ORDER BY day", account)
    assert days == [(20_004,)]


async def test_of_headers_and_metadata_nothing_else_is_kept(served: Served) -> None:
    door, backend = served
    backend.answer_with()
    key, canary = await asking_key(door), "canary9Zt4"
    sent = bearer(key) | {
        "x-openwebui-user-id": "ann",
        "x-openwebui-user-email": canary,
        "x-litellm-customer-id": canary,
    }
    chat = {"model": "free/tiny", "messages": [{"role": "user", "content": "hi"}], "max_tokens": 4}
    kept = {"user": canary, "safety_identifier": canary, "metadata": {canary: canary, "tags": ["red"], "a": canary}}
    answer = await door.http.post("/v1/chat/completions", json=chat | kept, headers=sent)
    assert answer.status_code == 200
    assert await newest(door, key) == ("ann", ["red"])
    await door.chat(key, user=f"{canary}\n{canary}", metadata={"tags": [canary * 9], "user_id": [canary]})
    await newest(door, key)
    assert canary.encode() not in await door.kept()
