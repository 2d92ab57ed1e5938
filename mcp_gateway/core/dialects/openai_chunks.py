"""A provider's stream of chunks, however it is written, as OpenAI's own: what every reader of ours knows.

Each chunk is parsed, which those of a vLLM never are: providers differ in where the usage stands, in how calls of tools
are numbered, and in how often a stream ends. What they all become has one finish a choice, behind its text, one usage
in a chunk of its own behind that, and one end. Only a stream that told why it finished gets these.
"""

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple, Protocol

import orjson

from mcp_gateway.core.dialects.openai_refusals import error_object, failure_told
from mcp_gateway.core.dialects.openai_usage import usage_told
from mcp_gateway.core.ids import new_id
from mcp_gateway.core.json_bounds import dump_json
from mcp_gateway.core.surfaces.chunks import index_of, is_object, objects_in, split_frames
from mcp_gateway.core.surfaces.credible import UsageBounds, not_understood, understood
from mcp_gateway.core.surfaces.error_shapes import error_alone
from mcp_gateway.core.surfaces.events import EventReader
from mcp_gateway.core.surfaces.splice import DONE, FrameRelay
from mcp_gateway.core.surfaces.surface import Ask

REASONING = ("reasoning", "reasoning_content")
_TEXTS = (*REASONING, "refusal")
"""What is one text of a message, beside its content."""
_FINISHES = frozenset({"stop", "length", "tool_calls", "content_filter", "function_call"})
_FINISH_WORDS = {
    "model_length": "length", "max_tokens": "length", "MAX_TOKENS": "length", "tool_use": "tool_calls",
    "refusal": "content_filter", "safety": "content_filter", "SAFETY": "content_filter",
    "error": "error", "abort": "error", "insufficient_system_resource": "error", "ERROR": "error", "TIMEOUT": "error",
}  # fmt: skip
"""Reasons outside OpenAI's; any other is why an answer stops."""
_HEAD = ("created", "system_fingerprint")
_NO_TEXT: tuple[Any, ...] = (None, "", [])
_BEGINNING = {"role": "assistant", "content": ""}
"""What the first delta of an answer has beside the rest."""
_STOPS = ("stop_reason", "matched_stop")
"""Under which names servers tell the text that ended an answer: vLLM's, and SGLang's; an id of a token is none."""


class ChunkChoice(Protocol):
    """What has come of one choice."""

    has_told: bool
    stop: str | None
    """The text that was asked to end an answer, where it came and is told."""

    @property
    def ending(self) -> dict[str, Any]:
        """What a chunk of it has that only tells why it finished."""

    @property
    def finish_reason(self) -> str | None: ...

    def told(self, choice: dict[str, Any]) -> dict[str, Any] | None:
        """What a client is told by a chunk; None for nothing."""


class ChunkForm(NamedTuple):
    """What the chunks of a surface are called, and how their choices are read."""

    kind: str
    choice: Callable[[], ChunkChoice]


