"""What OpenAPI says of POST /chat/completions."""

from typing import Any

from pydantic import BaseModel, ConfigDict

from http_api.operations import Absent
from http_api.routing import RequestedRouting


class ChatRequestBody(BaseModel):
    """What the gateway reads of a chat, whose images are data: URIs or, where they are fetched, https addresses;
    what else there may be is told in docs/clients.md, and in docs/openrouter.md of `models`, `provider` and `usage`.
    Without a `model` the first of the `models` is meant.
    """

    model_config = ConfigDict(extra="allow")

    model: str | None = None
    models: list[str] | None = None
    provider: dict[str, Any] | None = None
    usage: dict[str, Any] | None = None
    routing: RequestedRouting | None = None
    messages: list[dict[str, Any]]
    stream: bool | None = None
    max_completion_tokens: int | None = None
    max_tokens: int | None = None
    n: int | None = None


class ChatAnswer(BaseModel):
    """The backend's own, with the model under its public name and the cost in `usage`."""

    model_config = ConfigDict(extra="allow")

    model: str
    choices: list[dict[str, Any]]
    usage: dict[str, Any] | Absent = None
