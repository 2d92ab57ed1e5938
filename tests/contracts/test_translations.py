"""What every surface in every dialect holds, over what a real server answered.

A further one is a class of tests/surfaces.py, or a dialect in PAIRS.
"""

from collections.abc import Iterable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import orjson
import pytest

from mcp_gateway.core.dialects.dialect import Dialect, Translation
from mcp_gateway.core.dialects.vllm import ALLOWED_PATHS, Vllm
from mcp_gateway.core.errors import TABLE, Code, GatewayError
from mcp_gateway.core.inference.terms import asked_terms
from mcp_gateway.core.surfaces.credible import UsageBounds, read_finish_reason
from mcp_gateway.core.surfaces.surface import Ask, Collecting, Reader, Surface
from mcp_gateway.core.surfaces.usage import Usage
from tests.captured import Capture
from tests.cases import each
from tests.replaying import split_events
from tests.surfaces import SPOKEN, ChatTool, Spoken

PUBLIC = 'public/"name"'
BOUNDS = UsageBounds(100_000, 100_000)
INTERNAL = frozenset({"input_messages", "output_messages", "kv_transfer_params", "ec_transfer_params"})
"""What vLLM tells in a response and no client is told."""
APART_BYTES, LONG_APART_BYTES, LONG_BYTES = 97, 23, 5_000
"""Between the places where a stream is cut at once, and a long one; moved on one by one, they come to each byte."""


@dataclass(frozen=True)
class Pair:
    """A surface in a dialect.

    `changed` are the names that an answer in one piece tells otherwise than the backend, beside the model's.
    """

    spoken: Spoken
    dialect: Dialect
    changed: frozenset[str] = frozenset()

    def __repr__(self) -> str:
        return f"{self.surface.name}-{self.dialect.name}"

    @property
    def surface(self) -> Surface:
        return self.spoken.surface

    @property
    def translation(self) -> Translation:
        return self.dialect.translations[self.surface.name]

    def answers(self, *, is_stream: bool) -> list[Capture]:
        return [one for one in self.spoken.exchanges() if one.status == 200 and one.is_stream is is_stream]

    def ask(self, **fields: Any) -> Ask:
        """A request that needs no more than its reading."""
        body = orjson.dumps(self.spoken.body(**fields))
        return self.surface.read(orjson.loads(body), len(body))


CHANGED: dict[str, frozenset[str]] = {
    "messages": frozenset({"id", "stop_sequence", "usage"}),
    "responses": INTERNAL | {"error", "store", "usage"},
}
PAIRS = [Pair(one, Vllm(), CHANGED.get(one.name, frozenset())) for one in SPOKEN if not isinstance(one, ChatTool)]
CHAT, *OTHERS = PAIRS
pytestmark = pytest.mark.parametrize(
    "pair", [CHAT, *(pytest.param(pair, marks=pytest.mark.surfaces) for pair in OTHERS)], ids=repr
)


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


def events_in(pair: Pair, stream: bytes) -> list[dict[str, Any]]:
    return pair.spoken.events(stream.replace(b"\r\n", b"\n") + b"\n\n")


def reader_for(pair: Pair, capture: Capture, **fields: Any) -> Reader:
    ask = asked_in(pair, capture) or pair.ask(is_stream=True)
    for name, value in fields.items():
        setattr(ask, name, value)
    return pair.translation.reader(ask, PUBLIC, BOUNDS)


def fed(reader: Reader, pieces: list[bytes]) -> bytes:
    """All that a client is sent of a stream that comes in these pieces."""
    frames = b"".join(reader.feed(piece) for piece in pieces) + reader.feed_end()
    return frames + reader.end()


def test_there_is_something_to_hold_it_to(pair: Pair) -> None:
    assert pair.answers(is_stream=True) or pair.answers(is_stream=False)
    assert any(capture.status >= 400 for capture in pair.spoken.exchanges())


def test_what_is_sent_is_what_was_asked_but_for_what_the_dialect_changes(pair: Pair) -> None:
    for capture in pair.spoken.exchanges():
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


def test_what_can_be_cut_can_be_collected(pair: Pair) -> None:
    """So that an answer in one piece can be cut where its stream can."""
    for ask in filter(None, (asked_in(pair, capture) for capture in pair.spoken.exchanges())):
        assert pair.translation.can_collect(ask) or not pair.translation.can_be_cut(ask)


