"""A stream whose account can pay for so many tokens: what of its frames is handed on, however they arrive."""

from collections.abc import Iterable
from typing import Any

import orjson
import pytest

from mcp_gateway.core.dialects.dialect import Translation
from mcp_gateway.core.dialects.vllm import Vllm
from mcp_gateway.core.errors import GatewayError
from mcp_gateway.core.inference.rationed import Rationed
from mcp_gateway.core.inference.running_hold import RunningHold
from mcp_gateway.core.ledger.entries import Balance
from mcp_gateway.core.ledger.ledger import Ledger
from mcp_gateway.core.prices import Price
from mcp_gateway.core.record import SurfaceName
from mcp_gateway.core.surfaces.chunks import chunk_of, split_frames
from mcp_gateway.core.surfaces.credible import UsageBounds
from tests.cases import each
from tests.origins import Whole
from tests.replaying import DONE, chunk, final_usage, stream, usage
from tests.surfaces import text_part, text_total

PRICE = Price(1000, 1000)
PROMPT, LIMIT = 10, 100
BOUNDS = UsageBounds(2048, LIMIT)
SIZES = (1, 7, 64, 300, 10**6)
"""In bytes, of the pieces in which a stream arrives."""
UNBELIEVABLE: list[Any] = [
    None,
    {},
    "none",
    {"prompt_tokens": PROMPT, "completion_tokens": LIMIT + 1},
    {"prompt_tokens": 2049, "completion_tokens": 1},
    {"prompt_tokens": PROMPT, "completion_tokens": -1},
]
COMMENT = b": still here\n\n"
ERROR = b'data: {"error":{"message":"out of memory","type":"InternalServerError","code":500}}\n\n'


class Pieces(Whole):
    """An answer that comes in these pieces; `is_closed` once nobody wants more."""

    def __init__(self, pieces: Iterable[bytes]) -> None:
        super().__init__(b"")
        self.left = list(pieces)
        self.is_closed = False

    async def next_chunk(self) -> bytes:
        assert not self.is_closed
        return self.left.pop(0) if self.left else b""

    def close(self) -> None:
        self.is_closed = True


class Stage:
    """An account, and streams of its requests."""

    def __init__(self, ledger: Ledger, account_id: str) -> None:
        self.ledger = ledger
        self.account_id = account_id
        self._requests = 0
        self.kept: list[int] = []
        """What room was asked for."""

    async def rationed(self, sent: Pieces, affordable: int, surface: SurfaceName = "chat") -> Rationed:
        """What comes of it where its account can pay for the prompt and so many tokens."""
        self.end()
        self._requests += 1
        request_id, credit_nano = f"req_{self._requests}", PROMPT + affordable
        free_nano = (await self.ledger.balance(self.account_id)).spendable_nano
        if free_nano != credit_nano:
            await self.ledger.adjust(self.account_id, credit_nano - free_nano, request_id)
        running = RunningHold(self.ledger, PRICE, 0, PROMPT, LIMIT)
        running.begin(await self.ledger.hold(request_id, self.account_id, running.least_nano(0), running.first_nano))
        return Rationed(sent, running, translation_of(surface), BOUNDS, self.keep)

    async def keep(self, size_bytes: int) -> None:
        self.kept.append(size_bytes)

    def end(self) -> None:
        self.ledger.release(f"req_{self._requests}")

    async def told(self, pieces: Iterable[bytes], affordable: int, surface: SurfaceName = "chat") -> bytes:
        """All that is handed on."""
        return await rest_of(await self.rationed(Pieces(pieces), affordable, surface))


@pytest.fixture
def stage(ledger: Ledger, account: str) -> Stage:
    return Stage(ledger, account)


async def rest_of(rationed: Rationed) -> bytes:
    """What is still handed on; each time whole frames, and then nothing more."""
    told = b""
    while frames := await rationed.next_chunk():
        assert frames.endswith(b"\n\n")
        told += frames
    assert await rationed.next_chunk() == b""
    return told


def translation_of(surface: SurfaceName) -> Translation:
    return Vllm().translations[surface]


