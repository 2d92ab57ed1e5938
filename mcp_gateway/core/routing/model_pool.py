"""Which models `auto` chooses from for a caller: as its request, its key or the settings name them. Pure."""

from collections.abc import Sequence
from typing import NamedTuple

from mcp_gateway.core.caller import Caller
from mcp_gateway.core.catalog import Catalog, Model


class ModelPool(NamedTuple):
    """The models in the order of their names, each once; `gone` are the names that are no model's any more.

    It has models alone that generate text and that the caller may use.
    """

    models: tuple[Model, ...]
    gone: tuple[str, ...]


def pool_of(
    caller: Caller | None, seen: Catalog, configured: Sequence[str], wanted: Sequence[str] | None = None
) -> ModelPool:
    """`seen` is the catalog as the caller sees it; `configured` and `wanted` are what settings and request name.

    Where nobody names any, all models are taken. A caller is None where nobody knows it; it is told all.
    """
    names = wanted or (caller.routing.model_pool if caller else None) or configured
    named = [seen.named(name) for name in names] if names else seen.values()
    found = {model.id: model for model in named if model is not None and _may_answer(model, caller)}
    return ModelPool(tuple(found.values()), tuple(name for name in names if seen.named(name) is None))


def default_of(pool: Sequence[Model], name: str) -> str | None:
    """The id of what is taken to be the best until outcomes say otherwise: who is called so, or the first."""
    named = (model.id for model in pool if name in (model.id, *model.aliases))
    return next(named, pool[0].id if pool else None)


def _may_answer(model: Model, caller: Caller | None) -> bool:
    is_open = caller is None or not caller.is_guest or model.is_open_to_guests
    return is_open and model.output_kind == "text"
