"""The frames of a stream that is one of several rounds: what of them a client sees, and the calls within them.

Each frame is parsed, which streams without tools of servers never are.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import orjson

from mcp_gateway.core.inference.toolbox import RanTool, ToolCall

_DONE = b"[DONE]"
_TEXTS = frozenset({"content", "reasoning", "reasoning_content"})
"""Told in pieces."""
_HEAD_OF_MESSAGE = frozenset({"role", "tool_calls"})
_OF_CALL = frozenset({"index", "id", "type", "function"})


class RoundFrames:
    """One round's. `is_ours` says which names are tools of servers; `head` is what all frames of the answer share.

    Calls of servers' tools are kept back, and so is the frame that finishes: it is told once nothing follows.
    """

    def __init__(self, is_ours: Callable[[str], bool], head: dict[str, Any]) -> None:
        self._is_ours = is_ours
        self.head = head
        self._is_first = not head
        self._kept: dict[int, dict[str, Any]] = {}
        self._passed: dict[int, int] = {}
        self._texts: dict[str, list[str]] = {}
        self._more: dict[str, Any] = {}
        """What else was told of the message, which some providers refuse a conversation without."""
        self._last: dict[str, Any] | None = None
        self.is_failed = False
        self.is_understood = True

    def feed(self, frames: bytes) -> bytes:
        """Take whole frames; those that the client is to see now, without any that cannot be understood."""
        return b"".join(self._seen(frame) for frame in frames.split(b"\n\n") if frame)

    @property
    def calls(self) -> list[ToolCall]:
        """Those of servers' tools that the model made, whole."""
        return [ToolCall(**kept | {"arguments": "".join(kept["arguments"])}) for kept in self._kept.values()]

    @property
    def has_others(self) -> bool:
        """Whether tools of the caller's were called."""
        return bool(self._passed)

    @property
    def message(self) -> dict[str, Any]:
        """What the model has said, as it is told in the next round, but for its calls."""
        texts = {name: "".join(pieces) for name, pieces in self._texts.items()}
        return {"role": "assistant", "content": None} | self._more | texts

    @property
    def finishing(self) -> dict[str, Any]:
        """The frame that finishes, which was kept back."""
        choice = {"index": 0, "delta": {}, "logprobs": None, "finish_reason": "stop"}
        return self._last or {"object": "chat.completion.chunk", "choices": [choice]} | self.head

    def _seen(self, frame: bytes) -> bytes:
        if not frame.startswith(b"data:"):
            return frame + b"\n\n"
        data = frame[5:].strip()
        if data == _DONE:
            return b""
        try:
            chunk = orjson.loads(data)
            if chunk.get("error"):
                self.is_failed = True
                return b"data: %b\n\n" % orjson.dumps(chunk | self.head)
            choices = chunk.get("choices")
            return self._of_choice(chunk, choices[0]) if choices else b""
        except (ValueError, LookupError, TypeError, AttributeError):
            self.is_understood = False
            return b""

    def _of_choice(self, chunk: dict[str, Any], choice: dict[str, Any]) -> bytes:
        for name in ("id", "created", "model"):
            chunk[name] = self.head.setdefault(name, chunk.get(name))
        chunk.pop("usage", None)
        delta = choice.get("delta") or {}
        self._note_message(delta)
        if "tool_calls" in delta:
            delta["tool_calls"] = [call for call in delta["tool_calls"] or () if not self._is_kept(call)]
            if not delta["tool_calls"]:
                del delta["tool_calls"]
        if not self._is_first:
            delta.pop("role", None)
        if choice.get("finish_reason") is not None:
            self._last = chunk
            return b""
        if not (self._is_first or any(delta.values()) or choice.get("logprobs")):
            return b""
        self._is_first = False
        return b"data: %b\n\n" % orjson.dumps(chunk)

    def _note_message(self, delta: dict[str, Any]) -> None:
        for name, told in delta.items():
            if name in _TEXTS:
                if isinstance(told, str) and told:
                    self._texts.setdefault(name, []).append(told)
            elif name in _HEAD_OF_MESSAGE or told is None:
                continue
            elif isinstance(told, list) and isinstance(kept := self._more.get(name), list):
                kept.extend(told)
            else:
                self._more[name] = told

    def _is_kept(self, piece: dict[str, Any]) -> bool:
        """Whether a piece of a call belongs to one of a server's tool; others have the numbers that the client sees."""
        index, function = piece.get("index", 0), piece.get("function") or {}
        name, arguments = (_text_in(function, member) for member in ("name", "arguments"))
        if index not in self._passed and index not in self._kept:
            if self._is_ours(name):
                call_id = _text_in(piece, "id") or f"call_{index}"
                self._kept[index] = {"id": call_id, "name": name, "arguments": [], "more": {}}
            else:
                self._passed[index] = len(self._passed)
        if index in self._passed:
            piece["index"] = self._passed[index]
            return False
        kept = self._kept[index]
        kept["arguments"].append(arguments)
        kept["more"] |= {name: told for name, told in piece.items() if name not in _OF_CALL}
        return True


def _text_in(told: dict[str, Any], member: str) -> str:
    """Raises TypeError for what is no text."""
    text = told.get(member) or ""
    if not isinstance(text, str):
        raise TypeError
    return text


class ToolNotices(NamedTuple):
    """What a stream tells of tools as it happens: comments, or events with its head, which SDKs pass over."""

    head: dict[str, Any]
    are_events: bool

    def unreached(self, label: str) -> bytes:
        told = {"server": label, "status": "unreachable"}
        return self._notice(f"server {label} cannot be reached", told, "gateway.tool_server")

    def called(self, name: str) -> bytes:
        return self._notice(f"tool {name} is called", {"tool": name, "status": "called"})

    def answered(self, ran: RanTool) -> bytes:
        name, status = f"{ran.server}.{ran.name}", "answered" if ran.is_ok else "failed"
        return self._notice(f"tool {name} {status}", {"tool": name, "status": status, "ms": ran.took_ms})

    def _notice(self, comment: str, told: dict[str, Any], kind: str = "gateway.tool_call") -> bytes:
        if not self.are_events:
            return f": {comment}\n\n".encode()
        event = self.head | {"object": kind, "choices": [], "gateway": told}
        return b"data: %b\n\n" % orjson.dumps(event)
