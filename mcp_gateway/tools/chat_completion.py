"""chat_completion: a model's answer to a conversation, with its bill.

Builds the same body that the HTTP API takes and gives it to the one path of a chat request. A long answer, and one
whose progress somebody listens to, is collected from a stream: so there is progress to tell.
"""

import asyncio
from collections.abc import Iterator
from typing import Any

import orjson
from mcp import types

from mcp_gateway.core.caller import Caller, KeyScope
from mcp_gateway.core.config import Task
from mcp_gateway.core.dialects.vllm_fields import FIELDS
from mcp_gateway.core.errors import GatewayError
from mcp_gateway.core.inference.exchange import Exchange, Inference
from mcp_gateway.core.inference.parts import Call
from mcp_gateway.core.inference.rounds import Rounds, in_rounds
from mcp_gateway.core.json_bounds import JsonBounds, dump_json, holds_at_most, parse_in_turns, parse_json
from mcp_gateway.core.optimization import MODES
from mcp_gateway.core.surfaces.chat import CHAT
from mcp_gateway.core.surfaces.credible import read_finish_reason
from mcp_gateway.core.surfaces.routed import read_ask
from mcp_gateway.core.surfaces.surface import Ask, Body
from mcp_gateway.core.surfaces.wanted_routing import ROUTING
from mcp_gateway.core.surfaces.whole_answer import PARSED_BYTES, without_logprobs
from mcp_gateway.tools.arguments import Arguments, parser_for
from mcp_gateway.tools.bill import BILL_PROPERTIES, UNTOLD, bill_of
from mcp_gateway.tools.progress import Progress
from mcp_gateway.tools.tool import MAX_RESULT_BYTES, Invocation, Report, Result, output_schema, result

_MAX_RESULT_CHARS = 500_000
"""What Claude Code is told to give its model whole: the most that it takes. By itself it puts 50,000 into a file."""
_TOO_LONG = "the answer is too long for one MCP message. Ask over the HTTP API for the whole."
_CUT = f"Cut: {_TOO_LONG}"
_NO_LOGPROBS = f"The log probabilities were left out: {_TOO_LONG}"
_TEXTS = ("content", "refusal", "reasoning", "reasoning_content")
_MAX_PARSED_BYTES = 16 * 1024 * 1024
_MAX_VALUES = 100_000
"""Of an answer that is parsed at once."""

