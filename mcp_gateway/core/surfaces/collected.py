"""A streamed chat completion put together again: the body that the same answer has in one piece.

Texts and log probabilities are kept as the JSON that the body will hold, so that their size is known as they come and a
long answer takes no more memory than its body.
"""

from typing import Any

import orjson

from mcp_gateway.core.errors import GatewayError
from mcp_gateway.core.json_bounds import marks_in
from mcp_gateway.core.surfaces.credible import not_understood
from mcp_gateway.core.surfaces.plain_frames import PlainForm, PlainRun, form_of
from mcp_gateway.core.surfaces.usage import Usage, last_usage, read_usage, told

_LATEST_BYTES = 4096
_LONG_BYTES, _MAX_MARKS = 256 * 1024, 100_000
_ENVELOPE_BYTES, _CHOICE_BYTES, _CALL_BYTES = 1024, 512, 128
"""More than the body takes beside texts, log probabilities and functions' names."""
_CONCATENATED = ("content", "reasoning", "reasoning_content", "refusal")
_MESSAGE = {
    "role": "assistant", "content": None, "refusal": None, "annotations": None, "audio": None, "function_call": None,
    "reasoning": None,
}  # fmt: skip
_CHOICE = {"stop_reason": None, "token_ids": None, "routed_experts": None}
_USAGE = {"prompt_tokens_details": None, "completion_tokens_details": None}
_PROMPT_DETAILS = {"multimodal_tokens": None}
_REST = {
    "prompt_logprobs": None, "prompt_token_ids": None, "prompt_text": None, "kv_transfer_params": None,
    "ec_transfer_params": None, "metrics": None,
}  # fmt: skip
"""Fields of vLLM's answer in one piece, as they are where it has nothing to tell in them."""


def can_carry(body: dict[str, Any]) -> bool:
    """Whether a stream tells all that the answer in one piece would.

    vLLM streams nothing of a forced function call that is cut, and of one that is not the arguments are spaced in
    another way. A token that ends the reasoning, which a bias can force, stays in a stream's text.
    """
    return body.get("tool_choice") in (None, "auto", "none") and not body.get("logit_bias")


