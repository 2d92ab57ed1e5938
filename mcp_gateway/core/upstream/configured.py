"""Makes the backends and providers that settings name; of other settings, only those that were not there before."""

import logging
import ssl
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import count

from mcp_gateway.core.catalog import Listing
from mcp_gateway.core.config import Settings, UpstreamSettings
from mcp_gateway.core.dialects.messages_anthropic import BETA_HEADER
from mcp_gateway.core.dialects.openai_refusals import path_error_of
from mcp_gateway.core.money import parse_price
from mcp_gateway.core.provider_keys import Headers, headers_of, proxy_headers_of
from mcp_gateway.core.provider_settings import ProviderSettings, address_of, row_of
from mcp_gateway.core.proxy_paths import ProxyPaths
from mcp_gateway.core.upstream.backend import Backend
from mcp_gateway.core.upstream.breaker import Breaker
from mcp_gateway.core.upstream.provider import Provider, Proxy
from mcp_gateway.core.upstream.served_models import ServedModels
from mcp_gateway.core.upstream.transport import Timeouts, Transport, TransportLimits
from mcp_gateway.core.upstream.workload import Workload

logger = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Upstreams:
    """All who answer requests, as some settings name them: backends by address, providers by name with their keys."""

    settings: Settings
    keys: Mapping[str, str]
    backends: dict[str, Backend]
    providers: dict[str, Provider]

    @classmethod
    def made(cls, settings: Settings, keys: Mapping[str, str]) -> "Upstreams":
        return cls(settings, keys, _backends(settings, {}), _providers(settings, settings.providers, keys))

    def by(self, settings: Settings, keys: Mapping[str, str]) -> "Upstreams":
        """The same by other settings: who is reached and asked as before is the same object, with what it knows."""
        before = {one.name: one for one in self.settings.providers}
        is_same = {
            one.name: one == before.get(one.name) and keys.get(one.name) == self.keys.get(one.name)
            for one in settings.providers
        }
        others = _providers(settings, [one for one in settings.providers if not is_same[one.name]], keys)
        providers = {one.name: others.get(one.name) or self.providers[one.name] for one in settings.providers}
        return Upstreams(settings, keys, _backends(settings, self.backends), providers)

    def take_over(self) -> None:
        """Have those that stay know what the settings say of models, and of the key of the backends."""
        for backend in self.backends.values():
            backend.own_headers = _backend_headers(self.settings)
            backend.models.measured = measured_in(self.settings)
        for name, provider in self.providers.items():
            provider.models.listings = _listings_at(name, self.settings)


def _providers(settings: Settings, named: Sequence[ProviderSettings], keys: Mapping[str, str]) -> dict[str, Provider]:
    is_tls = any(address_of(one, row_of(one).base_url).startswith("https:") for one in named)
    context = ssl.create_default_context() if is_tls else None  # one for all: to read the authorities takes 20 ms
    return {one.name: _provider(one, settings, keys.get(one.name), context) for one in named}


def _listings_at(provider: str, settings: Settings) -> dict[str, Listing]:
    names = [
        source.backend_model for entry in settings.models for source in entry.sources if source.provider == provider
    ]
    return {name: Listing(name, provider, None) for name in names}


def _provider(
    one: ProviderSettings, settings: Settings, key: str | None, ssl_context: ssl.SSLContext | None
) -> Provider:
    row = row_of(one)
    address = address_of(one, row.base_url)
    logger.info("provider %s is %s", one.name, address)
    return Provider(
        one.name,
        transport_to(address, settings.upstream, keep_alive_s=one.keep_alive_s, ssl_context=ssl_context),
        breaker=_breaker(settings.upstream),
        models=ServedModels(listings=_listings_at(one.name, settings)),
        own_headers=headers_of(row, key),
        passed_headers=frozenset({BETA_HEADER}) if row.messages_path else frozenset(),
        proxy=_proxy(one, settings.upstream, key, ssl_context) if one.proxy else None,
    )


def _proxy(
    one: ProviderSettings, upstream: UpstreamSettings, key: str | None, ssl_context: ssl.SSLContext | None
) -> Proxy:
    """Nothing is known of what is asked there: any silence may be as long as a whole answer."""
    row = row_of(one)
    address = address_of(one, row.proxy_base)
    unhurried = upstream.model_copy(
        update={"first_token_timeout_s": upstream.unary_timeout_s, "idle_timeout_s": upstream.unary_timeout_s}
    )
    logger.info("provider %s is asked by its own paths at %s", one.name, address)
    prices_pico = {path: parse_price(text) for path, text in one.proxy_prices.items() if text}
    return Proxy(
        transport_to(address, unhurried, keep_alive_s=one.keep_alive_s, ssl_context=ssl_context),
        ProxyPaths(row.proxy_surfaces, row.proxy_paths, prices_pico),
        proxy_headers_of(row, key),
        frozenset(name.lower().encode() for name in row.proxy_headers),
        partial(path_error_of, row, one.name),
    )


def measured_in(settings: Settings) -> frozenset[str]:
    """The names that backends have for the models whose prompts are counted."""
    return frozenset(
        entry.backend_model or entry.id for entry in settings.models if entry.pricing or entry.context_window
    )


def _backend_headers(settings: Settings) -> Headers:
    secret = settings.vllm_api_key
    return ((b"authorization", b"Bearer " + secret.get_secret_value().encode()),) if secret else ()


def _backends(settings: Settings, known: Mapping[str, Backend]) -> dict[str, Backend]:
    """By their addresses; of those that are `known` the same, the others by the first names that are free."""
    taken = {backend.name for url, backend in known.items() if url in settings.vllm_urls}
    names = (name for name in map("vllm-{}".format, count(1)) if name not in taken)
    return {url: known.get(url) or _backend(next(names), url, settings) for url in settings.vllm_urls}


def _backend(name: str, url: str, settings: Settings) -> Backend:
    logger.info("backend %s is %s", name, url)
    return Backend(
        name,
        transport_to(url, settings.upstream),
        _backend_headers(settings),
        _breaker(settings.upstream),
        ServedModels(measured_in(settings)),
        Workload(settings.upstream.first_token_timeout_s),
    )


def _breaker(upstream: UpstreamSettings) -> Breaker:
    return Breaker(upstream.breaker_failures, upstream.breaker_rest_s)


def transport_to(
    url: str,
    upstream: UpstreamSettings,
    *,
    keep_alive_s: float | None = None,
    ssl_context: ssl.SSLContext | None = None,
) -> Transport:
    timeouts = Timeouts(
        connect_s=upstream.connect_timeout_s,
        first_token_s=upstream.first_token_timeout_s,
        idle_s=upstream.idle_timeout_s,
        unary_s=upstream.unary_timeout_s,
        total_s=upstream.total_timeout_s,
    )
    limits = TransportLimits(
        max_body_bytes=upstream.max_response_bytes, max_idle_s=keep_alive_s or upstream.keep_alive_s
    )
    return Transport(url, timeouts=timeouts, limits=limits, ssl_context=ssl_context)
