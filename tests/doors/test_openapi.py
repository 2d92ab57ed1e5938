"""GET /openapi.json: that it is OpenAPI, has every operation, and tells of each what really comes."""

import re
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import jsonschema_rs
import orjson
import pytest
import pytest_asyncio
from jsonschema import Draft202012Validator
from openapi_spec_validator import OpenAPIV31SpecValidator
from openapi_spec_validator.schemas import schema_v31
from starlette.types import Message, Receive, Scope, Send

from http_api.openapi import refusals_of
from http_api.operations import Access, Nothing
from mcp_gateway.core.errors import TABLE
from mcp_gateway.core.ids import now_ms
from mcp_gateway.core.record import RoutingFacts
from tests.databases import store_of
from tests.declared import Declared
from tests.recorded import recorded, write_records
from tests.serving import BASE_URL, MESSAGES, Door, error_of, open_door

pytestmark = pytest.mark.asyncio(loop_scope="module")
Json = dict[str, Any]
BODIES: dict[tuple[str, str], Json] = {
    ("POST", "/chat/completions"): {"model": "demo/echo", "messages": MESSAGES},
    ("POST", "/completions"): {"model": "demo/echo", "prompt": "Say hello."},
    ("POST", "/embeddings"): {"model": "demo/echo", "input": "Say hello."},
    ("POST", "/rerank"): {"model": "demo/echo", "query": "a", "documents": ["b"]},
    ("POST", "/v2/rerank"): {"model": "demo/echo", "query": "a", "documents": ["b"]},
    ("POST", "/score"): {"model": "demo/echo", "text_1": "a", "text_2": "b"},
    ("POST", "/messages"): {"model": "demo/echo", "messages": MESSAGES, "max_tokens": 9},
    ("POST", "/messages/count_tokens"): {"model": "demo/echo", "messages": MESSAGES},
    ("POST", "/responses"): {"model": "demo/echo", "input": "Say hello."},
    ("POST", "/tokenize"): {"model": "demo/echo", "prompt": "Say hello."},
    ("POST", "/detokenize"): {"model": "demo/echo", "tokens": [65]},
    ("PUT", "/webhook"): {"url": "https://hooks.example.com/"},
    ("POST", "/keys"): {"name": "made here"},
    ("POST", "/auth/keys"): {"name": "made here"},
    ("PATCH", "/keys/{key_id}"): {"name": "renamed"},
    ("POST", "/keys/{key_id}/rotate"): {"expires_old_in_s": 600},
}
QUERIES = {"/generation": "?id={request_id}"}
"""Of those that have to have one."""


ADMIN_S = {"/admin/config", "/admin/models", "/admin/prices", "/admin/providers", "/admin/audit", "/admin/reload"}
"""What administrators ask without a body."""


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def door(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Door]:
    async with open_door(tmp_path_factory.mktemp("openapi"), mcp={"expose_tools": True}) as door:
        yield door
        await door.nothing_is_left()


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def document(door: Door) -> Json:
    response = await door.http.get("/openapi.json")
    assert (response.status_code, response.headers["content-type"]) == (200, "application/json")
    told: Json = response.json()
    return told


def schema_of(document: Json, path: str, method: str, status: int) -> Draft202012Validator:
    answer = document["paths"][path][method.lower()]["responses"][str(status)]
    schema = answer["content"]["application/json"]["schema"]
    return Draft202012Validator({**schema, "components": document["components"]})


SCHEMA = jsonschema_rs.Draft202012Validator(dict(schema_v31))


class Beyond(OpenAPIV31SpecValidator):
    """What the library checks that OpenAPI's schema cannot say; for that schema its validator takes seconds."""

    schema_validator = Draft202012Validator(True)


def faults_of(document: Json) -> list[str]:
    return [*map(str, SCHEMA.iter_errors(document)), *map(str, Beyond(document).iter_errors())]


@pytest.mark.surfaces
async def test_it_is_openapi(document: Json) -> None:
    assert faults_of(document) == []
    assert document["servers"] == [{"url": BASE_URL}]


async def test_what_is_no_openapi_would_be_found() -> None:
    unresolved = {"name": "id", "in": "path", "required": True, "schema": {}}
    for operation, is_sound in (
        ({"responses": {"200": {"description": "well"}}}, True),
        ({"responses": {"200": {}}}, False),
        ({"responses": {"200": {"description": "well"}}, "parameters": [unresolved, unresolved]}, False),
    ):
        paths: Json = {"/health": {"get": operation}}
        told = {"openapi": "3.1.0", "info": {"title": "planted", "version": "1"}, "paths": paths}
        assert (faults_of(told) == []) is is_sound


