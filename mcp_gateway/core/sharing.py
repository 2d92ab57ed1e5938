"""Whether this process is one of several replicas, by the settings; and what connects it with the others then."""

import secrets
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, field

from mcp_gateway.core.config import ConfigError, Settings
from mcp_gateway.core.engine import Engine
from mcp_gateway.core.replicas import KeepSharedSecret, Replicas
from mcp_gateway.core.valkey_address import valkey_address

_SECRET_BYTES = 32


@dataclass(frozen=True, slots=True)
class Sharing:
    """The replicas, None for a process that is alone; and what has to go on for them."""

    replicas: Replicas | None = None
    loops: Mapping[str, Callable[[], Awaitable[None]]] = field(default_factory=dict)


async def sharing(settings: Settings, store: Engine) -> Sharing:
    """Those on one database and one Valkey are replicas of one gateway. Raises ConfigError."""
    if not settings.is_replica:
        return Sharing()
    assert settings.valkey_url is not None
    try:
        from mcp_gateway.core.valkey.replicas import ValkeyReplicas  # noqa: PLC0415 - hiredis is an extra
    except ModuleNotFoundError as error:
        raise ConfigError([f"valkey_url needs {error.name}: pip install 'mcp-gateway[valkey]'"]) from None
    secret = await store.write(KeepSharedSecret("replicas", secrets.token_bytes(_SECRET_BYTES)))
    address = valkey_address(settings.valkey_url.get_secret_value())
    replicas = ValkeyReplicas(address, secret, ca_file=settings.valkey_ca_file)
    await replicas.begin()
    return Sharing(replicas, replicas.loops)
