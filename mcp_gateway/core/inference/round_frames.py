"""The frames of a stream that is one of several rounds: what of them a client sees, and the calls within them.

Each frame is parsed, which streams without tools of servers never are.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import orjson

from mcp_gateway.core.inference.toolbox import RanTool, ToolCall
from mcp_gateway.core.surfaces.credible import not_understood

_DONE = b"[DONE]"
REASONING = ("reasoning", "reasoning_content")


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
        self._last: dict[str, Any] | None = None
        self.is_failed = False

    def feed(self, frames: bytes) -> bytes:
        """Take whole frames; those that the client is to see now."""
        return b"".join(self._seen(frame) for frame in frames.split(b"\n\n") if frame)

    @property
    def calls(self) -> list[ToolCall]:
        """Those of servers' tools that the model made, whole."""
        return [ToolCall(call["id"], call["name"], "".join(call["arguments"])) for call in self._kept.values()]

    @property
    def has_others(self) -> bool:
        """Whether tools of the caller's were called."""
        return bool(self._passed)

    @property
    def message(self) -> dict[str, Any]:
        """What the model has said, as it is told in the next round, but for its calls."""
        texts = {name: "".join(pieces) for name, pieces in self._texts.items()}
        return {"role": "assistant", "content": texts.pop("content", None) or None} | texts

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
            if "error" in chunk:
                self.is_failed = True
                return frame + b"\n\n"
            choices = chunk.get("choices")
            return self._of_choice(chunk, choices[0]) if choices else b""
        except (ValueError, LookupError, TypeError, AttributeError):
            raise not_understood() from None

    def _of_choice(self, chunk: dict[str, Any], choice: dict[str, Any]) -> bytes:
        for name in ("id", "created", "model"):
            chunk[name] = self.head.setdefault(name, chunk.get(name))
        chunk.pop("usage", None)
        delta = choice.get("delta") or {}
        self._note_texts(delta)
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

    def _note_texts(self, delta: dict[str, Any]) -> None:
        for name in ("content", *REASONING):
            if isinstance(text := delta.get(name), str) and text:
                self._texts.setdefault(name, []).append(text)

    def _is_kept(self, piece: dict[str, Any]) -> bool:
        """Whether a piece of a call belongs to one of a server's tool; others have the numbers that the client sees."""
        index, function = piece.get("index", 0), piece.get("function") or {}
        if index not in self._passed and index not in self._kept:
            if self._is_ours(function.get("name") or ""):
                self._kept[index] = {
                    "id": piece.get("id") or f"call_{index}",
                    "name": function["name"],
                    "arguments": [],
                }
            else:
                self._passed[index] = len(self._passed)
        if index in self._passed:
            piece["index"] = self._passed[index]
            return False
        self._kept[index]["arguments"].append(function.get("arguments") or "")
        return True


class ToolNotices(NamedTuple):
    """What a stream tells of tools as it happens: comments, or events that SDKs pass over."""

    request_id: str
    model: str
    are_events: bool

    def called(self, name: str) -> bytes:
        return self._notice(f"tool {name} is called", {"tool": name, "status": "called"})

    def answered(self, ran: RanTool) -> bytes:
        name, status = f"{ran.server}.{ran.name}", "answered" if ran.is_ok else "failed"
        return self._notice(f"tool {name} {status}", {"tool": name, "status": status, "ms": ran.took_ms})

    def _notice(self, comment: str, told: dict[str, Any]) -> bytes:
        if not self.are_events:
            return f": {comment}\n\n".encode()
        event = {"id": self.request_id, "object": "gateway.tool_call", "created": 0, "model": self.model}
        return b"data: %b\n\n" % orjson.dumps(event | {"choices": [], "gateway": told})
