"""What every surface in every dialect holds, over what a real server answered; a further one is a row of PAIRS."""

from collections.abc import Callable
from dataclasses import dataclass
from random import Random
from typing import Any

import orjson
import pytest

from mcp_gateway.core.dialects.dialect import Dialect, Translation
from mcp_gateway.core.dialects.vllm import ALLOWED_PATHS, Vllm
from mcp_gateway.core.errors import TABLE, GatewayError
from mcp_gateway.core.inference.terms import asked_terms
from mcp_gateway.core.surfaces.chat import CHAT
from mcp_gateway.core.surfaces.completions import COMPLETIONS
from mcp_gateway.core.surfaces.credible import UsageBounds
from mcp_gateway.core.surfaces.embeddings import EMBEDDINGS
from mcp_gateway.core.surfaces.input_answer import usage_in as usage_of_input
from mcp_gateway.core.surfaces.message_usage import usage_in
from mcp_gateway.core.surfaces.messages import MESSAGES
from mcp_gateway.core.surfaces.response_object import usage_of
from mcp_gateway.core.surfaces.responses import RESPONSES
from mcp_gateway.core.surfaces.scores import RERANK, SCORE
from mcp_gateway.core.surfaces.surface import Ask, Reader, Surface
from mcp_gateway.core.surfaces.usage import Usage, read_usage
from tests.captured import Capture, captures
from tests.cases import each

PUBLIC = 'public/"name"'
BOUNDS = UsageBounds(100_000, 100_000)
INTERNAL = frozenset({"input_messages", "output_messages", "kv_transfer_params", "ec_transfer_params"})
"""What vLLM tells in a response and no client is told."""
EVERY_BYTE_BYTES = 3000
"""Of the shortest streams, which are cut at each byte; longer ones at random."""
CUTS_AT_ONCE = 4


@dataclass(frozen=True)
class Pair:
    """A surface in a dialect; `usage_in` finds the usage that parsed JSON tells, an answer in one piece or an event.

    `changed` are the names that an answer in one piece tells otherwise than the backend, beside the model's.
    """

    surface: Surface
    dialect: Dialect
    usage_in: Callable[[dict[str, Any]], Usage | None]
    changed: frozenset[str] = frozenset()
    has_streams: bool = True

    def __repr__(self) -> str:
        return f"{self.surface.name}-{self.dialect.name}"

    @property
    def translation(self) -> Translation:
        return self.dialect.translations[self.surface.name]

    def answers(self, *, is_stream: bool) -> list[Capture]:
        return [one for one in self.exchanges() if one.status == 200 and one.is_stream is is_stream]

    def exchanges(self) -> list[Capture]:
        return [
            one for one in captures() if one.method == "POST" and one.path.partition("?")[0] == self.translation.path
        ]

    def ask(self, **fields: Any) -> Ask:
        """A request that needs no more than its reading."""
        body = ASKED[self.surface.name] | fields
        return self.surface.read(orjson.loads(orjson.dumps(body)), len(orjson.dumps(body)))


PAIRS = [
    Pair(CHAT, Vllm(), lambda told: read_usage(told.get("usage"))),
    Pair(COMPLETIONS, Vllm(), lambda told: read_usage(told.get("usage"))),
    Pair(EMBEDDINGS, Vllm(), lambda told: read_usage(told.get("usage")), has_streams=False),
    Pair(RERANK, Vllm(), lambda told: usage_of_input(told.get("usage")), has_streams=False),
    Pair(SCORE, Vllm(), lambda told: usage_of_input(told.get("usage")), has_streams=False),
    Pair(MESSAGES, Vllm(), lambda told: usage_in(told.get("usage")), frozenset({"id", "stop_sequence", "usage"})),
    Pair(RESPONSES, Vllm(), lambda told: usage_of(told.get("response", told)), INTERNAL | {"error", "store", "usage"}),
]
HI = {"model": "m", "messages": [{"role": "user", "content": "Hi"}]}
ASKED: dict[str, dict[str, Any]] = {
    "chat": HI,
    "completions": {"model": "m", "prompt": "Hi"},
    "embeddings": {"model": "m", "input": "Hi"},
    "rerank": {"model": "m", "query": "a", "documents": ["b"]},
    "score": {"model": "m", "text_1": "a", "text_2": "b"},
    "messages": HI | {"max_tokens": 9},
    "responses": {"model": "m", "input": "Hi"},
}
pytestmark = pytest.mark.parametrize("pair", PAIRS, ids=repr)


def asked_in(pair: Pair, capture: Capture) -> Ask | None:
    """The request of a capture; None for one that is refused here, or stands there in part."""
    if not capture.is_request_whole:
        return None
    try:
        ask = pair.surface.read(orjson.loads(capture.request_body), len(capture.request_body))
        pair.translation.sift(ask.body)
    except (GatewayError, ValueError, TypeError, AttributeError):
        return None
    return ask


def events_in(stream: bytes) -> list[dict[str, Any]]:
    lines = stream.replace(b"\r\n", b"\n").split(b"\n")
    data = [line.removeprefix(b"data:").strip() for line in lines if line.startswith(b"data:")]
    return [orjson.loads(line) for line in data if line != b"[DONE]"]


def reader_for(pair: Pair, capture: Capture, **fields: Any) -> Reader:
    ask = asked_in(pair, capture) or pair.ask(stream=True)
    for name, value in fields.items():
        setattr(ask, name, value)
    return pair.translation.reader(ask, PUBLIC, BOUNDS)


def fed(reader: Reader, pieces: list[bytes]) -> bytes:
    """All that a client is sent of a stream that comes in these pieces."""
    frames = b"".join(reader.feed(piece) for piece in pieces) + reader.feed_end()
    return frames + reader.end()


