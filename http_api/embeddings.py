"""What OpenAPI says of POST /embeddings."""

from typing import Any, Literal

from pydantic import BaseModel, ConfigDict

from http_api.operations import Absent, Count


class EmbeddingRequestBody(BaseModel):
    """What the gateway reads of a request for embeddings: `input`, or `messages`."""

    model_config = ConfigDict(extra="allow")

    model: str
    input: str | list[str] | list[int] | list[list[int]] | None = None
    messages: list[dict[str, Any]] | None = None
    encoding_format: Literal["float", "base64"] | Absent = None
    dimensions: Count | None = None


class EmbeddingAnswer(BaseModel):
    """The backend's own, with the model under its public name."""

    model_config = ConfigDict(extra="allow")

    model: str | Absent = None
    data: list[dict[str, Any]]
    usage: dict[str, Any] | Absent = None
