"""Responses to providers that have OpenAI's API for them, each with differences that its row names. None is stored."""

from typing import Any

from mcp_gateway.core.dialects.one_piece import OnePiece
from mcp_gateway.core.dialects.openai_refusals import failure_told
from mcp_gateway.core.dialects.responses_fields import OPENAI_FIELDS, ResponsesFields
from mcp_gateway.core.dialects.row_rules import RowRules
from mcp_gateway.core.dialects.sifting import FieldUse
from mcp_gateway.core.json_bounds import dump_json
from mcp_gateway.core.provider_settings import Preset
from mcp_gateway.core.surfaces import response_answer
from mcp_gateway.core.surfaces.credible import UsageBounds
from mcp_gateway.core.surfaces.response_object import in_openais_form, response_id
from mcp_gateway.core.surfaces.responses import ResponsesAsk
from mcp_gateway.core.surfaces.responses_stream import ResponsesReader
from mcp_gateway.core.surfaces.surface import Ask, Body, Failure, Terms, Whole

_FIELDS = OPENAI_FIELDS | {"metadata": FieldUse.STRIPPED}  # it is there for what is stored


class ProviderResponsesReader(ResponsesReader):
    """Reads a provider's stream for a client. Its prompt is never counted afterwards: providers do not count."""

    tells_usage = True

    def _in_our_form(self, response: dict[str, Any]) -> dict[str, Any]:
        return in_openais_form(response, self._public_model)

    def _failure_in(self, error: dict[str, Any]) -> Failure:
        return failure_told(error)


class ResponsesToOpenAi(OnePiece):
    """What a Responses request becomes for a provider, and its answers for the client."""

    with_usage = staticmethod(response_answer.with_usage)
    text_bytes = staticmethod(response_answer.text_bytes)

    def __init__(self, row: Preset) -> None:
        own = row.responses
        self.path = row.responses_path
        self._fields = ResponsesFields(table=_FIELDS, pass_fields=own.pass_fields)
        self._rules = RowRules(own.refuse, own.drop, own.rename, set=own.set)

    def sift(self, body: dict[str, Any]) -> tuple[str, ...]:
        """Leave of a body only what this provider takes; the names that were removed.

        Raises GatewayError for what may not be left out in silence: state, and what reaches beyond the request.
        """
        return (*self._fields.sift(body), *self._rules.sift(body))

    def body(self, ask: Ask, terms: Terms, backend_model: str, account_id: str, *, is_stream: bool) -> bytes:
        body = ask.body | {"model": backend_model}
        if terms.output_limit is not None:
            body["max_output_tokens"] = terms.output_limit
        if is_stream:
            body["stream"] = True
        return dump_json(self._rules.written(body))

    def reader(self, ask: Ask, public_model: str, bounds: UsageBounds) -> ProviderResponsesReader:
        assert isinstance(ask, ResponsesAsk)
        return ProviderResponsesReader(ask, public_model)

    async def read(self, body: Body, ask: Ask) -> Whole:
        named = {"id": response_id(ask.request_id)}
        return await response_answer.read_response(
            body, lambda told: in_openais_form(told, ask.model) | named, failure_told
        )
