"""All commands: `mcp-gateway serve | revenue | accounts | users | keys | requests | ledger | prices | config | ...`."""

import os
from pathlib import Path
from typing import Annotated

import typer

from mcp_gateway import __version__
from mcp_gateway.cli import (
    accounts,
    admins,
    audit,
    budgets,
    db,
    keys,
    prices,
    providers,
    requests,
    routing,
    usage,
    users,
)
from mcp_gateway.cli.archive import archive_ledger
from mcp_gateway.cli.desk import (
    FAULTS,
    ConfigOption,
    DataDirOption,
    JsonOption,
    answer,
    at_desk,
    fail,
    in_words,
    settings_of,
)
from mcp_gateway.cli.health import tell_health
from mcp_gateway.cli.reconcile import reconcile_ledger
from mcp_gateway.cli.restore import restore_backup
from mcp_gateway.cli.revenue import show_revenue
from mcp_gateway.cli.serve import PASSED_OVER, serve
from mcp_gateway.cli.service import switch_maintenance, tell_incident
from mcp_gateway.core.config import ConfigError, Settings, file_in_force, passed_over
from mcp_gateway.core.gateway import Desk
from mcp_gateway.core.ledger.pending import PENDING
from mcp_gateway.core.policy.images import read_blocklist
from mcp_gateway.core.policy.regions import read_country_database
from mcp_gateway.core.store.database import ForeignLog
from mcp_gateway.core.store.opening import database_in
from mcp_gateway.core.text import shown

app = typer.Typer(
    name="mcp-gateway",
    help="The gateway that agents call: MCP tools and an OpenAI-compatible API in front of vLLM.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,  # which takes [[models]] for a style
)
ledger = typer.Typer(help="The ledger.", no_args_is_help=True)
configuration = typer.Typer(help="The configuration.", no_args_is_help=True)
app.add_typer(accounts.app, name="accounts")
app.add_typer(keys.app, name="keys")
app.add_typer(admins.app, name="admins")
app.add_typer(audit.app, name="audit")
app.add_typer(budgets.app, name="budgets")
app.add_typer(requests.app, name="requests")
app.add_typer(ledger, name="ledger")
app.add_typer(prices.app, name="prices")
app.add_typer(providers.app, name="providers")
app.add_typer(routing.app, name="routing")
app.add_typer(usage.app, name="usage")
app.add_typer(users.app, name="users")
app.add_typer(configuration, name="config")
app.add_typer(db.app, name="db")


def main() -> None:
    """The console script."""
    app()


def _show_version(is_asked: bool) -> None:
    if is_asked:
        typer.echo(__version__)
        raise typer.Exit


@app.callback()
def _options(
    version: Annotated[
        bool, typer.Option("--version", callback=_show_version, is_eager=True, help="Print the version.")
    ] = False,
) -> None: ...


app.command()(serve)
app.command("health")(tell_health)
app.command("revenue")(show_revenue)
app.command("maintenance")(switch_maintenance)
app.command("incident")(tell_incident)


@ledger.command("check")
def check_ledger(
    of_all: Annotated[bool, typer.Option("--all", help="Read the entries of closed months, too.")] = False,
    config: ConfigOption = None,
    data_dir: DataDirOption = None,
    is_json: JsonOption = False,
) -> None:
    """Hold every balance against the sums of closed months and all entries since; exits with 1 where they differ."""

    async def work(desk: Desk) -> None:
        discrepancies = await desk.ledger.check(of_all_entries=of_all)
        for discrepancy in discrepancies:
            typer.echo(shown(discrepancy, 1000), err=True)
        words = "" if discrepancies else "every balance equals its entries"
        if words or is_json:
            answer(words, {"is_sound": not discrepancies, "discrepancies": discrepancies}, is_json=is_json)
        if discrepancies:
            raise typer.Exit(1)

    at_desk(config, data_dir, work)


ledger.command("reconcile")(reconcile_ledger)
ledger.command("archive")(archive_ledger)


