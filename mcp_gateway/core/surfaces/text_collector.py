"""Reads the stream of a completion that is wanted in one piece, and puts that together as vLLM has it.

Knows no connection and no money. What judges the stream is the FrameRelay.
"""

from typing import Any

import orjson

from mcp_gateway.core.surfaces.collector import Relayed
from mcp_gateway.core.surfaces.credible import not_understood
from mcp_gateway.core.surfaces.splice import FrameRelay
from mcp_gateway.core.surfaces.surface import Seen
from mcp_gateway.core.surfaces.usage import Usage

_ENVELOPE_BYTES, _CHOICE_BYTES = 1024, 512
_LATEST_CHARS = 1000
_HEAD = ("id", "object", "created", "model")
_LISTS = ("text_offset", "token_logprobs", "tokens", "top_logprobs")
_USAGE = {"prompt_tokens_details": None, "completion_tokens_details": None}
_REST = {"kv_transfer_params": None, "ec_transfer_params": None, "metrics": None}
"""Fields of vLLM's answer in one piece, as they are where it has nothing to tell in them."""


class TextCollector(Relayed):
    """Fed with what arrives until `is_done`, and then ended. Raises GatewayError for what was not understood."""

    def __init__(self, public_model: str, *, choices: int, prompts: int, max_bytes: int) -> None:
        super().__init__(
            FrameRelay(None, wants_usage=True, wants_continuous_usage=True, choices=choices, prompts=prompts)
        )
        self._public_model = public_model
        self._max_bytes = max_bytes
        self._size_bytes = _ENVELOPE_BYTES
        self._text_frames = 0
        self._head: dict[str, Any] = {}
        self._choices: dict[int, _TextChoice] = {}

    def feed(self, piece: bytes) -> bytes:
        frames = self._relay.feed(piece)
        self._add(frames)
        return frames

    def feed_end(self) -> bytes:
        self._add(self._relay.feed_end() + self._relay.end())
        return self._relay.first_frame

    @property
    def is_full(self) -> bool:
        return self._size_bytes >= self._max_bytes

    @property
    def held_bytes(self) -> int:
        return self._size_bytes + self._relay.held_bytes

    @property
    def usage(self) -> Usage | None:
        return self._relay.usage

    @property
    def seen(self) -> Seen:
        return Seen(None, self._text_frames)

    @property
    def has_any(self) -> bool:
        return self.usage is not None or self._text_frames > 0

    @property
    def finish_reason(self) -> str | None:
        """The first choice's."""
        return self._told()[0]["finish_reason"] if self._choices else None

    @property
    def latest_words(self) -> str:
        """The end of what the first choice has so far."""
        return "".join(self._choices[0].texts[-_LATEST_CHARS:])[-_LATEST_CHARS:] if 0 in self._choices else ""

    def body(self, billed: Usage) -> bytes:
        """The answer in one piece, which tells the usage that is billed."""
        return orjson.dumps(
            {
                **{name: self._head.get(name) for name in _HEAD},
                "model": self._public_model,
                "choices": self._told(),
                "service_tier": self._head.get("service_tier"),
                "system_fingerprint": self._head.get("system_fingerprint"),
                "usage": {**_USAGE, **billed.as_object()},
                **_REST,
            }
        )

    def _told(self) -> list[dict[str, Any]]:
        return [self._choices[index].told(index) for index in sorted(self._choices)]

    def _add(self, frames: bytes) -> None:
        """Take what whole frames tell. Raises GatewayError `backend_error`."""
        try:
            for frame in frames.split(b"\n\n"):
                if frame.startswith(b"data:"):
                    self._add_chunk(orjson.loads(frame.removeprefix(b"data:")))
        except (orjson.JSONDecodeError, LookupError, TypeError, AttributeError):
            raise not_understood() from None

    def _add_chunk(self, chunk: dict[str, Any]) -> None:
        self._head.update({name: value for name, value in chunk.items() if name not in ("choices", "usage")})
        for part in chunk.get("choices") or ():
            index = part["index"]
            if type(index) is not int:
                raise TypeError
            if index not in self._choices:
                self._choices[index] = _TextChoice()
                self._size_bytes += _CHOICE_BYTES
            self._size_bytes += self._choices[index].add(part)
            self._text_frames += bool(part["text"])


class _TextChoice:
    """One choice as far as it has come."""

    def __init__(self) -> None:
        self.texts: list[str] = []
        self._logprobs: dict[str, list[Any]] | None = None
        self._finish_reason: str | None = None
        self._stop_reason: Any = None

    def add(self, part: dict[str, Any]) -> int:
        """Take a part of it; about the bytes that it adds to the body."""
        text, logprobs = part["text"], part.get("logprobs")
        if not isinstance(text, str):
            raise TypeError
        self.texts.append(text)
        self._finish_reason = part.get("finish_reason") or self._finish_reason
        self._stop_reason = part.get("stop_reason", self._stop_reason)
        size_bytes = len(orjson.dumps(text)) - 2
        if logprobs is not None:
            self._logprobs = self._logprobs or {name: [] for name in _LISTS}
            for name in _LISTS:
                self._logprobs[name].extend(logprobs.get(name) or ())
            size_bytes += len(orjson.dumps(logprobs))
        return size_bytes

    def told(self, index: int) -> dict[str, Any]:
        """As the body has it; one that was cut ends for its length."""
        return {
            "index": index,
            "text": "".join(self.texts),
            "logprobs": self._logprobs,
            "finish_reason": self._finish_reason or "length",
            "stop_reason": self._stop_reason,
            "token_ids": None,
            "prompt_logprobs": None,
            "prompt_token_ids": None,
            "routed_experts": None,
        }
