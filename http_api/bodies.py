"""A JSON body as bytes, and as a value of a given shape."""

from collections.abc import Coroutine
from dataclasses import dataclass
from typing import Any, TypeVar
from urllib.parse import parse_qsl

from pydantic import BaseModel, ValidationError
from starlette.types import Receive, Scope

from mcp_gateway.core.config import Settings
from mcp_gateway.core.context import CONTEXT, RequestContext
from mcp_gateway.core.errors import Code, GatewayError
from mcp_gateway.core.json_bounds import JsonBounds
from mcp_gateway.core.json_fields import parse_json_object
from mcp_gateway.core.text import shown
from mcp_gateway.core.value_faults import reason
from mcp_gateway.wire.bodies import is_json, read_body

_MAX_NAMES = 1000
"""Of a body with a few fields: pydantic complains of each that is not known."""
_MOST_BYTES = 1024 * 1024
_MOST_VALUES = 20_000
FORM_TYPE = b"application/x-www-form-urlencoded"
_MOST_FORM_BYTES = 64 * 1024
_MOST_FIELDS = 200
Kind = TypeVar("Kind", bound=BaseModel)


@dataclass(frozen=True, slots=True)
class BodyBounds:
    """How long a body may be that is not for inference, and what its JSON may hold."""

    max_bytes: int
    json: JsonBounds

    @classmethod
    def of_accounts(cls, settings: Settings) -> "BodyBounds":
        """What is asked about accounts needs far less than a chat may have."""
        return cls(min(settings.max_body_bytes, _MOST_BYTES), JsonBounds.of(settings))


SIGNED = BodyBounds(_MOST_BYTES, JsonBounds(_MOST_VALUES, _MOST_VALUES))
"""Events of a system of others are as they are, whatever callers may send; anybody may send what is said to be one."""


async def read_json_bytes(scope: Scope, receive: Receive, bounds: BodyBounds) -> bytes:
    """The whole body of a JSON request, which may be parsed. Raises GatewayError or CallerLeft."""
    raw = await read_bytes(scope, receive, bounds.max_bytes)
    await bounds.json.check(raw, scope[CONTEXT].caller)
    return raw


def read_bytes(scope: Scope, receive: Receive, max_bytes: int) -> Coroutine[Any, Any, bytes]:
    """The same, of which nobody knows yet what it holds."""
    context: RequestContext = scope[CONTEXT]
    if not is_json(context.sent):
        raise GatewayError("invalid_type", "Send JSON, with the header Content-Type: application/json.")
    return read_body(context, receive, max_bytes)


async def read_form_bytes(scope: Scope, receive: Receive, bounds: BodyBounds) -> bytes:
    """The whole body of a form. Raises GatewayError or CallerLeft."""
    context: RequestContext = scope[CONTEXT]
    if context.sent.get(b"content-type", FORM_TYPE).partition(b";")[0].strip().lower() != FORM_TYPE:
        raise GatewayError("invalid_type", "Send a form, as application/x-www-form-urlencoded.")
    return await read_body(context, receive, min(bounds.max_bytes, _MOST_FORM_BYTES))


def form_as(raw: bytes, kind: type[Kind]) -> Kind:
    """A form as a value: what is empty is not sent. Raises GatewayError (400), also for what is sent twice."""
    try:
        pairs = parse_qsl(raw.decode(), max_num_fields=_MOST_FIELDS, errors="strict")
    except ValueError:
        raise GatewayError("invalid_value", "This form cannot be read.") from None
    names = [name for name, _ in pairs]
    for name in names:
        if name in kind.model_fields and names.count(name) > 1:
            raise GatewayError("invalid_value", f"`{name}` stands more than once in the form.", param=name)
    return checked_as(dict(pairs), kind)


def parsed_as(raw: bytes, kind: type[Kind]) -> Kind:
    """A JSON body as a value. Raises GatewayError (400) for what is no JSON object, unknown, missing or malformed."""
    body = {name: _whole(value) for name, value in parse_json_object(raw).items()}
    if len(body) > _MAX_NAMES:
        raise GatewayError("unsupported_parameter", f"The body has {len(body)} fields; most are not known here.")
    return checked_as(body, kind)


def checked_as(body: dict[str, Any], kind: type[Kind], *, is_strict: bool | None = None) -> Kind:
    """The same of what is read already; text may stand for numbers where `is_strict` says so, else by the model."""
    try:
        return kind.model_validate(body, strict=is_strict)
    except ValidationError as error:
        fault = error.errors(include_url=False, include_context=False, include_input=False)[0]
        name = shown(_name_at(fault["loc"], fault["type"]))
        if fault["type"] == "extra_forbidden":
            raise GatewayError("unsupported_parameter", f"`{name}` is not known here.", param=name) from None
        if fault["type"] == "missing":
            raise GatewayError("missing_parameter", f"`{name}` is missing.", param=name) from None
        code: Code = "invalid_value" if fault["type"] == "literal_error" else "invalid_type"
        raise GatewayError(code, f"`{name}` {reason(fault['type'], fault['msg'])}.", param=name) from None


def _whole(value: Any) -> Any:
    """A number without a fraction as the whole number that it is to JSON Schema, however it was written: `5.0`."""
    return int(value) if isinstance(value, float) and value.is_integer() else value


def _name_at(place: tuple[int | str, ...], kind: str) -> str:
    """Of a field; of an object in a list `budgets.0`, of a field of one `budgets.0.window`; other items are the list's.

    `kind` is pydantic's name for the fault.
    """
    field, *within = place
    is_told = within[:1] and isinstance(within[0], int) and (within[1:] or kind == "model_type")
    return ".".join(map(str, (field, *within[:2]) if is_told else (field,)))
