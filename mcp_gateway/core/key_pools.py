"""The models that a key names for `auto` to choose from: which it may name, and which of them are gone. Pure."""

from collections.abc import Sequence

from mcp_gateway.core.catalog import Catalog, Published
from mcp_gateway.core.errors import GatewayError
from mcp_gateway.core.text import shown

_PARAM = "model_pool"


def named_pool(asked: Sequence[str], published: Published, models: frozenset[str] | None) -> tuple[str, ...]:
    """The ids or aliases that were asked for, each once; of a model by its name at a source, its id.

    `models` are what the key may ask for. Raises GatewayError: `model_not_found` for what is none of these,
    `invalid_value` for what generates no text.
    """
    open_to_it = published.open_to(models)
    return tuple(dict.fromkeys(_named(name, open_to_it) for name in asked))


def _named(name: str, open_to_it: Catalog) -> str:
    try:
        model = open_to_it.find(name)
    except GatewayError as refusal:
        raise GatewayError(refusal.code, refusal.message, param=_PARAM) from None
    if model.output_kind != "text":
        raise GatewayError("invalid_value", f"The model '{shown(name)}' generates no text.", param=_PARAM)
    return model.id if open_to_it.named(name) is None else name


def gone_from(pool: Sequence[str], published: Published, models: frozenset[str] | None) -> list[str]:
    """Those of a pool that the key may not ask for, or not any more, which the choice passes over.

    By the catalog of all, since a list of keys asks for many, each of which may have models of its own.
    """
    return [name for name in pool if not _is_chosen_from(name, published.current, models)]


def _is_chosen_from(name: str, catalog: Catalog, models: frozenset[str] | None) -> bool:
    model = catalog.named(name)
    return model is not None and model.output_kind == "text" and (models is None or model.is_among(models))
