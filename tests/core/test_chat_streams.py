"""A stream is whole, or says that it is not: what is told, recorded and billed is one decision."""

# ruff: noqa: F811 - the fixture is imported

import asyncio
from collections.abc import AsyncIterator
from typing import Any

import orjson
import pytest

from mcp_gateway.core.errors import GatewayError
from mcp_gateway.core.upstream.backend import Backend
from tests.captured import captured
from tests.core.test_chat import Stage, read_frames, request, stage  # noqa: F401 - the fixture
from tests.replaying import DONE, Answer, Asked, chunk, contents, events, final_usage, stream, usage, whole

pytestmark = pytest.mark.gateways
PRICE = (300, 700)


def of_choice(index: int, frame: bytes) -> bytes:
    return frame.replace(b'"index":0', b'"index":%d' % index)


def cost(prompt: int, completion: int) -> int:
    return prompt * PRICE[0] + completion * PRICE[1]


def broken_off(*frames: bytes) -> Answer:
    """A stream whose connection is reset once the frames have been sent."""

    async def answer(asked: Asked) -> None:
        asked.start_stream()
        for frame in frames:
            asked.send_event(frame)
        asked.transport.close()

    return answer


async def told(stage: Stage, answer: Answer, **fields: Any) -> list[dict[str, Any]]:
    """The chunks of the stream that a client is sent."""
    stage.backend.answer_with(answer)
    with await stage.exchange() as exchange:
        await exchange.begin(request(stream=True, **fields))
        frames = [frame async for frame in read_frames(exchange)]
    assert b"".join(frames).endswith(DONE)
    return contents(frames)


def text_of(chunks: list[dict[str, Any]], index: int = 0) -> str:
    choices = [choice for one in chunks for choice in one["choices"] if choice["index"] == index]
    return "".join(choice["delta"].get("content") or "" for choice in choices)


def code_of(chunks: list[dict[str, Any]]) -> str | None:
    codes = [one["error"]["code"] for one in chunks if "error" in one]
    return codes[0] if codes else None


def backend_of(stage: Stage) -> Backend:
    return stage.gateway.pool.backends[0]


USAGE = {"stream_options": {"include_usage": True}}
TWO = [chunk("", 10, 0), of_choice(1, chunk("", 10, 0)), chunk("a", 10, 1, "stop"), of_choice(1, chunk("b", 10, 3))]
ENGINE_DEAD = b'data: {"error":{"message":"EngineCore died at 10.1.2.3","code":500}}\n\n'
ENDS = {
    "its end": events(*TWO),
    "[DONE]": events(*TWO, DONE),
    "a break": broken_off(*TWO),
    "an error": events(*TWO, ENGINE_DEAD, DONE),
}


@pytest.mark.parametrize("asked", [{}, USAGE])
@pytest.mark.parametrize("answer", ENDS.values(), ids=ENDS)
async def test_with_two_choices_one_that_is_cut_is_an_error_and_what_came_is_paid(
    stage: Stage, answer: Answer, asked: dict[str, Any]
) -> None:
    chunks = await told(stage, answer, n=2, **asked)
    assert (text_of(chunks), text_of(chunks, 1)) == ("a", "b")
    code = code_of(chunks)
    assert code in ("backend_died", "backend_error")
    await stage.is_accounted_for(cost(10, 4), code)


ONE = [chunk("", 10, 0), chunk("a", 10, 1), chunk("b", 10, 2, "stop")]
LATE = {"its end": events(*ONE), "a break": broken_off(*ONE), "an error": events(*ONE, ENGINE_DEAD, DONE)}


@pytest.mark.parametrize("asked", [{}, USAGE])
@pytest.mark.parametrize("answer", LATE.values(), ids=LATE)
async def test_an_answer_that_has_finished_is_told_as_finished_whatever_follows(
    stage: Stage, answer: Answer, asked: dict[str, Any]
) -> None:
    chunks = await told(stage, answer, **asked)
    assert (text_of(chunks), code_of(chunks)) == ("ab", None)
    assert [one["usage"]["completion_tokens"] for one in chunks if "usage" in one] == ([2] if asked else [])
    await stage.is_accounted_for(cost(10, 2), None)


async def test_a_failure_behind_a_finished_answer_counts_against_the_backend(stage: Stage) -> None:
    for _ in range(stage.gateway.settings.upstream.breaker_failures):
        await told(stage, events(*ONE, ENGINE_DEAD, DONE))
    assert backend_of(stage).status == "failing"


@pytest.mark.parametrize(
    ("frames", "code"),
    [
        (ONE[:2], "backend_died"),
        ([*ONE[:2], ENGINE_DEAD], "backend_error"),
        ([*ONE, ENGINE_DEAD, DONE], "backend_error"),
        ([*ONE, DONE], None),
    ],
)
async def test_an_answer_that_breaks_off_counts_once_as_an_attempt_that_failed(
    stage: Stage, frames: list[bytes], code: str | None
) -> None:
    await told(stage, events(*frames))
    page = stage.gateway.metrics.exposition().decode()
    lines = [line for line in page.splitlines() if line.startswith("gateway_upstream_errors_total{")]
    labels = f'backend="{backend_of(stage).name}",code="{code}"'
    assert lines == ([] if code is None else [f"gateway_upstream_errors_total{{{labels}}} 1.0"])