class Collected:
    """Fed with whole frames, until `is_full`: what would take the body beyond `max_bytes` is not kept.

    `size_bytes` is about what the body takes, and `form` what the last frame was like, if it only added a text. Raises
    GatewayError for what could not be understood.
    """

    def __init__(self, *, max_bytes: int, public_model: str | None = None) -> None:
        self.is_full = False
        self.form: PlainForm | None = None
        self.size_bytes = _ENVELOPE_BYTES
        self._max_bytes = max_bytes
        self._head: dict[str, Any] = {}
        self.text_frames = 0
        """How many of the frames that are kept bring text: about a token each."""
        self._usage: Any = None
        self._choices: dict[int, _ChatChoice] = {}
        self._public_model = public_model

    def feed(self, frames: bytes) -> None:
        """Add frames, errors aside: those are known by who reads the stream."""
        try:
            for frame in frames.split(b"\n\n"):
                if not self.is_full and (start := _data_of(frame)):
                    chunk = orjson.loads(frame[start:])
                    self._add(chunk)
                    self.form = _form_of(frame, chunk)
        except (LookupError, TypeError, AttributeError, ValueError):
            raise not_understood() from None

    def has_added(self, form: PlainForm, run: PlainRun) -> bool:
        """Add what frames of one form tell; False, and nothing, where each has to be looked at."""
        try:
            inner = _inner(run.text())
        except (ValueError, TypeError):
            return False
        if self.size_bytes + len(inner) > self._max_bytes:
            return False
        self.size_bytes += len(inner)
        choice = self._choices[form.choice]
        choice.add_text(form.name, inner)
        choice.usage = run.usage or choice.usage
        self.text_frames += len(run.texts) - run.texts.count(b'""')
        return True

    @property
    def usage(self) -> Usage | None:
        """The usage of what is kept: the total, or what its last frames told of each choice."""
        if not self.is_full and self._usage is not None:
            return read_usage(self._usage)
        told = [usage for choice in self._choices.values() if (usage := choice.read_usage()) is not None]
        if not told:
            return None
        return told[0]._replace(completion_tokens=sum(usage.completion_tokens for usage in told))

    @property
    def finish_reason(self) -> str | None:
        """The first choice's."""
        return self._choices[min(self._choices)].finish_reason if self._choices else None

    @property
    def latest_words(self) -> str:
        """The end of what the first choice has so far: its text, or its reasoning before there is any."""
        choice = self._choices.get(0)
        return "" if choice is None else choice.latest_words

    def cut(self) -> None:
        """End the choices that have not ended, as those that reach their longest do."""
        for choice in self._choices.values():
            choice.finish_reason = choice.finish_reason or "length"

    def body(self, billed: Usage) -> bytes:
        """The answer in one piece, which tells the usage that is billed."""
        try:
            return orjson.dumps(self._answer(billed))
        except TypeError:
            raise not_understood() from None

    def _answer(self, billed: Usage) -> dict[str, Any]:
        answer = {
            "id": self._head.get("id"),
            "object": "chat.completion",
            "created": self._head.get("created"),
            "model": self._public_model or self._head.get("model"),
            "choices": [self._choices[index].as_object(index) for index in sorted(self._choices)],
            "service_tier": self._head.get("service_tier"),
            "system_fingerprint": self._head.get("system_fingerprint"),
            "usage": _with_details(told(self._usage, billed)),
            **_REST,
        }
        if self.is_full:
            answer["gateway"] = {"ended_by": "size"}
        return answer

    def _add(self, chunk: dict[str, Any]) -> None:
        choices = (chunk.get("choices") if "usage" in chunk else chunk["choices"]) or ()
        if not self._head or not choices or "system_fingerprint" in chunk:
            self._note_head(chunk)
        if not choices and chunk.get("usage") is not None:
            self._usage = chunk["usage"]
        for choice in choices:
            self._add_to(choice, chunk.get("usage"))

    def _note_head(self, chunk: dict[str, Any]) -> None:
        for name in ("id", "created", "model", "service_tier", "system_fingerprint"):
            if chunk.get(name) is not None:
                self._head.setdefault(name, chunk[name])

    def _add_to(self, choice: dict[str, Any], usage: Any) -> None:
        index = _checked(choice["index"], int)
        more_bytes = 0 if index in self._choices else _CHOICE_BYTES
        delta = _Delta(choice)
        if self.size_bytes + more_bytes + delta.size_bytes > self._max_bytes:
            self.is_full = True
            return
        self.size_bytes += more_bytes + delta.size_bytes
        kept = self._choices.setdefault(index, _ChatChoice())
        kept.add(delta)
        self.text_frames += delta.has_text
        kept.usage = usage or kept.usage


class _Delta:
    """What a frame adds to one choice, as JSON, and how much that is."""

    def __init__(self, choice: dict[str, Any]) -> None:
        self.choice = choice
        delta = choice.get("delta") or choice.get("message") or {}
        self.role = delta.get("role")
        self.calls = [_checked(call, dict) for call in delta.get("tool_calls") or ()]
        self.logprobs = _items((choice.get("logprobs") or {}).get("content"))
        self.pieces = {name: _inner(piece) for name in _CONCATENATED if (piece := delta.get(name))}
        self.has_text = bool(self.pieces) or any(map(_arguments_of, self.calls))
        self.size_bytes = sum(map(len, self.pieces.values())) + len(self.logprobs) + sum(map(_size_of, self.calls))


