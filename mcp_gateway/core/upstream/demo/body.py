"""A request as vLLM reads it: lenient about types, strict about ranges, refused in vLLM's own words and shapes."""

import json
from collections.abc import Callable, Mapping
from math import isfinite
from typing import Annotated, Any, Literal, TypeVar

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from mcp_gateway.core.upstream.demo.tokens import VOCABULARY_SIZE

GREEDY_BELOW = 1e-5
MAX_CHOICES = 128
MAX_TOP_LOGPROBS = 20
MAX_ERRORS_TOLD = 10
MAX_BODY_BYTES = 64 * 1024
MAX_OUTPUT_TOKENS = 1000
"""Of all choices together; an answer that would have more is cut."""
_MAX_ITEMS = {"tools": 64, "messages": 1024, "logit_bias": 1024, "tokens": 8192}
_MAX_PARTS = 1024

_IMAGE_PARTS = ("image_url", "input_image", "image_pil", "image_embeds")
_TEXT_PARTS = ("text", "input_text", "output_text", "refusal", "thinking")
_OTHER_MEDIA = {"input_audio": "audio", "audio_url": "audio", "audio_embeds": "audio", "video_url": "video"}


class VllmRefusal(Exception):
    """A request that vLLM would refuse, with the status and the body of its answer."""

    def __init__(self, status: int, body: dict[str, Any]) -> None:
        super().__init__(status)
        self.status = status
        self.body = body


def refused(message: str, *, kind: str = "BadRequestError", param: str | None = None, status: int = 400) -> VllmRefusal:
    """The refusal with vLLM's error object; its code is the status."""
    return VllmRefusal(status, {"error": {"message": message, "type": kind, "param": param, "code": status}})


def unparsable() -> VllmRefusal:
    """The framework's refusal of a body that is no text, or is nested too deeply."""
    return VllmRefusal(400, {"detail": "There was an error parsing the body"})


def _out_of_place(message: str, param: str, value: Any = None) -> VllmRefusal:
    told = f"parameter={param}" if value is None else f"parameter={param}, value={value}"
    return refused(f"{message} ({told})", param=param)


class _Open(BaseModel):
    model_config = ConfigDict(extra="allow", frozen=True)


class ChatMessage(_Open):
    """A message in any role; only an assistant's content may be null."""

    role: str
    content: str | list[Any] = ""
    tool_calls: Any = None

    @model_validator(mode="before")
    @classmethod
    def _let_an_assistant_say_nothing(cls, data: Any) -> Any:
        if isinstance(data, dict) and data.get("role") == "assistant" and data.get("content") is None:
            return {**data, "content": ""}
        return data


class Function(_Open):
    """What a tool is called and takes; `parameters` is a JSON Schema."""

    name: str
    description: str | None = None
    parameters: dict[str, Any] | None = None
    strict: bool | None = None


class ChatTool(_Open):
    """A tool that may be called."""

    type: Literal["function"] = "function"
    function: Function


class ResponseFormat(_Open):
    """The form that the text must have."""

    type: Literal["text", "json_object", "json_schema", "structural_tag"]
    json_schema: dict[str, Any] | None = None


class StreamOptions(_Open):
    """Which usage a stream tells."""

    include_usage: bool | None = True
    continuous_usage_stats: bool | None = False


class TokenizeBody(_Open):
    """The body of /tokenize: a prompt, or a conversation."""

    model: str | None = None
    prompt: str | None = None
    messages: list[ChatMessage] | None = None
    tools: list[ChatTool] | None = None
    return_token_strs: bool | None = False


class DetokenizeBody(_Open):
    """The body of /detokenize."""

    model: str | None = None
    tokens: list[int]


