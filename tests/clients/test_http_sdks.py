"""The SDKs of OpenAI and Anthropic, for Python and Node, as clients of every surface: one table of calls and cases.

Each SDK makes its calls in one process, all at once; what it saw of each is compared with what the gateway knows of it.
"""

import asyncio
import json
import sys
from collections.abc import AsyncIterator, Iterator
from itertools import product
from pathlib import Path
from typing import Any, NamedTuple

import pytest
import pytest_asyncio

from tests.clients import scripts
from tests.clients.installed import INSTALLED, MODEL, NODE, PROGRAMS, Gateway, environment
from tests.clients.shapes import COMPLETION_TOKENS, PROMPT_TOKENS
from tests.clients.stage import CASES, IMAGE, PROMPT_NANO, Stage, Told, model, of_case, open_stage
from tests.patience import PATIENCE_S

pytestmark = [pytest.mark.slow, pytest.mark.asyncio(loop_scope="module")]

RETRIES = 1
SDKS = {
    "openai-python": ("openai_calls.py", Path(sys.executable)),
    "openai-node": ("openai_calls.mjs", NODE),
    "anthropic-python": ("anthropic_calls.py", INSTALLED / "anthropic-sdk" / "bin" / "python"),
    "anthropic-node": ("anthropic_calls.mjs", NODE),
}
CALLS = {"openai": ("chat", "responses", "completions"), "anthropic": ("messages",)}
HAS_NO = {"completions": ("parallel tools", "thinking", "image")}
"""Cases that an API has no words for."""
Seen = dict[str, Any]


class Cell(NamedTuple):
    """A case of a call."""

    call: str
    stream: bool
    case: str


def cells(sdk: str) -> Iterator[Cell]:
    """The SDK's part of the table; an answer in one piece has no middle to leave in."""
    for call, stream, case in product(CALLS[vendor(sdk)], (False, True), CASES):
        if case not in HAS_NO.get(call, ()) and (stream or case != "cancel"):
            yield Cell(call, stream, case)


def vendor(sdk: str) -> str:
    return sdk.partition("-")[0]


def asked(sdk: str, url: str, key: str, call: str, **told: Any) -> Seen:
    """A call as the programs are told of it; OpenAI's SDKs have the version in the base URL, Anthropic's do not."""
    usual = {"stream": False, "images": [], "text": "Hello", "leaves": False, "retries": RETRIES}
    address = {"url": f"{url}/v1" if vendor(sdk) == "openai" else url, "key": key}
    return usual | address | {"call": call} | told


async def made(sdk: str, calls: list[Seen]) -> list[Seen]:
    """What the SDK saw of these calls."""
    return await ran(*SDKS[sdk], calls)


async def ran(program: str, interpreter: Path, calls: list[Seen]) -> list[Seen]:
    """The same of a program; Node reads it from standard input, to find what is installed."""
    arguments = [PROGRAMS / program] if program.endswith(".py") else ["--input-type=module", "-"]
    with (PROGRAMS / program).open() as source:
        running = await asyncio.create_subprocess_exec(
            interpreter, *arguments, json.dumps(calls), stdin=source, stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.PIPE, cwd=INSTALLED, env=environment(),
        )  # fmt: skip
    async with asyncio.timeout(PATIENCE_S):
        printed, complaints = await running.communicate()
    assert running.returncode == 0, complaints.decode()
    seen: list[Seen] = json.loads(printed)
    return list(map(outcome, seen))


def outcome(seen: Seen) -> Seen:
    """What there is: the beginning of a request's id, and of arguments what they say."""
    calls = [[call["name"], json.loads(call["arguments"])] for call in seen.get("calls", ())]
    told = seen | {"calls": calls, "id": str(seen.get("id", ""))[:4]}
    return {name: value for name, value in told.items() if value}


@pytest_asyncio.fixture(loop_scope="module", scope="module")
async def stage(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Stage]:
    async with open_stage(tmp_path_factory.mktemp("sdks")) as opened:
        yield opened


