"""Replicas that a Valkey connects."""

import asyncio

from mcp_gateway.core.valkey.replicas import ValkeyReplicas
from mcp_gateway.core.valkey_address import valkey_address

SECRET = 32 * b"s"


async def joined(
    url: str, group: asyncio.TaskGroup, secret: bytes = SECRET
) -> tuple[ValkeyReplicas, list[asyncio.Task[None]]]:
    """One more, and the tasks by which it stays."""
    replica = ValkeyReplicas(valkey_address(url), secret)
    await replica.begin()

    async def keep(watch: object) -> None:
        await watch()  # type: ignore[operator]

    return replica, [group.create_task(keep(watch)) for watch in replica.loops.values()]