def in_pieces(data: bytes, size_bytes: int) -> list[bytes]:
    return [data[at : at + size_bytes] for at in range(0, len(data), size_bytes)]


def without_usage(frame: bytes) -> bytes:
    told = orjson.loads(frame.removeprefix(b"data:"))
    del told["usage"]
    return b"data: %b\n\n" % orjson.dumps(told)


def with_usage(frame: bytes, usage: object) -> bytes:
    told = orjson.loads(frame.removeprefix(b"data:"))
    return b"data: %b\n\n" % orjson.dumps(told | {"usage": usage})


def is_cut_after(told: bytes, kept: list[bytes], output_tokens: int | None) -> bool:
    """Whether it is these frames and then an end as at a limit, with a usage of so many tokens, or without any."""
    frames = split_frames(told)
    last, total = map(chunk_of, frames[-3:-1])
    return (
        frames[:-3] == kept
        and [choice["finish_reason"] for choice in last["choices"]] == ["length"]
        and [usage and usage["completion_tokens"] for usage in (last["usage"], total["usage"])] == [output_tokens] * 2
        and total["choices"] == []
        and frames[-1] == DONE
    )


# However the frames arrive


@each("size_bytes", SIZES)
async def test_a_stream_that_is_paid_for_passes_as_it_is(stage: Stage, size_bytes: int) -> None:
    whole = b"".join(stream(PROMPT, 20))
    assert await stage.told(in_pieces(whole, size_bytes), 20) == whole
    assert await stage.told(in_pieces(whole, size_bytes), 200) == whole


@each("size_bytes", SIZES)
@each("affordable", [0, 1, 2, 7, 19])
async def test_it_ends_at_the_last_token_that_is_paid_however_it_is_cut_into_pieces(
    stage: Stage, size_bytes: int, affordable: int
) -> None:
    frames = stream(PROMPT, 20)
    told = await stage.told(in_pieces(b"".join(frames), size_bytes), affordable)
    assert is_cut_after(told, frames[: 1 + affordable], affordable)


async def test_frames_that_bring_several_tokens_are_kept_back_whole(stage: Stage) -> None:
    frames = [chunk("", PROMPT, 0), *(chunk("xxxx", PROMPT, number) for number in range(4, 24, 4))]
    assert is_cut_after(await stage.told([b"".join(frames)], 11), frames[:3], 8)


async def test_a_backend_makes_nothing_more_once_the_money_has_ended(stage: Stage) -> None:
    sent = Pieces(stream(PROMPT, 20))
    rationed = await stage.rationed(sent, 3)
    for _ in range(4):
        assert await rationed.next_chunk()
        assert not sent.is_closed
    assert (await rationed.next_chunk()).endswith(DONE)
    assert sent.is_closed
    left = len(sent.left)
    assert await rationed.next_chunk() == b""
    assert len(sent.left) == left > 10


async def test_what_is_handed_on_never_costs_more_than_is_held(stage: Stage) -> None:
    sent = Pieces(stream(PROMPT, 50))
    rationed = await stage.rationed(sent, 30)
    while frames := await rationed.next_chunk():
        held_nano = (await stage.ledger.balance(stage.account_id)).held_nano
        for told in (chunk_of(frame).get("usage") for frame in split_frames(frames)):
            assert told is None or PRICE.cost_nano(told["prompt_tokens"], told["completion_tokens"]) <= held_nano


async def test_a_frame_that_comes_in_pieces_has_its_room(stage: Stage) -> None:
    frame = chunk("x" * 1000, PROMPT, 1)
    await stage.told([frame[:300], frame[300:700], frame[700:] + DONE], 9)
    assert stage.kept == [300, 700]


async def test_by_a_dearer_price_what_is_held_covers_less(stage: Stage) -> None:
    """As after a fail-over to who asks more."""
    frames = stream(PROMPT, 20)
    rationed = await stage.rationed(Pieces(frames), 6)
    rationed._running_hold.goes_by(Price(1000, 2000))
    assert is_cut_after(await rest_of(rationed), frames[:4], 3)