@configuration.command("check")
def check_config(config: ConfigOption = None, data_dir: DataDirOption = None, is_json: JsonOption = False) -> None:
    """Say whether the server would take the configuration, file and environment; exits with 2 where it would not."""
    settings = settings_of(config, data_dir)
    _check_files_of(settings)
    _check_keys_of(settings)
    file = file_in_force(config)
    facts = {
        "file": None if file is None else str(file),
        "data_dir": str(settings.data_dir),
        "backends": len(settings.vllm_urls),
        "models": len(settings.models),
        "passed_over": (links := passed_over(os.environ)),
        "warnings": settings.warnings,
    }
    for warning in (*([PASSED_OVER % ", ".join(links)] if links else ()), *settings.warnings):
        typer.echo(f"mcp-gateway: {warning}", err=True)
    words = f"the configuration can be used: {file or 'no file'}; {len(settings.vllm_urls)} backends, "
    answer(words + f"{len(settings.models)} models, data in {settings.data_dir}", facts, is_json=is_json)


def _check_files_of(settings: Settings) -> None:
    """Whether what they name can be read."""
    files = ((settings.image_blocklist_file, read_blocklist), (settings.policy.country_database, read_country_database))
    try:
        for path, read in files:
            if path is not None:
                read(path)
    except ConfigError as error:
        fail(str(error))


def _check_keys_of(settings: Settings) -> None:
    """Whether the environment and the files have what the servers of tools need."""
    if not settings.mcp_servers:
        return
    from mcp_gateway.core.mcp_client.reach import reach_of  # noqa: PLC0415 - the SDK takes long to import

    for server in settings.mcp_servers:
        try:
            reach_of(server, os.environ)
        except ConfigError as error:
            fail(str(error))


@app.command()
def backup(
    file: Annotated[Path, typer.Argument(help="The new file to write.")],
    config: ConfigOption = None,
    data_dir: DataDirOption = None,
    is_json: JsonOption = False,
) -> None:
    """Copy the database to a new file, safely while the gateway serves."""
    settings = settings_of(config, data_dir)
    if (settings.data_dir / PENDING).exists():
        fail("settlements wait to be written into the database: start the server once, then back up")
    try:
        database = database_in(*settings.database_place)
        database.check()
        database.back_up(file)
    except (ForeignLog, *FAULTS) as error:
        fail(in_words(error))
    answer(f"wrote {file}", {"file": str(file)}, is_json=is_json)


@app.command()
def restore(
    file: Annotated[Path, typer.Argument(help="A backup.")],
    config: ConfigOption = None,
    data_dir: DataDirOption = None,
    is_json: JsonOption = False,
) -> None:
    """Put a backup in the place of the database, while nobody serves; the old files are moved aside."""
    facts = restore_backup(settings_of(config, data_dir), file)
    lost = facts["entries_lost"]
    words = (
        f"restored {file}, whose last entry in the ledger is of {facts['last_entry_at'] or 'no time'}\n"
        f"entries lost: {'unknown, the old database cannot be read' if lost is None else lost}"
        f"{', and the settlements that waited' if facts['settlements_set_aside'] else ''}\n"
        f"the old files are in {facts['old_files']}"
    )
    answer(words, facts, is_json=is_json)


@app.command("reload")
def reload_configuration(
    config: ConfigOption = None, data_dir: DataDirOption = None, is_json: JsonOption = False
) -> None:
    """Have the running server read its configuration again: models, prices, limits, guests, providers, backends.

    One that cannot be used changes nothing. What waits for a restart is named.
    """

    async def work(desk: Desk) -> None:
        told = await desk.server.reload()
        changed, waiting = ", ".join(told["changed"]) or "nothing", ", ".join(told["needs_restart"])
        answer(f"changed: {changed}" + (f"\nwaits for a restart: {waiting}" if waiting else ""), told, is_json=is_json)

    at_desk(config, data_dir, work)


@app.command(context_settings={"allow_extra_args": True, "ignore_unknown_options": True, "help_option_names": []})
def bridge(context: typer.Context) -> None:
    """Connect a desktop client to an MCP server: stdio on this side, HTTP on the other."""
    from bridge.mcp_stdio_bridge import main as run_bridge  # noqa: PLC0415 - a server would keep it in memory

    raise typer.Exit(run_bridge(context.args))