class SamplingBody(_Open):
    """What bodies have in common that ask for text; what is not named is ignored, as vLLM ignores unknown fields."""

    model: str | None = None
    frequency_penalty: float | None = 0.0
    logit_bias: dict[str, float] | None = None
    max_tokens: int | None = None
    n: int | None = 1
    presence_penalty: float | None = 0.0
    seed: Annotated[int, Field(ge=-(2**63), le=2**63 - 1)] | None = None
    stop: str | Annotated[list[str], Field(max_length=4)] | None = None
    stream: bool | None = False
    stream_options: StreamOptions | None = None
    temperature: float | None = None
    top_p: float | None = None
    user: str | None = None
    top_k: int | None = None
    min_p: float | None = None
    repetition_penalty: float | None = None
    ignore_eos: bool | None = False
    min_tokens: int | None = 0
    include_stop_str_in_output: bool | None = False
    truncate_prompt_tokens: Annotated[int, Field(ge=-1)] | None = None
    return_tokens_as_token_ids: bool | None = None
    request_id: str | None = None

    @property
    def output_cap(self) -> int | None:
        """The most tokens that are wanted; None where any number is."""
        return self.max_tokens

    @property
    def stops(self) -> list[str]:
        """The stop strings; a single one is a list of one."""
        return [self.stop] if isinstance(self.stop, str) else self.stop or []

    @property
    def choices(self) -> int:
        """How many answers are wanted; one where `n` is null."""
        return 1 if self.n is None else self.n

    @property
    def wants_usage(self) -> bool:
        """Whether a stream ends in a chunk of usage."""
        return bool(self.stream_options and self.stream_options.include_usage)

    @property
    def wants_continuous_usage(self) -> bool:
        """Whether every chunk has the usage so far; vLLM gives it only together with the last one."""
        return self.wants_usage and bool(self.stream_options and self.stream_options.continuous_usage_stats)


def texts_of(value: Any) -> list[str]:
    """Each of the prompts as a text; token ids stand for themselves."""
    if isinstance(value, str):
        return [value]
    listed: list[Any] = list(value or ())
    if listed and isinstance(listed[0], int):
        listed = [listed]
    return [one if isinstance(one, str) else " ".join(map(str, one)) for one in listed]


class CompletionBody(SamplingBody):
    """The body of a completion."""

    prompt: str | list[str] | list[int] | list[list[int]] | None = None
    logprobs: int | None = None
    max_tokens: int | None = 16

    @property
    def prompts(self) -> list[str]:
        """Each prompt as a text; token ids stand for themselves."""
        return texts_of(self.prompt)


class EmbeddingBody(_Open):
    """The body of a request for embeddings."""

    model: str | None = None
    input: str | list[str] | list[int] | list[list[int]] | None = None
    messages: list[ChatMessage] | None = None
    encoding_format: Literal["float", "base64"] = "float"
    dimensions: Annotated[int, Field(ge=1)] | None = None


class RerankBody(_Open):
    """The body of a request to rank documents."""

    model: str | None = None
    query: str
    documents: list[str]
    top_n: int | None = None


class ScoreBody(_Open):
    """The body of a request to compare texts."""

    model: str | None = None
    text_1: str | list[str]
    text_2: str | list[str]


class ChatBody(SamplingBody):
    """The body of a chat."""

    messages: list[ChatMessage]
    logprobs: bool | None = False
    top_logprobs: int | None = 0
    max_completion_tokens: int | None = None
    response_format: ResponseFormat | None = None
    tools: list[ChatTool] | None = None
    tool_choice: Any = None
    parallel_tool_calls: bool | None = True
    reasoning_effort: Literal["none", "minimal", "low", "medium", "high", "xhigh", "max"] | None = None
    structured_outputs: dict[str, Any] | None = None

    @property
    def output_cap(self) -> int | None:
        return self.max_tokens if self.max_completion_tokens is None else self.max_completion_tokens

    @property
    def named_tool(self) -> str | None:
        """The one tool that `tool_choice` names."""
        return self.tool_choice["function"]["name"] if isinstance(self.tool_choice, dict) else None


_Body = TypeVar("_Body", bound=BaseModel)