def test_there_is_something_to_hold_it_to(pair: Pair) -> None:
    assert pair.answers(is_stream=True) or pair.answers(is_stream=False)
    assert any(capture.status >= 400 for capture in pair.exchanges())


def test_what_is_sent_is_what_was_asked_but_for_what_the_dialect_changes(pair: Pair) -> None:
    for capture in pair.exchanges():
        ask = asked_in(pair, capture)
        if ask is None or capture.status != 200:
            continue
        asked = orjson.loads(orjson.dumps(ask.body))
        terms = asked_terms(ask, 100_000)
        sent = orjson.loads(pair.translation.body(ask, terms, "org/backend", "acc_1", is_stream=ask.is_stream))
        assert sent["model"] == "org/backend", capture.case
        assert ask.body == asked, f"{capture.case}: an attempt has changed what was asked"
        same = {name for name in asked if name not in ("model", "stream_options", "stream", "store")}
        assert {name: sent.get(name) for name in same} == {name: asked[name] for name in same}, capture.case


async def test_an_answer_in_one_piece_is_changed_in_its_models_name_alone(pair: Pair) -> None:
    for capture in pair.answers(is_stream=False):
        told = orjson.loads(capture.body)
        whole = await pair.translation.read(capture.body, PUBLIC)
        kept = [{n: v for n, v in one.items() if n not in pair.changed} for one in (orjson.loads(whole.body), told)]
        assert kept[0] == kept[1] | {"model": PUBLIC}, capture.case
        assert whole.usage == pair.usage_in(told), capture.case


async def test_an_answer_can_be_given_another_usage(pair: Pair) -> None:
    for capture in pair.answers(is_stream=False):
        changed = await pair.translation.with_usage(capture.body, Usage(7, 5))
        whole = await pair.translation.read(changed, PUBLIC)
        assert whole.usage is not None
        assert whole.usage[:2] == (7, 5), capture.case
        assert await pair.translation.text_bytes(capture.body) >= 0


@each("body", [b"", b"null", b"[]", b"{}", b"<html>", b'{"error":{"message":"x","code":500}}'])
async def test_what_is_no_answer_is_the_backends_error(pair: Pair, body: bytes) -> None:
    with pytest.raises(GatewayError, match="backend_error"):
        await pair.translation.read(body, PUBLIC)


def test_a_stream_is_the_same_however_it_is_cut(pair: Pair) -> None:
    random = Random(1)
    for capture in pair.answers(is_stream=True):
        whole = fed(reader_for(pair, capture), [capture.body])
        told = events_in(whole)
        if len(capture.body) <= EVERY_BYTE_BYTES:
            apart = -(-len(capture.body) // CUTS_AT_ONCE)
            cuts = [list(range(at, len(capture.body), apart)) for at in range(1, apart + 1)]
        else:
            cuts = [sorted(random.sample(range(1, len(capture.body)), 9)) for _ in range(20)]
        for places in cuts:
            pieces = [capture.body[a:b] for a, b in zip([0, *places], [*places, len(capture.body)], strict=True)]
            said = fed(reader_for(pair, capture), pieces)
            assert said == whole or events_in(said) == told, (capture.case, places)


def test_of_a_stream_the_last_usage_is_known_and_the_models_name_is_ours(pair: Pair) -> None:
    for capture in pair.answers(is_stream=True):
        reader = reader_for(pair, capture)
        said = fed(reader, [capture.body])
        told = [usage for event in events_in(capture.body) if (usage := pair.usage_in(event)) is not None]
        if reader.failure is not None or not told:
            continue
        assert reader.is_whole, capture.case
        if pair.surface.name == "chat" and (asked_in(pair, capture) or pair.ask()).choices > 1:
            continue  # whose counts are sums
        assert reader.usage == told[-1], capture.case
        assert all(event.get("model", PUBLIC) == PUBLIC for event in events_in(said)), capture.case


def test_what_a_client_that_leaves_has_used_never_shrinks_and_never_exceeds_the_whole(pair: Pair) -> None:
    for capture in pair.answers(is_stream=True):
        whole = reader_for(pair, capture)
        fed(whole, [capture.body])
        if whole.failure is not None or whole.usage is None:
            continue
        reader, before = reader_for(pair, capture), 0
        for frame in capture.body.replace(b"\r\n", b"\n").split(b"\n\n"):
            reader.feed(frame + b"\n\n")
            used = reader.usage
            tokens = used.completion_tokens if used is not None else reader.seen.output_tokens
            assert before <= tokens <= whole.usage.completion_tokens, capture.case
            before = tokens


def test_nothing_is_asked_of_a_backend_but_what_is_listed(pair: Pair) -> None:
    counting = pair.translation.counting(pair.ask(), "tiny")
    asked = {pair.translation.path, *([] if counting is None else [counting.path])}
    assert asked <= ALLOWED_PATHS


def test_every_refusal_is_understood_and_nothing_of_the_backends_name_is_told(pair: Pair) -> None:
    for capture in pair.exchanges():
        if capture.status < 400:
            continue
        failure = pair.dialect.failure(capture.status, capture.body)
        error = pair.dialect.error(failure, "tiny", PUBLIC)
        assert error.code in TABLE, capture.case
        assert failure.status == capture.status
        assert '"tiny"' not in error.message, capture.case


def test_a_failure_ends_a_stream_in_the_words_of_the_surface(pair: Pair) -> None:
    if not pair.has_streams:
        return
    last = pair.surface.last_frames(GatewayError("backend_died", "It broke."), "req_1", PUBLIC)
    assert last.endswith(b"\n\n")
    assert b"It broke." in last
    reader = pair.translation.reader(pair.ask(stream=True), PUBLIC, BOUNDS)
    assert fed(reader, []) == b""
    assert not reader.is_whole
