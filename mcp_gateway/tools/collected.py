"""A streamed chat completion put together again: the same choices that an answer in one piece has."""

from typing import Any

import orjson

from mcp_gateway.core.errors import TABLE, GatewayError
from mcp_gateway.core.json_bounds import marks_in

_LATEST_PIECES = 2048
_LONG_BYTES, _MAX_MARKS = 256 * 1024, 100_000
_CONCATENATED = ("content", "reasoning", "reasoning_content", "refusal")


class Collected:
    """Fed with whole frames; afterwards `choices` are as in a unary answer. `size_bytes` is what was fed.

    Of each text, and of a function call's arguments, a piece that begins beyond `max_bytes` is not kept; once more than
    that was fed, log probabilities are not either.
    """

    def __init__(self, *, max_bytes: int) -> None:
        self.size_bytes = 0
        self.is_without_logprobs = False
        self._max_bytes = max_bytes
        self._choices: dict[int, _Choice] = {}

    def feed(self, frames: bytes) -> None:
        """Add frames. Raises GatewayError for an error that the stream tells."""
        self.size_bytes += len(frames)
        for frame in frames.split(b"\n\n"):
            if frame.startswith(b"data: {"):
                _check(frame)
                self._add(orjson.loads(frame[6:]))
        if self.size_bytes > self._max_bytes:
            for choice in self._choices.values():
                self.is_without_logprobs |= choice.drop_logprobs()

    @property
    def choices(self) -> list[dict[str, Any]]:
        return [self._choices[index].as_object(index) for index in sorted(self._choices)]

    @property
    def latest_words(self) -> str:
        """The end of what the first choice has so far: its text, or its reasoning before there is any."""
        choice = self._choices.get(0)
        return "" if choice is None else choice.latest("content") or choice.latest("reasoning")

    def _add(self, chunk: dict[str, Any]) -> None:
        if (error := chunk.get("error")) is not None:
            code = error.get("code")
            raise GatewayError(code if code in TABLE else "backend_error", error["message"])
        for choice in chunk.get("choices", ()):
            self._choices.setdefault(choice["index"], _Choice(self._max_bytes)).add(choice)


def _check(frame: bytes) -> None:
    """Raises GatewayError for a frame that would take a parser too long."""
    if len(frame) > _LONG_BYTES and marks_in(frame) > _MAX_MARKS:
        raise GatewayError("backend_error", "The backend's answer holds too much for an MCP message.")


class _Choice:
    def __init__(self, max_chars: int) -> None:
        self._max_chars = max_chars
        self._texts: dict[str, _Text] = {}
        self._tool_calls: dict[int, dict[str, Any]] = {}
        self._arguments: dict[int, _Text] = {}
        self._logprobs: list[Any] = []
        self._finish_reason: str | None = None

    def add(self, choice: dict[str, Any]) -> None:
        delta = choice.get("delta") or {}
        for name in _CONCATENATED:
            if piece := delta.get(name):
                self._texts.setdefault(name, _Text()).add(piece, self._max_chars)
        for call in delta.get("tool_calls") or ():
            self._add_tool_call(call)
        self._logprobs += (choice.get("logprobs") or {}).get("content") or ()
        self._finish_reason = choice.get("finish_reason") or self._finish_reason

    def text(self, name: str) -> str:
        text = self._texts.get(name)
        return "" if text is None else "".join(text.pieces)

    def latest(self, name: str) -> str:
        """The end of a text that may have become long since it was last asked for."""
        text = self._texts.get(name)
        return "" if text is None else "".join(text.pieces[-_LATEST_PIECES:])

    def drop_logprobs(self) -> bool:
        """Whether there were any."""
        had_some = bool(self._logprobs)
        self._logprobs.clear()
        return had_some

    def as_object(self, index: int) -> dict[str, Any]:
        message: dict[str, Any] = {name: self.text(name) for name in self._texts}
        if self._tool_calls:
            message["tool_calls"] = [self._tool_call(position) for position in sorted(self._tool_calls)]
        logprobs = {"content": self._logprobs} if self._logprobs else None
        return {"index": index, "message": message, "logprobs": logprobs, "finish_reason": self._finish_reason}

    def _add_tool_call(self, delta: dict[str, Any]) -> None:
        """The name and id come once, the arguments in pieces; fields that we do not know pass through."""
        position = delta.get("index", 0)
        call = self._tool_calls.setdefault(position, {"function": {"name": ""}})
        call.update({name: value for name, value in delta.items() if name not in ("index", "function")})
        function = delta.get("function") or {}
        call["function"]["name"] = function.get("name") or call["function"]["name"]
        self._arguments.setdefault(position, _Text()).add(function.get("arguments") or "", self._max_chars)

    def _tool_call(self, position: int) -> dict[str, Any]:
        call, arguments = self._tool_calls[position], "".join(self._arguments[position].pieces)
        return call | {"function": {**call["function"], "arguments": arguments}}


class _Text:
    """The pieces of a text, as far as they are kept."""

    def __init__(self) -> None:
        self.pieces: list[str] = []
        self._chars = 0

    def add(self, piece: str, max_chars: int) -> None:
        if self._chars <= max_chars:
            self.pieces.append(piece)
            self._chars += len(piece)
