"""How the gateway and its parts are, decided in one place for /health, /readyz and the public status."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Literal

from mcp_gateway.core.catalog import Published
from mcp_gateway.core.ledger.ledger import Ledger
from mcp_gateway.core.lifecycle import Lifecycle
from mcp_gateway.core.observe.status_board import Component, ComponentState, model_component
from mcp_gateway.core.upstream.pool import ModelStatus, Pool

Status = Literal["ok", "degraded", "down"]
_AS_COMPONENT: dict[Status, ComponentState] = {"ok": "operational", "degraded": "degraded", "down": "down"}
_OF_MODEL: dict[ModelStatus, ComponentState] = {
    "ready": "operational",
    "loading": "degraded",
    "unavailable": "down",
}


@dataclass(frozen=True, slots=True)
class Condition:
    """`down`: nothing is served. `degraded`: some backend or model is not. The reasons are for the operator."""

    status: Status
    reasons: list[str]


class Judge:
    """Looks at the parts of an open gateway."""

    def __init__(
        self,
        lifecycle: Lifecycle,
        ledger: Ledger,
        pool: Pool,
        published: Published,
        is_alone: Callable[[], bool] = lambda: False,
    ) -> None:
        """`is_alone` is whether limits that are shared are counted by each replica for itself."""
        self._lifecycle = lifecycle
        self._ledger = ledger
        self._pool = pool
        self._published = published
        self._is_alone = is_alone

    def condition(self) -> Condition:
        """The worst that holds now, and all that is wrong, the worst first."""
        fatal, partial = list(self._fatal()), list(self._partial())
        return Condition("down" if fatal else "degraded" if partial else "ok", fatal + partial)

    def components(self) -> list[Component]:
        """Both doors, which share all that may be wrong with them, and each model."""
        is_off = self._lifecycle.is_in_maintenance
        doors: ComponentState = "maintenance" if is_off else _AS_COMPONENT[self.condition().status]
        models: list[Component] = []
        for model in self._published.current.values():
            state = "maintenance" if is_off else _OF_MODEL[self._pool.status_of(model)]
            models.append(Component(model_component(model.id), model.id, state, model.id))
        return [Component("api", "API", doors), Component("mcp", "MCP", doors), *models]

    def _fatal(self) -> Iterator[str]:
        """Why nothing at all can be served, or soon will not be."""
        if not self._lifecycle.is_ready:
            yield f"it is {self._lifecycle.phase}"
        if self._lifecycle.is_in_maintenance:
            yield "it is in maintenance"
        if not self._ledger.is_writable:
            yield "the ledger cannot be written: nothing can be billed"
        for name in self._lifecycle.loops.dead:
            yield f"the background loop {name} has ended"
        if not any(backend.is_up for backend in self._pool.backends):
            yield "no backend is up"

    def _partial(self) -> Iterator[str]:
        if self._is_alone():
            yield "Valkey is away: each replica allows its share of the limits"
        for model_id in self._published.current.unpriced:
            yield f"the model {model_id} is not published: it has neither a price nor free = true"
        for backend in self._pool.backends:
            if not backend.is_serving:
                yield f"backend {backend.name} is {backend.status}: {backend.reason}"
        for model in self._published.current.values():
            if self._pool.status_of(model) != "ready":
                yield f"no backend that is up has the model {model.id}"
