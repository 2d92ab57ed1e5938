"""`mcp-gateway serve`: the gateway opened, both doors built on it and served, and what is printed then."""

import contextlib
import ctypes
import gc
import json
import linecache
import shlex
import socket
import sys
import sysconfig
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TextIO

from http_api.app import build_app
from http_api.connection import Bounds, Census
from http_api.descriptors import most_connections, raise_limit
from http_api.protected_resources import ProtectedResources
from http_api.serve import on_hangup, outlive_signals, serve
from http_api.worker_metrics import WorkerMetrics
from mcp_gateway.core.audit.log import Actor
from mcp_gateway.core.config import Settings
from mcp_gateway.core.errors import GatewayError
from mcp_gateway.core.gateway import Gateway, open_gateway
from mcp_gateway.core.hosts import base_url_of
from mcp_gateway.core.mcp_paths import GUEST_MCP_PATH, MCP_PATH
from mcp_gateway.mcp_door.endpoints import McpDoor
from mcp_gateway.server import build_door

_GC_THRESHOLDS = (20_000, 20, 20)
"""A request leaves few cycles behind: collecting after every 700 new objects, as by default, finds next to nothing."""
_M_MMAP_THRESHOLD = -3
"""The name of a setting of glibc's, see mallopt(3), as is the next but one."""
_LARGE_BLOCK_BYTES = 128 * 1024
"""Where glibc begins; more than almost every request and answer."""
_M_ARENA_MAX = -8


async def first_secret(gateway: Gateway, output: TextIO) -> str | None:
    """What the first administrator registers with, for a terminal alone: logs are kept, and read by others."""
    if not output.isatty():
        return None
    secret = await gateway.sign_in.people.first_administrator_secret()
    return None if secret is None else secret.raw


@dataclass(frozen=True, slots=True)
class Worker:
    """One of several processes that serve one address; `sockets_folder` is where they ask each other for metrics."""

    number: int
    sockets_folder: Path
    sockets: list[socket.socket]
    is_told: bool
    """Whether it prints what a newcomer needs: one does."""
    serves: Callable[[], None]
    """Is called once it does."""


async def run(
    settings: Settings, load: Callable[[], Settings], *, desk_options: str = "", worker: Worker | None = None
) -> None:
    """Serve until a signal says to end; with `desk_options` commands work on this server's data, from anywhere.

    `load` reads the settings again, where somebody asks for that.
    """
    outlive_signals()
    _keep_memory_small()
    descriptors = raise_limit()
    async with open_gateway(settings, load=load) as gateway:
        on_hangup(lambda: gateway.lifecycle.spawn(_reload(gateway)))
        door = mcp_door(gateway)
        is_told = worker is None or worker.is_told
        secret = await first_secret(gateway, sys.stdout) if is_told else None

        def greet(host: str, port: int) -> None:
            if is_told:
                print(_greeting(gateway, base_url_of(settings, host, port), desk_options, secret), flush=True)
            if worker is not None:
                worker.serves()

        async with door.run(), _metrics_beside(gateway, worker):
            gc.collect()
            _give_memory_back()
            gc.freeze()  # what start-up made lives on: a full collection would walk it for tens of milliseconds
            gc.set_threshold(*_GC_THRESHOLDS)
            base_url = base_url_of(settings, settings.host, settings.port)
            app = build_app(gateway, door, base_url=base_url, resources=ProtectedResources.of(settings))
            door.answer_by(app)
            await serve(
                app,
                gateway.lifecycle,
                host=settings.host,
                port=settings.port,
                bounds=Bounds(settings.max_header_bytes, settings.client_stall_timeout_s),
                census=census_of(gateway, most_connections(descriptors, settings.max_connections)),
                note_refusal=gateway.refusals.note,
                announce_s=settings.drain_announce_s,
                drain_timeout_s=settings.drain_timeout_s,
                on_listening=greet,
                sockets=None if worker is None else worker.sockets,
            )


def _metrics_beside(gateway: Gateway, worker: Worker | None) -> contextlib.AbstractAsyncContextManager[None]:
    if worker is None:
        return contextlib.nullcontext()
    return WorkerMetrics(worker.number, worker.sockets_folder).told(gateway.metrics)


async def _reload(gateway: Gateway) -> None:
    """What came of it, the log tells."""
    with contextlib.suppress(GatewayError):
        await gateway.reload(Actor("signal", "SIGHUP", socket.gethostname()))


def _keep_memory_small() -> None:
    """Have the C library give each large block back to the system when it is free, and keep one heap for all threads.

    By itself glibc stops giving back once a large block was freed; between what is small, what many large bodies and
    answers took then stays with the process. And it keeps a heap for each thread, where one of ours works at a time.
    """
    with contextlib.suppress(OSError, AttributeError):  # another C library
        mallopt = ctypes.CDLL(None).mallopt
        mallopt(_M_MMAP_THRESHOLD, _LARGE_BLOCK_BYTES)
        mallopt(_M_ARENA_MAX, 1)


