"""The roof: `mcp-gateway serve | accounts | keys | bridge`; the only file of this package that knows http_api."""

import asyncio
import os
import sys
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Annotated, Any, TypeVar

import typer

from http_api.app import build_app
from http_api.serve import serve as serve_app
from mcp_gateway import __version__
from mcp_gateway.core.config import ConfigError, Settings, load_settings
from mcp_gateway.core.errors import GatewayError
from mcp_gateway.core.gateway import Desk, Gateway, open_desk, open_gateway
from mcp_gateway.core.identity.keys import DEFAULT, KeyLimits, Limit
from mcp_gateway.core.money import format_usd, parse_usd
from mcp_gateway.core.observe.logs import configure_logging
from mcp_gateway.server import McpDoor

T = TypeVar("T")

app = typer.Typer(
    name="mcp-gateway",
    help="The gateway that agents call: MCP tools and an OpenAI-compatible API in front of vLLM.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)
accounts = typer.Typer(help="Accounts and their money.", no_args_is_help=True)
keys = typer.Typer(help="API keys of accounts.", no_args_is_help=True)
app.add_typer(accounts, name="accounts")
app.add_typer(keys, name="keys")

ConfigOption = Annotated[
    Path | None, typer.Option("--config", help="Settings file; otherwise ./gateway.toml where there is one.")
]
QuietOption = Annotated[bool, typer.Option("--quiet", "-q", help="Print the bare id or key alone.")]
AccountOption = Annotated[str, typer.Option("--account", help="The account's id, acc_...")]
_LIMIT_HELP = "A number, or none for no limit; the configured default when left out."


def main() -> None:
    """The console script."""
    app()


@app.callback(invoke_without_command=True)
def version(
    context: typer.Context, show: Annotated[bool, typer.Option("--version", help="Print the version.")] = False
) -> None:
    if show:
        typer.echo(__version__)
        raise typer.Exit
    if context.invoked_subcommand is None:
        typer.echo(context.get_help())


@app.command()
def serve(
    config: ConfigOption = None,
    host: Annotated[str | None, typer.Option(help="Address to listen on.")] = None,
    port: Annotated[int | None, typer.Option(help="Port to listen on; 0 takes a free one.")] = None,
    workers: Annotated[int, typer.Option(help="Processes; one, for now.")] = 1,
) -> None:
    """Start the gateway."""
    if workers != 1:
        _fail("limits and MCP sessions live in the process, so --workers must be 1")
    overrides = {"GATEWAY_HOST": host, "GATEWAY_PORT": None if port is None else str(port)}
    settings = _settings(config, {name: value for name, value in overrides.items() if value is not None})
    configure_logging(settings.log_level)
    _run(_serve(settings))


async def _serve(settings: Settings) -> None:
    async with open_gateway(settings) as gateway, _mcp_door(gateway) as door:
        base_url = settings.public_url or f"http://{_reachable(settings.host)}:{settings.port}"
        await serve_app(
            build_app(gateway, door, base_url=base_url),
            gateway.lifecycle,
            host=settings.host,
            port=settings.port,
            max_header_bytes=settings.max_header_bytes,
            announce_s=settings.drain_announce_s,
            drain_timeout_s=settings.drain_timeout_s,
            on_listening=lambda host, port: _greet(settings, gateway, host, port),
        )