@each("details", [{"cached_tokens": 8}, {"cached_tokens": 6, "cache_write_tokens": 2}])
async def test_a_frame_costs_what_its_own_usage_does(stage: Stage, details: dict[str, int]) -> None:
    price = Price(1000, 1000, cached_pico=250, cache_write_pico=1750)
    frames = [
        with_usage(chunk("", PROMPT, number), usage(PROMPT, number) | {"prompt_tokens_details": details})
        for number in range(20)
    ]
    rationed = await stage.rationed(Pieces(frames), 6)
    rationed._running_hold.goes_by(price)
    left_nano = PROMPT + 6 - price.cost_nano(PROMPT, 0, details["cached_tokens"], details.get("cache_write_tokens", 0))
    assert is_cut_after(await rest_of(rationed), frames[: left_nano + 1], left_nano)


# What a frame tells


@each("usage", UNBELIEVABLE)
async def test_a_frame_without_a_usage_to_believe_counts_as_a_token_if_it_has_any_text(
    stage: Stage, usage: object
) -> None:
    """The end tells none either: what is billed is by the policy for that."""
    frames = [with_usage(frame, usage) for frame in (chunk("", 0, 0), *[chunk("x", 0, 0)] * 20)]
    assert is_cut_after(await stage.told(frames, 5), frames[:6], None)
    assert await stage.told(frames, 20) == b"".join(frames)


async def test_what_only_a_frame_tells_that_is_not_paid_is_told_to_nobody(stage: Stage) -> None:
    frames = [without_usage(chunk("", 0, 0)), without_usage(chunk("x", 0, 0)), chunk("x", PROMPT, 40)]
    assert is_cut_after(await stage.told(frames, 5), frames[:2], None)


async def test_one_that_tells_none_counts_on_from_what_was_told_before(stage: Stage) -> None:
    frames = [chunk("", PROMPT, 0), chunk("xxx", PROMPT, 3), *[without_usage(chunk("x", 0, 0))] * 20]
    assert is_cut_after(await stage.told(frames, 5), frames[:4], 5)
    frames[3] = chunk("xxxx", PROMPT, 7)
    assert is_cut_after(await stage.told(frames, 8), frames[:5], 8)


async def test_an_answer_without_text_costs_only_its_prompt(stage: Stage) -> None:
    frames = [*[without_usage(chunk("", 0, 0))] * 20, DONE]
    assert await stage.told(frames, 0) == b"".join(frames)


@each("loose", [b'"choices": [{', b'"choices":[{', b'"choices" : [ {', b'"choices":[ {', b'"choices":\t[{'])
async def test_a_choice_is_known_with_a_blank_behind_its_key_too(stage: Stage, loose: bytes) -> None:
    frames = [frame.replace(b'"choices":[{', loose) for frame in stream(PROMPT, 20)]
    assert is_cut_after(await stage.told(frames, 4), frames[:5], 4)


@each("other", [COMMENT, ERROR, DONE, final_usage(PROMPT, 99), text_total(PROMPT, 99), b"data: {}\n\n"])
async def test_what_brings_nothing_of_the_answer_is_never_kept_back(stage: Stage, other: bytes) -> None:
    """Not even where nothing is left: it costs nothing, and tells why an answer fails or ends."""
    frames = [COMMENT, chunk("", PROMPT, 0), chunk("x", PROMPT, 1), other]
    assert await stage.told(frames, 1) == b"".join(frames)
    assert await stage.told([b"".join(frames)], 1) == b"".join(frames)
    assert await stage.told([other], 0) == other


async def test_a_choice_that_ends_without_another_token_ends_as_the_backend_says(stage: Stage) -> None:
    frames = [chunk("", PROMPT, 0), chunk("x", PROMPT, 1), chunk("", PROMPT, 1, "stop"), final_usage(PROMPT, 1), DONE]
    assert await stage.told(frames, 1) == b"".join(frames)


# How it is ended