def _give_memory_back() -> None:
    """Forget the source of settings, read for their documentation, and have the C library give back to the system what
    start-up needed for a while: free pages between what is used.
    """
    linecache.clearcache()
    with contextlib.suppress(OSError, AttributeError):
        ctypes.CDLL(None).malloc_trim(0)


def census_of(gateway: Gateway, most_connections: int) -> Census:
    """The count of clients' connections, told to the gateway's metrics."""
    metrics = gateway.metrics
    census = Census(
        most=most_connections,
        most_per_address=gateway.settings.max_connections_per_address,
        is_shared=gateway.addresses.is_shared,
        on_refused=lambda cap: metrics.connections_refused.labels(cap).inc(),
    )
    metrics.connections.set_function(lambda: census.count)
    return census


def mcp_door(gateway: Gateway) -> McpDoor:
    """The MCP door over an open gateway."""
    door = build_door(
        settings=gateway.settings,
        version=gateway.version,
        new_id=gateway.new_id,
        inference=gateway.inference,
        published=gateway.published,
        auto_model=gateway.auto_model,
        pool=gateway.pool,
        limiter=gateway.limiter,
        ledger=gateway.ledger,
        keys=gateway.keys,
        mint=gateway.mint,
        idempotency=gateway.idempotency,
        payments=gateway.payments,
        auto_topups=gateway.auto_topups,
        lifecycle=gateway.lifecycle,
        addresses=gateway.addresses,
        note_refusal=gateway.refusals.note,
        replicas=gateway.replicas,
    )
    gateway.known_keys.on_close(lambda key_id, _: door.close_key(key_id))
    gateway.known_sessions.on_close(lambda session_id, _: door.close_key(session_id))
    if gateway.oidc is not None:
        gateway.oidc.tokens.on_end(lambda holder, _: door.close_key(holder.user.user_id))
    gateway.known_keys.on_secret_end(lambda key, _: door.close_secret(key.id))
    gateway.known_keys.on_right_changed(door.publish_other_tools)
    return door


def _greeting(gateway: Gateway, base_url: str, desk_options: str, secret: str | None = None) -> str:
    """What a newcomer needs: the address, a line that works as pasted, how to make a key, and a client's block."""
    command = str(Path(sysconfig.get_path("scripts")) / "mcp-gateway")
    quoted = shlex.quote(command)
    account = f"$({quoted} accounts create me{desk_options} --credit 5 --quiet)"
    server = {
        "command": command,
        "args": ["bridge", f"{base_url}{MCP_PATH}"],
        "env": {"GATEWAY_API_KEY": "gw_live_..."},
    }
    guests_do = 'leaves "env" out'
    if gateway.oidc is not None:
        guests_do += f", and has {base_url}{GUEST_MCP_PATH} for an address"
    return f"""
mcp-gateway {gateway.version} on {base_url}

{_page_lines(gateway, base_url)}As a guest:   {_guest_line(gateway, base_url)}
Make a key:   {quoted} keys create{desk_options} --account {account}
MCP:          {base_url}{MCP_PATH} (streamable HTTP), {base_url}{MCP_PATH}/sse (HTTP+SSE)
{_first_user_line(secret, base_url)}{_missing_line(gateway)}
For a desktop client's configuration (a guest {guests_do}):

{json.dumps({"mcpServers": {"gateway": server}}, indent=2)}
"""


def _first_user_line(secret: str | None, base_url: str) -> str:
    """How the first administrator registers; nothing where there are users, or nobody sits there."""
    if secret is None:
        return ""
    return (
        "Sign up:      within 15 minutes, as the first user and administrator:\n"
        f"              {base_url}/console/register?token={secret}\n"
    )


def _page_lines(gateway: Gateway, base_url: str) -> str:
    """The addresses for people."""
    console = f"Console:      {base_url}/console/\n"
    return console if gateway.settings.public_stats == "off" else f"{console}Status:       {base_url}/status\n"


def _missing_line(gateway: Gateway) -> str:
    """The backends whose models are not known yet; nothing where all are."""
    missing = ", ".join(backend.name for backend in gateway.pool.backends if not backend.is_up)
    return f"Backends:     no answer yet from {missing}; what they list is known once they answer\n" if missing else ""


def _guest_line(gateway: Gateway, base_url: str) -> str:
    """A chat that works without a key; where none does, that one is needed."""
    models = gateway.published.current.values()
    if not models:
        return "not yet: no backend has told of a model"
    model = next((model for model in models if model.is_open_to_guests), None)
    if model is None or not gateway.settings.guests.enabled:
        return "not without a key, which every model here needs"
    body = json.dumps({"model": model.id, "messages": [{"role": "user", "content": "Hello"}]})
    return f"curl {base_url}/v1/chat/completions -H 'Content-Type: application/json' -d '{body}'"
