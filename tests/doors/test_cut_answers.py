"""Where an account's money ends in the middle of an answer: whatever the backend's frames, prices and usage are like.

The answer ends at the last frame that the wallet pays for, and the wallet is never short of a nano-dollar.
"""

import asyncio
import logging
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import contextmanager
from typing import Any

import httpx2
import orjson
import pytest
import pytest_asyncio
from mcp import Client
from mcp.client.sse import sse_client
from mcp.client.streamable_http import streamable_http_client

from mcp_gateway.core.inference.exchange import Exchange
from mcp_gateway.core.money import format_usd
from mcp_gateway.core.prices import Price
from mcp_gateway.core.surfaces.usage import Usage
from tests.cases import each
from tests.patience import PATIENCE_S, eventually
from tests.replaying import DONE, Answer, Asked, ReplayingBackend, chunk, events, in_two, usage
from tests.serving import MESSAGES, NO_TLS, Door, bearer, error_of, open_door
from tests.stage import PRICED, Stage, cost_nano, staged
from tests.surfaces import CHAT_SPOKEN, MODEL, SPOKEN, Spoken

pytestmark = [pytest.mark.surfaces, pytest.mark.asyncio(loop_scope="module")]

WINDOW = 100_000
PROMPT = 10
MADE = 4000
LIMIT = 20_000
GROWING = [one for one in SPOKEN if one.name in ("chat", "completions")]
WAYS = [(one, is_stream) for one in GROWING for is_stream in (True, False)] + [(SPOKEN[-1], False)]
every_growing_way = each(("spoken", "is_stream"), WAYS)


SIZES: dict[str, Any] = {
    "context_window": WINDOW,
    "max_output_tokens": 32_000,
    "input_modalities": ["text", "image"],
}


def priced(name: str, **pricing: Any) -> dict[str, Any]:
    return SIZES | {"id": name, "backend_model": "tiny", "pricing": pricing}


DEAR = {"prompt": "0.000000301007", "completion": "0.000000703001"}
TIER = {"above_prompt_tokens": 5, "prompt": "0.0000001", "completion": "0.0000002"}
MODELS = {
    "fee": priced("fee", **DEAR, request="0.000001", image="0.00001"),
    "cheaper": priced("cheaper", **DEAR, tiers=[TIER]),
    "dearer": priced("dearer", **DEAR, tiers=[TIER | {"completion": "0.000003"}]),
    "cached": priced("cached", **DEAR, cached_prompt="0.00000001", cache_write="0.0000009"),
    "free prompt": priced("free-prompt", prompt="0", completion="0.0000007"),
    "free answer": priced("free-answer", prompt="0.0000003", completion="0"),
}