class _ChatChoice:
    """What has come of one choice; `usage` is what its last frame told, parsed or as bytes."""

    def __init__(self) -> None:
        self.finish_reason: str | None = None
        self.usage: Any = None
        self._role = "assistant"
        self._texts: dict[str, bytearray] = {}
        self._tool_calls: dict[int, dict[str, Any]] = {}
        self._arguments: dict[int, bytearray] = {}
        self._logprobs = bytearray()
        self._rest: dict[str, Any] = {}

    def add(self, delta: _Delta) -> None:
        for name, inner in delta.pieces.items():
            self.add_text(name, inner)
        for call in delta.calls:
            self._add_tool_call(call)
        if delta.logprobs:
            self._logprobs += b"," + delta.logprobs if self._logprobs else delta.logprobs
        self._role = delta.role or self._role
        if (reason := delta.choice.get("finish_reason")) is not None:
            self.finish_reason = reason
            self._rest = {name: value for name, value in delta.choice.items() if name in _CHOICE}

    def add_text(self, name: str, inner: bytes) -> None:
        """Add to one of the texts."""
        self._texts.setdefault(name, bytearray()).extend(inner)

    def read_usage(self) -> Usage | None:
        return last_usage(self.usage) if isinstance(self.usage, bytes) else read_usage(self.usage)

    @property
    def latest_words(self) -> str:
        for name in ("content", "reasoning", "reasoning_content"):
            if name in self._texts:
                return _end_of(self._texts[name])
        return ""

    def as_object(self, index: int) -> dict[str, Any]:
        texts = {name: _text(text) for name, text in self._texts.items()}
        message: dict[str, Any] = _MESSAGE | {"role": self._role} | texts
        if self._tool_calls:
            message["tool_calls"] = [self._tool_call(position) for position in sorted(self._tool_calls)]
        if not (texts or self._tool_calls):
            message["content"] = ""  # null says that there is something else in its place
        logprobs = {"content": orjson.Fragment(b"[" + self._logprobs + b"]")} if self._logprobs else None
        told = {"index": index, "message": message, "logprobs": logprobs, "finish_reason": self.finish_reason}
        return told | _CHOICE | self._rest

    def _add_tool_call(self, delta: dict[str, Any]) -> None:
        """The name and id come once, the arguments in pieces; fields that we do not know pass through."""
        position = _checked(delta.get("index") or 0, int)
        call = self._tool_calls.setdefault(position, {"function": {"name": ""}})
        call.update({name: value for name, value in delta.items() if name not in ("index", "function")})
        function = delta.get("function") or {}
        call["function"]["name"] = function.get("name") or call["function"]["name"]
        self._arguments.setdefault(position, bytearray()).extend(_inner(_arguments_of(delta) or ""))

    def _tool_call(self, position: int) -> dict[str, Any]:
        call, arguments = self._tool_calls[position], _text(self._arguments[position])
        return call | {"function": {**call["function"], "arguments": arguments}}


def _form_of(frame: bytes, chunk: dict[str, Any]) -> PlainForm | None:
    """The form of a frame that adds a text to one choice, and nothing else."""
    choices = chunk.get("choices") or []
    choice = choices[0] if len(choices) == 1 else {}
    delta = {name: value for name, value in (choice.get("delta") or {}).items() if value and name != "role"}
    if len(delta) != 1 or choice.get("finish_reason") is not None or choice.get("logprobs"):
        return None
    [(name, text)] = delta.items()
    return form_of(frame, name, text, choice["index"]) if name in _CONCATENATED else None


def _data_of(frame: bytes) -> int:
    """Where the JSON of a frame begins; 0 where it has none. Raises GatewayError where parsing takes too long."""
    at = 0 if frame.startswith(b"data:") else frame.find(b"\ndata:") + 1
    start = frame.find(b"{", at + 5)
    if start < 0 or not (at or frame.startswith(b"data:")):
        return 0
    if len(frame) > _LONG_BYTES and marks_in(frame) > _MAX_MARKS:
        raise GatewayError("backend_error", "The backend's answer holds too much in one frame.")
    return start


def _inner(text: str) -> bytes:
    """A text as JSON, without its quotes."""
    return orjson.dumps(_checked(text, str))[1:-1]


def _end_of(inner: bytearray) -> str:
    """The last words of a text that is kept as JSON: a space belongs to no character or escape but itself."""
    start = inner.find(b" ", -_LATEST_BYTES) + 1 if len(inner) > _LATEST_BYTES else 0
    return str(orjson.loads(b'"' + inner[start:] + b'"'))


def _text(inner: bytearray) -> orjson.Fragment:
    return orjson.Fragment(b'"' + inner + b'"')


def _items(rows: Any) -> bytes:
    """The rows of a list as JSON, without its brackets."""
    return orjson.dumps(_checked(rows, list))[1:-1] if rows else b""


def _size_of(call: dict[str, Any]) -> int:
    """What a piece of a function call adds at most: a name and an id come once."""
    return len(orjson.dumps(call)) + (_CALL_BYTES if "id" in call else 0)


def _arguments_of(call: dict[str, Any]) -> Any:
    return (call.get("function") or {}).get("arguments")


def _with_details(usage: dict[str, Any]) -> dict[str, Any]:
    """A stream's usage leaves out what the answer in one piece says as null."""
    if details := usage.get("prompt_tokens_details"):
        usage = usage | {"prompt_tokens_details": _PROMPT_DETAILS | details}
    return _USAGE | usage


def _checked(value: Any, kind: type) -> Any:
    """Raises TypeError for what is of another kind."""
    if not isinstance(value, kind):
        raise TypeError
    return value
