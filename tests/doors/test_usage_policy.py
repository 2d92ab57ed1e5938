"""What is billed where a backend tells no usage that can be: whatever the policy, told, recorded and billed are one."""

import asyncio
import re
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack
from dataclasses import dataclass
from typing import Any

import orjson
import pytest
import pytest_asyncio

from mcp_gateway.core.config import WalletSettings
from mcp_gateway.core.money import format_usd
from mcp_gateway.core.surfaces.chat import parse_chat
from mcp_gateway.core.surfaces.usage import Usage, read_usage
from tests.cases import each
from tests.patience import eventually
from tests.quoting import quote_of
from tests.replaying import DONE, Answer, Asked, ReplayingBackend, contents, events, in_two, silence, whole
from tests.serving import FREE, PRICED, Door, bearer, chat_body, open_door
from tests.stage import staged as payer_at
from tests.surfaces import Responses, Spoken, every_streaming_surface, every_way

pytestmark = [pytest.mark.surfaces, pytest.mark.asyncio(loop_scope="module")]

CREDIT_NANO = 10**9
COUNTED = 37
"""Of a prompt, by /tokenize."""
LONG_TOKENS = 100
"""Above which an answer in one piece is collected from a stream."""
POLICIES = ("estimate", "hold", "free")
GOOD = {"prompt_tokens": 12, "completion_tokens": 2, "total_tokens": 14}

UNREADABLE = {
    "missing": b"",
    "null": b"null",
    "empty": b"{}",
    "a number": b"5",
    "a string": b'"12"',
    "a list": b"[1, 2]",
    "true": b"true",
    "a fraction": b'{"prompt_tokens": 1.5, "completion_tokens": 1}',
    "text": b'{"prompt_tokens": "twelve", "completion_tokens": 1}',
    "booleans": b'{"prompt_tokens": true, "completion_tokens": true}',
    "nulls": b'{"prompt_tokens": null, "completion_tokens": null, "total_tokens": 9}',
    "negative": b'{"prompt_tokens": -1, "completion_tokens": 5, "total_tokens": 4}',
    "the prompt alone": b'{"prompt_tokens": 12}',
    "the answer alone": b'{"completion_tokens": 3}',
    "the total alone": b'{"total_tokens": 20}',
    "nested": b'{"prompt_tokens": {"text": 5}, "completion_tokens": {"text": 5, "audio": {}}}',
    "a brace in a string": b'{"note": "a}b{", "total_tokens": 20}',
    "one above the window": b'{"prompt_tokens": 2049, "completion_tokens": 1, "total_tokens": 2050}',
    "2^62": b'{"prompt_tokens": 4611686018427387904, "completion_tokens": 1, "total_tokens": 4611686018427387905}',
    "2^63": b'{"prompt_tokens": 1, "completion_tokens": 9223372036854775808, "total_tokens": 9223372036854775809}',
    "2^70": b'{"prompt_tokens": 1180591620717411303424, "completion_tokens": 1, "total_tokens": 2}',
    "1e30": b'{"prompt_tokens": 1e30, "completion_tokens": 1, "total_tokens": 2}',
    "more cached than there is": b'{"prompt_tokens": 5, "completion_tokens": 1, "total_tokens": 6,'
    b' "prompt_tokens_details": {"cached_tokens": 6}}',
}
SOME = ("missing", "empty", "negative", "2^62")
READABLE = {
    "decimals": b'{"prompt_tokens": 12.0, "completion_tokens": 2.0, "total_tokens": 14.0}',
    "digits": b'{"prompt_tokens": "12", "completion_tokens": "2", "total_tokens": "14"}',
    "in another order": b'{"total_tokens": 14, "completion_tokens": 2, "prompt_tokens": 12}',
    "without a total": b'{"prompt_tokens": 12, "completion_tokens": 2}',
    "a total that is none": b'{"prompt_tokens": 12, "completion_tokens": 2, "total_tokens": -9}',
    "deep details": b'{"prompt_tokens": 12, "completion_tokens": 2, "total_tokens": 14,'
    b' "prompt_tokens_details": {"multimodal_tokens": {"image": {"a}": [1]}}}}',
    "a cost of its own": b'{"prompt_tokens": 12, "completion_tokens": 2, "total_tokens": 14, "cost_usd": "7"}',
}


