"""What is recorded of a request: metadata, never a word of its content."""

from dataclasses import dataclass
from typing import Literal, NamedTuple

from mcp_gateway.core.engine import Write
from mcp_gateway.core.errors import Code
from mcp_gateway.core.prompt_tasks import PromptTask
from mcp_gateway.core.tags import Tags

OK = 200
"""The status of a request that was answered: a plain int, which compares faster than HTTPStatus."""

Door = Literal["http", "mcp"]
SurfaceName = Literal["chat", "completions", "embeddings", "messages", "rerank", "responses", "score"]
"""What a client speaks; see core/surfaces."""
AskedAs = Literal[SurfaceName, "proxy"]
"""What a request is recorded as: `proxy` for what was passed on to a provider unread."""
EndedBy = Literal["balance", "budget"]
UNNAMED_SURFACE: SurfaceName = "chat"
"""Of a record that names none."""


def round_id(request_id: str, number: int) -> str:
    """The id of a further round of a request, in which a model is asked again with what tools have answered."""
    return f"{request_id}-{number}"


def round_ids(request_id: str) -> tuple[str, str]:
    """Where the ids of a request's further rounds begin, as ids sort, and what stands behind them all."""
    return f"{request_id}-", f"{request_id}."


def parent_of(request_id: str) -> str | None:
    """The id of the request that this is a further round of; None for a request itself."""
    parent, dash, _ = request_id.partition("-")
    return parent if dash else None


SCORE_WHOLE = 1_000_000
"""Of what scores are kept as parts: the best score there is."""


class RoutingFacts(NamedTuple):
    """Why a model was chosen for a request that named none, and how sure its task is: from 0 to 1.

    `score` is how good its caller has found the answer since, from 0 to 1; None until then.
    """

    task: PromptTask | Literal["unknown"]
    complexity: Literal["simple", "medium", "complex"]
    confidence: float
    score: float | None = None


MOST_NAMES_A_DAY = 1000
"""Of users, and of tags, that requests of an account are attributed to on a day (UTC)."""
OTHER_NAMES = "(other)"
"""What stands for all further ones."""


class Attribution(NamedTuple):
    """Whom a request was made for, and the tags by which its cost is told apart; both are its caller's own words."""

    user: str | None
    tags: Tags


class RequestRecord(NamedTuple):
    """One request. `cost_nano` in nano-USD by the prices that `price_version` names; times in milliseconds."""

    id: str
    client_request_id: str | None
    account_id: str
    key_id: str | None
    model: str | None
    backend: str | None
    price_version: str | None
    door: Door
    is_stream: bool
    prompt_tokens: int
    completion_tokens: int
    cached_tokens: int | None
    cost_nano: int
    started_at_ms: int
    latency_ms: int
    first_token_ms: int | None
    http_status: int
    error_code: Code | None
    finish_reason: str | None
    surface: AskedAs = UNNAMED_SURFACE
    cache_write_tokens: int | None = None
    """Of the prompt, as `cached_tokens` are."""
    images: int = 0
    """That were charged."""
    ended_by: EndedBy | None = None
    """What ended an answer that its backend would have gone on with."""
    routing: RoutingFacts | None = None
    """Where it asked for `auto`: `model` is then the one that was chosen."""
    attribution: Attribution | None = None
    """Where its account asks for that, and it has a user or a tag."""


@dataclass(frozen=True, slots=True)
class AddRecord(Write[None]):
    """A row of the request log."""

    record: RequestRecord
