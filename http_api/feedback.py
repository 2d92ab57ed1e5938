"""POST /feedback: how good the answer was to a request that named no model, said by whoever sent it."""

from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field

from http_api.answer_ids import request_id_in
from http_api.operations import Asked, Told
from http_api.query import Query
from mcp_gateway.core.errors import GatewayError
from mcp_gateway.core.observe.history import History
from mcp_gateway.core.optimization import AUTO
from mcp_gateway.core.record import parent_of
from mcp_gateway.core.routing.outcome_book import OutcomeBook


class FeedbackBody(BaseModel):
    """The id of a request or of its answer, and a score from 0, useless, to 1, as good as can be."""

    model_config = ConfigDict(extra="forbid", strict=True)

    request_id: Annotated[str, Field(min_length=1, max_length=200)]
    score: Annotated[float, Field(ge=0, le=1, allow_inf_nan=False)]


class FeedbackObject(Told):
    """The request that was scored; `counted` is false where the score moves no choice of a model."""

    object: Literal["feedback"]
    request_id: str
    score: float
    counted: bool


class Feedback:
    def __init__(self, history: History, outcomes: OutcomeBook) -> None:
        self._history = history
        self._outcomes = outcomes

    async def give(self, asked: Asked[Query, FeedbackBody]) -> FeedbackObject:
        """The score of a further round is its request's."""
        caller, body = asked.caller, asked.body
        self._outcomes.check_kept()
        named = request_id_in(body.request_id) or body.request_id
        request_id = parent_of(named) or named
        record = await self._history.get(caller.account_id, request_id, within=caller.within)
        if record.routing is None:
            problem = f"The request named its model, so that no choice can be judged: only those for `{AUTO}` are."
            raise GatewayError("invalid_value", problem, param="request_id")
        is_counted = await self._outcomes.score(
            caller.account_id, request_id, body.score, is_of_test_key=caller.is_test
        )
        return FeedbackObject(object="feedback", request_id=request_id, score=body.score, counted=is_counted)
