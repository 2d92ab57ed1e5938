"""`mcp-gateway serve`, a program of its own: what other commands load would stay in memory as long as it serves."""

import logging
import os
import shlex
import sys
from functools import partial
from pathlib import Path
from typing import Annotated

import typer

from mcp_gateway.cli.desk import ConfigOption, DataDirOption, environment_of, run, settings_of
from mcp_gateway.cli.workers import MOST_WORKERS, serve_by_workers
from mcp_gateway.core.config import Settings, file_in_force, load_settings, passed_over
from mcp_gateway.core.observe.logs import configure_logging

logger = logging.getLogger(__name__)

_WORKERS = "Processes at this address; more than one need database_url and valkey_url."
PASSED_OVER = (
    "passed over %s: a Service of that name brings them, not a setting (enableServiceLinks: false keeps them out)"
)


def main() -> None:
    """What follows `serve` are its options."""
    app = typer.Typer(add_completion=False, pretty_exceptions_enable=False, rich_markup_mode=None)
    app.command()(serve)
    app(sys.argv[2:], prog_name="mcp-gateway serve")


def serve(
    config: ConfigOption = None,
    data_dir: DataDirOption = None,
    host: Annotated[str | None, typer.Option(help="Address to listen on.")] = None,
    port: Annotated[int | None, typer.Option(help="Port to listen on; 0 takes a free one.")] = None,
    workers: Annotated[int, typer.Option(min=1, max=MOST_WORKERS, help=_WORKERS)] = 1,
) -> None:
    """Start the gateway."""
    given = {"GATEWAY_HOST": host, "GATEWAY_PORT": None if port is None else str(port)}
    options = {name: value for name, value in given.items() if value is not None}
    settings = settings_of(config, data_dir, options)
    configure_logging(settings.log_level, settings.log_format)
    if links := passed_over(os.environ):
        logger.warning(PASSED_OVER, ", ".join(links))
    if workers > 1:
        serve_by_workers(workers, settings, config, options, _desk_options(config, settings))
    from http_api.program import run as run_server  # noqa: PLC0415 - its imports take longer than any other command

    load = partial(load_settings, config, environment_of(data_dir, options))
    run(run_server(settings, load, desk_options=_desk_options(config, settings)))


def _desk_options(config: Path | None, settings: Settings) -> str:
    """What a command needs, in whichever folder it is pasted, to work on the data of a server with these settings."""
    file = file_in_force(config)
    named = [] if file is None else ["--config", str(file.absolute())]
    if settings.data_dir != Settings().data_dir:
        named += ["--data-dir", str(settings.data_dir.absolute())]
    return "".join(f" {shlex.quote(word)}" for word in named)
