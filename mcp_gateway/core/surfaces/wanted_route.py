"""OpenRouter's fields of a request: which models and providers are to be asked, in what order, and at what price.

Knows no model and no provider: what the names mean, whoever asks by them decides.
"""

from collections.abc import Iterable
from typing import Any, Literal, NamedTuple, get_args

from mcp_gateway.core.errors import GatewayError
from mcp_gateway.core.json_fields import at_most, checked, optional, unserved
from mcp_gateway.core.money import MILLION_TOKENS, exact_pico
from mcp_gateway.core.prices import PriceCap
from mcp_gateway.core.surfaces.wanted_routing import WantedRouting
from mcp_gateway.core.text import shown

ROUTE_FIELDS = frozenset({"models", "provider"})
"""A request without any of them says nothing of its route."""
Sort = Literal["price", "latency", "throughput"]
SORTS: tuple[Sort, ...] = get_args(Sort)
_MOST_MODELS = 10
_MOST_NAMES = 100
_PARTITIONS = ("model", "none")
_NAMES = ("order", "only", "ignore")
_SWITCHES = ("allow_fallbacks", "require_parameters")
_UNKNOWABLE: dict[str, tuple[Any, ...]] = {
    "data_collection": (None, "allow"),
    "enforce_distillable_text": (None, False),
    "quantizations": (None, []),
    "zdr": (None, False),
}
"""What nobody here knows of a provider, by the values that ask for nothing."""
_PREFERRED = ("preferred_max_latency", "preferred_min_throughput")
"""A request is never refused for these."""
_PRICED: dict[str, int] = {"prompt": MILLION_TOKENS, "completion": MILLION_TOKENS, "request": 1, "image": 1}
"""What a price may be capped for, by for how many it is told."""


class WantedModel(NamedTuple):
    """A model by the name that it is asked for by; `param` is where that stood."""

    name: str
    param: str


class WantedRoute(NamedTuple):
    """The models that are to be asked in turn, and how each one's providers are: named in small letters.

    Those in `order` come first; others may follow where `falls_back`. `sorts_across` is whether the providers of all
    models are sorted together. `takes_all` is whether only who leaves out nothing of the request may be asked. `unused`
    are fields that change nothing here.
    """

    models: tuple[WantedModel, ...]
    order: tuple[str, ...] = ()
    only: tuple[str, ...] = ()
    ignore: tuple[str, ...] = ()
    falls_back: bool = True
    takes_all: bool = False
    sort: Sort | None = None
    sorts_across: bool = False
    cap: PriceCap | None = None
    unused: tuple[str, ...] = ()
    routing: WantedRouting | None = None
    """By what the model is chosen that stands in the place of `auto`; None where nobody asks for that."""

    def unknown(self, sources: Iterable[str]) -> list[str]:
        """Where a provider is named that there is not."""
        there = {source.lower() for source in sources}
        named = zip(_NAMES, (self.order, self.only, self.ignore), strict=True)
        return [
            f"provider.{field}[{number}]"
            for field, names in named
            for number, name in enumerate(names)
            if name not in there
        ]


def route_taken_out(body: dict[str, Any]) -> WantedRoute | None:
    """What a body says of its route, which it has no more; None where it says nothing.

    A body that names no `model` has the first of its `models` from now on. Raises GatewayError (400).
    """
    models = _models_in(body)
    wanted = optional(body, "provider", dict) or {}
    body.pop("provider", None)
    if not wanted and len(models) <= 1:
        return None
    _check_known(wanted)
    by, partition = _sort_in(wanted.get("sort"))
    order, only, ignore = (_names_in(wanted, name) for name in _NAMES)
    falls_back, takes_all = (optional(wanted, name, bool, "provider.") for name in _SWITCHES)
    return WantedRoute(
        models=models,
        order=order,
        only=only,
        ignore=ignore,
        falls_back=falls_back is not False,
        takes_all=bool(takes_all),
        sort=by,
        sorts_across=partition == "none",
        cap=_cap_in(optional(wanted, "max_price", dict, "provider.") or {}),
        unused=tuple(f"provider.{name}" for name in _PREFERRED if wanted.get(name) is not None),
    )


def _models_in(body: dict[str, Any]) -> tuple[WantedModel, ...]:
    """The `model` and then each of the `models`, once."""
    names = optional(body, "models", list) or []
    body.pop("models", None)
    at_most(names, _MOST_MODELS, "models")
    for number, name in enumerate(names):
        if not checked(name, str, f"models[{number}]"):
            raise GatewayError("invalid_value", f"`models[{number}]` is empty.", param=f"models[{number}]")
    if names and not body.get("model"):
        body["model"] = names[0]
    first = body.get("model")
    if not isinstance(first, str):
        return ()  # which is refused by whoever reads the model
    places = {first: "model"} | {name: f"models[{number}]" for number, name in enumerate(names) if name != first}
    return tuple(WantedModel(name, param) for name, param in places.items())


def _check_known(wanted: dict[str, Any]) -> None:
    for name, value in wanted.items():
        if name in _UNKNOWABLE:
            if value not in _UNKNOWABLE[name]:
                raise unserved(f"provider.{name}")
        elif name not in (*_NAMES, *_SWITCHES, *_PREFERRED, "sort", "max_price"):
            raise unserved(f"provider.{shown(name)}")


def _names_in(wanted: dict[str, Any], field: str) -> tuple[str, ...]:
    names = optional(wanted, field, list, "provider.") or []
    at_most(names, _MOST_NAMES, f"provider.{field}")
    return tuple(checked(name, str, f"provider.{field}[{number}]").lower() for number, name in enumerate(names))


def _sort_in(value: Any) -> tuple[Sort | None, str | None]:
    """By what, and what is sorted together."""
    wanted = value if isinstance(value, dict) else {"by": value}
    for name in wanted:
        if name not in ("by", "partition"):
            raise unserved(f"provider.sort.{shown(name)}")
    where = "provider.sort.by" if isinstance(value, dict) else "provider.sort"
    by = _one_of(wanted.get("by"), SORTS, where)
    return by, _one_of(wanted.get("partition"), _PARTITIONS, "provider.sort.partition")


def _one_of(value: Any, there: tuple[Any, ...], param: str) -> Any:
    """None where nothing is said, as by an empty text."""
    if value in (None, ""):
        return None
    if value not in there:
        names = ", ".join(there)
        raise GatewayError("invalid_value", f"`{param}` must be one of {names}.", param=param)
    return value


def _cap_in(wanted: dict[str, Any]) -> PriceCap | None:
    for name in wanted:
        if name not in _PRICED and wanted[name] is not None:
            raise unserved(f"provider.max_price.{shown(name)}")
    caps = {name: _amount_in(wanted.get(name), name, pieces) for name, pieces in _PRICED.items()}
    return PriceCap(**caps) if any(cap is not None for cap in caps.values()) else None


def _amount_in(value: Any, name: str, pieces: int) -> Any:
    """Pico-USD; told in USD, of tokens for a million."""
    if value is None:
        return None
    param = f"provider.max_price.{name}"
    try:
        return exact_pico(value, pieces)
    except ValueError:
        what = "a million tokens" if pieces > 1 else f"one {name}" if name == "image" else "one request"
        problem = f"`{param}` must be a number of USD for {what}, such as 0.5."
        raise GatewayError("invalid_value", problem, param=param) from None
