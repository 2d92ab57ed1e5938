"""embeddings: vectors of texts, with their bill.

Builds the body that POST /v1/embeddings takes and gives it to the one path of a request. The vectors are data; the text
of a result is for a reader, and says how many there are.
"""

import re
from itertools import islice
from typing import Any

import orjson
from mcp import types

from mcp_gateway.core.caller import Caller, KeyScope
from mcp_gateway.core.config import Task
from mcp_gateway.core.dialects.flat_fields import EMBEDDING_FIELDS
from mcp_gateway.core.errors import GatewayError
from mcp_gateway.core.inference.exchange import Inference
from mcp_gateway.core.inference.parts import Call
from mcp_gateway.core.json_bounds import JsonBounds, dump_json
from mcp_gateway.core.surfaces.embeddings import EMBEDDINGS
from mcp_gateway.core.surfaces.routed import read_ask
from mcp_gateway.core.surfaces.surface import Ask, Body
from mcp_gateway.tools.arguments import Arguments, parser_for
from mcp_gateway.tools.bill import BILL_PROPERTIES, UNTOLD, bill_of
from mcp_gateway.tools.progress import WAITING, telling
from mcp_gateway.tools.tool import MAX_RESULT_BYTES, Invocation, Result, output_schema, result

_MAX_INPUTS = 128
"""Of one call: a vector takes about 20 kB for each 1000 dimensions, and clients drop an event of more than 1 MiB."""
_MAX_VECTORS_BYTES = MAX_RESULT_BYTES - 4 * 1024
"""The rest is for the bill."""
_NUMBER_BYTES = 22
"""About what a number of a vector takes, which is told with all the digits that the backend gave."""
_ELSEWHERE = "Ask with fewer texts, for fewer dimensions, or over the HTTP API."
_FORM = ("encoding_format", "stream")
"""Said by those who ask as over HTTP; here vectors come as numbers, and whole."""
_VECTOR = re.compile(rb'"embedding"\s*:\s*(\[[^\[\]]*\])')

ARGUMENTS = Arguments(
    {
        "type": "object",
        "properties": {
            "model": {"type": "string", "description": "An id from list_models whose task is embed."},
            "input": {
                "type": ["array", "string"],
                "items": {"type": "string"},
                "description": f"The texts, at most {_MAX_INPUTS}.",
            },
            "dimensions": {"type": "integer", "minimum": 1, "description": "Of a vector, for models that can shorten."},
        },
        "required": ["model", "input"],
    },
    also=EMBEDDING_FIELDS,
)
_OUTPUT = output_schema(
    {
        "embeddings": {
            "type": "array",
            "items": {"type": "array", "items": {"type": "number"}},
            "description": "A vector for each text, in their order.",
        },
        "dimensions": {"type": "integer", "description": "Numbers in a vector."},
    }
    | BILL_PROPERTIES
)


class Embeddings:
    """Asks a model that embeds."""

    scope: KeyScope = "inference"
    needs: Task | None = "embed"
    is_for_minters = False
    is_regional: bool = True
    is_text_whole = False
    definition = types.Tool(
        name="embeddings",
        title="Embeddings",
        description="Get the embedding vectors of texts, with token usage and cost.",
        input_schema=ARGUMENTS.schema,
        output_schema=_OUTPUT,
        annotations=types.ToolAnnotations(
            read_only_hint=True, destructive_hint=False, idempotent_hint=True, open_world_hint=True
        ),
    )

    def __init__(self, inference: Inference, json_bounds: JsonBounds) -> None:
        self._inference = inference
        self._json_bounds = json_bounds

    async def __call__(self, arguments: dict[str, Any], invocation: Invocation) -> Result:
        call = Call(
            invocation.request_id, "mcp", EMBEDDINGS.name, invocation.client_request_id, context=invocation.context
        )
        with await self._inference.admit(invocation.caller, call) as exchange:
            ask = await self._ask(arguments, invocation.caller)
            async with telling(invocation.report, WAITING):
                await exchange.begin(ask)
            vectors = _vectors_in(exchange.body, ask.prompt.number)
            bill = bill_of(exchange.facts, invocation.request_id)
        return _result(vectors, ask.prompt.number, bill) if vectors else result(UNTOLD, {"note": UNTOLD} | bill)

    async def _ask(self, arguments: dict[str, Any], caller: Caller) -> Ask:
        """What the same request would be over HTTP. Raises GatewayError, also for more than a message can tell."""
        opened = await ARGUMENTS.opened(arguments, parser_for(self._json_bounds, caller))
        body = ARGUMENTS.taken(opened)
        body["input"] = _meant(arguments["input"], opened["input"])
        for name in _FORM:
            body.pop(name, None)
        _check_number(body["input"])
        ask = read_ask(EMBEDDINGS, body, len(dump_json(body)))
        _check_size(ask, body.get("dimensions"))
        return ask