def parsed(kind: type[_Body], raw: bytes, content_type: bytes) -> _Body:
    """Read a body. Raises VllmRefusal in the order and with the text of vLLM's framework and schema.

    What is too much for the demo is refused before it costs: anybody may ask it, for nothing.
    """
    if len(raw) > MAX_BODY_BYTES:
        told = f"The demo takes at most {MAX_BODY_BYTES} bytes. Please reduce the length of the input prompt."
        raise _out_of_place(told, "input_text", len(raw))
    if content_type.split(b";")[0].strip().lower() != b"application/json":
        told = "1 validation error:\n  Unsupported Media Type: Only 'application/json' is allowed"
        raise refused(told, kind="Bad Request")
    try:
        value = _json(raw)
        _check_counts(value)
        return kind.model_validate(value, from_attributes=True)
    except ValidationError as error:
        raise _invalid([dict(line) for line in error.errors(include_url=False)]) from None


def _json(raw: bytes) -> Any:
    try:
        value = json.loads(raw.decode().removeprefix("\ufeff")) if raw else None
        if b"\\u" in raw:
            json.dumps(value, ensure_ascii=False).encode()
    except json.JSONDecodeError as error:
        ctx = {"error": error.msg}
        line = {"type": "json_invalid", "loc": (error.pos,), "msg": "JSON decode error", "input": {}, "ctx": ctx}
        raise _invalid([line]) from None
    except UnicodeEncodeError:  # half of a surrogate pair, which vLLM's tokenizer refuses
        told = "TextEncodeInput must be Union[TextInputSequence, Tuple[InputSequence, InputSequence]]"
        raise refused(told) from None
    except ValueError:  # not UTF-8, or a number of thousands of digits
        raise unparsable() from None
    if value is None:
        raise _invalid([{"type": "missing", "loc": (), "msg": "Field required", "input": None}])
    return value


def _check_counts(value: Any) -> None:
    if not isinstance(value, dict):
        return
    for name, most in _MAX_ITEMS.items():
        items = value.get(name)
        if isinstance(items, list | dict) and len(items) > most:
            raise _too_many(name, most, len(items))
    messages = value.get("messages")
    turns = [message for message in messages if isinstance(message, dict)] if isinstance(messages, list) else []
    contents = [turn.get("content") for turn in turns]
    parts = sum(len(content) for content in contents if isinstance(content, list))
    if parts > _MAX_PARTS:
        raise _too_many("messages", _MAX_PARTS, parts)


def _too_many(param: str, most: int, count: int) -> VllmRefusal:
    return _out_of_place(f"`{param}` may hold at most {most} items in the demo, got {count}.", param, count)


def _invalid(lines: list[dict[str, Any]]) -> VllmRefusal:
    told = [f"  {_line(line)!r}" for line in lines[:MAX_ERRORS_TOLD]]
    if len(lines) > MAX_ERRORS_TOLD:
        told.append(f"  ...and {len(lines) - MAX_ERRORS_TOLD} more errors")
    count = "1 validation error" if len(lines) == 1 else f"{len(lines)} validation errors"
    return refused("\n".join((f"{count}:", *told)), kind="Bad Request", param=_place(lines[0]["loc"]))


def _line(line: dict[str, Any]) -> dict[str, Any]:
    told = {"type": line["type"], "loc": _place(line["loc"]), "msg": line["msg"], "input": _shown(line["input"])}
    return {**told, "ctx": line["ctx"]} if "ctx" in line else told


def _shown(value: Any) -> str:
    return f"<{type(value).__name__} of {len(value)} items>" if isinstance(value, dict | list) else str(value)


def _place(loc: tuple[str | int, ...]) -> str:
    """vLLM's name of a place: without the branches of unions, but with the first of its kinds of message."""
    parts = [str(part) for part in loc if isinstance(part, int) or (part.isidentifier() and part != "str")]
    if parts[:1] == ["messages"] and parts[2:]:
        parts.insert(2, "ChatCompletionDeveloperMessageParam")
    return ".".join(("body", *parts))


