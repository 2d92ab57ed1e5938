"""The blocks of one message as events of its stream: each begins, goes on and ends before the next one begins.

A chat may go on with several calls of tools in turn. What comes for a later block waits here until the one before it is
over: a text is as soon as anything else comes, a call once its arguments are whole. Knows no chunk.
"""

from collections import deque
from collections.abc import Iterator
from typing import Any

from mcp_gateway.core.surfaces.anthropic import event_of
from mcp_gateway.core.surfaces.chunks import is_object
from mcp_gateway.core.surfaces.credible import not_understood

_DELTAS = {
    "text": ("text_delta", "text"),
    "thinking": ("thinking_delta", "thinking"),
    "tool_use": ("input_json_delta", "partial_json"),
}
_STARTS: dict[str, dict[str, Any]] = {
    "text": {"type": "text", "text": ""},
    "thinking": {"type": "thinking", "thinking": "", "signature": ""},
}


class _Block:
    """One with all that came of it, of which `told` pieces are told; a text keeps none."""

    def __init__(self, start: dict[str, Any]) -> None:
        self.start = start
        self.kind: str = start["type"]
        self.pieces: list[str] = []
        self.told = 0
        self.is_begun = self.is_closed = self._is_cut = False

    @property
    def can_begin(self) -> bool:
        """A call may be named after it is numbered."""
        return self.start.get("name") != ""

    def is_over(self) -> bool:
        """Whether nothing more can come, now that another block does. Of a call that is cut it is looked at once."""
        if self.kind != "tool_use":
            return True
        if not self._is_cut:
            self._is_cut = not is_object("".join(self.pieces))
        return not self._is_cut

    def take_untold(self) -> list[str]:
        untold = [piece for piece in self.pieces[self.told :] if piece]
        if self.kind != "tool_use":
            self.pieces.clear()
        self.told = len(self.pieces)
        return untold


class MessageBlocks:
    """Fed with pieces; returns the events that can be told by now."""

    def __init__(self) -> None:
        self._open: deque[_Block] = deque()
        self._calls: dict[int, _Block] = {}
        self._index = 0
        self.held_bytes = 0
        """Of what came since a block ended, about: pieces wait, and a call is kept to know whether it is whole."""

    @property
    def has_begun(self) -> bool:
        return self._index > 0 or bool(self._open)

    def text(self, kind: str, piece: str) -> bytes:
        """More of the text, or of what it thinks (`thinking`)."""
        last = self._open[-1] if self._open else None
        block = last if last is not None and last.kind == kind else self._begin(dict(_STARTS[kind]))
        return self._add(block, piece)

    def whole(self, block: dict[str, Any]) -> bytes:
        """A block of which nothing further comes."""
        self._begin(block)
        return self._events()

    def call(self, number: int, call_id: str, name: str, piece: str) -> bytes:
        """More of a call of a tool. Raises GatewayError `backend_error` for one that was whole, and over."""
        block = self._calls.get(number)
        if block is None:
            block = self._calls[number] = self._begin({"type": "tool_use", "id": call_id, "name": name, "input": {}})
        if block.is_closed:
            if piece.strip():
                raise not_understood()
            return b""
        block.start["name"] = block.start["name"] or name
        return self._add(block, piece)

    def end(self) -> bytes:
        """All that waits, and the end of each block."""
        return b"".join([event for block in [*self._open] for event in self._closed(block)])

    def _begin(self, start: dict[str, Any]) -> _Block:
        block = _Block(start)
        self._open.append(block)
        return block

    def _add(self, block: _Block, piece: str) -> bytes:
        block.pieces.append(piece)
        self.held_bytes += len(piece)
        return self._events()

    def _events(self) -> bytes:
        """Of the first block that is open; of those behind it once it is over."""
        events: list[bytes] = []
        while len(self._open) > 1 and self._open[0].is_over():
            events += self._closed(self._open[0])
        if self._open[0].can_begin:
            events += self._going_on(self._open[0])
        return b"".join(events)

    def _going_on(self, block: _Block) -> Iterator[bytes]:
        if not block.is_begun:
            block.is_begun = True
            yield event_of({"type": "content_block_start", "index": self._index, "content_block": block.start})
        for piece in block.take_untold():
            kind, name = _DELTAS[block.kind]
            yield event_of({"type": "content_block_delta", "index": self._index, "delta": {"type": kind, name: piece}})

    def _closed(self, block: _Block) -> Iterator[bytes]:
        yield from self._going_on(block)
        yield event_of({"type": "content_block_stop", "index": self._index})
        block.is_closed = True
        block.pieces.clear()
        self._open.popleft()
        self._index += 1
        self.held_bytes = 0
