"""THE tables of what a request to a provider may carry that has no messages, and how a row changes its body.

Passed are OpenAI's own fields and what a row names beside them; never a field of another server. Knows no caller.
"""

from collections.abc import Mapping
from typing import Any

from mcp_gateway.core.dialects.flat_fields import FlatFields
from mcp_gateway.core.dialects.row_rules import RowRules
from mcp_gateway.core.dialects.sifting import FieldUse
from mcp_gateway.core.errors import GatewayError
from mcp_gateway.core.provider_settings import SurfaceSettings
from mcp_gateway.core.token_ids import TokenIds

_PASSED, _PRICED, _BOUNDED, _STRIPPED, _REFUSED = FieldUse
COMPLETION_FIELDS: dict[str, FieldUse] = {
    "best_of": _PRICED,
    "echo": _BOUNDED,
    "frequency_penalty": _PASSED,
    "logit_bias": _PASSED,
    "logprobs": _PASSED,
    "max_tokens": _PRICED,
    "model": _PRICED,
    "n": _PRICED,
    "presence_penalty": _PASSED,
    "prompt": _PRICED,
    "prompt_embeds": _REFUSED,
    "prompt_logprobs": _REFUSED,
    "seed": _PASSED,
    "stop": _PASSED,
    "stream": _PASSED,
    "stream_options": _PASSED,
    "suffix": _PASSED,
    "temperature": _PASSED,
    "top_p": _PASSED,
    "user": _PASSED,
}
EMBEDDING_FIELDS: dict[str, FieldUse] = {
    "dimensions": _PASSED,
    "encoding_format": _PASSED,
    "input": _PRICED,
    "messages": _REFUSED,
    "model": _PRICED,
    "stream": _STRIPPED,
    "user": _PASSED,
}
_INPUTS = {"tokens": "texts or token ids", "texts": "texts", "text": "one text"}


class ProviderFlatFields:
    """One of the tables for one provider; `inputs` is the field that has what is read."""

    def __init__(self, table: Mapping[str, FieldUse], inputs: str, row: SurfaceSettings) -> None:
        self._table = FlatFields(table, (*row.pass_fields, *row.rename.values()))
        self._inputs = inputs
        self._row = row
        self._rules = RowRules(row.refuse, row.drop, row.rename, set=row.set)
        self.written = self._rules.written

    def sift(self, body: dict[str, Any]) -> tuple[str, ...]:
        """Leave of a body only what this provider takes; the names that were removed.

        Raises GatewayError for what may not be left out in silence.
        """
        names = self._table.sift(body)
        body[self._inputs] = self._checked(body[self._inputs])
        return (*names, *self._rules.sift(body))

    def _checked(self, inputs: Any) -> Any:
        """What is read, in a form that the provider takes. Raises GatewayError `unsupported_parameter`."""
        form, most = self._row.inputs, self._row.most_inputs
        is_of_texts = isinstance(inputs, list) and all(isinstance(one, str) for one in inputs)
        if form == "text" and is_of_texts and len(inputs) == 1:
            return inputs[0]
        is_taken = form == "tokens" or isinstance(inputs, str) or (form == "texts" and is_of_texts)
        if not is_taken:
            raise self._refused(f"takes {_INPUTS[form]} alone")
        if most is not None and _number_of(inputs) > most:
            raise self._refused(f"takes at most {most} at a time")
        return inputs

    def _refused(self, why: str) -> GatewayError:
        name = self._inputs
        return GatewayError("unsupported_parameter", f"`{name}`: the provider of this model {why}.", param=name)


def _number_of(inputs: Any) -> int:
    if isinstance(inputs, TokenIds):
        return inputs.prompts
    return len(inputs) if isinstance(inputs, list) and not isinstance(inputs[0], int) else 1