def check_completion(body: CompletionBody) -> None:
    """The same of a completion. Raises VllmRefusal."""
    _check_stream_options(body)
    if not body.prompts or not all(body.prompts):
        raise _out_of_place("Either prompt or prompt_embeds must be provided and non-empty.", "prompt")


def _check_stream_options(body: SamplingBody) -> None:
    if body.stream_options and not body.stream:
        raise _out_of_place("Stream options can only be defined when `stream=True`.", "stream_options")


def check_shape(body: ChatBody) -> None:
    """What vLLM checks before it looks for the model: fields that need or exclude each other. Raises VllmRefusal."""
    _check_stream_options(body)
    _check_logprobs(body)
    _check_tools(body)
    if body.response_format and body.response_format.type == "json_schema" and not body.response_format.json_schema:
        told = "When response_format type is 'json_schema', the 'json_schema' field must be provided."
        raise _out_of_place(told, "response_format")
    if sum(kind in (body.structured_outputs or {}) for kind in ("json", "regex", "choice")) > 1:
        raise refused("You can only use one kind of constraints for structured outputs ('json', 'regex' or 'choice').")


def _check_logprobs(body: ChatBody) -> None:
    asked = body.top_logprobs or 0
    if asked < 0:
        raise _out_of_place("`top_logprobs` must be a positive value or -1.", "top_logprobs", asked)
    if asked and not body.logprobs:
        raise _out_of_place("when using `top_logprobs`, `logprobs` must be set to true.", "top_logprobs")
    if asked > MAX_TOP_LOGPROBS:
        told = f"Requested sample logprobs of {asked}, which is greater than max allowed: {MAX_TOP_LOGPROBS}"
        raise _out_of_place(told, "logprobs", asked)


def _check_tools(body: ChatBody) -> None:
    choice, tools = body.tool_choice, body.tools
    if tools == []:
        told = "`tools` must not be an empty array. Either provide at least one tool or omit the field entirely."
        raise _out_of_place(told, "tools")
    if choice is None or (choice == "none" and not tools):
        return
    if not tools:
        raise _out_of_place("When using `tool_choice`, `tools` must be set.", "tool_choice")
    if not isinstance(choice, dict) and choice not in ("none", "auto", "required"):
        told = f"Invalid value for `tool_choice`: {choice}!"
        raise _out_of_place(f'{told} Only named tools, "none", "auto" or "required" are supported.', "tool_choice")
    if isinstance(choice, dict):
        _check_named_tool(choice, tools)


def _check_named_tool(choice: Mapping[str, Any], tools: list[ChatTool]) -> None:
    function = choice.get("function")
    usage = 'in `tool_choice`! Correct usage: `{"type": "function", "function": {"name": "my_function"}}`'
    if not isinstance(function, dict):
        raise _out_of_place(f"Invalid value for `function`: `{function}` {usage}", "tool_choice.function")
    if not isinstance(function.get("name"), str):
        raise _out_of_place(f"Invalid value for `name`: `{function.get('name')}` {usage}", "tool_choice.function.name")
    if function["name"] not in (tool.function.name for tool in tools):
        told = "The tool specified in `tool_choice` does not match any of the specified `tools`"
        raise _out_of_place(told, "tool_choice")


def check_messages(messages: list[ChatMessage]) -> None:
    """Refuse what cannot become a prompt: nothing, sound, video, unknown parts. Raises VllmRefusal."""
    if not messages:
        raise refused("Cannot apply chat template to an empty conversation. Provide at least one message.")
    for message in messages:
        for part in message.content if isinstance(message.content, list) else ():
            _check_part(part)


def _check_part(part: Any) -> None:
    if isinstance(part, str):
        return
    kind = str(part.get("type")) if isinstance(part, dict) else type(part).__name__
    if kind in _OTHER_MEDIA:
        raise refused(f"At most 0 {_OTHER_MEDIA[kind]}(s) may be provided in one prompt.")
    if kind not in _TEXT_PARTS + _IMAGE_PARTS:
        known = ", ".join(sorted((*_TEXT_PARTS, *_IMAGE_PARTS)))
        raise _out_of_place(f"Unsupported chat content part type: {kind!r}. Supported types: {known}.", "type", kind)