async def test_an_answer_in_one_piece_is_changed_in_its_models_name_alone(pair: Pair) -> None:
    for capture in pair.answers(is_stream=False):
        told = orjson.loads(capture.body)
        whole = await pair.translation.read(capture.body, pair.ask(model=PUBLIC))
        kept = [{n: v for n, v in one.items() if n not in pair.changed} for one in (orjson.loads(whole.body), told)]
        assert kept[0] == kept[1] | {"model": PUBLIC}, capture.case
        assert whole.usage == pair.spoken.usage_in(told), capture.case


async def test_an_answer_can_be_given_another_usage(pair: Pair) -> None:
    for capture in pair.answers(is_stream=False):
        changed = await pair.translation.with_usage(capture.body, Usage(7, 5))
        whole = await pair.translation.read(changed, pair.ask())
        assert whole.usage is not None
        assert whole.usage[:2] == (7, 5), capture.case
        assert await pair.translation.text_bytes(capture.body) >= 0


@each("body", [b"", b"null", b"[]", b"{}", b"<html>", b'{"error":{"message":"x","code":500}}'])
async def test_what_is_no_answer_is_the_backends_error(pair: Pair, body: bytes) -> None:
    with pytest.raises(GatewayError, match="backend_error"):
        await pair.translation.read(body, pair.ask())


@pytest.mark.surfaces
def test_a_stream_is_the_same_at_whichever_byte_it_is_cut(pair: Pair) -> None:
    for capture in pair.answers(is_stream=True):
        stream = capture.body
        reader = reader_for(pair, capture)
        whole = fed(reader, [stream])
        told, amounts = events_in(pair, whole), amounts_in(reader)
        apart = APART_BYTES if len(stream) <= LONG_BYTES else LONG_APART_BYTES
        cuts = [[0, *range(at, len(stream), apart), len(stream)] for at in range(1, apart + 1)]
        for places in [*cuts, range(len(stream) + 1)]:
            reader = reader_for(pair, capture)
            said = fed(reader, [stream[a:b] for a, b in pairwise(places)])
            assert said == whole or events_in(pair, said) == told, (capture.case, places[1])
            assert amounts_in(reader) == amounts, (capture.case, places[1])


def amounts_in(reader: Reader) -> tuple[Any, ...]:
    """What is known of an answer beside what its client was sent."""
    return reader.usage, reader.seen, reader.finish_reason, reader.failure, reader.is_whole


def test_of_a_stream_the_last_usage_is_known_and_the_models_name_is_ours(pair: Pair) -> None:
    for capture in pair.answers(is_stream=True):
        reader = reader_for(pair, capture)
        said = fed(reader, [capture.body])
        telling = [event for event in events_in(pair, capture.body) if pair.spoken.usage_in(event) is not None]
        if reader.failure is not None or not telling:
            continue
        assert reader.is_whole, capture.case
        is_of_one = bool(telling[-1].get("choices")) and (asked_in(pair, capture) or pair.ask()).choices > 1
        if not is_of_one:  # of whose counts there is no sum
            assert reader.usage == pair.spoken.usage_in(telling[-1]), capture.case
        assert all(event.get("model", PUBLIC) == PUBLIC for event in events_in(pair, said)), capture.case


ERRORS_AMID = [
    b'data: {"error":{"message":"boom","type":"InternalServerError","param":null,"code":500}}\n\n',
    b'data: {"error":"boom"}\n\n',
    b'data: {"object":"error","message":"boom","type":"InternalServerError","param":null,"code":500}\n\n',
    b'event: error\ndata: {"type":"error","error":{"type":"api_error","message":"boom"}}\n\n',
    b'event: error\ndata: {"error":{"message":"boom"}}\n\n',
    b'data: {"type":"error","message":"boom","code":null,"sequence_number":9}\n\n',
]
"""In the shapes of each API, and of servers before and after 0.10."""


@each("error", ERRORS_AMID)
def test_an_error_amid_a_stream_is_one_in_whatever_shape(pair: Pair, error: bytes) -> None:
    for count in range(1, 4) if pair.spoken.has_streams else ():
        reader = pair.translation.reader(pair.ask(is_stream=True), PUBLIC, BOUNDS)
        begun = [*pair.spoken.opening(), *(pair.spoken.token(number) for number in range(1, count))]
        said = fed(reader, [*begun, error, *pair.spoken.ending()])
        assert reader.failure is not None
        assert (reader.failure.status, reader.failure.message) == (500, "boom")
        assert (reader.is_whole, reader.is_done) == (False, True)
        assert b"boom" not in said
        assert len(pair.spoken.pieces(said)) == reader.seen.output_tokens == count - 1


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
    for capture in pair.spoken.exchanges():
        if capture.status < 400:
            continue
        failure = pair.dialect.failure(capture.status, capture.body)
        error = pair.dialect.error(failure, "tiny", PUBLIC)
        assert error.code in TABLE, capture.case
        assert failure.status == capture.status
        assert '"tiny"' not in error.message, capture.case