class ChunkNormalizer:
    """Fed with what arrives; returns whole frames in the one form."""

    def __init__(self, answer_id: str, public_model: str, form: ChunkForm) -> None:
        self._head: dict[str, Any] = {"id": answer_id, "object": form.kind, "created": 0}
        self._model = {"model": public_model}
        self._choice_of = form.choice
        self._events = EventReader()
        self._choices: dict[int, ChunkChoice] = {}
        self._usage: dict[str, Any] | None = None
        self._is_over = False

    @property
    def held_bytes(self) -> int:
        """What has come of a frame that is not whole."""
        return len(self._events.tail)

    @property
    def stop(self) -> str | None:
        return next((choice.stop for choice in self._choices.values() if choice.stop is not None), None)

    def feed(self, piece: bytes) -> bytes:
        """Raises GatewayError for a frame without an end, or one that cannot be understood."""
        return self._normalized(self._events.feed(piece))

    def end(self) -> bytes:
        """The last frames, once nothing more comes."""
        if not self._is_over and (error := error_alone(bytes(self._events.tail), error_object)) is not None:
            self._is_over = True
            return error_frame(error)
        return self._normalized(self._events.end()) + self._ending(b"")

    def _normalized(self, frames: bytes) -> bytes:
        return b"".join([self._one(frame) for frame in split_frames(frames) if not self._is_over])

    def _one(self, frame: bytes) -> bytes:
        if not frame.startswith(b"data:"):
            return b""  # a comment, which may say whose it is
        data = frame.removeprefix(b"data:").strip()
        if data.startswith(b"[DONE]"):
            return self._ending(DONE)
        chunk = understood(data)
        if (error := error_object(chunk)) is not None:
            self._is_over = True
            return error_frame(error)
        if not isinstance(chunk, dict):
            raise not_understood()
        self._usage = usage_told(chunk) or self._usage
        return self._chunk(chunk)

    def _chunk(self, chunk: dict[str, Any]) -> bytes:
        self._head |= {name: chunk[name] for name in _HEAD if isinstance(chunk.get(name), int | str)}
        made = []
        for choice in objects_in(chunk.get("choices")):
            index = index_of(choice)
            state = self._choices.get(index) or self._choices.setdefault(index, self._choice_of())
            if (told := state.told(choice)) is not None:
                made.append(self._frame([{"index": index, **told, "finish_reason": None}]))
        return b"".join(made)

    def _ending(self, end: bytes) -> bytes:
        """What a stream ends with that told why, once; nothing of one that did not, or failed."""
        if self._is_over:
            return b""
        self._is_over = True
        finished = {index: choice for index, choice in sorted(self._choices.items()) if choice.finish_reason}
        frames = [
            self._frame([{"index": index, **choice.ending, "finish_reason": choice.finish_reason}])
            for index, choice in finished.items()
        ]
        if self._usage is not None and not self._is_usage_missing:
            frames.append(self._frame([], usage=self._usage))
        return b"".join((*frames, end))

    @property
    def _is_usage_missing(self) -> bool:
        """Whether nothing is told of an answer that has something."""
        has_text = any(choice.has_told for choice in self._choices.values())
        return has_text and self._usage is not None and not self._usage["completion_tokens"]

    def _frame(self, choices: list[dict[str, Any]], **more: Any) -> bytes:
        return b"data: %b\n\n" % dump_json({**self._head, **self._model, "choices": choices, **more})


def error_frame(error: dict[str, Any]) -> bytes:
    """The error with all of its names in its type, by which the rules of a row know it."""
    told = failure_told(error)
    one = {"message": told.message, "type": told.kind, "code": told.status, "param": told.param}
    return b"data: %b\n\n" % orjson.dumps({"error": one})


class Chunks(Protocol):
    """Makes whole frames in OpenAI's one form of what arrives, in whatever form it comes."""

    @property
    def held_bytes(self) -> int: ...
    @property
    def stop(self) -> str | None:
        """As of a choice, once an answer is whole."""

    def feed(self, piece: bytes) -> bytes: ...
    def end(self) -> bytes: ...


class ProviderRelay(FrameRelay):
    """Reads a provider's stream for a client."""

    def __init__(self, chunks: Chunks, ask: Ask, *, choices: int, bounds: UsageBounds) -> None:
        super().__init__(
            ask.model,
            wants_usage=ask.usage_wishes.at_end,
            choices=choices,
            prompts=ask.prompt.number,
            bounds=bounds,
        )
        self._chunks = chunks

    def feed(self, piece: bytes) -> bytes:
        return super().feed(self._chunks.feed(piece))

    def feed_end(self) -> bytes:
        return super().feed(self._chunks.end()) + super().feed_end()

    @property
    def held_bytes(self) -> int:
        return self._chunks.held_bytes

    @property
    def stop(self) -> str | None:
        return self._chunks.stop

    @property
    def tells_usage(self) -> bool:
        """Its prompt is never counted afterwards: providers do not count."""
        return True