_TOOL_CALL: dict[str, Any] = {
    "type": "object",
    "properties": {
        "id": {"type": "string"},
        "type": {"type": "string", "enum": ["function"]},
        "function": {
            "type": "object",
            "properties": {"name": {"type": "string"}, "arguments": {"type": "string", "description": "JSON text."}},
        },
    },
}
_MESSAGE: dict[str, Any] = {
    "type": "object",
    "properties": {
        "role": {"type": "string", "enum": ["system", "developer", "user", "assistant", "tool"]},
        "content": {
            "type": "string",
            "description": "Text; for models that take images, also OpenAI's parts (text, image_url).",
        },
        "tool_calls": {"type": "array", "items": _TOOL_CALL, "description": "Of an assistant's message."},
        "tool_call_id": {"type": "string", "description": "Of a tool's message: the call that it answers."},
    },
    "required": ["role"],
}
_JSON_SCHEMA = ["string", "object"]
_FUNCTION: dict[str, Any] = {
    "type": "object",
    "properties": {
        "type": {"type": "string", "enum": ["function", "mcp"]},
        "server_label": {"type": "string", "description": "Of type mcp: a server whose tools the gateway runs."},
        "allowed_tools": {"type": "array", "items": {"type": "string"}, "description": "Of type mcp: these alone."},
        "function": {
            "type": "object",
            "properties": {
                "name": {"type": "string"},
                "description": {"type": "string"},
                "parameters": {"type": _JSON_SCHEMA, "description": "JSON Schema of the arguments; as JSON text."},
            },
            "required": ["name"],
        },
    },
    "required": ["type"],
}
_RESPONSE_FORMAT: dict[str, Any] = {
    "type": "object",
    "properties": {
        "type": {"type": "string", "enum": ["text", "json_object", "json_schema"]},
        "json_schema": {
            "type": "object",
            "properties": {
                "name": {"type": "string"},
                "schema": {"type": _JSON_SCHEMA, "description": "JSON Schema of the reply; as JSON text."},
                "strict": {"type": "boolean"},
            },
        },
    },
    "required": ["type"],
    "description": "For replies in JSON.",
}
_GATEWAY: dict[str, Any] = {
    "type": "object",
    "properties": {
        "max_rounds": {"type": "integer", "minimum": 1, "description": "How often the model may be asked."},
        "max_cost_usd": {"type": "string", "description": "The most that all of it may cost."},
    },
    "description": "Bounds where servers' tools are used.",
}
_SOME_NAMES: dict[str, Any] = {"type": "array", "items": {"type": "string"}}
_PROVIDER: dict[str, Any] = {
    "type": "object",
    "properties": {
        **dict.fromkeys(("order", "only", "ignore"), _SOME_NAMES),
        "sort": {"type": ["string", "object"], "description": "price, latency, throughput"},
    },
    "description": "Who may answer.",
}
"""The rest of what it may hold would not do as a model fills it in that has to give every field."""
_ROUTING: dict[str, Any] = {
    "type": "object",
    "properties": {
        "model_pool": _SOME_NAMES,
        "optimize": {"type": "string", "enum": list(MODES)},
        "task": {"type": "string", "description": "code, math, translation, ..."},
        "max_price_per_million": {"type": ["string", "number"], "description": "In USD."},
    },
    "description": "How auto chooses.",
}
ARGUMENTS = Arguments(
    {
        "type": "object",
        "properties": {
            "model": {"type": "string", "description": "A model id from list_models, or auto."},
            "messages": {"type": "array", "items": _MESSAGE, "description": "The conversation, oldest first."},
            "max_tokens": {"type": "integer", "minimum": 1, "description": "The most tokens to generate."},
            "temperature": {"type": "number", "minimum": 0, "maximum": 2},
            "top_p": {"type": "number", "minimum": 0, "maximum": 1},
            "stop": {"type": ["array", "string"], "items": {"type": "string"}, "description": "Where to stop."},
            "seed": {"type": "integer", "description": "For repeatable answers."},
            "n": {"type": "integer", "minimum": 1, "description": "How many answers."},
            "tools": {"type": "array", "items": _FUNCTION, "description": "OpenAI's functions, or servers' tools."},
            "gateway": _GATEWAY,
            "models": _SOME_NAMES | {"description": "Asked if model fails."},
            "provider": _PROVIDER,
            ROUTING: _ROUTING,
            "tool_choice": {"type": ["string", "object"], "description": "auto, none, required, or a function's name."},
            "response_format": _RESPONSE_FORMAT,
            "logprobs": {"type": "boolean"},
            "top_logprobs": {"type": "integer", "minimum": 0, "maximum": 20},
            "presence_penalty": {"type": "number", "minimum": -2, "maximum": 2},
            "frequency_penalty": {"type": "number", "minimum": -2, "maximum": 2},
            "reasoning_effort": {"type": "string", "description": "none, low, medium or high, for models that reason."},
        },
        "required": ["model", "messages"],
    },
    also=FIELDS.keys() | {"usage"},
)
_STREAMING = ("stream", "stream_options")
"""Said by those who ask for a chat as over HTTP; here an answer comes whole, and progress is the protocol's."""
_CHOICES = frozenset({"auto", "none", "required"})
_NOTHING_SAID: tuple[Any, ...] = (None, "", [], {})
_FACTS: dict[str, Any] = {
    "content": {"type": "string", "description": "The reply's text."},
    "finish_reason": {"type": "string", "description": "stop, length (cut at max_tokens) or tool_calls."},
    "tool_calls": {
        "type": "array",
        "items": {
            "type": "object",
            "properties": {"function": {"type": "object", "properties": {"name": {"type": "string"}}}},
        },
        "description": "Functions the model wants called, as OpenAI describes calls.",
    },
    "reasoning": {"type": "string", "description": "What the model thought, where it tells."},
    "logprobs": {
        "type": "object",
        "properties": {
            "content": {
                "type": "array",
                "items": {
                    "type": "object",
                    "properties": {"token": {"type": "string"}, "logprob": {"type": "number"}},
                },
            }
        },
    },
}
_OUTPUT = output_schema(
    _FACTS
    | {
        "choices": {
            "type": "array",
            "items": {"type": "object", "properties": _FACTS},
            "description": "All answers, where n is more than 1.",
        },
        "max_tokens_clamped": {"type": "integer", "description": "To what max_tokens was lowered, if it was."},
        "ended_by": {
            "type": "string",
            "description": "balance or budget: the account's money, or that of a budget, ended before the reply did.",
        },
        ROUTING: {
            "type": "object",
            "properties": {
                **{name: {"type": "string"} for name in ("model", "task", "complexity")},
                "confidence": {"type": "number", "description": "Of the task, from 0 to 1."},
                "alternatives": {"type": "array", "items": {"type": "string"}, "description": "Who came next."},
            },
            "description": "How the model was chosen, where auto was asked for.",
        },
        "gateway": {
            "type": "object",
            "properties": {
                "rounds": {"type": "integer"},
                "tool_calls": {
                    "type": "array",
                    "items": {
                        "type": "object",
                        "properties": {
                            "server": {"type": "string"},
                            "name": {"type": "string"},
                            "ms": {"type": "integer"},
                            "ok": {"type": "boolean"},
                        },
                    },
                },
                "unreachable_servers": {"type": "array", "items": {"type": "string"}},
                "ended_by": {"type": "string"},
            },
            "description": "Which tools of servers were called.",
        },
    }
    | BILL_PROPERTIES
)


