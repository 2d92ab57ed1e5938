"""A request's query, read as strictly as a body: what nobody knows is refused with the nearest name."""

from collections.abc import Collection
from datetime import date, timedelta
from typing import Annotated, Any, TypeVar, get_origin

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, ValidationError, WithJsonSchema
from starlette.datastructures import QueryParams
from starlette.types import Scope

from mcp_gateway.core.errors import GatewayError
from mcp_gateway.core.moments import date_in, unix_ms
from mcp_gateway.core.text import nearest, shown
from mcp_gateway.core.value_faults import reason


def whole_day(given: dict[str, Any]) -> dict[str, Any]:
    """A query whose `since` and `until` are one and the same date, with the end of that day as its `until`."""
    day = date_in(given.get("until", ""))
    if day is None or day != date_in(given.get("since", "")) or day == date.max:
        return given
    return given | {"until": (day + timedelta(days=1)).isoformat()}


_MOMENT = {
    "type": "string",
    "description": "Unix seconds, or a date or time in ISO 8601, UTC unless it says otherwise.",
    "examples": ["1790000000", "2026-01-31", "2026-01-31T12:00:00Z"],
}
Moment = Annotated[int, BeforeValidator(unix_ms), WithJsonSchema(_MOMENT)]
"""Written as Unix seconds or ISO 8601, UTC unless it says otherwise; read as Unix milliseconds."""


class Query(BaseModel):
    """The parameters of one operation; this one takes none."""

    model_config = ConfigDict(extra="forbid", str_min_length=1)


_SEVERAL = Field(max_length=50, description="Of one or more of these: the parameter may stand several times.")
Several = Annotated[tuple[Annotated[str, Field(min_length=1)], ...], _SEVERAL]
"""Of a filter that takes any of several values; none takes all."""


class AnyQuery(Query):
    """Takes none either, and passes over what stands there: of what programs of others ask as they are used to."""

    model_config = ConfigDict(extra="ignore")


Kind = TypeVar("Kind", bound=Query)


def read_query(scope: Scope, kind: type[Kind]) -> Kind:
    """The query of a request; a field that is a tuple takes its parameter several times.

    Raises GatewayError (400) for an unknown, repeated or malformed parameter.
    """
    given = QueryParams(scope["query_string"]).multi_items()
    if kind.model_config["extra"] == "ignore":
        given = [(name, value) for name, value in given if name in kind.model_fields]
    names = [name for name, _ in given]
    repeated = {name for name in names if name in kind.model_fields and _takes_several(kind, name)}
    for name in names:
        if name not in kind.model_fields:
            raise GatewayError("unsupported_parameter", _unknown(name, kind.model_fields), param=shown(name))
        if names.count(name) > 1 and name not in repeated:
            raise GatewayError("invalid_value", f"`{name}` stands more than once in the query.", param=name)
    try:
        return kind.model_validate(
            dict(given) | {name: tuple(text for one, text in given if one == name) for name in repeated}
        )
    except ValidationError as error:
        fault = error.errors(include_url=False, include_context=False, include_input=False)[0]
        name = str(fault["loc"][0])
        raise GatewayError("invalid_value", f"`{name}` {reason(fault['type'], fault['msg'])}.", param=name) from None


def _takes_several(kind: type[Query], name: str) -> bool:
    return get_origin(kind.model_fields[name].annotation) is tuple


def _unknown(name: str, known: Collection[str]) -> str:
    close = nearest(name, known, likeness=0.5)
    hint = f"did you mean `{close[0]}`?" if close else f"there are {', '.join(known)}." if known else "there is none."
    return f"There is no parameter `{shown(name)}` here; {hint}"