def test_a_failure_ends_a_stream_in_the_words_of_the_surface(pair: Pair) -> None:
    if not pair.spoken.has_streams:
        return
    last = pair.ask(is_stream=True).last_frames(GatewayError("backend_died", "It broke."))
    assert last.endswith(b"\n\n")
    assert b"It broke." in last
    reader = pair.translation.reader(pair.ask(is_stream=True), PUBLIC, BOUNDS)
    assert fed(reader, []) == b""
    assert not reader.is_whole


@each(("code", "wait_s"), [("balance_held", 7), ("backend_busy", 2), ("overloaded", 5), ("backend_died", None)])
def test_the_end_of_a_stream_says_how_long_to_wait_where_a_header_would(
    pair: Pair, code: Code, wait_s: int | None
) -> None:
    """A stream that has begun with comments has sent its status and headers."""
    if not pair.spoken.has_streams:
        return
    last = pair.ask(is_stream=True).last_frames(GatewayError(code, "Not now.", retry_after_s=wait_s))
    (event,) = pair.spoken.events(last)
    error = event.get("response", event)["error"]
    assert error.get("retry_after_s") == wait_s
    assert error["message"].startswith("Not now.")


def places_in(value: Any, path: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    """Where each member of each object and list within stands."""
    members = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for key, member in members:
        yield (*path, key)
        yield from places_in(member, (*path, key))


def changed(event: bytes, path: tuple[Any, ...], odd: Any) -> bytes:
    """The same event with another value there."""
    head, _, data = event.partition(b"data: ")
    told = within = orjson.loads(data)
    for key in path[:-1]:
        within = within[key]
    within[path[-1]] = odd
    return b"%bdata: %b\n\n" % (head, orjson.dumps(told))


def data_in(event: bytes) -> Any:
    """The JSON of an event; None for `[DONE]` and comments."""
    data = event.partition(b"data: ")[2]
    return orjson.loads(data) if data.startswith(b"{") else None


def by_shape(events: Iterable[bytes]) -> list[bytes]:
    """The first of each shape: those that have the same names in the same places."""
    shapes = ((frozenset(places_in(data_in(event))), event) for event in events)
    return list(dict(reversed(list(shapes))).values())


def read_whole(incoming: Reader | Collecting, frames: list[bytes]) -> None:
    """Feed all, and ask for what is asked of a stream that has ended."""
    for frame in frames:
        incoming.feed(frame)
    incoming.feed_end()
    read_finish_reason(incoming.finish_reason)
    assert incoming.usage is None or isinstance(incoming.usage, Usage)
    assert incoming.seen.output_tokens >= 0
    if hasattr(incoming, "end"):
        incoming.end("0.01", Usage(10, 4))
    elif incoming.is_whole:
        orjson.loads(incoming.body(Usage(10, 4)))


@pytest.mark.surfaces
@each("odd", [None, "x", 2**63, [1, None], {"a": [{}]}])
def test_whatever_an_event_holds_it_is_read_or_refused(pair: Pair, odd: Any) -> None:
    """Of every shape that was captured, amid a stream that is whole."""
    if not pair.spoken.has_streams:
        return
    ask, stream = pair.ask(is_stream=True), pair.spoken.stream(output_tokens=2)
    captured = by_shape(event for one in pair.answers(is_stream=True) for event in split_events(one.body))
    cases = [(number, event, number + 1) for number, event in enumerate(stream)]
    cases += [(len(pair.spoken.opening()) + 1, event, len(pair.spoken.opening()) + 1) for event in captured]
    for begins, event, goes_on in cases:
        for path in places_in(data_in(event)):
            frames = [*stream[:begins], changed(event, path, odd), *stream[goes_on:]]
            with suppress(GatewayError):
                read_whole(pair.translation.reader(ask, PUBLIC, BOUNDS), frames)
            with suppress(GatewayError):
                if pair.translation.can_collect(ask):
                    read_whole(pair.translation.collecting(ask, PUBLIC, 2**20), frames)
