"""A provider's answer in one piece that has choices, in OpenAI's form: nothing else of it reaches a client.

Knows no surface: what a choice is, each says.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

from mcp_gateway.core.blame import AnswerTooLarge
from mcp_gateway.core.dialects.openai_refusals import error_object, failure_told
from mcp_gateway.core.dialects.openai_usage import usage_told
from mcp_gateway.core.json_bounds import dump_json
from mcp_gateway.core.surfaces.credible import FailureTold, failed_amid, not_understood, understood
from mcp_gateway.core.surfaces.surface import Ask, Body, Whole
from mcp_gateway.core.surfaces.usage import read_usage

_MOST_PARSED_BYTES = 4 * 1024 * 1024
"""It is parsed at once, while nobody else is served."""
Choice = dict[str, Any]


class AnswerForm(NamedTuple):
    """What answers of a surface are called, and how their choices are read.

    `choice` raises LookupError, TypeError or AttributeError for what is none.
    """

    id_prefix: str
    kind: str
    choice: Callable[[Choice, int], Choice]
    has_text: Callable[[Choice], bool]


def parsed_at_once(body: Body) -> Any:
    """Raises AnswerTooLarge, or GatewayError `backend_error` for what cannot be understood."""
    if len(body) > _MOST_PARSED_BYTES:
        raise AnswerTooLarge
    return understood(body)


def read_answer(body: Body, ask: Ask, form: AnswerForm) -> Whole:
    """Raises AnswerTooLarge, or GatewayError `backend_error` for what is no answer, or tells an error."""
    told = parsed_at_once(body)
    if (error := error_object(told)) is not None:
        raise FailureTold(failure_told(error))
    try:
        choices = [form.choice(choice, number) for number, choice in enumerate(told["choices"])]
    except (LookupError, TypeError, AttributeError):
        raise not_understood() from None
    if any(choice["finish_reason"] == "error" for choice in choices):
        raise failed_amid()
    return _whole(told, choices, ask, form)


def _whole(told: dict[str, Any], choices: list[Choice], ask: Ask, form: AnswerForm) -> Whole:
    if not choices:
        raise not_understood()
    usage = usage_told(told)
    if usage is not None and not usage["completion_tokens"] and any(map(form.has_text, choices)):
        usage = None
    created = told.get("created")
    answer = {
        "id": f"{form.id_prefix}-{ask.request_id}",
        "object": form.kind,
        "created": created if isinstance(created, int) else 0,
        "model": ask.model,
        "choices": choices,
    }
    body = dump_json(answer | ({"usage": usage} if usage is not None else {}))
    return Whole(body, choices[0]["finish_reason"], read_usage(usage), is_usage_exact=usage is not None)
