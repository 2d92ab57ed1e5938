"""What OpenAPI says of POST /completions."""

from typing import Any

from pydantic import BaseModel, ConfigDict

from http_api.operations import Absent, Count


class CompletionRequestBody(BaseModel):
    """What the gateway reads of a completion; what else there may be is told in docs/backends.md."""

    model_config = ConfigDict(extra="allow")

    model: str | None = None
    models: list[str] | None = None
    provider: dict[str, Any] | None = None
    usage: dict[str, Any] | None = None
    prompt: str | list[str] | list[int] | list[list[int]]
    stream: bool | None = None
    max_tokens: Count | None = None
    n: Count | None = None
    best_of: Count | None = None


class CompletionAnswer(BaseModel):
    """The backend's own, with the model under its public name and the cost in `usage`."""

    model_config = ConfigDict(extra="allow")

    model: str | Absent = None
    choices: list[dict[str, Any]]
    usage: dict[str, Any] | Absent = None