async def test_it_has_every_operation_under_every_prefix(door: Door, document: Json) -> None:
    told = {(method.upper(), path) for path, methods in document["paths"].items() for method in methods}
    served = [row for row in door.operations if row.answer is not Nothing]
    assert told == {(row.method, re.sub(":path", "", prefix + row.path)) for row in served for prefix in row.prefixes}
    ids = [told["operationId"] for methods in document["paths"].values() for told in methods.values()]
    assert len(ids) == len(set(ids)) == len(told)


async def test_everything_answers_under_both_prefixes(door: Door) -> None:
    """But for what each API has of its own, and for what stands at the root."""
    apart = {(row.path, row.prefixes) for row in door.operations if len(row.prefixes) == 1}
    inner = {path for path, prefixes in apart if prefixes != ("",) and not path.startswith("/admin/")}
    assert inner == {"/usage"}
    tenant, admin, person = await door.key(), await door.admin_key(), await door.person()
    for row in door.operations:
        shown = {Access.ADMINISTRATOR: admin, Access.PERSON: person}.get(row.access, tenant)
        for prefix in row.prefixes:
            if row.method == "GET" and "{" not in row.path + QUERIES.get(row.path, "") and row.answer is not Nothing:
                assert (await door.get(prefix + row.path, shown)).status_code == 200, prefix + row.path


async def test_each_answer_is_as_its_schema_says(door: Door, document: Json) -> None:
    account = await door.account("1")
    tenant, admin = await door.key(account), await door.admin_key()
    await door.chat(tenant, model="demo/echo")
    (made,) = (await door.get("/v1/requests", tenant)).json()["data"]
    (own,) = (await door.get("/v1/keys", tenant)).json()["data"]
    routed = recorded(now_ms(), account_id=account, routing=RoutingFacts("code", "simple", 0.5))
    await write_records(store_of(door.gateway), routed)
    bodies = (
        BODIES
        | {("PUT", "/attribution"): {"enabled": True}}
        | {("POST", "/feedback"): {"request_id": routed.id, "score": 1}}
    )
    there = {"key_id": own["id"], "request_id": made["id"], "model_id": "demo/echo"}
    rows = [row for row in door.operations if row.answer not in (Nothing, bytes) and "/billing/" not in row.path]
    rows = [row for row in rows if row.scope is not None or not row.is_for_people]  # tests/doors/test_people.py
    rows = [row for row in rows if row.access is not Access.ADMINISTRATOR or row.path in ADMIN_S]  # test_admin_*.py
    rows.sort(key=lambda row: (row.method == "DELETE", row.path.endswith("/rotate")))  # of the very key that asks, last
    for row in rows:
        for prefix in row.prefixes if row.method == "GET" else row.prefixes[:1]:
            path = re.sub(":path", "", prefix + row.path)
            body = bodies.get((row.method, row.path))
            key = admin if row.access is Access.ADMINISTRATOR else tenant
            response = await door.http.request(
                row.method,
                (path + QUERIES.get(row.path, "")).format(**there),
                content=None if body is None else orjson.dumps(body),
                headers={"authorization": f"Bearer {key}", "content-type": "application/json"},
            )
            assert response.status_code == row.statuses[0], (path, response.text)
            assert [*schema_of(document, path, row.method, row.statuses[0]).iter_errors(response.json())] == []


async def test_a_schema_is_no_wider_than_the_answer(document: Json) -> None:
    validator = schema_of(document, "/v1/credits", "GET", 200)
    amounts = dict.fromkeys(("balance_usd", "granted_usd", "held_usd", "leased_usd"), "0")
    told = {"object": "credits", "currency": "USD"} | amounts
    assert validator.is_valid(told)
    for name in told:
        assert not validator.is_valid(told | {name: 5})
        assert not validator.is_valid({other: value for other, value in told.items() if other != name})
    assert not validator.is_valid(told | {"more": "x"})


async def test_a_refusal_is_as_its_schema_says(door: Door, document: Json) -> None:
    headers = {"content-type": "application/json", "x-forwarded-for": "192.0.2.9"}  # a guest who has asked nothing yet
    for method, path, status in (("GET", "/v1/keys", 401), ("POST", "/v1/chat/completions", 400)):
        response = await door.http.request(method, path, content=b"{", headers=headers)
        assert response.status_code == status
        assert (
            error_of(response)["code"]
            in document["paths"][path][method.lower()]["responses"][str(status)]["description"]
        )
        assert schema_of(document, path, method, status).is_valid(response.json())


