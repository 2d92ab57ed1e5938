"""In what a request was asked is told wherever it is: in its record, in usage and in the metrics, by every surface."""

from collections import Counter
from collections.abc import AsyncIterator
from typing import Any, get_args

import pytest
import pytest_asyncio
from prometheus_client.parser import text_string_to_metric_families

from mcp_gateway.core.record import SurfaceName
from tests.replaying import ReplayingBackend, silence, whole
from tests.serving import open_door
from tests.stage import PRICED, Stage, staged
from tests.surfaces import SPOKEN, ChatTool, Spoken, answers, every_surface, every_way

pytestmark = [pytest.mark.surfaces, pytest.mark.asyncio(loop_scope="module")]

MAX_BODY_BYTES = 10_000
Told = Counter[tuple[str, frozenset[tuple[str, str]]]]
"""What metrics count that name a surface, by name and labels."""


@pytest_asyncio.fixture(loop_scope="module", scope="module")
async def _stage(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Stage]:
    folder, limits = tmp_path_factory.mktemp("surfaces"), {"listing_requests_per_minute": 1_000_000}
    async with (
        ReplayingBackend() as backend,
        open_door(
            folder, vllm_urls=[backend.url], models=[PRICED], limits=limits, max_body_bytes=MAX_BODY_BYTES
        ) as door,
    ):
        yield await staged(door, backend)


@pytest_asyncio.fixture(loop_scope="module")
async def stage(_stage: Stage) -> AsyncIterator[Stage]:
    """An account that has asked nothing."""
    yield await _stage.credited(10**9)
    await _stage.door.nothing_is_left()


async def told(stage: Stage, path: str) -> Any:
    await stage.door.nothing_is_left()
    response = await stage.door.get(path, stage.key)
    assert response.status_code == 200, response.text
    return response.json()["data"]


async def counted(stage: Stage) -> Told:
    await stage.door.nothing_is_left()
    page = (await stage.door.http.get("/metrics")).text
    found: Told = Counter()
    for family in text_string_to_metric_families(page):
        for name, labels, value, *_ in family.samples:
            if "surface" in labels:
                found[name, frozenset(labels.items())] = round(value)
    return found


@every_way
async def test_an_answer_is_told_by_its_surface(stage: Stage, spoken: Spoken, is_stream: bool) -> None:
    stage.backend.answer_with(answers(spoken, 9, 3))
    before = await counted(stage)
    response = await stage.ask(spoken, is_stream=is_stream)
    assert spoken.refusal_of(response) is None
    surface, output = spoken.surface.name, 3 if spoken.is_generated else 0
    (row,) = await told(stage, "/v1/requests")
    assert (row["surface"], row["stream"]) == (surface, is_stream)
    assert (await stage.door.get(f"/v1/requests/{row['id']}", stage.key)).json() == row
    (usage,) = await told(stage, "/v1/usage?group_by=surface")
    tokens = usage["prompt_tokens"], usage["completion_tokens"]
    assert (usage["surface"], usage["requests"], tokens, usage["cost_usd"]) == (
        surface,
        1,
        (9, output),
        row["cost_usd"],
    )
    grown = (await counted(stage)) - before
    assert {dict(labels)["surface"] for _, labels in grown} == {surface}
    door = "mcp" if isinstance(spoken, ChatTool) else "http"
    of_model = {"model": PRICED["id"], "surface": surface}
    for name, value, labels in (
        ("gateway_requests_total", 1, of_model | {"door": door, "status": "200"}),
        ("gateway_tokens_total", 9, of_model | {"kind": "prompt"}),
        ("gateway_tokens_total", output, of_model | {"kind": "completion"}),
        ("gateway_request_duration_seconds_count", 1, of_model),
    ):
        assert grown[name, frozenset(labels.items())] == value


@every_surface
async def test_what_is_refused_before_and_after_its_body_is_read_or_by_its_backend_is_told_by_its_row_s_surface(
    stage: Stage, spoken: Spoken
) -> None:
    """Over MCP what is no call of a tool is no request for inference."""
    stage.backend.answer_with(whole(b"{}", 500), whole(b"{}", 500))
    await stage.ask(spoken, model="nope")
    await stage.ask(spoken)
    statuses = Counter([404, 502])
    if not isinstance(spoken, ChatTool):
        for body in (b"{", b"[]", b" " * (MAX_BODY_BYTES + 1)):
            await stage.door.post(body, stage.key, spoken.path, **spoken.headers)
        statuses += Counter([400, 400, 413])
    rows = await told(stage, f"/v1/requests?surface={spoken.surface.name}")
    assert Counter(row["status"] for row in rows) == statuses
    assert await told(stage, "/v1/requests") == rows
    others = [name for name in get_args(SurfaceName) if name != spoken.surface.name]
    assert [await told(stage, f"/v1/requests?surface={name}") for name in others] == [[]] * len(others)
    (usage,) = await told(stage, "/v1/usage?group_by=surface")
    assert (usage["surface"], usage["requests"]) == (spoken.surface.name, statuses.total())


async def test_an_account_s_usage_has_a_row_for_each_surface_that_it_used(stage: Stage) -> None:
    asked: Counter[str] = Counter()
    for number, spoken in enumerate(SPOKEN, 1):
        for _ in range(number):
            stage.backend.answer_with(answers(spoken, 1, 1))
            assert spoken.refusal_of(await stage.ask(spoken)) is None
        asked[spoken.surface.name] += number
    rows = await told(stage, "/v1/usage?group_by=surface")
    assert [(row["surface"], row["requests"]) for row in rows] == sorted(asked.items(), reverse=True)
    (day,) = await told(stage, "/v1/usage")
    assert day["requests"] == asked.total()


async def test_a_client_that_left_is_told_by_the_surface_that_it_asked_in(stage: Stage) -> None:
    for spoken in SPOKEN:
        stage.backend.answer_with()
        stage.backend.standing = silence
        await stage.leave_once_asked(spoken)
    stage.backend.standing = None
    rows = await told(stage, "/v1/requests")
    assert {row["status"] for row in rows} == {499}
    assert [row["surface"] for row in reversed(rows)] == [spoken.surface.name for spoken in SPOKEN]
