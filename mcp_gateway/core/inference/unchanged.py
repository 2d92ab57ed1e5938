"""Whether a request reaches who answers it as its caller sent it, which who asks by a provider's own path relies on.

Compared are the caller's body and the one that would be sent, so that this knows no table of fields.
"""

from asyncio import sleep
from dataclasses import replace
from typing import Any

import orjson

from mcp_gateway.core.catalog import Model
from mcp_gateway.core.dialects.dialect import Target
from mcp_gateway.core.errors import GatewayError
from mcp_gateway.core.surfaces.surface import Ask, Terms
from mcp_gateway.core.token_ids import TokenIds

_KEPT_OTHERWISE = frozenset({"max_completion_tokens", "max_output_tokens", "max_tokens", "model", "stream_options"})
"""Fields that the gateway writes itself and keeps to: the model's name there, the limit by its terms, what is told."""
_ASKS_FOR_NOTHING: dict[str, Any] = {
    "background": False, "echo": False, "logprobs": False, "metadata": {}, "store": False, "stream": False,
}  # fmt: skip
"""What is meant where these are missing, too; of other fields `false` may switch off what would be on without them."""
_MOST_LEVELS = 6
"""That are looked into where a field is not the same as a whole: a message has no more, and each is compared again."""


async def checked_unchanged(
    sent: dict[str, Any], ignored: tuple[str, ...], ask: Ask, model: Model, target: Target, account_id: str
) -> tuple[str, ...]:
    """Of the names of what is not sent on, those that stood in no body, but in headers.

    Raises GatewayError `unsupported_parameter` for a field that would be left out or changed.
    """
    if ask.prompt.remote_images:
        raise _changed(ask.surface.prompt_field)  # they are sent on as data
    if ask.is_long:
        await sleep(0)
    ids = isinstance(sent.get(ask.surface.prompt_field), TokenIds)  # which pass as they came
    plain = replace(ask, body=ask.body | {ask.surface.prompt_field: None}) if ids else ask
    terms = Terms(ask.output_limit, model.max_output_tokens)
    body = target.translation.body(plain, terms, target.backend_model, account_id, is_stream=ask.is_stream)
    if ask.is_long:
        await sleep(0)
    written = orjson.loads(body)
    kept = _KEPT_OTHERWISE | {ask.surface.prompt_field} if ids else _KEPT_OTHERWISE
    for name, value in sent.items():
        if name not in kept and not _is_kept(name, value, written):
            raise _changed(name)
    return tuple(name for name in ignored if name.partition(".")[0].partition("[")[0] not in sent)


def _is_kept(name: str, value: Any, written: dict[str, Any]) -> bool:
    """What asks for nothing may be missing."""
    if name in written:
        return _is_same(value, written[name], _MOST_LEVELS)
    return value is None or value == [] or _ASKS_FOR_NOTHING.get(name) == value


def _is_same(value: Any, written: Any, levels: int) -> bool:
    """But for what says nothing in an object: SDKs put that into the messages that they send again."""
    if value == written:
        return True
    if not levels:
        return False
    if isinstance(value, list) and isinstance(written, list):
        return len(value) == len(written) and all(
            _is_same(*pair, levels - 1) for pair in zip(value, written, strict=True)
        )
    if not (isinstance(value, dict) and isinstance(written, dict)):
        return False
    told = {name: one for name, one in value.items() if name in written or (one is not None and one != [])}
    return told.keys() == written.keys() and all(_is_same(one, written[name], levels - 1) for name, one in told.items())


def _changed(name: str) -> GatewayError:
    return GatewayError(
        "unsupported_parameter",
        f"`{name}` would not reach the provider as it is: leave it out, or ask the gateway's own path of this kind.",
        param=name,
    )
