"""How the row of a provider changes a body, of whichever surface: what is refused, left out, renamed, bounded and set.

Knows no field of any surface.
"""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any, NamedTuple

from mcp_gateway.core.dialects.sifting import LeftOut, unsupported

_EMPTY: tuple[Any, ...] = ([], {})


class RowRules(NamedTuple):
    """What a row says of the fields of one surface."""

    refuse: Sequence[str] = ()
    drop: Sequence[str] = ()
    rename: Mapping[str, str] = {}
    clamp: Mapping[str, tuple[float, float]] = {}
    set: Mapping[str, Any] = {}

    def sift(self, body: dict[str, Any]) -> tuple[str, ...]:
        """Leave of a body only what the provider takes; the names that were removed. Raises GatewayError as `check`."""
        self.check(body)
        left_out = LeftOut(())
        self.leave_out(body, left_out)
        return left_out.names

    def check(self, body: dict[str, Any]) -> None:
        """Raises GatewayError `unsupported_parameter` for a field that the provider has not."""
        for rule in self.refuse:
            name, _, allowed = rule.partition("=")
            _check_refused(body, name, allowed)

    def leave_out(self, body: dict[str, Any], left_out: LeftOut) -> None:
        """Remove what the provider would refuse, and note what held anything."""
        for path in self.drop:
            if _drop(body, path.split(".")):
                left_out.note(path)

    def written(self, body: dict[str, Any]) -> dict[str, Any]:
        """A sifted body in the provider's words; the one that is given stays as it is."""
        body = {self.rename.get(name, name): value for name, value in body.items()}
        bounds = {name: bound for name, bound in self.clamp.items() if isinstance(body.get(name), int | float)}
        clamped = {name: min(max(body[name], least), most) for name, (least, most) in bounds.items()}
        return {**body, **clamped, **self.set}


def _check_refused(body: dict[str, Any], name: str, allowed: str) -> None:
    """A value that asks for nothing asks for no more than the field's absence does."""
    value = body.get(name)
    if _is_nothing(value) or (allowed and _as_written(value) == allowed):
        body.pop(name, None)
    else:
        raise unsupported(name)


def _is_nothing(value: Any) -> bool:
    """A zero is something: a seed, or the log probability of each token alone."""
    return value is None or value is False or value in _EMPTY


def _as_written(value: Any) -> str:
    if isinstance(value, bool):
        return str(value).lower()
    return f"{value:g}" if isinstance(value, int | float) else str(value)


def _drop(value: Any, path: list[str]) -> bool:
    """Remove what a path leads to, in every entry of the lists on its way; whether it held anything."""
    holders = list(_holders(value, path[:-1]))
    return sum(not _is_nothing(holder.pop(path[-1], None)) for holder in holders) > 0


def _holders(value: Any, path: list[str]) -> Iterator[dict[str, Any]]:
    if isinstance(value, list):
        for one in value:
            yield from _holders(one, path)
    elif isinstance(value, dict):
        if path:
            yield from _holders(value.get(path[0]), path[1:])
        else:
            yield value