class ChatChoice:
    """What has come of a chat's: its calls of tools by number, and why it finished, which the last to tell says.

    A chunk that tells a role alone is none of the answer: some send it at once, and fail before their first token.
    """

    def __init__(self, reasoning_names: tuple[str, ...]) -> None:
        self.has_told = False
        self._reasoning_names = reasoning_names
        self._calls = CallNumbers()
        self._reason: str | None = None
        self.stop: str | None = None

    @property
    def ending(self) -> dict[str, Any]:
        return {"delta": {} if self.has_told else _BEGINNING, **stop_named(self.stop)}

    @property
    def finish_reason(self) -> str | None:
        return finish_told(self._reason, has_calls=bool(self._calls))

    def told(self, choice: dict[str, Any]) -> dict[str, Any] | None:
        """What a client is told by a chunk; None for nothing."""
        if isinstance(reason := choice.get("finish_reason"), str) and reason:
            self._reason = reason
            self.stop = stop_told(choice)
        delta = choice.get("delta")
        told = message_told(delta if isinstance(delta, dict) else {}, self._reasoning_names)
        if calls := self._calls.numbered(told.pop("tool_calls", None)):
            told["tool_calls"] = calls
        told.pop("role", None)
        logprobs = choice.get("logprobs")
        if not told and not logprobs:
            return None
        if not self.has_told:
            told = _BEGINNING | told
        self.has_told = True
        return {"delta": told} | ({"logprobs": logprobs} if logprobs else {})


class TextChoice:
    """What has come of a completion's."""

    def __init__(self) -> None:
        self.has_told = False
        self.stop: str | None = None
        self.finish_reason: str | None = None

    @property
    def ending(self) -> dict[str, Any]:
        return {"text": "", "logprobs": None, **stop_named(self.stop)}

    def told(self, choice: dict[str, Any]) -> dict[str, Any] | None:
        if isinstance(reason := choice.get("finish_reason"), str) and reason:
            self.finish_reason, self.stop = finish_told(reason, has_calls=False), stop_told(choice)
        text, logprobs = choice.get("text"), choice.get("logprobs")
        if text in _NO_TEXT and not logprobs:
            return None
        self.has_told = True
        return {"text": "" if text in _NO_TEXT else _as_text(text), "logprobs": logprobs}


class _Call:
    """What has come of a call: its function's name and arguments, and whether the provider gave it an id."""

    def __init__(self) -> None:
        self.name = ""
        self.arguments: list[str] = []
        self.has_id = False

    def is_before(self, function: dict[str, str]) -> bool:
        """Whether a function that is named now is another's: nothing can follow what a call is whole with."""
        name, arguments = function.get("name", ""), function.get("arguments", "")
        goes_on = name == self.name and not arguments.strip()
        may_be_whole = bool(self.arguments) and self.arguments[-1].rstrip().endswith("}")  # else it need not be parsed
        return bool(name) and not goes_on and may_be_whole and is_object("".join(self.arguments))


class CallNumbers:
    """Numbers the calls of one answer from 0, whichever numbers, ids or none a provider gives them."""

    def __init__(self) -> None:
        self._numbers: dict[Any, int] = {}
        self._calls: list[_Call] = []
        self._last = -1

    def __bool__(self) -> bool:
        return bool(self._calls)

    def numbered(self, calls: Any) -> list[dict[str, Any]]:
        return [self._one(call) for call in objects_in(calls) if _tells_anything(call)]

    def _one(self, call: dict[str, Any]) -> dict[str, Any]:
        number, is_new = self._number_of(call)
        self._last = number
        self._note(self._calls[number], call)
        one = {name: value for name, value in call.items() if value is not None and name not in ("function", "id")}
        if isinstance(call.get("function"), dict):
            one["function"] = _function_of(call)
        if call_id := _id_of(call) or (new_id("call") if is_new else None):
            one["id"] = call_id
        return {**({"type": "function"} if is_new else {}), **one, "index": number}

    def _note(self, known: _Call, call: dict[str, Any]) -> None:
        function = _function_of(call)
        known.name = known.name or function.get("name", "")
        if (arguments := function.get("arguments", "")).strip():
            known.arguments.append(arguments)
        known.has_id |= _id_of(call) is not None

    def _number_of(self, call: dict[str, Any]) -> tuple[int, bool]:
        """By its own number, or its id, or as the one that began last where it names no function."""
        key = call.get("index") if isinstance(call.get("index"), int) else None
        call_id, function = _id_of(call), _function_of(call)
        if key is not None and key in self._numbers and not self._is_another(self._numbers[key], call_id, function):
            return self._numbers[key], False
        if key is None and call_id is not None and call_id in self._numbers:
            return self._numbers[call_id], False
        if key is None and call_id is None and not function.get("name") and self._last >= 0:
            return self._last, False
        number = len(self._calls)
        self._calls.append(_Call())
        self._numbers |= {name: number for name in (key, call_id) if name is not None}
        return number, True

    def _is_another(self, number: int, call_id: str | None, function: dict[str, str]) -> bool:
        """Whether a call of a known number is none that is known: some give all their calls the number 0.

        It bears a new id, or none, and its function is named although the arguments of the known one are whole.
        """
        if call_id is not None and self._numbers.get(call_id, -1) == number:
            return False
        known = self._calls[number]
        return (call_id is not None and known.has_id) or known.is_before(function)


