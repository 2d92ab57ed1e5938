"""`auto` as lists of models tell of it: what the pool of a caller can do and costs at most, as if it were one model.

Nothing is asked by it: a request goes to a model of the pool.
"""

from collections.abc import Iterable, Sequence

from mcp_gateway.core.caller import Caller
from mcp_gateway.core.catalog import Model, Published
from mcp_gateway.core.optimization import AUTO, MODES
from mcp_gateway.core.routing.model_pool import ModelPool, pool_of

_MOST_NAMED = 10


class AutoModel:
    """What each caller is told of it. `configured` are the ids or aliases of the settings' pool."""

    def __init__(self, published: Published, configured: Sequence[str]) -> None:
        self._published = published
        self._configured = configured

    def pool(self, caller: Caller | None) -> ModelPool:
        return pool_of(caller, self._published.seen_by(caller), self._configured)

    def seen_by(self, caller: Caller | None) -> Model | None:
        """None where its pool is empty."""
        models = self.pool(caller).models
        return _of_all(models) if models else None

    def find(self, caller: Caller | None, name: str) -> Model:
        """This, or the model of that id or alias. Raises GatewayError `model_not_found`."""
        auto = self.seen_by(caller) if name == AUTO else None
        return auto or self._published.seen_by(caller).find(name)


def _of_all(models: Sequence[Model]) -> Model:
    """All offers are its own, so that it costs what the dearest does, and is ready where one of them is."""
    return Model(
        id=AUTO,
        offers=tuple(offer for model in models for offer in model.offers),
        name="Auto",
        description=_description(models),
        owned_by="gateway",
        created_at_s=0,
        context_window=max(model.context_window for model in models),
        max_output_tokens=max(model.max_output_tokens for model in models),
        quantization=None,
        features=_each(feature for model in models for feature in model.features),
        input_modalities=_each(kind for model in models for kind in model.input_modalities),
        aliases=(),
        is_open_to_guests=any(model.is_open_to_guests for model in models),
    )


def _each(names: Iterable[str]) -> tuple[str, ...]:
    """Once, in the order in which they were found."""
    return tuple(dict.fromkeys(names))


def _description(models: Sequence[Model]) -> str:
    ids = ", ".join(model.id for model in models[:_MOST_NAMED])
    more = f" and {len(models) - _MOST_NAMED} more" if len(models) > _MOST_NAMED else ""
    return (
        "The gateway chooses a model for each request by its task, its amount of work, prices and speeds, "
        f"of: {ids}{more}. `routing.optimize` is one of: {', '.join(MODES)}."
    )
