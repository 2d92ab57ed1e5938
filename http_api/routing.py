"""`auto` over HTTP: what OpenAPI says of the field `routing`, and how a caller is told which model was chosen.

That is told in headers, and in the first event of a stream. Under the base path that other gateways of this kind have,
their words are used: the event comes unasked, and a task has their name.
"""

import orjson
from pydantic import BaseModel, ConfigDict

from http_api.operations import INFERENCE, AnswerHeader
from mcp_gateway.core.caller import Caller
from mcp_gateway.core.inference.auto_router import ToldRouting
from mcp_gateway.core.surfaces.wanted_routing import WantedRouting
from mcp_gateway.wire.whole_answers import Headers


class RequestedRouting(BaseModel):
    """How a model is chosen where `auto` is asked for; what is left out, the key or the settings say.

    `model_pool` has ids or aliases; `optimize` is balanced, quality, cost or latency; `task` is one of those in
    docs/routing.md, where the prompt is not to be read for it; `max_price_per_million` is in USD for a million tokens,
    of a prompt or of an answer; `event` says whether a chat's stream begins with what was chosen.
    """

    model_config = ConfigDict(extra="forbid")

    model_pool: list[str] | None = None
    optimize: str | None = None
    task: str | None = None
    max_price_per_million: float | str | None = None
    event: bool | None = None


ROUTING_HEADERS = (
    AnswerHeader("X-Routing-Model", "string", "The model that was chosen, where `auto` was asked for."),
    AnswerHeader("X-Routing-Task", "string", "What task its prompt was taken for; `unknown` where nothing was read."),
    AnswerHeader("X-Routing-Complexity", "string", "How much work it was taken for: simple, medium or complex."),
    AnswerHeader("X-Routing-Confidence", "number", "How sure the task is, from 0 to 1."),
    AnswerHeader("X-Routing-Time-Ms", "number", "The milliseconds that the choice took."),
)
_TASK_NAMES = {"code": "code_generation"}
"""Under the other base path."""


def wants_event(wanted: WantedRouting, caller: Caller, path: str) -> bool:
    """Whether a chat's stream is to begin with it: as the request says, else its key, else the base path."""
    if wanted.tells_event is not None:
        return wanted.tells_event
    return caller.routing.tells_event or path.startswith(INFERENCE)


def routing_headers(routing: ToldRouting, path: str) -> Headers:
    """Where the head leaves before the answer has begun, they name who is asked first."""
    return [
        (b"x-routing-model", routing.model.encode()),
        (b"x-routing-task", _task(routing, path).encode()),
        (b"x-routing-complexity", routing.complexity.encode()),
        (b"x-routing-confidence", b"%.3f" % routing.confidence),
        (b"x-routing-time-ms", b"%.3f" % routing.took_ms),
    ]


def routing_event(routing: ToldRouting, request_id: str, path: str) -> bytes:
    """With what loops and SDKs read of every chunk, so that they pass over it."""
    told = {
        "object": "routing",
        "task": _task(routing, path),
        "complexity": routing.complexity,
        "confidence": routing.confidence,
        "model": routing.model,
        "routing_time_ms": round(routing.took_ms, 3),
        "id": f"chatcmpl-{request_id}",
        "created": 0,
        "choices": [],
    }
    return b"data: %b\n\n" % orjson.dumps(told)


def _task(routing: ToldRouting, path: str) -> str:
    return _TASK_NAMES.get(routing.task, routing.task) if path.startswith(INFERENCE) else routing.task
