"""Reads the configuration again while the gateway runs, and has it in force at once; what goes by it is named here."""

import asyncio
import logging
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

from mcp_gateway.core.audit.log import Actor, NoteAction
from mcp_gateway.core.catalog import VLLM, Listings, Published, build_catalog, is_model_id, warnings_of
from mcp_gateway.core.config import ConfigError, Settings
from mcp_gateway.core.dialects.dialect import Dialect
from mcp_gateway.core.dialects.openai import OpenAi
from mcp_gateway.core.engine import Engine
from mcp_gateway.core.errors import GatewayError
from mcp_gateway.core.identity.authenticator import Authenticator
from mcp_gateway.core.identity.key_ring import KeyRing
from mcp_gateway.core.identity.keys import KeysPerAccount
from mcp_gateway.core.inference.parts import Parts
from mcp_gateway.core.masked_settings import differing_values
from mcp_gateway.core.observe.model_ages import ModelAges
from mcp_gateway.core.prompt_tasks import PromptTask
from mcp_gateway.core.provider_keys import read_keys
from mcp_gateway.core.provider_settings import row_of
from mcp_gateway.core.reloadable import Reloaded, compare, taken_over
from mcp_gateway.core.routing.outcome_book import OutcomeBook
from mcp_gateway.core.service_notice import ServiceNotice, ServiceNotices
from mcp_gateway.core.upstream.configured import Upstreams
from mcp_gateway.core.upstream.pool import Pool

logger = logging.getLogger(__name__)


def sources_of(settings: Settings) -> tuple[str, ...]:
    """The names by which callers may ask for one."""
    return (VLLM, *(one.name for one in settings.providers))


def dialects_of(settings: Settings) -> dict[str, Dialect]:
    return {one.name: OpenAi(row_of(one), one.reasoning_names) for one in settings.providers}


def most_keys(settings: Settings) -> KeysPerAccount:
    limits = settings.limits
    return KeysPerAccount(
        limits.keys_per_account,
        limits.keys_per_account_per_day,
        limits.minted_keys_per_account,
        limits.minted_keys_per_minute,
    )


def notice_in(settings: Settings) -> ServiceNotice:
    return ServiceNotice(settings.maintenance, settings.incident)


def priors_of(settings: Settings) -> dict[str, Mapping[PromptTask, float]]:
    return {entry.id: entry.quality for entry in settings.models if entry.quality}


class Publishing:
    """Makes the catalog of what the backends list and the settings say, whenever either has changed."""

    def __init__(self, published: Published, ages: ModelAges, settings: Settings) -> None:
        self._published = published
        self._ages = ages
        self.settings = settings
        """In force; other ones count from the next call on."""
        self._told = set[str]()

    def __call__(self, listings: Listings) -> None:
        settings, has_backends = self.settings, bool(self.settings.vllm_urls)
        catalog = build_catalog(
            settings.models,
            listings,
            publish_discovered=settings.publish_discovered,
            demo=() if has_backends else listings,
            created_at_s=self._ages.created_at_s,
        )
        self._published.replace(catalog)
        warnings = warnings_of(catalog)
        for warning in sorted(warnings - self._told):
            logger.warning(warning)
        self._told = set(warnings)
        if has_backends and not settings.models:
            logger.warning("no [[models]] are configured: everything that backends list is published, free of charge")
        if spaced := sum(not is_model_id(name) for name in listings):
            logger.warning(
                "%d models have spaces in their names: each is understood only by an id in [[models]]", spaced
            )


class Configured(NamedTuple):
    """What goes by settings that may be read again."""

    parts: Parts
    published: Published
    pool: Pool
    authenticator: Authenticator
    keys: KeyRing
    outcomes: OutcomeBook
    notices: ServiceNotices


class Reloading:
    """Reads the configuration again while requests run, one time after the other; one that is bad changes nothing.

    A request that runs has its model, price, limits, and backends with what they speak as values, and keeps them.
    """

    def __init__(
        self,
        load: Callable[[], Settings],
        environ: Mapping[str, str],
        store: Engine,
        upstreams: Upstreams,
        publishing: Publishing,
        configured: Configured,
    ) -> None:
        self._load = load
        self._environ = environ
        self._store = store
        self._upstreams = upstreams
        self._publishing = publishing
        self._configured = configured
        self._turn = asyncio.Lock()

    async def ordered(self, by: Sequence[Any]) -> dict[str, Any]:
        """For a command."""
        return (await self.reload(Actor(*by))).as_object()

    async def reload(self, by: Actor) -> Reloaded:
        async with self._turn:
            before = self._configured.parts.settings
            try:
                wanted = await asyncio.to_thread(self._load)
                settings = taken_over(before, wanted)
                upstreams = self._upstreams.by(settings, read_keys(settings.providers, self._environ))
            except ConfigError as error:
                logger.error("the configuration was not read again: %s", error)
                raise GatewayError("invalid_value", str(error)) from None
            told = compare(before, wanted)
            await self._discover_new(upstreams)
            was, now = differing_values(before, settings, told.changed)
            action = NoteAction(by, "config.reload", "configuration", was, {**told.as_object(), "values": now})
            noted = self._store.write(action, in_outage="keep")
            self._swap(settings, upstreams)
            await self._wait_for(noted)
            logger.info("the configuration was read again; changed: %s", ", ".join(told.changed) or "nothing")
            if told.needs_restart:
                logger.warning("these settings differ and wait for a restart: %s", ", ".join(told.needs_restart))
            return told

    async def _discover_new(self, upstreams: Upstreams) -> None:
        """Ask those that were not there before; where that fails or is cancelled, nobody else would close them."""
        known = self._upstreams.backends
        new = [backend for url, backend in upstreams.backends.items() if url not in known]
        if not new:
            return
        try:
            await self._configured.pool.discover(new)
        except BaseException:
            await asyncio.gather(*(backend.origin.aclose() for backend in new))
            raise

    async def _wait_for(self, noted: "asyncio.Future[Any]") -> None:
        """In an outage of the database it is noted later: what is in force is not told as failed."""
        try:
            await noted
        except GatewayError:
            logger.warning("that the configuration was read again is noted once the database takes it")

    def _swap(self, settings: Settings, upstreams: Upstreams) -> None:
        """Without a wait, so that no request sees one half of it."""
        parts, published, pool, authenticator, keys, outcomes, notices = self._configured
        parts.settings = self._publishing.settings = settings
        upstreams.take_over()
        parts.targets = parts.auto_router.targets = parts.targets.but(dialects_of(settings))
        published.sources = sources_of(settings)
        authenticator.configure(settings.guests, settings.limits)
        keys.allow(most_keys(settings))
        outcomes.expect(priors_of(settings))
        notices.configure(notice_in(settings))
        pool.replace(upstreams.backends.values() or [pool.demo], upstreams.providers)
        self._upstreams = upstreams