def _within(low: float, high: float) -> Callable[[float], bool]:
    return lambda value: low <= value <= high


_RANGES: tuple[tuple[str, Callable[[Any], bool], str, bool], ...] = (
    ("n", lambda n: n >= 1, "n must be at least 1, got {}.", False),
    ("n", lambda n: n <= MAX_CHOICES, f"n must be at most {MAX_CHOICES}, got {{}}.", False),
    ("presence_penalty", _within(-2, 2), "presence_penalty must be in [-2, 2], got {}.", False),
    ("frequency_penalty", _within(-2, 2), "frequency_penalty must be in [-2, 2], got {}.", False),
    ("repetition_penalty", lambda value: value > 0, "repetition_penalty must be greater than zero, got {}.", False),
    ("temperature", isfinite, "temperature must be a finite number, got {}.", True),
    ("temperature", lambda value: value >= 0, "temperature must be non-negative, got {}.", True),
    ("temperature", _within(0, 2), "temperature must be in [0, 2], got {}.", True),
    ("top_p", lambda value: 0 < value <= 1, "top_p must be in (0, 1], got {}.", True),
    ("top_k", lambda value: value >= -1, "top_k must be 0 (disable), or at least 1, got {}.", False),
    ("min_p", _within(0, 1), "min_p must be in [0, 1], got {}.", False),
    ("min_tokens", lambda value: value >= 0, "min_tokens must be greater than or equal to 0, got {}.", False),
)
"""Field, what holds, vLLM's text where it does not, and whether the text ends in the parameter and its value."""


def check_ranges(body: SamplingBody) -> None:
    """Refuse values outside vLLM's ranges. Raises VllmRefusal."""
    for name, holds, text, names_param in _RANGES:
        value = getattr(body, name)
        if value is not None and not holds(value):
            raise _out_of_place(text.format(value), name, value) if names_param else refused(text.format(value))
    if body.choices > 1 and body.temperature is not None and body.temperature < GREEDY_BELOW:
        raise refused(f"n must be 1 when using greedy sampling, got {body.n}.")
    if "" in body.stops:
        raise refused("stop cannot contain an empty string.")
    if unknown := [token for token in map(_token_id, body.logit_bias or ()) if not 0 <= token < VOCABULARY_SIZE]:
        told = f"token_id(s) {unknown} in logit_bias contain out-of-vocab token ids. Vocabulary size: {VOCABULARY_SIZE}"
        raise _out_of_place(told, "logit_bias", unknown)


def _token_id(key: str) -> int:
    try:
        return int(key)
    except ValueError:
        told = f"Found token_id `{key}` in logit_bias but token_id must be an integer or string representing an integer"
        raise refused(told) from None


def output_limit(body: SamplingBody, prompt_tokens: int, context_window: int) -> int:
    """How many tokens the answer may have: what was asked for, or the room left if less. Raises VllmRefusal."""
    if prompt_tokens >= context_window:
        told = (
            f"This model's maximum context length is {context_window} tokens. However, your prompt contains at least "
            f"{prompt_tokens} input tokens, which exceeds this limit even without any output tokens. "
            "Please reduce the length of the input prompt."
        )
        raise _out_of_place(told, "input_tokens", prompt_tokens)
    room = context_window - prompt_tokens
    asked = body.output_cap
    if asked is None:
        return room
    if asked < 1:
        raise _out_of_place(f"max_tokens must be at least 1, got {asked}.", "max_tokens", asked)
    if asked > context_window:
        told = f"max_tokens={asked} cannot be greater than max_model_len={context_window}."
        raise _out_of_place(f"{told} Please request fewer output tokens.", "max_tokens", asked)
    if (body.min_tokens or 0) > asked:
        raise refused(f"min_tokens must be less than or equal to max_tokens={asked}, got {body.min_tokens}.")
    return min(asked, room)