@pytest.mark.parametrize("frames", [ONE[:2], [chunk("", 10, 0)], [*ONE[:2], chunk("", 10, 2, "")]])
async def test_done_without_a_finish_is_an_error(stage: Stage, frames: list[bytes]) -> None:
    chunks = await told(stage, events(*frames, DONE))
    assert code_of(chunks) == "backend_died"
    spent = max(orjson.loads(frame[5:])["usage"]["completion_tokens"] for frame in frames)
    await stage.is_accounted_for(cost(10, spent), "backend_died")


@pytest.mark.parametrize("frames", [[DONE], [b": ping\n\n", DONE], []])
async def test_done_before_anything_else_is_no_answer(stage: Stage, frames: list[bytes]) -> None:
    stage.backend.answer_with(events(*frames))
    with pytest.raises(GatewayError, match="backend_died"), await stage.exchange() as exchange:
        await exchange.begin(request(stream=True))
    await stage.is_accounted_for(0, "backend_died")


@pytest.mark.parametrize("asked", [{}, USAGE])
async def test_a_frame_that_is_held_back_comes_before_the_error(stage: Stage, asked: dict[str, Any]) -> None:
    frames = [*TWO[:3], final_usage(10, 2), ENGINE_DEAD]
    chunks = await told(stage, events(*frames), n=2, **asked)
    assert text_of(chunks) == "a"
    assert [one["usage"]["completion_tokens"] for one in chunks if "usage" in one] == ([2] if asked else [])
    assert "error" in chunks[-1]
    await stage.is_accounted_for(cost(10, 2), "backend_error")


@pytest.mark.parametrize("code", [b"null", b"500", b'"500"', b"200", b"true", b"1e30", b"[1]", b"99999999999999999999"])
async def test_an_error_is_told_in_our_words_whatever_code_it_names(stage: Stage, code: bytes) -> None:
    error = b'data: {"error":{"message":"died at 10.1.2.3","code":%b}}\n\n' % code
    chunks = await told(stage, events(*ONE[:2], error))
    assert code_of(chunks) == "backend_error"
    assert "10.1.2.3" not in str(chunks)
    await stage.is_accounted_for(cost(10, 1), "backend_error")


async def test_a_backend_that_begins_to_fail_is_told_once(stage: Stage, caplog: pytest.LogCaptureFixture) -> None:
    pool = stage.gateway.pool
    pool.tell_of_changes()
    assert not [line for line in caplog.messages if "failing" in line]
    for _ in range(stage.gateway.settings.upstream.breaker_failures):
        await told(stage, events(*ONE[:2], b"event: error\ndata: no more\n\n"))
    for _ in range(3):
        pool.tell_of_changes()
    told_lines = [line for line in caplog.messages if "is failing: its requests fail" in line]
    assert len(told_lines) == 1
    assert backend_of(stage).name in told_lines[0]
    backend_of(stage).fault = "no connection"
    pool.tell_of_changes()
    assert not [line for line in caplog.messages if "failing no more" in line]


async def test_errors_in_streams_open_the_breaker(stage: Stage) -> None:
    for _ in range(stage.gateway.settings.upstream.breaker_failures):
        await told(stage, events(*ONE[:2], b"event: error\ndata: no more\n\n"))
    assert backend_of(stage).status == "failing"


@pytest.mark.parametrize("end", [b"data: [DONE]", b"data: [DONE]\n"])
async def test_a_stream_whose_last_line_is_not_ended_is_whole(stage: Stage, end: bytes) -> None:
    chunks = await told(stage, events(*stream(10, 4)[:-1], end))
    assert code_of(chunks) is None
    await stage.is_accounted_for(cost(10, 4), None)


@pytest.mark.parametrize("cut", [1, 30, 60])
async def test_a_frame_that_is_cut_never_leaves(stage: Stage, cut: int) -> None:
    chunks = await told(stage, events(*ONE[:2], ONE[2][:-cut]))
    assert (text_of(chunks), code_of(chunks)) == (("ab", None) if cut == 1 else ("a", "backend_died"))


async def test_usage_in_the_last_chunk_alone_is_billed_and_told(stage: Stage) -> None:
    bare = [orjson.loads(frame[5:]) for frame in ONE]
    for one in bare[:-1]:
        del one["usage"]
    chunks = await told(stage, events(*[b"data: %b\n\n" % orjson.dumps(one) for one in bare], DONE), **USAGE)
    assert [one["usage"] for one in chunks if "usage" in one] == [
        {"prompt_tokens": 10, "total_tokens": 12, "completion_tokens": 2, "cost_usd": "0.0000044"}
    ]
    assert chunks[-1]["choices"] == []
    await stage.is_accounted_for(cost(10, 2), None)