async def test_who_may_ask_is_told_as_it_is(door: Door, document: Json) -> None:
    for row in door.operations:
        if row.answer is Nothing or "{" in row.path or row.access in (Access.SIGNED, Access.OPEN):
            continue
        told = document["paths"][row.prefixes[0] + row.path][row.method.lower()]
        needs_key = {} not in told["security"]
        response = await door.http.request(row.method, row.prefixes[0] + row.path)
        assert (response.status_code == 401) is needs_key, row.name
        assert {"bearer": [row.scope] if row.scope else []} in told["security"]


async def test_without_guests_every_operation_for_anyone_needs_a_key(tmp_path: Path) -> None:
    async with open_door(tmp_path, guests={"enabled": False}) as door:
        paths = (await door.http.get("/openapi.json")).json()["paths"]
    assert {} not in paths["/v1/chat/completions"]["post"]["security"]
    assert {} in paths["/v1/models"]["get"]["security"]


async def test_every_status_of_a_code_is_told(door: Door, document: Json) -> None:
    for row in door.operations:
        if row.answer is not Nothing:
            told = document["paths"][re.sub(":path", "", row.prefixes[0] + row.path)][row.method.lower()]["responses"]
            assert {str(TABLE[code].status) for code in refusals_of(row)} <= told.keys()


async def test_queries_are_told_with_their_bounds(document: Json) -> None:
    parameters = {one["name"]: one["schema"] for one in document["paths"]["/v1/requests"]["get"]["parameters"]}
    assert parameters["limit"] == {"type": "integer", "minimum": 1, "maximum": 1000, "default": 50}
    assert parameters["door"] == {"enum": ["http", "mcp"], "type": "string"}
    assert parameters["since"]["type"] == "string"
    assert "parameters" not in document["paths"]["/v1/credits"]["get"]
    (named,) = document["paths"]["/v1/generation"]["get"]["parameters"]
    assert (named["name"], named["required"]) == ("id", True)


@pytest.mark.parametrize(
    ("written", "status"), [("5.0", 201), ("5e0", 201), ("5.5", 400), ("1e400", 400), ("0.0", 400)]
)
async def test_a_number_without_a_fraction_is_whole_however_it_is_written(
    door: Door, written: str, status: int
) -> None:
    body = b'{"requests_per_minute": %b}' % written.encode()
    assert (await door.post(body, await door.key(), "/v1/keys")).status_code == status


OK = {"object": "credits", "currency": "USD"} | dict.fromkeys(
    ("balance_usd", "granted_usd", "held_usd", "leased_usd"), "0"
)
REFUSED = {"message": "It is so.", "type": "forbidden", "param": None}


@pytest.mark.parametrize(
    ("method", "path", "status", "body", "headers"),
    [
        ("GET", "/v1/keys", 402, {"error": REFUSED | {"code": "insufficient_balance"}}, {}),
        ("GET", "/v1/models/a/b/health", 404, {"error": REFUSED | {"code": "not_found"}}, {}),
        ("GET", "/v1/keys", 403, {"error": {"code": "insufficient_scope"}}, {}),
        ("POST", "/v1/keys", 503, {"error": REFUSED | {"code": "model_unavailable"}}, {}),
        ("GET", "/v1/credits", 202, OK, {}),
        ("GET", "/v1/credits", 200, OK | {"balance_usd": 5}, {}),
        ("GET", "/v1/credits", 200, OK | {"more": "x"}, {}),
        ("GET", "/v1/credits", 200, OK, {"content-type": "text/plain"}),
        ("GET", "/v1/credits", 200, OK, {"x-of-nobody": "1"}),
        ("DELETE", "/v1/credits", 405, {"error": REFUSED | {"code": "method_not_allowed"}}, {}),
    ],
)
async def test_an_answer_that_the_document_does_not_tell_fails_the_test_that_gets_it(
    door: Door, method: str, path: str, status: int, body: Json, headers: dict[str, str]
) -> None:
    sent = {"content-type": "application/json"} | headers

    async def app(_scope: Scope, _receive: Receive, send: Send) -> None:
        listed = [(name.encode(), value.encode()) for name, value in sent.items()]
        await send({"type": "http.response.start", "status": status, "headers": listed})
        await send({"type": "http.response.body", "body": orjson.dumps(body)})

    async def into_nothing(_message: Message) -> None: ...

    declared = Declared(app, door.operations)
    await declared({"path": path, "method": method}, into_nothing, into_nothing)  # type: ignore[arg-type]
    with pytest.raises(AssertionError):
        await declared.check()
