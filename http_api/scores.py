"""What OpenAPI says of POST /rerank and POST /score."""

from typing import Annotated, Any

from pydantic import BaseModel, ConfigDict, Field

from http_api.operations import Absent


class RerankRequestBody(BaseModel):
    """What the gateway reads of a request to rank documents."""

    model_config = ConfigDict(extra="allow")

    model: str
    query: str
    documents: list[str]
    top_n: Annotated[int, Field(ge=0)] | None = None


class RerankAnswer(BaseModel):
    """The backend's own, with the model under its public name."""

    model_config = ConfigDict(extra="allow")

    model: str | Absent = None
    results: list[dict[str, Any]]
    usage: dict[str, Any] | Absent = None


class ScoreRequestBody(BaseModel):
    """What the gateway reads of a request to compare texts."""

    model_config = ConfigDict(extra="allow")

    model: str
    text_1: str | list[str]
    text_2: str | list[str]


class ScoreAnswer(BaseModel):
    """The backend's own."""

    model_config = ConfigDict(extra="allow")

    data: list[dict[str, Any]]
    usage: dict[str, Any] | Absent = None