@each("surface", ["chat", "completions"])
async def test_the_end_is_told_in_the_words_of_its_surface(stage: Stage, surface: SurfaceName) -> None:
    texts = [text_part("x", 0, PROMPT, number) for number in range(1, 10)]
    frames = stream(PROMPT, 9) if surface == "chat" else texts
    frames[1:] = [frame.replace(b'"created":1', b'"created":2') for frame in frames[1:]]
    told = split_frames(await stage.told([COMMENT, *frames], 3, surface))
    assert told[0] == COMMENT
    first, last, total = (chunk_of(told[place]) for place in (1, -3, -2))
    names = ("id", "object", "created", "model")
    usage = {"prompt_tokens": PROMPT, "completion_tokens": 3, "total_tokens": PROMPT + 3}
    for frame in (last, total):
        assert {name: frame[name] for name in names} == {name: first[name] for name in names}
        assert frame["gateway"] == {"ended_by": "balance"}
        assert frame["usage"] == usage
    added: dict[str, Any] = {"delta": {}} if surface == "chat" else {"text": ""}
    assert last["choices"] == [{"index": 0, **added, "logprobs": None, "finish_reason": "length"}]
    assert (total["choices"], told[-1]) == ([], DONE)


@each("tail", [b"data: [DONE]", b"data: [DONE]\n", chunk("x", PROMPT, 3, "stop")[:-2], chunk("x", PROMPT, 3)[:-1]])
@each("size_bytes", SIZES)
async def test_a_last_frame_without_a_blank_line_behind_it_is_weighed_as_any(
    stage: Stage, tail: bytes, size_bytes: int
) -> None:
    frames = [chunk("", PROMPT, 0), chunk("x", PROMPT, 1), chunk("x", PROMPT, 2)]
    pieces = in_pieces(b"".join((*frames, tail)), size_bytes)
    assert await stage.told(pieces, 3) == b"".join((*frames, tail.rstrip(b"\n"), b"\n\n"))
    if tail.startswith(b"data: {"):
        assert is_cut_after(await stage.told(pieces, 2), frames, 2)


@each("size_bytes", SIZES)
async def test_of_a_frame_that_is_cut_off_nothing_is_handed_on_nor_paid(stage: Stage, size_bytes: int) -> None:
    frames = [chunk("", PROMPT, 0), chunk("x", PROMPT, 1)]
    pieces = in_pieces(b"".join((*frames, chunk("x", PROMPT, 2)[:-9])), size_bytes)
    assert await stage.told(pieces, 1) == b"".join(frames)


# Where not even the first frame is paid


@each("frames", [[chunk("", PROMPT + 5, 0)], [COMMENT, chunk("xxxx", PROMPT, 4)], [COMMENT + chunk("", PROMPT + 4, 0)]])
async def test_an_answer_that_cannot_begin_is_refused_and_nothing_is_held(stage: Stage, frames: list[bytes]) -> None:
    sent = Pieces([*frames, *stream(PROMPT, 20)])
    rationed = await stage.rationed(sent, 3)
    with pytest.raises(GatewayError, match="insufficient_balance"):
        await rest_of(rationed)
    assert sent.is_closed
    assert await stage.ledger.balance(stage.account_id) == Balance(PROMPT + 3)
    assert await rationed.next_chunk() == b""


@each("size_bytes", [65_536, 10**6])
async def test_a_frame_without_an_end_is_refused_as_ever(stage: Stage, size_bytes: int) -> None:
    endless = b"data: " + b"x" * 3 * 1024 * 1024
    sent = Pieces([chunk("", PROMPT, 0), *in_pieces(endless, size_bytes)])
    rationed = await stage.rationed(sent, 3)
    assert await rationed.next_chunk() == chunk("", PROMPT, 0)
    with pytest.raises(GatewayError, match="backend_error"):
        await rationed.next_chunk()


# What else is asked of a response


async def test_it_stands_in_the_place_of_its_response(stage: Stage) -> None:
    sent = Pieces([b"whole"])
    sent.status = 206
    rationed = await stage.rationed(sent, 3)
    assert rationed.status == 206
    assert rationed.header(b"content-type") == b"text/event-stream"
    rationed.doubt()
    rationed.discard()
    rationed.close()
    assert sent.is_closed
