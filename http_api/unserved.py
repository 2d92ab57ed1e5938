"""THE table of what OpenAI's and Anthropic's APIs have and this gateway does not: refused in the shape of that API.

A program finds out from a refusal that it understands; `unknown_url` is left to paths that nobody has.
"""

from typing import NamedTuple

from starlette.types import Receive, Scope, Send

from http_api.anthropic import ANTHROPIC_SHAPE, BY_ITS_CLIENT
from http_api.operations import AnyOperation
from http_api.rendering import Shape
from http_api.routes import BELOW, refusing, without_sockets
from mcp_gateway.core.errors import GatewayError


class Unserved(NamedTuple):
    """A path and whatever is below it, unless that has a pattern of its own; `name` is its API's word for it."""

    path: str
    name: str
    shape: Shape = BY_ITS_CLIENT


UNSERVED = (
    Unserved("/assistants", "Assistants"),
    Unserved("/audio", "Audio"),
    Unserved("/batches", "Batches"),
    Unserved("/chat/completions/{completion_id}", "stored completions"),
    Unserved("/chat/completions/{completion_id}/messages", "stored completions"),
    Unserved("/chatkit", "ChatKit"),
    Unserved("/containers", "Containers"),
    Unserved("/conversations", "Conversations"),
    Unserved("/edits", "Edits"),
    Unserved("/engines", "Engines"),
    Unserved("/evals", "Evals"),
    Unserved("/files", "Files"),
    Unserved("/fine-tunes", "fine-tuning"),
    Unserved("/fine_tuning", "fine-tuning"),
    Unserved("/images", "Images"),
    Unserved("/moderations", "Moderations"),
    Unserved("/organization", "administration"),
    Unserved("/projects", "administration"),
    Unserved("/realtime", "Realtime"),
    Unserved("/responses/{response_id:path}", "stored responses"),
    Unserved("/skills", "Skills"),
    Unserved("/threads", "Assistants"),
    Unserved("/uploads", "Uploads"),
    Unserved("/vector_stores", "vector stores"),
    Unserved("/videos", "Videos"),
    Unserved("/agents", "Agents", ANTHROPIC_SHAPE),
    Unserved("/complete", "Text Completions", ANTHROPIC_SHAPE),
    Unserved("/environments", "Agents", ANTHROPIC_SHAPE),
    Unserved("/experimental", "experimental", ANTHROPIC_SHAPE),
    Unserved("/messages/batches", "Message Batches", ANTHROPIC_SHAPE),
    Unserved("/organizations", "administration", ANTHROPIC_SHAPE),
    Unserved("/sessions", "Agents", ANTHROPIC_SHAPE),
)


def refusals() -> list[AnyOperation]:
    """A row for each."""
    return [_row(number, one) for number, one in enumerate(UNSERVED)]


def _row(number: int, one: Unserved) -> AnyOperation:
    async def refuse(scope: Scope, _receive: Receive, _send: Send) -> None:
        message = f"The {one.name} API is not served here."
        raise GatewayError("unsupported_endpoint", without_sockets(message, scope))

    path = one.path if "{" in one.path else one.path + BELOW
    return refusing(path, f"unserved_{number}", refuse, shape=one.shape)