SAID = {"text": scripts.TEXT, "tokens": [PROMPT_TOKENS, COMPLETION_TOKENS]}
WEATHER = [["get_weather", {"city": command}] for command in scripts.COMMANDS]
ANSWERED: dict[str, Seen] = {
    "answer": SAID,
    "parallel tools": SAID | {"text": scripts.AFTER_TOOLS, "calls": WEATHER},
    "thinking": SAID | {"thought": scripts.THOUGHT},
    "image": SAID,
    "cut answer": SAID | {"is_cut": True},
    "cancel": {"left": True},
}
REFUSED = {
    "openai": {
        "402": ("APIStatusError", 402, "insufficient_balance"),
        "429": ("RateLimitError", 429, "backend_busy"),
        "429 of a limit": ("RateLimitError", 429, "in_flight"),
        "503": ("InternalServerError", 503, "model_unavailable"),
        "broken answer": ("InternalServerError", 502, "backend_died"),
        "context overflow": ("BadRequestError", 400, "context_length_exceeded"),
    },
    "anthropic": {
        "402": ("PaymentRequiredError", 402, "billing_error"),
        "429": ("RateLimitError", 429, "overloaded_error"),
        "429 of a limit": ("RateLimitError", 429, "rate_limit_error"),
        "503": ("ServiceUnavailableError", 503, "overloaded_error"),
        "broken answer": ("InternalServerError", 502, "api_error"),
        "context overflow": ("BadRequestError", 400, "invalid_request_error"),
    },
}
"""The SDK's own class for it, the status, and the code or type that it bears."""
OTHER_WORDS = {
    ("openai-node", "402"): {"name": "APIError"},
    ("responses", "402"): {"code": "insufficient_quota"},
}
"""Where a client or a call differs from its kind."""
BROKEN: dict[str, Seen] = {
    "openai-python": {"name": "APIError", "code": "backend_died"},
    "openai-node": {"name": "APIError", "code": "backend_died", "id": "req_"},
    "anthropic-python": {"name": "APIStatusError", "status": 200, "code": "api_error", "id": "req_"},
    "anthropic-node": {"name": "APIError", "code": "api_error", "id": "req_"},
}
"""What an SDK makes of a stream that breaks; OpenAI's leave the events of a response to who reads them."""
FAILED: Seen = {"name": "response.failed", "code": "server_error"}


def expected(sdk: str, cell: Cell) -> Seen:
    if cell.case in ANSWERED:
        return ANSWERED[cell.case]
    if cell.case == "broken answer" and cell.stream:
        return FAILED if cell.call == "responses" else BROKEN[sdk]
    name, status, code = REFUSED[vendor(sdk)][cell.case]
    other = OTHER_WORDS.get((sdk, cell.case), {}) | OTHER_WORDS.get((cell.call, cell.case), {})
    return {"name": name, "status": status, "code": code, "id": "req_"} | other


def billed(cell: Cell) -> Told:
    """An answer in one piece that breaks is a refusal, since nothing of it was delivered."""
    if cell.case == "broken answer" and not cell.stream:
        return Told([502] * (1 + RETRIES), 0)
    return of_case(cell.case, RETRIES)


@pytest.mark.parametrize("sdk", SDKS)
async def test_an_sdk_sees_every_case_of_every_call_as_it_is_and_what_is_refused_is_free(
    stage: Stage, sdk: str
) -> None:
    table = list(cells(sdk))
    callers = [await stage.caller(CASES[cell.case]) for cell in table]
    calls = [
        asked(sdk, stage.door.url, key, cell.call, stream=cell.stream, model=model(CASES[cell.case].script),
              leaves=cell.case == "cancel", images=[IMAGE] if cell.case == "image" else [])
        for cell, (_, key) in zip(table, callers, strict=True)
    ]  # fmt: skip
    seen = await made(sdk, calls)
    told = [await stage.told_of(account_id) for account_id, _ in callers]
    found = list(zip(table, seen, told, strict=True))
    wrong = [row for row in found if row[1:] != (expected(sdk, row[0]), billed(row[0]))]
    assert wrong == [], "\n".join(map(str, wrong))


@pytest.mark.parametrize("sdk", ["openai-python", "openai-node"])
async def test_an_openai_sdk_embeds_texts_and_pays_for_the_prompt(stage: Stage, sdk: str) -> None:
    account_id, key = await stage.caller(CASES["answer"])
    (seen,) = await made(sdk, [asked(sdk, stage.door.url, key, "embeddings", model=model("embeds"))])
    assert seen == {"vectors": [[0.5, -0.25]] * 2, "tokens": [PROMPT_TOKENS, 0]}
    assert await stage.told_of(account_id) == Told([200], PROMPT_TOKENS * PROMPT_NANO)