class ChatCompletion:
    """Asks a model."""

    scope: KeyScope = "inference"
    needs: Task | None = None
    is_for_minters = False
    is_regional: bool = True
    is_text_whole = True
    definition = types.Tool(
        name="chat_completion",
        title="Chat completion",
        description="Ask a language model and get its whole reply, with token usage and cost.",
        input_schema=ARGUMENTS.schema,
        output_schema=_OUTPUT,
        _meta={"anthropic/maxResultSizeChars": _MAX_RESULT_CHARS},
        annotations=types.ToolAnnotations(
            read_only_hint=True, destructive_hint=False, idempotent_hint=False, open_world_hint=True
        ),
    )

    def __init__(self, inference: Inference, json_bounds: JsonBounds, *, collect_above_tokens: int) -> None:
        self._inference = inference
        self._collect_above_tokens = collect_above_tokens
        self._json_bounds = json_bounds

    async def __call__(self, arguments: dict[str, Any], invocation: Invocation) -> Result:
        call = Call(
            invocation.request_id,
            "mcp",
            CHAT.name,
            invocation.client_request_id,
            context=invocation.context,
            collect_above_tokens=0 if invocation.report else self._collect_above_tokens,
        )
        with await self._inference.admit(invocation.caller, call) as exchange:
            body = await self._body(arguments, invocation.caller)
            size_bytes = len(dump_json(body))
            ask, report = read_ask(CHAT, body, size_bytes), invocation.report
            answering: Exchange | Rounds = exchange
            if ask.wanted_tools is not None or invocation.caller.offers_mcp_tools:
                answering = in_rounds(exchange, ask, invocation.caller, self._inference, invocation.context)
            await (answering.begin(ask) if report is None else _ask_audibly(answering, ask, report))
            choices, is_stripped = await _choices_in(answering.body)
            answer_bytes = len(answering.body)
            bill = bill_of(answering.facts, invocation.request_id)
            if isinstance(answering, Rounds):
                bill["gateway"] = answering.told
        if not choices:
            return result(UNTOLD, {"content": "", "note": UNTOLD} | bill)
        if is_stripped:
            bill["note"] = _NO_LOGPROBS
        return _result(choices, bill) if answer_bytes < MAX_RESULT_BYTES // 4 else _bounded_result(choices, bill)

    async def _body(self, arguments: dict[str, Any], caller: Caller) -> dict[str, Any]:
        """What the same chat would bring over HTTP. Names that this tool does not tell of are treated as there."""
        body = ARGUMENTS.taken(await ARGUMENTS.opened(arguments, parser_for(self._json_bounds, caller)))
        for name in _STREAMING:
            body.pop(name, None)
        if isinstance(wanted := body.get("response_format"), dict) and wanted.get("type") != "json_schema":
            wanted.pop("json_schema", None)  # there because a host's model has to fill every field
        if isinstance(routing := body.get(ROUTING), dict):
            body[ROUTING] = {name: value for name, value in routing.items() if value not in _NOTHING_SAID}
        choice = body.get("tool_choice")
        if isinstance(choice, str) and choice not in _CHOICES:
            body["tool_choice"] = {"type": "function", "function": {"name": choice}}
        return body


