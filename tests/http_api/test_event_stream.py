"""Comments of a stream and its frames, each in its turn."""

import asyncio

from starlette.types import Message

from http_api.event_stream import EventStream

COMMENT, DONE = b": waiting\n\n", b"data: [DONE]\n\n"


class Sent:
    """What a stream has sent of its body; while it is not open, its client does not read."""

    def __init__(self, *, is_open: bool = True) -> None:
        self.pieces: list[bytes] = []
        self.is_open = asyncio.Event()
        if is_open:
            self.is_open.set()

    async def __call__(self, message: Message) -> None:
        await self.is_open.wait()
        if message["type"] == "http.response.body":
            self.pieces.append(message["body"])


async def test_a_comment_that_is_due_gives_way_to_frames_that_are_sent_before_it() -> None:
    sent = Sent()
    async with EventStream(sent, lambda: COMMENT, 60, lambda: None) as stream:
        stream._on_timer()
        await stream.send(DONE)
    assert sent.pieces == [DONE]


async def test_a_comment_that_is_due_is_sent_where_no_frames_come() -> None:
    sent = Sent()
    async with EventStream(sent, lambda: COMMENT, 60, lambda: None) as stream:
        stream._on_timer()
        await asyncio.sleep(0)
        assert sent.pieces == [COMMENT]


async def test_a_comment_that_is_due_begins_no_answer_that_is_to_fail() -> None:
    sent = Sent()
    async with EventStream(sent, lambda: COMMENT, 60, lambda: None) as stream:
        stream._on_timer()
        await stream.hush()
        assert not stream.has_begun
        await asyncio.sleep(0)
    assert sent.pieces == []


async def test_a_comment_that_is_on_its_way_is_let_go_before_what_comes_next() -> None:
    sent = Sent(is_open=False)
    async with EventStream(sent, lambda: COMMENT, 60, lambda: None) as stream:
        stream._on_timer()
        await asyncio.sleep(0)
        hushed = asyncio.ensure_future(stream.hush())
        await asyncio.sleep(0)
        assert not hushed.done()
        sent.is_open.set()
        await hushed
        assert stream.has_begun
        await stream.send(DONE)
    assert sent.pieces == [COMMENT, DONE]