@pytest.mark.parametrize("sdk", ["anthropic-python", "anthropic-node"])
async def test_an_anthropic_sdk_counts_for_nothing_and_asks_with_betas(stage: Stage, sdk: str) -> None:
    account_id, key = await stage.caller(CASES["answer"])
    calls = [asked(sdk, stage.door.url, key, call, model=model("says")) for call in ("count_tokens", "beta")]
    assert await made(sdk, calls) == [{"tokens": [PROMPT_TOKENS, 0]}, SAID]
    assert await stage.told_of(account_id) == of_case("answer")


DEMO_CALLS = {
    "openai": ("chat", "responses", "completions", "embeddings", "models"),
    "anthropic": ("messages", "beta", "count_tokens", "models"),
}


@pytest.mark.parametrize("sdk", SDKS)
async def test_an_sdk_makes_every_call_of_the_demo(gateway: Gateway, sdk: str) -> None:
    table = list(product(DEMO_CALLS[vendor(sdk)], (False, True)))
    elsewhere = {"url": f"{gateway.url}/api/v1/inference"} if vendor(sdk) == "openai" else {}
    calls = [
        asked(sdk, gateway.url, gateway.key, call, stream=stream, model=MODEL) | (elsewhere if stream else {})
        for call, stream in table
    ]
    seen = dict(zip(table, await made(sdk, calls), strict=True))
    for (call, stream), told in seen.items():
        assert told == seen[call, False], "a stream tells the same"
        assert MODEL in told["models"] if call == "models" else told["tokens"][0] > 0, (call, stream)
        assert told.get("text", "Hello").endswith("Hello")


@pytest.mark.parametrize("sdk", SDKS)
async def test_an_sdk_passes_over_what_a_stream_tells_of_the_choice_for_auto(gateway: Gateway, sdk: str) -> None:
    table = list(product(set(CALLS[vendor(sdk)]) - {"completions"}, ("/v1", "/api/v1/inference"), (False, True)))
    calls = [
        asked(sdk, gateway.url, gateway.key, call, stream=stream, model="auto")
        | ({"url": f"{gateway.url}{base}"} if vendor(sdk) == "openai" else {})
        for call, base, stream in table
    ]
    for seen in await made(sdk, calls):
        assert seen["text"].endswith("Hello")
        assert seen["tokens"][0] > 0


@pytest.mark.parametrize("sdk", SDKS)
async def test_an_sdk_has_the_demo_call_a_tool_and_tells_it_the_result(gateway: Gateway, sdk: str) -> None:
    table = list(product(set(CALLS[vendor(sdk)]) - HAS_NO.keys(), (False, True)))
    told = {"model": MODEL, "text": "Use get_weather"}
    calls = [asked(sdk, gateway.url, gateway.key, call, stream=stream, **told) for call, stream in table]
    for seen in await made(sdk, calls):
        assert seen["calls"] == [["get_weather", {"city": "demo"}]]
        assert seen["text"].endswith("The tool answered: sunny")


@pytest.mark.parametrize("sdk", SDKS)
async def test_an_sdk_knows_what_is_wrong_with_a_request(gateway: Gateway, sdk: str) -> None:
    call, is_openai = CALLS[vendor(sdk)][0], vendor(sdk) == "openai"
    calls = [
        asked(sdk, gateway.url, gateway.key, call, model="no/such"),
        asked(sdk, gateway.url, "gw_live_wrong", call, model=MODEL),
        asked(sdk, gateway.url, gateway.key, call, model=MODEL, images=[IMAGE]),
    ]
    assert [tuple(seen.values()) for seen in await made(sdk, calls)] == [
        ("NotFoundError", 404, "model_not_found" if is_openai else "not_found_error", "req_"),
        ("AuthenticationError", 401, "invalid_api_key" if is_openai else "authentication_error", "req_"),
        ("BadRequestError", 400, "vision_disabled" if is_openai else "invalid_request_error", "req_"),
    ]
