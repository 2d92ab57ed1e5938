"""Who counts limits: this process, or Valkey for all replicas together; and what makes requests of that."""

from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, field

from mcp_gateway.core.config import ConfigError, Settings
from mcp_gateway.core.inference.exchange import Inference
from mcp_gateway.core.inference.parts import Parts
from mcp_gateway.core.limits.limiter import Limiter
from mcp_gateway.core.mcp_client.servers import ToolServers
from mcp_gateway.core.observe.metrics import Metrics
from mcp_gateway.core.valkey_address import valkey_address


@dataclass(frozen=True, slots=True)
class Limiting:
    """The limiter, the way of requests that asks it, and what has to go on beside them."""

    limiter: Limiter
    inference: Callable[[Parts, ToolServers], Inference]
    is_alone: Callable[[], bool] = lambda: False
    """Whether limits that are shared are counted by this process alone, for now."""
    loops: Mapping[str, Callable[[], Awaitable[None]]] = field(default_factory=dict)


async def limiting(
    settings: Settings, clock: Callable[[], float], now_s: Callable[[], float] | None, metrics: Metrics
) -> Limiting:
    """As the settings say. `now_s` is a clock in the place of others. Raises ConfigError."""
    if settings.valkey_url is not None:
        return await _shared(settings, settings.valkey_url.get_secret_value(), clock, now_s, metrics)
    limiter = Limiter(now_s or clock, guest_addresses_per_minute=settings.guests.addresses_per_minute)
    return Limiting(limiter, lambda parts, tool_servers: Inference(parts, limiter, tool_servers))


async def _shared(
    settings: Settings, url: str, clock: Callable[[], float], now_s: Callable[[], float] | None, metrics: Metrics
) -> Limiting:
    try:
        from mcp_gateway.core.inference.shared import SharedInference  # noqa: PLC0415 - hiredis is an extra
        from mcp_gateway.core.limits.scripts import SCRIPTS  # noqa: PLC0415 - hiredis is an extra
        from mcp_gateway.core.limits.shared import SharedLimiter  # noqa: PLC0415 - hiredis is an extra
        from mcp_gateway.core.valkey.client import Valkey  # noqa: PLC0415 - hiredis is an extra
    except ModuleNotFoundError as error:
        raise ConfigError([f"valkey_url needs {error.name}: pip install 'mcp-gateway[valkey]'"]) from None
    try:
        valkey = Valkey(valkey_address(url), SCRIPTS, client_name="mcp-gateway", ca_file=settings.valkey_ca_file)
    except OSError as error:  # of ssl too
        raise ConfigError([f"valkey_ca_file cannot be used: {error.strerror or error}"]) from None
    limiter = SharedLimiter(valkey, clock, guest_addresses_per_minute=settings.guests.addresses_per_minute, now_s=now_s)

    def show() -> None:
        metrics.limits_fallback.set(limiter.is_alone)
        metrics.limits_replicas.set(limiter.replicas)

    limiter.on_change(show)
    await valkey.begin()
    return Limiting(
        limiter,
        lambda parts, tool_servers: SharedInference(parts, limiter, tool_servers),
        lambda: limiter.is_alone,
        {"limits": limiter.watch, "valkey": valkey.watch},
    )