def numbered_whole(calls: Any) -> list[dict[str, Any]]:
    """The calls of an answer in one piece, in which each is by itself, whatever its number."""
    each = ({name: value for name, value in call.items() if name != "index"} for call in objects_in(calls))
    told = [one for call in each for one in CallNumbers().numbered([call])]
    return [{name: value for name, value in call.items() if name != "index"} for call in told]


def _id_of(call: dict[str, Any]) -> str | None:
    call_id = call.get("id")
    return call_id if isinstance(call_id, str) and call_id else None


def _function_of(call: dict[str, Any]) -> dict[str, str]:
    function = call.get("function")
    known = function.items() if isinstance(function, dict) else ()
    return {name: _as_text(value) for name, value in known if value is not None}


def stop_told(choice: dict[str, Any]) -> str | None:
    """The text that was asked to end an answer, where it came and a choice tells it."""
    texts = (choice.get(name) for name in _STOPS)
    return next((text for text in texts if isinstance(text, str) and text), None)


def stop_named(stop: str | None) -> dict[str, str]:
    """The same as vLLM tells it."""
    return {} if stop is None else {_STOPS[0]: stop}


def message_told(message: dict[str, Any], reasoning_names: Sequence[str]) -> dict[str, Any]:
    """A delta or a message without what is null, its content one text, its reasoning under the names wanted."""
    told = {name: value for name, value in message.items() if value not in _NO_TEXT and name != "usage"}
    content = told.get("content")
    if isinstance(content, list):
        texts, thoughts = _texts_of(content)
        told |= {"content": texts} if texts else {}
        told |= {"reasoning_content": thoughts} if thoughts else {}
        if not texts:
            del told["content"]
    elif content is not None:
        told["content"] = _as_text(content)
    told |= {name: _as_text(told[name]) for name in _TEXTS if name in told}
    if reasoning_names and (reasoning := next((told[name] for name in REASONING if name in told), None)) is not None:
        told = {name: value for name, value in told.items() if name not in REASONING}
        told |= dict.fromkeys(reasoning_names, reasoning)
    return told


def finish_told(reason: str | None, *, has_calls: bool) -> str | None:
    """Why an answer finished, in OpenAI's words; `error` for one that broke off."""
    if reason is None:
        return None
    told = reason if reason in _FINISHES else _FINISH_WORDS.get(reason, "stop")
    return "tool_calls" if told == "stop" and has_calls else told


def _texts_of(parts: list[Any]) -> tuple[str, str]:
    """The text of parts, and the thoughts among them."""
    texts, thoughts = [], []
    for part in parts:
        if isinstance(part, str):
            texts.append(part)
        elif isinstance(part, dict) and part.get("type") == "thinking":
            inner = part.get("thinking")
            thoughts.append(_texts_of(inner)[0] if isinstance(inner, list) else str(inner or ""))
        elif isinstance(part, dict) and isinstance(part.get("text"), str):
            texts.append(part["text"])
    return "".join(texts), "".join(thoughts)


def _as_text(value: Any) -> str:
    return value if isinstance(value, str) else orjson.dumps(value).decode()


def _tells_anything(call: dict[str, Any]) -> bool:
    """Whether it is more than the sign that a call is over."""
    function = call.get("function")
    told = function.values() if isinstance(function, dict) else ()
    return bool(call.get("id") or call.get("type") or call.get("custom")) or any(one is not None for one in told)
