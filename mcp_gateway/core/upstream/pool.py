"""The backends together: which of them a request goes to, and what they list, read again while running."""

import asyncio
import contextlib
import logging
from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from random import Random
from time import monotonic
from typing import Literal
from weakref import WeakSet

from mcp_gateway.core.blame import Blame
from mcp_gateway.core.catalog import DEMO, VLLM, Listing, Listings, Model, Offer
from mcp_gateway.core.routing.choosing import Choosing
from mcp_gateway.core.routing.rank import Candidate, Ranking, Sight, next_of, spread
from mcp_gateway.core.text import shown
from mcp_gateway.core.upstream.backend import Backend, Status
from mcp_gateway.core.upstream.budget import RetryBudget
from mcp_gateway.core.upstream.provider import Provider

logger = logging.getLogger(__name__)

_RECOVERY_INTERVAL_S = 1.0
_TEMPLATES_S = 1.0
"""Of a look at a backend, for what it adds to prompts: it tells at once, or later."""
_MAX_LOGGED_CHARS = 500
ModelStatus = Literal["ready", "loading", "unavailable"]
Failures = Mapping[Candidate[Backend], Blame]
"""What one request says of each offer that was asked so far, in that order."""


class Pool:
    """All configured backends and providers, and the demo beside them for test keys; providers are never probed."""

    def __init__(
        self,
        backends: Iterable[Backend],
        demo: Backend,
        *,
        interval_s: float,
        timeout_s: float,
        on_change: Callable[[Listings], None],
        on_metrics: Callable[[Backend, float], None],
        retries: RetryBudget,
        random: Random,
        providers: Mapping[str, Provider] | None = None,
    ) -> None:
        self.backends = tuple(backends)
        self.demo = demo
        self.providers = {} if providers is None else dict(providers)
        self.sight = _sight_of(self.backends, demo, self.providers)
        self._retired = WeakSet[Backend]()
        """Those that were taken out, as long as requests know them; their idle connections close by themselves."""
        self._interval_s = interval_s
        self._timeout_s = timeout_s
        self._on_change = on_change
        self._on_metrics = on_metrics
        self._retries = retries
        self._random = random
        self.choosing = Choosing(random, monotonic)
        self._listings: Listings | None = None
        self._slow: set[Backend] = set()
        self._told: dict[Backend, Status] = {}
        """What the log has said last of each."""

    def next_of(self, ranking: Ranking[Backend], failures: Failures) -> Candidate[Backend] | None:
        """Where to send a request after these failures; None where it must not, or cannot, be sent on."""
        if not failures:
            self._retries.deposit()
        elif not self.may_go_on(failures):
            return None
        return next_of(ranking, failures, self._random)

    def first_of(self, ranking: Ranking[Backend], failures: Failures) -> Candidate[Backend] | None:
        """Whom to ask of another model, once `may_go_on` has said of these failures that one may be asked."""
        return next_of(ranking, failures, self._random)

    def spread_over(self, offers: Sequence[Offer]) -> Ranking[Backend]:
        """Who may be asked what no prefix cache helps with."""
        return spread(offers, self.sight, self._random)

    def is_sound_for(self, model: Model) -> bool:
        """Whether somebody may be expected to serve it now; in plain loops, since all of a pool are asked about."""
        for offer in model.offers:
            for backend in self.sight[offer.source]:
                if backend.can_take(offer.name) and backend.is_sound_for(offer.name):
                    return True
        return False

    def can_take(self, model: Model) -> bool:
        """Whether it may be asked for at all."""
        return any(backend.can_take(offer.name) for offer in model.offers for backend in self.sight[offer.source])

    def status_of(self, model: Model) -> ModelStatus:
        """How a model is, for whoever asks: `ready` where a backend serves it."""
        if any(backend.serves(offer.name) for offer in model.offers for backend in self.sight[offer.source]):
            return "ready"
        return "unavailable" if all(backend.is_probed for backend in self.backends) else "loading"

    def replace(self, backends: Iterable[Backend], providers: Mapping[str, Provider]) -> None:
        """Have requests asked of these from now on; those that run go on where they are."""
        before = {*self.backends, *self.providers.values()}
        self.backends = tuple(backends)
        self.providers.clear()
        self.providers.update(providers)
        self.sight = _sight_of(self.backends, self.demo, self.providers)
        self._retired.update(before - {*self.backends, *self.providers.values(), self.demo})
        self._told = {backend: state for backend, state in self._told.items() if backend not in self._retired}
        self._slow -= {*self._retired}
        self._listings = None
        self._pass_on()

    async def begin(self, wait_s: float) -> None:
        """Ask every backend for the first time. Who has not answered within `wait_s` is known to `watch` later."""
        await self._discover(self.demo)
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(wait_s):
                await asyncio.gather(*(self._discover(backend) for backend in {*self.backends} - {self.demo}))
        self._pass_on()

    async def discover(self, backends: Iterable[Backend] = ()) -> None:
        """Ask these backends, or every one, what they have and how busy they are, all at once; pass on what changed."""
        await asyncio.gather(*(self._discover(backend) for backend in backends or {*self.backends, self.demo}))
        self._pass_on()

    def _pass_on(self) -> None:
        listings: dict[str, list[Listing]] = {}
        for backend in self.backends:
            for name, row in backend.models.listings.items():
                listings.setdefault(name, []).append(row)
        if listings != self._listings:
            self._listings = listings
            self._on_change(listings)

    async def watch(self) -> None:
        """Discover again and again, until cancelled; a backend that is doubtful is asked every second."""
        loop = asyncio.get_running_loop()
        due_at_s = loop.time() + self._interval_s
        while True:
            await asyncio.sleep(min(_RECOVERY_INTERVAL_S, self._interval_s))
            self.tell_of_changes()
            if loop.time() >= due_at_s:
                due_at_s = loop.time() + self._interval_s
                await self.discover()
            elif doubtful := [backend for backend in self.backends if self._is_doubtful(backend)]:
                await self.discover(doubtful)

    def tell_of_changes(self) -> None:
        """Log what has become of backends since the last call, whether requests or questions brought it to light."""
        for backend in (*self.backends, *self.providers.values()):
            self._tell_of(backend)

    def _tell_of(self, backend: Backend) -> None:
        state: Status = "up" if backend.status == "busy" else backend.status
        before = self._told.get(backend)
        if state == before or not backend.is_probed:
            return
        self._told[backend] = state
        if state != "up":
            logger.warning("backend %s is %s: %s", backend.name, state, backend.reason)
        elif before == "failing":
            logger.info("backend %s is failing no more", backend.name)
        else:
            models = shown(", ".join(backend.models.listings), _MAX_LOGGED_CHARS) or "no model"
            logger.info("backend %s is up with %s", backend.name, models)

    async def aclose(self) -> None:
        for backend in {*self.backends, *self.providers.values(), *self._retired, self.demo}:
            await _close(backend)

    def may_go_on(self, failures: Failures) -> bool:
        """A request that no backend took goes on; one that failed where it was taken goes to one more, on the budget.

        Not to all of them: it may be the request that kills what works on it.
        """
        blames = list(failures.values())
        if not blames[-1].was_taken:
            return True
        was_taken_once = sum(blame.was_taken for blame in blames) == 1
        return blames[-1].whose == "backend" and was_taken_once and self._retries.withdraw()

    def _is_doubtful(self, backend: Backend) -> bool:
        """Whether it is down, stuck or slow to tell, or a request waits there for longer than usual."""
        return backend.gone_at_s is not None or not backend.is_up or backend.is_doubted or backend in self._slow

    async def _discover(self, backend: Backend) -> None:
        """Ask one, tell the log what has become of it, and pass on at once what it lists now.

        Others may keep the turn waiting. In the first turn all is passed on together, so that nobody is warned of what
        a backend tells a moment later.
        """
        listed = backend.models.listings
        self._tell_of(backend)
        await self._ask_how_it_is(backend)
        self._tell_of(backend)
        if backend.is_up and backend not in self._slow:
            await self._look_closer(backend)
        if self._listings is not None and backend.models.listings != listed:
            self._pass_on()

    async def _ask_how_it_is(self, backend: Backend) -> None:
        """One that is up and slow to tell gets a second chance: busy with a long prompt, vLLM can pause for seconds."""
        backend.is_doubted = False
        try:
            async with asyncio.timeout(self._timeout_s):
                await backend.discover()
        except TimeoutError:
            if backend.is_up and backend not in self._slow:
                self._slow.add(backend)
                return
            backend.lost(f"did not tell how it is within {self._timeout_s:g} s")
        self._slow.discard(backend)

    async def _look_closer(self, backend: Backend) -> None:
        """Read its queue and counters, and what its chat templates add; it may be silent on either."""
        asked_at_s = asyncio.get_running_loop().time()
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(self._timeout_s):
                await backend.read_metrics()
                self._on_metrics(backend, asyncio.get_running_loop().time() - asked_at_s)
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(_TEMPLATES_S):
                await backend.measure_templates()


def _sight_of(backends: Sequence[Backend], demo: Backend, providers: Mapping[str, Provider]) -> Sight[Backend]:
    """What was taken out is seen by nobody, though a request that runs may still look for it."""
    sight = defaultdict[str, Sequence[Backend]](tuple)
    sight |= {VLLM: backends, DEMO: (demo,), **{name: (provider,) for name, provider in providers.items()}}
    return sight


async def _close(backend: Backend) -> None:
    await backend.origin.aclose()
    if isinstance(backend, Provider) and backend.proxy is not None:
        await backend.proxy.transport.aclose()