def _meant(sent: Any, opened: Any) -> Any:
    """The texts as they were sent, blank ones too, whose vectors have places; a list as JSON text if it is of texts.

    A text of another list, such as numbers, is itself what is to be embedded.
    """
    is_of_texts = isinstance(opened, list) and set(map(type, opened)) == {str}
    return sent if isinstance(sent, str) and not is_of_texts else opened


def _check_number(inputs: Any) -> None:
    """Refuse more texts than a call takes, before the limit of the path over HTTP, which is higher, is told."""
    number = len(inputs) if isinstance(inputs, list) and inputs and type(inputs[0]) is not int else 1
    if number > _MAX_INPUTS:
        problem = f"`input` may have at most {_MAX_INPUTS} texts, not {number}. {_ELSEWHERE}"
        raise GatewayError("invalid_value", problem, param="input")


def _check_size(ask: Ask, dimensions: int | None) -> None:
    """Refuse, before it costs anything, what would not fit."""
    if dimensions is not None and ask.prompt.number * dimensions * _NUMBER_BYTES > _MAX_VECTORS_BYTES:
        problem = (
            f"{ask.prompt.number} vectors of {dimensions} dimensions are too long for one MCP message. {_ELSEWHERE}"
        )
        raise GatewayError("invalid_value", problem, param="input")


def _vectors_in(body: Body, asked: int) -> list[list[float]]:
    """The first vectors of an answer, as many as were asked for and one message can tell; none if they cannot be read.

    It is searched and not parsed: there may be far more of it. A quote inside a JSON string is always escaped, so that
    the key is one.
    """
    told: list[bytes] = []
    left_bytes = _MAX_VECTORS_BYTES
    for found in islice(_VECTOR.finditer(body, 0, _MAX_VECTORS_BYTES), asked):
        left_bytes -= len(found[1]) + 1
        if left_bytes < 0:
            break
        told.append(found[1])
    try:
        vectors: list[list[float]] = orjson.loads(b"[%b]" % b",".join(told))
    except orjson.JSONDecodeError:
        return []
    while len(orjson.dumps(vectors)) > _MAX_VECTORS_BYTES:  # numbers that were told more shortly
        del vectors[len(vectors) // 2 :]
    return vectors if all(vector and set(map(type, vector)) <= {int, float} for vector in vectors) else []


def _result(vectors: list[list[float]], asked: int, bill: dict[str, Any]) -> Result:
    dimensions, number = len(vectors[0]), len(vectors)
    told = "1 embedding" if number == 1 else f"{number} embeddings"
    used = f"; {bill['usage']['prompt_tokens']} tokens" if "usage" in bill else ""
    text = f"{told} of {dimensions} dimensions from {bill['model']}{used}, {bill['cost_usd']} USD."
    if number < asked:
        bill["note"] = f"These are the first {number} of {asked}: more is too long for one message. {_ELSEWHERE}"
        text = f"{text} {bill['note']}"
    return result(text, {"embeddings": vectors, "dimensions": dimensions} | bill)