def cost_nano(prompt_tokens: int, completion_tokens: int) -> int:
    return prompt_tokens * 300 + completion_tokens * 700


@dataclass
class Stage:
    """One account at a door with a policy."""

    door: Door
    backend: ReplayingBackend
    policy: str
    account: str
    key: str
    balance_nano: int = CREDIT_NANO

    async def spent_nano(self) -> int:
        """Since it was asked last."""
        await self.door.nothing_is_left()
        before, self.balance_nano = self.balance_nano, await self.door.balance_nano(self.account)
        return before - self.balance_nano

    def expected(self, prompt_tokens: int, completion_tokens: int, **fields: Any) -> Usage:
        """By this door's policy, where the estimate is so much."""
        if self.policy != "hold":
            return Usage(prompt_tokens, completion_tokens) if self.policy == "estimate" else Usage(0, 0)
        request = parse_chat(orjson.dumps(chat_body(**{"model": "priced/tiny"} | fields)))
        model = self.door.gateway.published.current["priced/tiny"]
        held = quote_of(model, model.price, request, WalletSettings())
        output = (request.output_limit or model.max_output_tokens) * request.choices
        assert held.maximum_nano == held.prompt_nano + 700 * output
        return Usage(held.prompt_nano // 300, output)


Doors = dict[str, tuple[Door, ReplayingBackend]]


@pytest_asyncio.fixture(loop_scope="module", scope="module")
async def doors(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Doors]:
    async with AsyncExitStack() as stack:
        opened = {}
        for policy in POLICIES:
            backend = await stack.enter_async_context(ReplayingBackend())
            door = open_door(
                tmp_path_factory.mktemp(policy),
                vllm_urls=[backend.url],
                models=[FREE, PRICED],
                wallet={"usage_missing": policy},
                upstream={"collect_above_tokens": LONG_TOKENS},
                limits={"listing_requests_per_minute": 1_000_000},
            )
            opened[policy] = await stack.enter_async_context(door), backend
        yield opened


@pytest_asyncio.fixture(loop_scope="module", params=POLICIES)
async def stage(doors: Doors, request: pytest.FixtureRequest) -> Stage:
    return await staged(doors, request.param)


@pytest_asyncio.fixture(loop_scope="module")
async def estimating(doors: Doors) -> Stage:
    return await staged(doors, "estimate")


async def staged(doors: Doors, policy: str) -> Stage:
    door, backend = doors[policy]
    backend.answer_with()
    backend.prompt_tokens = COUNTED
    account = await door.account("1")
    return Stage(door, backend, policy, account, await door.key(account))


# What backends answer


def frame(delta: dict[str, Any], usage: bytes = b"", *, finish: str | None = None, index: int = 0) -> bytes:
    choice = {"index": index, "delta": delta, "finish_reason": finish}
    body = {"id": "c", "object": "chat.completion.chunk", "created": 1, "model": "tiny", "choices": [choice]}
    told = b',"usage":' + usage if usage else b""
    return b"data: " + orjson.dumps(body)[:-1] + told + b"}\n\n"


def last(usage: bytes) -> bytes:
    """The frame that tells the total."""
    return (
        b'data: {"id":"c","object":"chat.completion.chunk","created":1,"model":"tiny","choices":[],"usage":%b}\n\n'
        % (usage)
    )


def streamed(usage: bytes, *, each: bytes = b"", choices: int = 1) -> list[bytes]:
    """Three tokens of each choice, a total that is told so, and another usage in each frame."""
    frames = [frame({"role": "assistant", "content": ""}, each, index=index) for index in range(choices)]
    frames += [frame({"content": text}, each, index=index) for text in "abc" for index in range(choices)]
    frames += [frame({}, each, finish="stop", index=index) for index in range(choices)]
    return [*frames, *([last(usage)] if usage else []), DONE]


def in_one_piece(usage: bytes, text: str = "four tokens", padding: str = "") -> Answer:
    choice = {"index": 0, "message": {"role": "assistant", "content": text}, "finish_reason": "stop"}
    body = {"id": "c", "object": "chat.completion", "created": 1, "x": padding, "model": "tiny", "choices": [choice]}
    told = b',"usage":' + usage if usage else b""
    return whole(orjson.dumps(body)[:-1] + told + b"}")


# What clients see


@dataclass
class Seen:
    usage: Usage | None
    cost_usd: str
    request_id: str


async def ask_unary(stage: Stage, **fields: Any) -> Seen:
    answer = await stage.door.chat(stage.key, **{"model": "priced/tiny"} | fields)
    assert answer.status_code == 200
    usage = answer.json()["usage"]
    assert_readable(usage)
    return Seen(read_usage(usage), answer.headers["x-cost-usd"], answer.headers["x-request-id"])


async def ask_streamed(stage: Stage, *, is_continuous: bool = False, **fields: Any) -> Seen:
    options = {"include_usage": True, "continuous_usage_stats": is_continuous}
    fields |= {"stream": True, "stream_options": options}
    answer = await stage.door.chat(stage.key, **{"model": "priced/tiny"} | fields)
    told = [chunk["usage"] for chunk in contents([answer.content]) if chunk.get("usage") is not None]
    for usage in told:
        assert_readable(usage)
    return Seen(read_usage(told[-1]), told[-1]["cost_usd"], answer.headers["x-request-id"])


async def ask_mcp(stage: Stage, **fields: Any) -> Seen:
    arguments = chat_body(**{"model": "priced/tiny"} | fields)
    answer = await stage.door.call("chat_completion", stage.key, **arguments)
    told = answer.json()["result"]["structuredContent"]
    assert_readable(told["usage"])
    return Seen(read_usage(told["usage"]), told["cost_usd"], told["request_id"])


def assert_readable(usage: dict[str, Any]) -> None:
    """In whole numbers that add up."""
    counts = [usage["prompt_tokens"], usage["completion_tokens"]]
    counts.append(usage.get("total_tokens", sum(counts)))
    assert [type(count) for count in counts] == [int] * 3
    assert 0 <= counts[0] <= 2048
    assert counts[0] + counts[1] == counts[2]


async def is_one(stage: Stage, seen: Seen, usage: Usage, policy: str | None) -> None:
    """What was told is recorded and billed, and the record says by which policy."""
    spent_nano = await stage.spent_nano()
    record = (await stage.door.get(f"/v1/requests/{seen.request_id}", stage.key)).json()
    assert seen.usage == usage
    assert (record["prompt_tokens"], record["completion_tokens"]) == usage[:2]
    assert record["usage_missing"] == policy
    assert spent_nano == cost_nano(*usage[:2])
    assert seen.cost_usd == record["cost_usd"] == format_usd(spent_nano)


@each("name", SOME)
async def test_usage_that_cannot_be_is_billed_by_the_policy_and_told_so(stage: Stage, name: str) -> None:
    usage, long = UNREADABLE[name], LONG_TOKENS + 1
    options = {"include_usage": True, "continuous_usage_stats": False}
    stage.backend.answer_with(in_one_piece(usage), *[events(*streamed(usage))] * 2)
    expected = stage.expected(COUNTED, 4, max_tokens=16)
    await is_one(stage, await ask_unary(stage, max_tokens=16), expected, stage.policy)
    expected = stage.expected(COUNTED, 3, max_tokens=16, stream=True, stream_options=options)
    await is_one(stage, await ask_streamed(stage, max_tokens=16), expected, stage.policy)
    expected = stage.expected(COUNTED, 3, max_tokens=long)
    await is_one(stage, await ask_unary(stage, max_tokens=long), expected, stage.policy)


@every_way
async def test_every_surface_bills_by_the_policy_and_tells_what_it_bills(
    doors: Doors, stage: Stage, spoken: Spoken, is_stream: bool
) -> None:
    door, backend = doors[stage.policy]
    for usage in (None, {}, spoken.usage(-1, 5), spoken.usage(2**62, 1), spoken.usage(1, 2**62)):
        payer = await payer_at(door, backend)
        told = [retold(one, usage) for one in (spoken.stream() if is_stream else [spoken.whole()])]
        backend.answer_with(events(*told) if is_stream else whole(told[0]))
        response = await payer.ask(spoken, is_stream=is_stream)
        read, cost_usd = spoken.told(response, is_stream=is_stream)
        (record,) = await payer.records()
        prompt, output, cost = (record[name] for name in ("prompt_tokens", "completion_tokens", "cost_nano"))
        assert read is not None
        assert (*read[:2], cost_usd) == (prompt, output, format_usd(cost)), usage
        assert cost == cost_nano(prompt, output)
        held = payer.held_nano
        assert (cost == held, cost == 0) == (stage.policy == "hold", stage.policy == "free"), usage
        assert cost <= held
        sql = "SELECT policy FROM missing_usages WHERE id = ?"
        assert await door.rows(sql, record["id"]) == [(stage.policy,)], usage
        await payer.is_left_with(CREDIT_NANO - cost)


@every_streaming_surface
async def test_an_end_that_cannot_be_leaves_what_the_stream_told_and_brought_before(
    doors: Doors, spoken: Spoken
) -> None:
    door, backend = doors["estimate"]
    backend.prompt_tokens = COUNTED
    for usage in (spoken.usage(2**62, 1), spoken.usage(10, 2**62), spoken.usage(1, 17)):
        payer, told = await payer_at(door, backend), spoken.stream()
        last = max(number for number, event in enumerate(told) if b'"usage"' in event)
        told[last] = retold(told[last], usage)
        backend.answer_with(events(*told))
        await payer.ask(spoken, is_stream=True)
        (record,) = await payer.records()
        tokens_before = COUNTED if isinstance(spoken, Responses) else 10  # which tells none before its end
        assert (record["prompt_tokens"], record["completion_tokens"]) == (tokens_before, 4), usage


@each("max_tokens", [16, LONG_TOKENS + 1])
@each("details", [{"cached_tokens": -987654}, {"cached_tokens": ["987654"]}, "987654", [987654], [[{"x": "987654"}]]])
@every_way
async def test_details_that_are_none_cost_no_answer_and_are_told_to_nobody(
    doors: Doors, spoken: Spoken, is_stream: bool, details: Any, max_tokens: int
) -> None:
    door, backend = doors["estimate"]
    output_tokens = 4 if spoken.is_generated else 0
    payer, usage = await payer_at(door, backend), spoken.usage(10, output_tokens)
    limit = {spoken.limit_field: max_tokens} if spoken.is_generated else {}

    async def answer(asked: Asked) -> None:
        is_streamed = bool(asked.json.get("stream"))
        told = spoken.stream() if is_streamed else [spoken.whole(10, output_tokens)]
        told = [retold(one, usage | {spoken.details_field: details}) if b'"usage"' in one else one for one in told]
        await (events(*told) if is_streamed else whole(told[0]))(asked)

    backend.answer_with(answer)
    response = await payer.ask(spoken, is_stream=is_stream, **limit)
    assert (spoken.refusal_of(response), b"987654" in response.content) == (None, False)
    (record,) = await payer.records()
    assert (record["prompt_tokens"], record["completion_tokens"]) == (10, output_tokens)


@every_way
async def test_a_cost_that_the_backend_tells_is_told_to_nobody(doors: Doors, spoken: Spoken, is_stream: bool) -> None:
    door, backend = doors["estimate"]
    payer, usage = await payer_at(door, backend), spoken.usage(10, 4 if spoken.is_generated else 0)
    usage |= {"cost_usd": "987654"}
    told = [retold(one, usage) for one in (spoken.stream() if is_stream else [spoken.whole()])]
    backend.answer_with(events(*told) if is_stream else whole(told[0]))
    response = await payer.ask(spoken, is_stream=is_stream)
    assert (spoken.refusal_of(response), b"987654" in response.content) == (None, False)
    (record,) = await payer.records()
    assert (record["prompt_tokens"], record["completion_tokens"]) == (10, 4 if spoken.is_generated else 0)
    assert spoken.told(response, is_stream=is_stream)[1] == format_usd(record["cost_nano"])


def retold(written: bytes, usage: dict[str, Any] | None) -> bytes:
    """An answer or an event with this usage wherever it tells one; with None it tells none."""
    head, data = re.split(rb"(?=\{)", written, maxsplit=1) if b"{" in written else (written, b"")
    return head + (orjson.dumps(_with_usage(orjson.loads(data), usage)) + b"\n\n" if data else b"")


def _with_usage(told: Any, usage: dict[str, Any] | None) -> Any:
    if isinstance(told, list):
        return [_with_usage(one, usage) for one in told]
    if not isinstance(told, dict):
        return told
    kept = {name: _with_usage(value, usage) for name, value in told.items() if name != "usage"}
    return kept if usage is None or "usage" not in told else kept | {"usage": usage}


@each("name", UNREADABLE)
async def test_usage_of_any_shape_that_cannot_be_is_estimated(estimating: Stage, name: str) -> None:
    usage, long = UNREADABLE[name], LONG_TOKENS + 1
    estimating.backend.answer_with(in_one_piece(usage), *[events(*streamed(usage))] * 2)
    await is_one(estimating, await ask_unary(estimating, max_tokens=16), Usage(COUNTED, 4), "estimate")
    await is_one(estimating, await ask_streamed(estimating, max_tokens=16), Usage(COUNTED, 3), "estimate")
    await is_one(estimating, await ask_unary(estimating, max_tokens=long), Usage(COUNTED, 3), "estimate")


@each("is_continuous", [False, True])
@each("name", UNREADABLE)
async def test_it_is_whatever_each_frame_tells(estimating: Stage, name: str, is_continuous: bool) -> None:
    estimating.backend.answer_with(events(*streamed(b"", each=UNREADABLE[name])))
    seen = await ask_streamed(estimating, is_continuous=is_continuous, max_tokens=16)
    await is_one(estimating, seen, Usage(COUNTED, 3), "estimate")


@each("max_tokens", [16, LONG_TOKENS + 1])
@each("name", SOME)
async def test_it_is_over_mcp(estimating: Stage, name: str, max_tokens: int) -> None:
    is_long = max_tokens > LONG_TOKENS
    usage = UNREADABLE[name]
    estimating.backend.answer_with(events(*streamed(usage)) if is_long else in_one_piece(usage))
    seen = await ask_mcp(estimating, max_tokens=max_tokens)
    await is_one(estimating, seen, Usage(COUNTED, 3 if is_long else 4), "estimate")


@each("name", SOME)
async def test_it_is_with_several_choices(stage: Stage, name: str) -> None:
    stage.backend.answer_with(events(*streamed(b"", each=UNREADABLE[name], choices=2)))
    options = {"include_usage": True, "continuous_usage_stats": False}
    usage = stage.expected(COUNTED, 6, max_tokens=16, n=2, stream=True, stream_options=options)
    await is_one(stage, await ask_streamed(stage, max_tokens=16, n=2), usage, stage.policy)


@each("name", READABLE)
async def test_usage_that_can_be_read_is_billed_and_told_as_numbers(stage: Stage, name: str) -> None:
    usage, long = READABLE[name], LONG_TOKENS + 1
    stage.backend.answer_with(in_one_piece(usage), *[events(*streamed(usage))] * 3)
    seen = [await ask_unary(stage, max_tokens=16), await ask_streamed(stage, max_tokens=16)]
    seen += [await ask_streamed(stage, is_continuous=True), await ask_unary(stage, max_tokens=long)]
    assert [one.usage for one in seen] == [Usage(12, 2)] * 4
    assert {one.cost_usd for one in seen} == {format_usd(cost_nano(12, 2))}
    assert await stage.spent_nano() == 4 * cost_nano(12, 2)


@each("usage", [UNREADABLE["missing"], UNREADABLE["empty"], UNREADABLE["2^62"], READABLE["digits"]])
async def test_a_long_answer_in_one_piece_is_told_the_usage_that_is_billed(estimating: Stage, usage: bytes) -> None:
    estimating.backend.answer_with(in_one_piece(usage, padding="x" * 300_000))
    seen = await ask_unary(estimating, max_tokens=16)
    is_read = usage == READABLE["digits"]
    expected = Usage(12, 2) if is_read else Usage(COUNTED, 16)  # its bytes are more than it may have
    await is_one(estimating, seen, expected, None if is_read else "estimate")


async def test_of_two_usages_in_an_answer_the_client_is_told_the_one_that_is_billed(estimating: Stage) -> None:
    twice = b'{"prompt_tokens": 1, "completion_tokens": 1, "total_tokens": 2}, "usage": ' + orjson.dumps(GOOD)
    estimating.backend.answer_with(in_one_piece(twice))
    answer = await estimating.door.chat(estimating.key, model="priced/tiny")
    assert answer.json()["usage"] == GOOD
    assert await estimating.spent_nano() == cost_nano(12, 2)


async def test_of_two_usages_in_a_stream_the_last_counts(estimating: Stage) -> None:
    frames = streamed(orjson.dumps({"prompt_tokens": 1, "completion_tokens": 1}))
    estimating.backend.answer_with(events(*frames[:-1], last(orjson.dumps(GOOD)), DONE))
    await is_one(estimating, await ask_streamed(estimating), Usage(12, 2), None)


async def test_usage_with_the_last_choice_is_billed_and_told(estimating: Stage) -> None:
    frames = [frame({"content": "a"}), frame({"content": "b"}, orjson.dumps(GOOD), finish="stop"), DONE]
    estimating.backend.answer_with(events(*frames))
    await is_one(estimating, await ask_streamed(estimating), Usage(12, 2), None)


@each("cut", [1, 2, 3])
@each("rest", ["missing", "null", "empty"])
@each("is_one_piece", [True, False])
async def test_where_usage_stops_each_frame_with_text_behind_it_is_a_token(
    estimating: Stage, cut: int, rest: str, is_one_piece: bool
) -> None:
    told = [b'{"prompt_tokens":12,"total_tokens":%d,"completion_tokens":%d}' % (12 + n, n) for n in range(cut)]
    usages = [*told, *[UNREADABLE[rest]] * (5 - cut)]
    frames = [frame({"content": text}, usage) for text, usage in zip(["", *"abcd"], usages, strict=True)]
    frames = [*frames, frame({}, finish="stop"), DONE]
    estimating.backend.answer_with(events(b"".join(frames)) if is_one_piece else events(*frames))
    await is_one(estimating, await ask_streamed(estimating), Usage(12, 4), None)


@each(
    ("delta", "tokens"),
    [
        ({"content": "a"}, 3), ({"reasoning": "a"}, 3), ({"reasoning_content": "a"}, 3), ({"refusal": "a"}, 3),
        ({"reasoning": "a", "reasoning_content": "a"}, 3), ({"content": ""}, 0), ({"content": None}, 0), ({}, 0),
        ({"tool_calls": [{"index": 0, "function": {"arguments": '{"a'}}]}, 3),
        ({"content": [{"type": "thinking", "thinking": [{"type": "text", "text": "a"}]}]}, 3),
        ({"content": '"content":"b"'}, 3),
    ],
)  # fmt: skip
async def test_a_frame_counts_where_it_carries_text_of_any_kind(
    estimating: Stage, delta: dict[str, Any], tokens: int
) -> None:
    estimating.backend.answer_with(events(*[frame(delta)] * 3, frame({}, finish="stop"), DONE))
    await is_one(estimating, await ask_streamed(estimating), Usage(COUNTED, tokens), "estimate")


@each(
    ("message", "tokens"),
    [
        ({"content": "123456789"}, 3), ({"content": "1234567890"}, 4), ({"content": "äöü"}, 2), ({"content": None}, 0),
        ({"content": None, "reasoning": "123"}, 1), ({"content": None, "reasoning_content": "123"}, 1),
        ({"content": "123", "reasoning": "123", "reasoning_content": "123"}, 2),
        ({"content": None, "tool_calls": [{"id": "x" * 99, "type": "function",
                                           "function": {"name": "fun", "arguments": "{}    "}}]}, 3),
        ({"content": [{"type": "text", "text": "123456"}]}, 2), ({"content": "x" * 300}, 16),
    ],
)  # fmt: skip
async def test_an_answer_in_one_piece_is_a_token_for_each_three_bytes_of_its_texts(
    estimating: Stage, message: dict[str, Any], tokens: int
) -> None:
    choice = {"index": 0, "message": {"role": "assistant"} | message, "finish_reason": "stop"}
    estimating.backend.answer_with(whole(orjson.dumps({"id": "c", "model": "tiny", "choices": [choice]})))
    await is_one(estimating, await ask_unary(estimating, max_tokens=16), Usage(COUNTED, tokens), "estimate")


@each("counted", [None, -1, 0, 2049, 2**62])
@each("is_stream", [True, False])
async def test_a_prompt_that_the_backend_cannot_count_is_a_token_for_each_three_bytes(
    estimating: Stage, counted: int | None, is_stream: bool
) -> None:
    estimating.backend.prompt_tokens = counted
    estimating.backend.answer_with(events(*streamed(b"")) if is_stream else in_one_piece(b""))
    ask = ask_streamed if is_stream else ask_unary
    seen = await ask(estimating, max_tokens=16)
    [asked] = estimating.backend.chats
    assert seen.usage is not None
    assert 0 < seen.usage.prompt_tokens <= len(asked.body) // 3
    await is_one(estimating, seen, seen.usage, "estimate")


async def test_an_estimate_never_exceeds_the_limit_nor_what_is_held(estimating: Stage) -> None:
    estimating.backend.prompt_tokens = 2048
    estimating.backend.answer_with(
        in_one_piece(b"", "x" * 1000), events(*streamed(b"")), events(*streamed(b"", choices=2))
    )
    bound = await ask_unary(estimating, max_tokens=5)
    assert bound.usage is not None
    assert bound.usage.prompt_tokens < 2048
    assert bound.usage.completion_tokens == 5
    assert (await ask_streamed(estimating, max_tokens=2)).usage[1:2] == (2,)  # type: ignore[index]
    assert (await ask_streamed(estimating, max_tokens=2, n=2)).usage[1:2] == (4,)  # type: ignore[index]


async def test_what_is_free_or_a_guest_s_is_estimated_where_the_hold_would_be_billed(doors: Doors) -> None:
    for policy in POLICIES:
        stage = await staged(doors, policy)
        stage.backend.answer_with(in_one_piece(b""))
        answer = await stage.door.chat(stage.key)
        record = await stage.door.record(answer)
        tokens = (0, 0) if policy == "free" else (COUNTED, 4)
        assert (record["prompt_tokens"], record["completion_tokens"], record["cost_nano"]) == (*tokens, 0)


async def test_a_client_that_leaves_a_stream_pays_by_the_policy(stage: Stage) -> None:
    fields = {"model": "priced/tiny", "max_tokens": 16, "stream": True}
    stage.backend.answer_with(in_two(streamed(b"")[:3], asyncio.Event(), []))
    request_id = await left_after(stage, b'"content":"b"', **fields)
    usage = stage.expected(COUNTED, 2, **fields)
    assert await stage.spent_nano() == cost_nano(*usage[:2])
    [row] = await stage.door.rows("SELECT http_status, completion_tokens FROM requests WHERE id = ?", request_id)
    assert row == (499, usage.completion_tokens)


async def left_after(stage: Stage, text: bytes, **fields: Any) -> str:
    body, seen = chat_body(**fields), b""
    async with stage.door.http.stream("POST", "/v1/chat/completions", json=body, headers=bearer(stage.key)) as answer:
        async for piece in answer.aiter_bytes():
            seen += piece
            if text in seen:
                break
    await stage.backend.chats[0].gone()
    return answer.headers["x-request-id"]


async def test_a_client_that_leaves_a_collected_answer_pays_by_the_policy(stage: Stage) -> None:
    stage.backend.answer_with(in_two(streamed(b"")[:3], asyncio.Event(), []))
    fields = {"model": "priced/tiny", "max_tokens": LONG_TOKENS + 1}
    asking = asyncio.ensure_future(stage.door.chat(stage.key, **fields))
    await eventually(lambda: [exchange.latest_words for exchange in stage.door.gateway.inference.running] == ["ab"])
    asking.cancel()
    await stage.backend.chats[0].gone()
    await eventually(lambda: not stage.door.gateway.inference.running)
    assert await stage.spent_nano() == cost_nano(*stage.expected(COUNTED, 2, **fields)[:2])


@each("broken", [b'data: {"error":{"message":"x","code":500}}\n\n', b""])
async def test_what_a_backend_breaks_off_is_estimated_unless_it_is_free(stage: Stage, broken: bytes) -> None:
    stage.backend.answer_with(events(*streamed(b"")[:3], *([broken] if broken else [])))
    answer = await stage.door.chat(
        stage.key, model="priced/tiny", max_tokens=16, stream=True, stream_options={"include_usage": True}
    )
    told = contents([answer.content])
    assert "error" in told[-1]
    [usage] = [chunk["usage"] for chunk in told if chunk.get("usage")]
    expected = Usage(0, 0) if stage.policy == "free" else Usage(COUNTED, 2)
    policy = "free" if stage.policy == "free" else "estimate"
    seen = Seen(read_usage(usage), usage["cost_usd"], answer.headers["x-request-id"])
    await is_one(stage, seen, expected, policy)


async def test_who_leaves_while_the_prompt_is_counted_pays_by_the_policy_all_the_same(estimating: Stage) -> None:
    is_counting, may_count = asyncio.Event(), asyncio.Event()
    answer_to = estimating.backend._answer_to

    async def slowly(asked: Asked) -> None:
        is_counting.set()
        await may_count.wait()
        await whole(b'{"count":%d}' % COUNTED)(asked)

    estimating.backend._answer_to = lambda asked: slowly if asked.path == "/tokenize" else answer_to(asked)  # type: ignore[method-assign]
    estimating.backend.answer_with(events(*streamed(b"")))
    asking = asyncio.ensure_future(estimating.door.chat(estimating.key, model="priced/tiny", stream=True))
    await is_counting.wait()
    asking.cancel()
    await eventually(lambda: not estimating.door.gateway.inference.running)
    may_count.set()
    assert await estimating.spent_nano() == cost_nano(COUNTED, 3)
    del estimating.backend._answer_to


async def test_a_backend_that_does_not_answer_a_count_holds_nobody_up(
    estimating: Stage, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("mcp_gateway.core.upstream.backend.COUNT_S", 0.01)
    answer_to = estimating.backend._answer_to
    mute = lambda asked: silence if asked.path == "/tokenize" else answer_to(asked)  # noqa: E731
    monkeypatch.setattr(estimating.backend, "_answer_to", mute)
    estimating.backend.answer_with(events(*streamed(b"")))
    seen = await ask_streamed(estimating)
    assert seen.usage is not None
    assert seen.usage.completion_tokens == 3
    await is_one(estimating, seen, seen.usage, "estimate")


async def test_a_minute_and_a_backend_have_one_line_in_the_log_and_each_answer_counts(
    estimating: Stage, caplog: pytest.LogCaptureFixture
) -> None:
    estimating.door.gateway.inference.parts.failures._usage_logs.clear()
    before = await missing(estimating.door)
    for usage in (b"", b"{}", UNREADABLE["2^62"]):
        estimating.backend.answer_with(in_one_piece(usage))
        await ask_unary(estimating)
    assert [line.getMessage() for line in caplog.records if "usage" in line.getMessage()] == [
        "backend vllm-1 tells no usage that can be: wallet.usage_missing says what is billed"
    ]
    assert await missing(estimating.door) == before + 3


async def missing(door: Door) -> float:
    page = (await door.http.get("/metrics")).text
    found = [line for line in page.splitlines() if line.startswith('gateway_usage_missing_total{backend="vllm-1"}')]
    return float(found[0].split()[-1]) if found else 0.0
