"""What a form of the console sends, read as the same bodies that the API takes: checked once, by the same models.

A field is named like the API's, with dots within: `budgets.0.amount_usd`. A field that is left empty is not sent.
"""

from collections.abc import Iterable, Mapping
from typing import Any, TypeVar, get_args, get_origin
from urllib.parse import parse_qsl

from pydantic import BaseModel

from http_api.bodies import checked_as
from mcp_gateway.core.errors import GatewayError

FORM_TYPE = b"application/x-www-form-urlencoded"
_MOST_FIELDS = 200
Kind = TypeVar("Kind", bound=BaseModel)


class Form:
    """The fields as they were typed; one that was ticked several times has several values."""

    def __init__(self, fields: Iterable[tuple[str, str]] = ()) -> None:
        self._values: dict[str, list[str]] = {}
        for name, value in fields:
            self._values.setdefault(name, []).append(value)

    @classmethod
    def read(cls, raw: bytes) -> "Form":
        """Raises GatewayError `invalid_value` for what no browser sends."""
        try:
            pairs = parse_qsl(raw.decode(), keep_blank_values=True, max_num_fields=_MOST_FIELDS, errors="strict")
        except ValueError:
            raise GatewayError("invalid_value", "This form cannot be read; open the page again.") from None
        return cls(pairs)

    def get(self, name: str, otherwise: str = "") -> str:
        return self._values.get(name, [otherwise])[0]

    def has(self, name: str, value: str) -> bool:
        """Whether a box was ticked that stands for a value."""
        return value in self._values.get(name, ())

    def without(self, *beginnings: str) -> "Form":
        """The same without the fields whose names begin so."""
        return self._of({name: given for name, given in self._values.items() if not name.startswith(beginnings)})

    def having(self, name: str, value: str) -> "Form":
        """The same with this in a field."""
        return self._of({**self._values, name: [value]})

    def changed_from(self, shown: Mapping[str, object]) -> "Form":
        """The same without the fields that hold what was shown in them: what nobody changes is not set."""
        return self._of(
            {
                name: given
                for name, given in self._values.items()
                if name not in shown or _plain(given[0]) != _plain(str(shown[name]))
            }
        )

    @staticmethod
    def _of(values: dict[str, list[str]]) -> "Form":
        form = Form()
        form._values = values
        return form

    def as_body(self, kind: type[Kind], *, clears: Iterable[str] = ()) -> Kind:
        """The body of an operation; those that `clears` names are sent as null where they were left empty.

        Raises GatewayError (400), whose `param` is the name of the field that is wrong.
        """
        body: dict[str, Any] = {name: None for name in clears if name in self._values}
        for name, given in self._values.items():
            path = name.split(".")
            values = [value.strip() for value in given if value.strip()]
            if values and path[0] in kind.model_fields:
                is_list = len(path) == 1 and _takes_list(kind.model_fields[name].annotation)
                _put(body, path, _lines(values) if is_list else values[0])
        return checked_as(_with_lists(body), kind, is_strict=False)


def _plain(text: str) -> str:
    """Browsers send each end of a line as CR LF."""
    return text.replace("\r\n", "\n").strip()


def _takes_list(annotation: Any) -> bool:
    return get_origin(annotation) is list or any(_takes_list(part) for part in get_args(annotation))


def _lines(values: list[str]) -> list[str]:
    """Of boxes that are ticked, or of one large field with an item a line."""
    return [line.strip() for value in values for line in value.splitlines() if line.strip()]


def _put(body: dict[str, Any], path: list[str], value: Any) -> None:
    *above, last = path
    for name in above:
        inner = body.setdefault(name, {})
        if not isinstance(inner, dict):
            raise GatewayError("invalid_value", "This form cannot be read; open the page again.")
        body = inner
    body[last] = value


def _with_lists(value: Any) -> Any:
    """What has numbers for names is a list in their order."""
    if not isinstance(value, dict):
        return value
    inner = {name: _with_lists(one) for name, one in value.items()}
    if inner and all(name.isdecimal() for name in inner):
        return [inner[name] for name in sorted(inner, key=int)]
    return inner