@pytest.mark.parametrize(
    ("body", "words"),
    [
        (b'{"object":"error","message":"top_k must be -1.","type":"BadRequestError","code":400}', "top_k must be -1."),
        (b"Header Or Cookie Too Large", "Header Or Cookie Too Large"),
        (b'"only text"', "only text"),
        (b'{"message":"said so"}', "said so"),
        (b'{"error":"as text"}', "as text"),
        (b'{"detail":"as a detail"}', "as a detail"),
        (b"failed at /opt/vllm/engine.py on 10.1.2.3", "failed at a file on a server"),
        (b"two\nlines\x1b[31m", "two\\nlines\\x1b[31m"),
        (b"<html><title>400</title>", "The backend refused the request."),
        (b"{}", "The backend refused the request."),
        (b"[]", "The backend refused the request."),
        (b"", "The backend refused the request."),
    ],
)
async def test_a_refusal_of_any_shape_keeps_its_words(stage: Stage, body: bytes, words: str) -> None:
    stage.backend.answer_with(whole(body, 400))
    with pytest.raises(GatewayError) as refused, await stage.exchange() as exchange:
        await exchange.begin(request())
    assert (refused.value.code, refused.value.message) == ("invalid_value", words)


@pytest.mark.parametrize("is_stream", [True, False])
async def test_the_answer_to_another_request_is_an_error_and_its_connection_is_closed(
    stage: Stage, is_stream: bool
) -> None:
    other = b"chatcmpl-req_01a21688cde57e431b1c17522964cbe6"
    body = b'{"id":"%b","model":"tiny","choices":[{"index":0,"finish_reason":"stop"}]}' % other
    frames = [frame.replace(b"chatcmpl-1", other) for frame in stream()]
    stage.backend.answer_with(events(*frames) if is_stream else whole(body))
    with pytest.raises(GatewayError, match="backend_error"), await stage.exchange() as exchange:
        await exchange.begin(request(stream=is_stream))
    await stage.backend.chats[0].gone()
    await stage.is_accounted_for(0, "backend_error")


@pytest.mark.parametrize("answer_id", [b"chatcmpl-x", b"req_1", b"chatcmpl-tool-req_1", b""])
async def test_an_id_of_a_server_s_own_passes(stage: Stage, answer_id: bytes) -> None:
    frames = [frame.replace(b"chatcmpl-1", answer_id) for frame in stream(10, 4)]
    assert code_of(await told(stage, events(*frames))) is None


def named(asked: Asked, answer_id: bytes | None) -> bytes:
    """What stands for an answer's id; None for the one of its request, as vLLM has it."""
    return answer_id or b"chatcmpl-" + asked.headers["x-request-id"].encode()


def answering(answer_id: bytes | None, *, is_stream: bool, later: tuple[asyncio.Event, bytes] | None = None) -> Answer:
    """An answer that bears this id, and behind it what nobody asked for, once the event says so."""

    async def answer(asked: Asked) -> None:
        name = named(asked, answer_id)
        if is_stream:
            await events(*[frame.replace(b"chatcmpl-1", name) for frame in stream(10, 4)])(asked)
        else:
            body = orjson.loads(captured("100_chat").body) | {"id": name.decode(), "usage": usage(10, 4)}
            await whole(orjson.dumps(body))(asked)
        if later is not None:
            await later[0].wait()
            asked.send(later[1])

    return answer


async def connections_of_two_answers(stage: Stage, answer_id: bytes | None, *, is_stream: bool) -> int:
    stage.backend.answer_with(*[answering(answer_id, is_stream=is_stream)] * 2)
    for _ in range(2):
        with await stage.exchange() as exchange:
            await exchange.begin(request(stream=is_stream))
            async for _ in read_frames(exchange) if is_stream else no_frames():
                pass
    return len({asked.transport for asked in stage.backend.chats})


async def no_frames() -> AsyncIterator[bytes]:
    return
    yield b""


@pytest.mark.parametrize("is_stream", [True, False])
async def test_a_connection_is_used_again_at_once_where_the_answer_named_its_request(
    stage: Stage, is_stream: bool
) -> None:
    assert await connections_of_two_answers(stage, None, is_stream=is_stream) == 1
    assert await connections_of_two_answers(stage, b"own-1", is_stream=is_stream) == 2


@pytest.mark.parametrize("is_stream", [True, False])
async def test_an_answer_that_nobody_asked_for_reaches_nobody_though_it_comes_late(
    stage: Stage, is_stream: bool
) -> None:
    """The next request has been sent by then, over another connection; the one that it comes on is closed."""
    may_come, smuggled = asyncio.Event(), b'HTTP/1.1 200 OK\r\ncontent-length: 7\r\n\r\n{"x":1}'
    stage.backend.answer_with(
        answering(b"own-1", is_stream=is_stream, later=(may_come, smuggled)), answering(b"own-2", is_stream=False)
    )
    with await stage.exchange() as exchange:
        await exchange.begin(request(stream=is_stream))
        async for _ in read_frames(exchange) if is_stream else no_frames():
            pass
    with await stage.exchange() as exchange:
        await exchange.begin(request())
        assert orjson.loads(exchange.body)["id"] == "own-2"
    may_come.set()
    await stage.backend.chats[0].gone()