@pytest_asyncio.fixture(loop_scope="module", scope="module")
async def served(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[tuple[Door, ReplayingBackend]]:
    settings: dict[str, Any] = {
        "models": [PRICED | SIZES, *MODELS.values()],
        "wallet": {"hold_wait_s": 0, "min_useful_tokens": 1},
        "enable_vision": True,
    }
    async with (
        ReplayingBackend(max_model_len=WINDOW) as backend,
        open_door(tmp_path_factory.mktemp("cut"), vllm_urls=[backend.url], **settings) as door,
    ):
        yield door, backend


async def with_tokens(served: tuple[Door, ReplayingBackend], tokens: int) -> Stage:
    return await staged(*served, cost_nano(PROMPT, tokens))


def in_steps(spoken: Spoken, made: int, step: int, prompt_tokens: int = PROMPT) -> list[bytes]:
    """The events of a stream each of which brings so many tokens."""
    tokens = [spoken.token(number, prompt_tokens) for number in range(step, made + 1, step)]
    return [*spoken.opening(prompt_tokens), *tokens, *spoken.ending(prompt_tokens, made // step * step)]


async def is_cut_at(
    stage: Stage, spoken: Spoken, tokens: int, *, is_stream: bool, left_nano: int = 0, **fields: Any
) -> dict[str, Any]:
    """Ask, and look at everything that tells where the answer was cut; what the client got."""
    response = await stage.ask(spoken, is_stream=is_stream, **{"max_tokens": LIMIT} | fields)
    told, cost_usd = spoken.told(response, is_stream=is_stream)
    assert told is not None
    assert (told.prompt_tokens, told.completion_tokens) == (PROMPT, tokens)
    record = (await stage.records())[-1]
    assert (record["completion_tokens"], record["finish_reason"], record["http_status"]) == (tokens, "length", 200)
    assert format_usd(record["cost_nano"]) == cost_usd
    rows = await stage.door.rows("SELECT ended_by FROM request_counts WHERE id = ?", record["id"])
    assert rows == [("balance",)]
    await stage.is_left_with(left_nano)
    return spoken.events(response.content)[-1] if is_stream else spoken.answer(response)


# However the frames come


def one_by_one(frames: list[bytes]) -> list[bytes]:
    return frames


def together(frames: list[bytes]) -> list[bytes]:
    return [b"".join(frames)]


def in_pieces(frames: list[bytes]) -> list[bytes]:
    stream = b"".join(frames)
    return [stream[at : at + 97] for at in range(0, len(stream), 97)]


def with_crlf(frames: list[bytes]) -> list[bytes]:
    return [frame.replace(b"\n", b"\r\n") for frame in frames]


def with_comments(frames: list[bytes]) -> list[bytes]:
    return [b": alive\n\n" + frame for frame in frames]


def named(frames: list[bytes]) -> list[bytes]:
    return [b"event: message\nid: 1\n" + frame for frame in frames]


def with_blanks(frames: list[bytes]) -> list[bytes]:
    """As Python's json writes it, with a blank behind each colon and comma."""
    loose = (b'":', b'": '), (b'{"', b'{ "'), (b"[{", b"[ {")
    return [_replaced(frame, loose) for frame in frames]


def _replaced(frame: bytes, pairs: tuple[tuple[bytes, bytes], ...]) -> bytes:
    for old, new in pairs:
        frame = frame.replace(old, new)
    return frame


SENT: list[Callable[[list[bytes]], list[bytes]]] = [
    one_by_one, together, in_pieces, with_crlf, with_comments, named, with_blanks,
]  # fmt: skip


@every_growing_way
@each("sent", SENT)
@each(("step", "affords", "tokens"), [(1, 9, 9), (7, 30, 28), (600, 1300, 1200), (600, 500, 0)])
async def test_it_ends_before_the_first_frame_that_is_not_paid(
    served: tuple[Door, ReplayingBackend],
    spoken: Spoken,
    is_stream: bool,
    sent: Callable[[list[bytes]], list[bytes]],
    step: int,
    affords: int,
    tokens: int,
) -> None:
    if not tokens and not spoken.opening():
        return  # not even its first frame is paid for: see below
    stage = await with_tokens(served, affords)
    stage.backend.answer_with(events(*sent(in_steps(spoken, 12 * step, step))))
    left_nano = cost_nano(PROMPT, affords) - cost_nano(PROMPT, tokens)
    await is_cut_at(stage, spoken, tokens, is_stream=is_stream, left_nano=left_nano)


@every_growing_way
@each("border", [512, 1537, 3586, 7683, 15_876])
@each("off", [-1, 0, 1])
async def test_each_slice_ends_at_the_last_token_that_is_paid(
    served: tuple[Door, ReplayingBackend], spoken: Spoken, is_stream: bool, border: int, off: int
) -> None:
    """Borders as they are where a frame brings a token; of most frames here each brings many."""
    tokens = border + off
    stage = await with_tokens(served, tokens)
    near = [*range(500, 16_000, 500), *(one for edge in (512, 1537, 3586, 7683) for one in (edge, edge + 1))]
    numbers = sorted({*near, *range(tokens - 2, tokens + 3)})
    frames = [spoken.token(number, PROMPT) for number in numbers if number > 0]
    stage.backend.answer_with(events(b"".join([*spoken.opening(PROMPT), *frames, *spoken.ending(PROMPT, LIMIT)])))
    await is_cut_at(stage, spoken, tokens, is_stream=is_stream)


@each("spoken", [one for one in GROWING if not one.opening()])
@each("is_stream", [True, False])
async def test_where_not_even_the_first_frame_is_paid_it_is_refused(
    served: tuple[Door, ReplayingBackend], spoken: Spoken, is_stream: bool
) -> None:
    stage = await with_tokens(served, 500)
    stage.backend.answer_with(events(*in_steps(spoken, 1200, 600)))
    response = await stage.ask(spoken, is_stream=is_stream, max_tokens=LIMIT)
    assert (response.status_code, error_of(response)["code"]) == (402, "insufficient_balance")
    await stage.is_left_with(cost_nano(PROMPT, 500))


# Whatever an answer is made of


def delta_frame(number: int, delta: dict[str, Any], **choice: Any) -> bytes:
    told = orjson.loads(chunk("", PROMPT, number).removeprefix(b"data: "))
    told["choices"][0] |= {"delta": delta} | choice
    return b"data: %b\n\n" % orjson.dumps(told)


def arguments(number: int) -> dict[str, Any]:
    call: dict[str, Any] = {"index": 0, "function": {"arguments": '{"a' if number == 1 else "x"}}
    begins = {"id": "call_1", "type": "function", "function": call["function"] | {"name": "look"}}
    return {"tool_calls": [call | (begins if number == 1 else {})]}


LOGPROB = {"content": [{"token": "x", "logprob": -0.5, "bytes": [120], "top_logprobs": []}]}
DELTAS: list[tuple[str, Callable[[int], dict[str, Any]], dict[str, Any]]] = [
    ("reasoning", lambda _: {"reasoning": "x"}, {}),
    ("tool call", arguments, {}),
    ("logprobs", lambda _: {"content": "x"}, {"logprobs": LOGPROB}),
]


@each(("kind", "delta", "choice"), DELTAS)
@each("is_stream", [True, False])
async def test_what_was_cut_in_the_middle_is_told_as_far_as_it_came(
    served: tuple[Door, ReplayingBackend],
    is_stream: bool,
    kind: str,
    delta: Callable[[int], dict[str, Any]],
    choice: dict[str, Any],
) -> None:
    stage = await with_tokens(served, 5)
    frames = [delta_frame(number, delta(number), **choice) for number in range(1, 40)]
    stage.backend.answer_with(events(chunk("", PROMPT, 0), *frames, DONE))
    fields: dict[str, Any] = (
        {"tools": [{"type": "function", "function": {"name": "look"}}]} if kind == "tool call" else {}
    )
    told = await is_cut_at(stage, CHAT_SPOKEN, 5, is_stream=is_stream, **fields)
    assert told["gateway"] == {"ended_by": "balance"}
    if not is_stream:
        message = told["choices"][0]["message"]
        assert told["choices"][0]["finish_reason"] == "length"
        texts = {"reasoning": message.get("reasoning"), "logprobs": message.get("content")}
        if kind == "tool call":
            assert message["tool_calls"][0]["function"] == {"name": "look", "arguments": '{"axxxx'}
        else:
            assert texts[kind] == "xxxxx"


@each("options", [None, {"include_usage": True}, {"include_usage": True, "continuous_usage_stats": True}])
async def test_a_client_is_told_its_usage_as_it_asked_for_it(
    served: tuple[Door, ReplayingBackend], options: dict[str, Any] | None
) -> None:
    stage = await with_tokens(served, 3)
    stage.backend.answer_with(events(*CHAT_SPOKEN.stream(PROMPT, 100)))
    response = await stage.ask(CHAT_SPOKEN, is_stream=True, max_tokens=LIMIT, stream_options=options)
    told = CHAT_SPOKEN.events(response.content)
    assert CHAT_SPOKEN.pieces(response.content) == ["x"] * 3
    with_usage = [event["usage"] for event in told if event.get("usage")]
    assert len(with_usage) == (0 if options is None else len(told) if "continuous_usage_stats" in options else 1)
    assert [event["choices"][0]["finish_reason"] for event in told if event["choices"]] == [None] * 4 + ["length"]
    assert response.content.endswith(DONE)


async def test_a_cut_answer_that_began_with_a_frame_too_long_to_be_parsed_bears_its_id(
    served: tuple[Door, ReplayingBackend],
) -> None:
    completions = GROWING[1]
    stage = await with_tokens(served, 3)
    echoed = completions.token(1, PROMPT, "x" * 300_000)
    stage.backend.answer_with(events(echoed, *[completions.token(number, PROMPT) for number in range(2, 9)], DONE))
    response = await stage.ask(completions, is_stream=True, max_tokens=LIMIT)
    told = completions.events(response.content)
    assert {(event["id"], event["model"]) for event in told} == {("cmpl-1", MODEL)}
    await stage.is_left_with(0)


# Whatever the price is


def price_of(stage: Stage, model: str) -> Price:
    return stage.door.gateway.inference.parts.published.current.find(model).offers[0].price


@each("name", [name for name in MODELS if name != "free answer"])
@each("margin", [0, 2000])
@each("tokens", [60, 600])
async def test_it_is_the_last_token_at_any_price(
    served: tuple[Door, ReplayingBackend], name: str, margin: int, tokens: int
) -> None:
    model = MODELS[name]["id"]
    details = {"prompt_tokens_details": {"cached_tokens": 6}} if name == "cached" else {}
    cached = 6 if details else 0
    stage = await staged(*served, 1)
    price = price_of(stage, model).with_margin(margin)
    wallet_nano = price.cost_nano(PROMPT, tokens, cached) + 7
    stage = await staged(*served, wallet_nano)
    await (await stage.door.desk()).accounts.change(stage.account_id, margin=margin)
    await stage.door.gateway.known_keys.catch_up()
    frames = [_with_usage(frame, details) for frame in in_steps(CHAT_SPOKEN, 700, 1)]
    stage.backend.answer_with(events(b"".join(frames)))
    left_nano = wallet_nano - price.cost_nano(PROMPT, tokens, cached)
    assert price.cost_nano(PROMPT, tokens + 1, cached) > wallet_nano
    await is_cut_at(stage, CHAT_SPOKEN, tokens, is_stream=True, left_nano=left_nano, model=model)


def _with_usage(frame: bytes, details: dict[str, Any]) -> bytes:
    if frame == DONE or not details:
        return frame
    told = orjson.loads(frame.removeprefix(b"data: "))
    return b"data: %b\n\n" % orjson.dumps(told | {"usage": told["usage"] | details})


@each("spoken", GROWING)
async def test_what_costs_no_more_as_it_grows_is_never_cut(
    served: tuple[Door, ReplayingBackend], spoken: Spoken
) -> None:
    stage = await staged(*served, 300 * PROMPT)
    stage.backend.answer_with(events(*in_steps(spoken, MADE, 100)))
    response = await stage.ask(spoken, is_stream=True, model="free-answer", max_tokens=LIMIT)
    assert b"ended_by" not in response.content
    await stage.is_left_with(0)


# Whatever the backend tells of its usage


def without_usage(frames: list[bytes], last: int) -> list[bytes]:
    """The events without what they tell of usage, but for so many at the end."""
    end = len(frames) - last
    return [frame if number >= end or frame == DONE else _retold(frame) for number, frame in enumerate(frames)]


def _retold(frame: bytes, **told: Any) -> bytes:
    chunk = orjson.loads(frame.removeprefix(b"data: "))
    del chunk["usage"]
    return b"data: %b\n\n" % orjson.dumps(chunk | told)


def cannot_be(frames: list[bytes]) -> list[bytes]:
    odd = usage(2**40, 1)
    return [frame if frame == DONE else _retold(frame, usage=odd) for frame in frames]


UNTOLD: list[Callable[[list[bytes]], list[bytes]]] = [lambda frames: without_usage(frames, 0), cannot_be]


@each("told", UNTOLD)
@each("policy", ["estimate", "hold", "free"])
@every_growing_way
async def test_of_a_backend_that_tells_no_usage_each_frame_with_text_is_a_token(
    served: tuple[Door, ReplayingBackend],
    told: Callable[[list[bytes]], list[bytes]],
    policy: str,
    spoken: Spoken,
    is_stream: bool,
) -> None:
    """So it is cut where an estimate would be; what is billed then is by the policy."""
    stage = await with_tokens(served, 5)
    stage.backend.answer_with(events(*told(spoken.stream(PROMPT, 40))))
    with using(stage.door, policy):
        response = await stage.ask(spoken, is_stream=is_stream, max_tokens=LIMIT)
    usage, cost_usd = spoken.told(response, is_stream=is_stream)
    assert usage == (Usage(0, 0) if policy == "free" else Usage(PROMPT, 5))
    [record] = await stage.records()
    assert record["finish_reason"] == "length"
    told_of_it = (await stage.door.get(f"/v1/requests/{record['id']}", stage.key)).json()
    assert (told_of_it["usage_missing"], told_of_it["ended_by"]) == (policy, "balance")
    assert told_of_it["cost_usd"] == cost_usd == format_usd(record["cost_nano"])
    last = spoken.events(response.content)[-1] if is_stream else spoken.answer(response)
    assert last["gateway" if "gateway" in last else "ended_by"] in ({"ended_by": "balance"}, "balance")
    await stage.is_left_with(cost_nano(PROMPT, 5) if policy == "free" else 0)


@each(("wallet_tokens", "held_tokens"), [(5, 5), (600, 512), (3000, 512)])
@each("told", UNTOLD)
@every_growing_way
async def test_a_policy_that_bills_the_hold_bills_what_is_held_then(
    served: tuple[Door, ReplayingBackend],
    told: Callable[[list[bytes]], list[bytes]],
    spoken: Spoken,
    is_stream: bool,
    wallet_tokens: int,
    held_tokens: int,
) -> None:
    stage = await with_tokens(served, wallet_tokens)
    stage.backend.answer_with(events(*told(spoken.stream(PROMPT, 4))))
    with using(stage.door, "hold"):
        response = await stage.ask(spoken, is_stream=is_stream, max_tokens=LIMIT)
    assert spoken.told(response, is_stream=is_stream)[0] == Usage(PROMPT, held_tokens)
    await stage.is_left_with(cost_nano(PROMPT, wallet_tokens) - cost_nano(PROMPT, held_tokens))


@contextmanager
def using(door: Door, policy: str) -> Iterator[None]:
    wallet = door.gateway.settings.wallet
    object.__setattr__(wallet, "usage_missing", policy)
    try:
        yield
    finally:
        object.__setattr__(wallet, "usage_missing", "estimate")


@every_growing_way
async def test_one_that_tells_it_only_at_the_end_takes_no_more_than_there_is(
    served: tuple[Door, ReplayingBackend], spoken: Spoken, is_stream: bool
) -> None:
    """What a frame of many tokens cost is known too late: the balance is never below zero all the same."""
    stage = await with_tokens(served, 5)
    stage.backend.answer_with(events(*without_usage(in_steps(spoken, 200, 100), 2)))
    response = await stage.ask(spoken, is_stream=is_stream, max_tokens=LIMIT)
    assert response.status_code == 200
    await stage.is_left_with(0)


# A prompt that is not as long as it was counted


@every_growing_way
@each("sent", [one_by_one, together])
async def test_a_prompt_that_turns_out_longer_than_the_wallet_has_is_refused_and_not_billed(
    served: tuple[Door, ReplayingBackend],
    spoken: Spoken,
    is_stream: bool,
    sent: Callable[[list[bytes]], list[bytes]],
) -> None:
    stage, may_end = await with_tokens(served, 100), asyncio.Event()
    stage.backend.answer_with(in_two(sent(in_steps(spoken, 10, 1, 5000)[:-1]), may_end, [DONE]))
    response = await stage.ask(spoken, is_stream=is_stream, max_tokens=LIMIT)
    assert spoken.refusal_of(response) == "insufficient_balance"
    await stage.backend.chats[-1].gone()
    assert len(stage.backend.chats) == 1
    [record] = await stage.records()
    assert (record["cost_nano"], record["error_code"]) == (0, "insufficient_balance")
    await stage.is_left_with(cost_nano(PROMPT, 100))


@every_growing_way
async def test_a_longer_one_that_the_wallet_has_is_held_for_and_billed(
    served: tuple[Door, ReplayingBackend], spoken: Spoken, is_stream: bool
) -> None:
    stage = await staged(*served, cost_nano(5000, 100))
    stage.backend.answer_with(events(*in_steps(spoken, 300, 1, 5000)))
    response = await stage.ask(spoken, is_stream=is_stream, max_tokens=LIMIT)
    told, _ = spoken.told(response, is_stream=is_stream)
    assert told == Usage(5000, 100)
    await stage.is_left_with(0)


IMAGE = {"type": "image_url", "image_url": {"url": "data:image/png;base64,iVBORw0KGgo="}}


async def test_what_a_shorter_one_leaves_free_is_had_by_who_waits(served: tuple[Door, ReplayingBackend]) -> None:
    """A prompt with images is held for by the most that they may become, until the first frame tells."""
    door, backend = served
    stage = await staged(door, backend, cost_nano(9000, 1000))
    door.gateway.ledger._hold_wait_s, may_end = 1000.0, asyncio.Event()
    backend.answer_with()
    may_begin, begins = asyncio.Event(), CHAT_SPOKEN.stream(PROMPT, 3)

    async def late(asked: Asked) -> None:
        await may_begin.wait()
        await in_two(begins[:1], may_end, begins[1:])(asked)

    try:
        backend.queue.extend([late, events(*begins)])
        messages = [{"role": "user", "content": [{"type": "text", "text": "x"}, IMAGE, IMAGE]}]
        first = asyncio.ensure_future(stage.ask(is_stream=True, max_tokens=LIMIT, messages=messages))
        await eventually(lambda: backend.chats or first.done())
        assert not first.done(), first.result().text
        second = asyncio.ensure_future(stage.ask(is_stream=True, max_tokens=LIMIT, messages=messages))
        await eventually(lambda: door.gateway.ledger._wait_list)
        assert not second.done()
        may_begin.set()
        assert (await second).status_code == 200
        assert not first.done()
        may_end.set()
        assert (await first).status_code == 200
    finally:
        door.gateway.ledger._hold_wait_s = 0.0
    await stage.is_left_with(cost_nano(9000, 1000) - 2 * cost_nano(PROMPT, 3))


# Money that comes and goes meanwhile


def amid(frames: list[bytes], at: int, then: Callable[[], Any]) -> Answer:
    """A stream before whose frame at that place something happens, once the frames before it are read."""

    async def answer(asked: Asked) -> None:
        asked.start_stream()
        for number, frame in enumerate(frames):
            if number == at:
                await then()
            asked.send_event(frame)
        asked.end_stream()

    return answer


@each("is_beside", [False, True])
@every_growing_way
async def test_money_that_is_added_in_the_middle_is_used(
    served: tuple[Door, ReplayingBackend], spoken: Spoken, is_stream: bool, is_beside: bool
) -> None:
    """By the server, or by a command beside it, which tells nobody."""
    stage = await with_tokens(served, 20)
    ledger = (await stage.door.desk()).ledger if is_beside else stage.door.gateway.ledger
    more_nano = cost_nano(PROMPT, 900) - cost_nano(PROMPT, 20)

    async def top_up() -> None:
        await ledger.credit(stage.account_id, more_nano, f"more {stage.account_id}")

    stage.backend.answer_with(amid(spoken.stream(PROMPT, 1000), 15, top_up))
    await is_cut_at(stage, spoken, 900, is_stream=is_stream)


@every_growing_way
async def test_money_that_another_request_leaves_in_the_middle_is_used(
    served: tuple[Door, ReplayingBackend], spoken: Spoken, is_stream: bool
) -> None:
    stage = await with_tokens(served, 700)
    ledger = stage.door.gateway.ledger
    others_nano = cost_nano(PROMPT, 700) - cost_nano(PROMPT, 20)
    other = await ledger.hold(f"req_of_{stage.account_id}", stage.account_id, others_nano, others_nano)

    async def end() -> None:
        ledger.release(other.request_id)

    stage.backend.answer_with(amid(spoken.stream(PROMPT, 1000), 15, end))
    await is_cut_at(stage, spoken, 700, is_stream=is_stream)


@each("tokens", [600, 601, 1100])
async def test_two_that_race_for_the_last_of_it_have_together_what_there_was(
    served: tuple[Door, ReplayingBackend], tokens: int
) -> None:
    stage = await staged(*served, 2 * cost_nano(PROMPT, 0) + cost_nano(0, tokens))
    are_both_in = asyncio.Event()
    stage.backend.answer_with()
    frames = CHAT_SPOKEN.stream(PROMPT, 1000)
    stage.backend.queue.extend([in_two(frames[:1], are_both_in, frames[1:])] * 2)
    asked = [asyncio.ensure_future(stage.ask(is_stream=True, max_tokens=LIMIT)) for _ in range(2)]
    await stage.backend.chats_asked(2)
    are_both_in.set()
    told = [CHAT_SPOKEN.told(one, is_stream=True)[0] for one in await asyncio.gather(*asked)]
    made = sum(one.completion_tokens for one in told if one is not None)
    assert tokens - 2 <= made <= tokens
    records = await stage.records()
    await stage.is_left_with(
        2 * cost_nano(PROMPT, 0) + cost_nano(0, tokens) - sum(record["cost_nano"] for record in records)
    )


async def test_a_prompt_is_not_counted_for_an_account_without_money(served: tuple[Door, ReplayingBackend]) -> None:
    stage = await staged(*served, 1)
    stage.backend.answer_with()
    response = await stage.ask(is_stream=True, max_tokens=LIMIT)
    assert (response.status_code, error_of(response)["code"]) == (402, "insufficient_balance")
    assert stage.backend.counted == []


# Each client


@each("transport", ["streamable", "sse"])
async def test_the_mcp_sdk_sees_a_normal_end(served: tuple[Door, ReplayingBackend], transport: str) -> None:
    stage = await with_tokens(served, 20)
    stage.backend.answer_with(events(*CHAT_SPOKEN.stream(PROMPT, 100)))
    arguments = {"model": MODEL, "messages": MESSAGES, "max_tokens": LIMIT}
    url, headers = f"{stage.door.url}/v1/mcp", bearer(stage.key)
    async with httpx2.AsyncClient(headers=headers, timeout=PATIENCE_S, verify=NO_TLS) as http:
        target = streamable_http_client(url, http_client=http)
        if transport == "sse":
            target = sse_client(f"{url}/sse", headers=headers)
        async with Client(target) as client:
            result = await client.call_tool("chat_completion", arguments)
    told = result.structured_content
    assert not result.is_error
    assert told is not None
    assert (told["finish_reason"], told["ended_by"], told["content"]) == ("length", "balance", "x" * 20)
    assert told["cost_usd"] == format_usd(cost_nano(PROMPT, 20))
    await stage.is_left_with(0)


@each("is_stream", [True, False])
@each("spoken", GROWING)
async def test_openais_sdk_sees_a_normal_end(
    served: tuple[Door, ReplayingBackend], spoken: Spoken, is_stream: bool
) -> None:
    stage = await with_tokens(served, 20)
    stage.backend.answer_with(events(*spoken.stream(PROMPT, 100)))
    async with stage.door.openai(stage.key) as client:
        create: Any = client.chat.completions.create if spoken is CHAT_SPOKEN else client.completions.create
        fields = {"messages": MESSAGES} if spoken is CHAT_SPOKEN else {"prompt": "hello"}
        answer = await create(model=MODEL, max_tokens=LIMIT, stream=is_stream, **fields)
        chunks = [chunk async for chunk in answer] if is_stream else [answer]
    choices = [choice for one in chunks for choice in one.choices]
    texts = [spoken.piece({"choices": [choice.model_dump()]}) if is_stream else _said(choice) for choice in choices]
    assert "".join(texts) == "x" * 20
    assert [choice.finish_reason for choice in choices][-1] == "length"
    assert chunks[-1].model_extra["gateway"] == {"ended_by": "balance"}
    await stage.is_left_with(0)


def _said(choice: Any) -> str:
    text: str = choice.text if hasattr(choice, "text") else choice.message.content
    return text


# Who leaves while the hold grows


@each("came", [0, 1, 511, 512, 513, 1700])
@each("spoken", GROWING)
async def test_who_leaves_a_stream_pays_what_had_come_and_holds_nothing(
    served: tuple[Door, ReplayingBackend], spoken: Spoken, came: int
) -> None:
    """Also where it waits for the first frame: then it is the prompt."""
    stage = await with_tokens(served, 3000)
    frames = spoken.stream(PROMPT, 2000)
    kept = frames[: frames.index(spoken.token(came, PROMPT)) + 1] if came else spoken.opening(PROMPT)
    stage.backend.answer_with(in_two([b"".join(kept)] if kept else [], asyncio.Event(), []))
    body = spoken.body(is_stream=True, max_tokens=LIMIT)
    headers = bearer(stage.key)
    if not kept:
        await stage.leave_once_asked(spoken, is_stream=True, max_tokens=LIMIT)
    else:
        async with stage.door.http.stream("POST", spoken.path, json=body, headers=headers) as answer:
            told = b""
            async for piece in answer.aiter_bytes():
                told += piece
                if told.count(b'":"x"') == came:
                    break
        await stage.backend.chats[-1].gone()
    await stage.is_left_with(cost_nano(PROMPT, 3000) - cost_nano(PROMPT, came))
    [record] = await stage.records()
    assert (record["http_status"], record["completion_tokens"]) == (499, came)


@each("came", [1, 512, 513, 1700])
@each("spoken", [*GROWING, SPOKEN[-1]])
async def test_who_leaves_an_answer_in_one_piece_pays_what_had_come_and_holds_nothing(
    served: tuple[Door, ReplayingBackend], spoken: Spoken, came: int
) -> None:
    stage = await with_tokens(served, 3000)
    frames = spoken.stream(PROMPT, 2000) if spoken.name != "mcp tool" else CHAT_SPOKEN.stream(PROMPT, 2000)
    count = came + len(spoken.opening(PROMPT))
    stage.backend.answer_with(in_two([b"".join(frames[:count])], asyncio.Event(), []))
    asking = asyncio.ensure_future(stage.ask(spoken, max_tokens=LIMIT))
    running = stage.door.gateway.inference.running
    await eventually(lambda: [_collected_tokens(one) for one in running] == [came])
    asking.cancel()
    await stage.backend.chats[-1].gone()
    await asyncio.gather(asking, return_exceptions=True)
    await stage.is_left_with(cost_nano(PROMPT, 3000) - cost_nano(PROMPT, came))
    [record] = await stage.records()
    assert (record["error_code"], record["completion_tokens"]) == ("client_closed", came)


def _collected_tokens(exchange: Exchange) -> int | None:
    """How many have come of an answer that is collected."""
    answer = exchange._answer
    usage = answer.collecting.usage if answer is not None and answer.collecting is not None else None
    return None if usage is None else usage.completion_tokens


@every_growing_way
async def test_what_a_backend_breaks_off_is_billed_as_far_as_it_came(
    served: tuple[Door, ReplayingBackend], spoken: Spoken, is_stream: bool
) -> None:
    stage = await with_tokens(served, 3000)
    frames = CHAT_SPOKEN.stream(PROMPT, 2000) if spoken.name == "mcp tool" else spoken.stream(PROMPT, 2000)
    stage.backend.answer_with(events(b"".join(frames[: 700 + len(spoken.opening(PROMPT))])))
    response = await stage.ask(spoken, is_stream=is_stream, max_tokens=LIMIT)
    assert b"ended_by" not in response.content
    paid_nano = cost_nano(PROMPT, 700) if is_stream else 0
    await stage.is_left_with(cost_nano(PROMPT, 3000) - paid_nano)


@each("spoken", GROWING)
async def test_what_was_said_stands_in_no_log(
    served: tuple[Door, ReplayingBackend], spoken: Spoken, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG)
    canary = "canary-3f9a1c"
    stage = await with_tokens(served, 5)
    stage.backend.answer_with(events(*spoken.stream(PROMPT, 40, canary)))
    response = await stage.ask(spoken, is_stream=True, max_tokens=LIMIT, text=canary)
    assert spoken.pieces(response.content) == [canary] * 5
    pages = [(await stage.door.get(path, stage.key)).text for path in ("/v1/requests", "/metrics", "/v1/billing")]
    assert canary not in caplog.text + "".join(pages)
    dump = await stage.door.rows("SELECT * FROM requests JOIN request_counts USING (id)")
    assert canary not in repr(dump)