async def _choices_in(body: Body) -> tuple[list[dict[str, Any]], bool]:
    """The choices of an answer, and whether log probabilities were left out, which are too many to be parsed at once.

    There are none where no message can tell them: the answer is billed, so that it is too late to refuse it.
    """
    is_stripped = False
    try:
        if len(body) <= PARSED_BYTES:
            answer = parse_json(body)
        else:
            body, is_stripped = await _parsable(body)
            answer = await parse_in_turns(body)
        return [_plain(choice) for choice in answer["choices"]], is_stripped
    except (GatewayError, LookupError, TypeError, AttributeError, ValueError):
        return [], is_stripped


async def _parsable(body: Body) -> tuple[Body, bool]:
    """A long answer as it can be parsed at once. Raises GatewayError for one that holds too much however it is."""
    await asyncio.sleep(0)
    if len(body) <= MAX_RESULT_BYTES and await holds_at_most(body, _MAX_VALUES):
        return body, False
    body = await without_logprobs(body)
    if len(body) > _MAX_PARSED_BYTES or not await holds_at_most(body, _MAX_VALUES):
        raise GatewayError("backend_error", "The backend's answer holds too much for an MCP message.")
    return body, True


def _plain(choice: dict[str, Any]) -> dict[str, Any]:
    """A choice whose texts are text, and which has the function calls that are such."""
    message = choice["message"]
    plain: dict[str, Any] = {name: _text_in(message.get(name)) for name in _TEXTS}
    if _are_objects(calls := message.get("tool_calls")):
        plain["tool_calls"] = calls
    return choice | {"message": plain}


def _text_in(content: Any) -> str:
    """A text, or what the parts of a content have of it."""
    if not isinstance(content, list):
        return content if isinstance(content, str) else ""
    texts = [part.get("text") if isinstance(part, dict) else part for part in content]
    return "".join(text for text in texts if isinstance(text, str))


async def _ask_audibly(exchange: Exchange | Rounds, ask: Ask, report: Report) -> None:
    """Have the whole answer, with progress told from before its first token on."""
    async with Progress(report, lambda: exchange.latest_words) as progress:
        await exchange.begin(ask, progress.note)


def _result(choices: list[dict[str, Any]], bill: dict[str, Any]) -> Result:
    """The reply as text (function calls as JSON where there is no text), and everything as data.

    Of several replies the first that says anything.
    """
    told = [_facts(choice) for choice in choices]
    first = next((facts for facts in told if facts["content"].strip() or "tool_calls" in facts), told[0])
    structured = first | bill
    if len(told) > 1:
        structured["choices"] = told
    text = first["content"]
    if not text.strip() and "tool_calls" in first:
        text = orjson.dumps(first["tool_calls"]).decode()
    if not text.strip():
        text = structured["note"] = f"{_why_empty(first, bill)} {bill.get('note', '')}".rstrip()
    return result(text, structured)


