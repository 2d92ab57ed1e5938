"""What OpenAPI says of POST /chat/completions."""

from typing import Annotated, Any

from pydantic import BaseModel, ConfigDict, Field

from http_api.operations import Absent, Count
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
    messages: Annotated[list[dict[str, Any]], Field(min_length=1)]
    stream: bool | None = None
    max_completion_tokens: Count | None = None
    max_tokens: Count | None = None
    n: Count | None = None


class ChatAnswer(BaseModel):
    """The backend's own, with the model under its public name and the cost in `usage`."""

    model_config = ConfigDict(extra="allow")

    model: str | Absent = None
    choices: list[dict[str, Any]]
    usage: dict[str, Any] | Absent = None
