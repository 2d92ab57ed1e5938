"""The backends together: which of them can serve a model now, and what they list, read again while running."""

import asyncio
import logging
from collections.abc import Callable, Iterable
from typing import Literal

from mcp_gateway.core.catalog import Listing, Model
from mcp_gateway.core.upstream.backend import Backend

logger = logging.getLogger(__name__)

_RECOVERY_INTERVAL_S = 1.0
ModelStatus = Literal["ready", "loading", "unavailable"]


class Pool:
    """All configured backends, and the demo beside them for test keys."""

    def __init__(
        self,
        backends: Iterable[Backend],
        demo: Backend,
        *,
        interval_s: float,
        timeout_s: float,
        on_change: Callable[[dict[str, Listing]], None],
    ) -> None:
        self.backends = tuple(backends)
        self.demo = demo
        self._interval_s = interval_s
        self._timeout_s = timeout_s
        self._on_change = on_change
        self._listings: dict[str, Listing] | None = None

    def candidates(self, backend_model: str) -> list[Backend]:
        """Backends that are up and list the model, the least loaded first."""
        found = [backend for backend in self.backends if backend.is_up and backend_model in backend.listings]
        return found if len(found) < 2 else sorted(found, key=lambda backend: backend.in_flight)

    def status_of(self, model: Model) -> ModelStatus:
        if self.candidates(model.backend_model):
            return "ready"
        return "unavailable" if all(backend.is_probed for backend in self.backends) else "loading"

    async def discover(self) -> None:
        """Ask every backend what it has, all at once, and pass on what changed."""
        await asyncio.gather(*(self._discover(backend) for backend in {*self.backends, self.demo}))
        listings = {name: row for backend in reversed(self.backends) for name, row in backend.listings.items()}
        if listings != self._listings:
            self._listings = listings
            self._on_change(listings)

    async def watch(self) -> None:
        """Discover again and again, until cancelled; a backend that is down is asked every second."""
        loop = asyncio.get_running_loop()
        due_at_s = loop.time() + self._interval_s
        while True:
            await asyncio.sleep(min(_RECOVERY_INTERVAL_S, self._interval_s))
            if loop.time() >= due_at_s or not all(backend.is_up for backend in self.backends):
                due_at_s = loop.time() + self._interval_s
                await self.discover()

    async def aclose(self) -> None:
        for backend in {*self.backends, self.demo}:
            await backend.origin.aclose()

    async def _discover(self, backend: Backend) -> None:
        was_up, was_probed = backend.is_up, backend.is_probed
        try:
            async with asyncio.timeout(self._timeout_s):
                await backend.discover()
        except TimeoutError:
            backend.lost(f"did not list its models within {self._timeout_s:g} s")
        if backend.is_up and not was_up:
            logger.info("backend %s is up with %s", backend.name, ", ".join(backend.listings) or "no model")
        elif not backend.is_up and (was_up or not was_probed):
            logger.warning("backend %s is down: %s", backend.name, backend.fault)