def _why_empty(facts: dict[str, Any], bill: dict[str, Any]) -> str:
    """What happened to a reply without text, and what to do about it: models' APIs refuse a blank text."""
    reason = facts.get("finish_reason")
    after = f" after {bill['usage']['completion_tokens']} tokens" if "usage" in bill else ""
    if reason == "length":
        what = "while the model was still reasoning, before its reply began" if "reasoning" in facts else "without text"
        return f"The reply was cut{after} {what}. {_more_room(bill)}"
    if "reasoning" in facts:
        return f"The model ended{after} with reasoning alone and no reply. Send the call again, or ask for a reply."
    told = f" ({reason})" if reason else ""
    return f"The model ended its reply{after} without any text{told}. Send the call again, or ask differently."


def _more_room(bill: dict[str, Any]) -> str:
    """How a reply may become longer; what the caller did not set itself, it cannot raise."""
    if "ended_by" in bill:
        return "The account's balance ended before the reply did: it has to be topped up."
    if (limit := bill.get("max_tokens_clamped")) is not None:
        return f"`max_tokens` was lowered to {limit}: ask for less reasoning (`reasoning_effort`), or another model."
    return "Send the call again with a larger `max_tokens`, or with less reasoning (`reasoning_effort`)."


def _facts(choice: dict[str, Any]) -> dict[str, Any]:
    message = choice["message"]
    facts: dict[str, Any] = {"content": message["content"] or message["refusal"]}
    if (finish_reason := read_finish_reason(choice.get("finish_reason"))) is not None:
        facts["finish_reason"] = finish_reason
    if calls := message.get("tool_calls"):
        facts["tool_calls"] = calls
    if reasoning := message["reasoning"] or message["reasoning_content"]:
        facts["reasoning"] = reasoning
    if isinstance(logprobs := choice.get("logprobs"), dict) and _are_objects(logprobs.get("content")):
        facts["logprobs"] = logprobs
    return facts


def _are_objects(value: Any) -> bool:
    """Whether it is a list of them, and not empty: clients check what they get against the tool's schema."""
    return isinstance(value, list) and set(map(type, value)) == {dict}


def _bounded_result(choices: list[dict[str, Any]], bill: dict[str, Any]) -> Result:
    """A result that fits into one event: log probabilities go first, then texts and at last function calls are cut."""
    made: Result = {}
    for made in _ever_shorter(choices, bill):
        if _fits(made):
            break
    return made


def _ever_shorter(choices: list[dict[str, Any]], bill: dict[str, Any]) -> Iterator[Result]:
    """A text that fits in no event is cut before anything is made of it: only to see how long it is takes long."""
    is_hopeless = any(len(choice["message"][name]) > MAX_RESULT_BYTES for choice in choices for name in _TEXTS)
    if not is_hopeless:
        yield _result(choices, bill)
    choices = [choice | {"logprobs": None} for choice in choices]
    if not is_hopeless:
        yield _result(choices, bill | {"note": _NO_LOGPROBS})
    max_chars = MAX_RESULT_BYTES
    while max_chars:
        yield _result([_cut(choice, max_chars) for choice in choices], bill | {"note": _CUT})
        max_chars //= 2


def _fits(made: Result) -> bool:
    return len(orjson.dumps(made)) <= MAX_RESULT_BYTES


def _cut(choice: dict[str, Any], max_chars: int) -> dict[str, Any]:
    """Texts of at most so many characters, and no function calls with longer arguments: half of one is of no use."""
    message = dict(choice["message"])
    for name in _TEXTS:
        if len(text := message[name]) > max_chars:
            message[name] = f"{text[:max_chars]}\n[{_CUT}]"
    calls = message.get("tool_calls") or []
    message["tool_calls"] = [call for call in calls if len(orjson.dumps(call)) <= max_chars]
    return choice | {"message": message}
