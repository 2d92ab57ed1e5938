"""`mcp-gateway db`: the database as a whole: its schema, whether it is sound, and its copy in another engine."""

from typing import Annotated

import typer

from mcp_gateway.cli.desk import ConfigOption, DataDirOption, JsonOption, answer, at_desk, fail, run, settings_of
from mcp_gateway.core.config import Settings
from mcp_gateway.core.gateway import Desk
from mcp_gateway.core.ledger.pending import PENDING
from mcp_gateway.core.private import make_folder
from mcp_gateway.core.store.database import GatewayDatabase, SchemaNumbers
from mcp_gateway.core.store.opening import database_in
from mcp_gateway.core.text import shown

_WHERE = (
    "say where to: --to takes what database_url takes; that setting itself, and GATEWAY_DATABASE_URL, keep a password "
    "off the list of processes"
)
app = typer.Typer(help="The database as a whole.", no_args_is_help=True)


@app.command("migrate")
def migrate_database(config: ConfigOption = None, data_dir: DataDirOption = None, is_json: JsonOption = False) -> None:
    """Bring the database to the schema of this version, as the server does at its start; makes it where there is none.

    Refused while a server of an earlier version works on it, but for replicas where the new schema only adds.
    """
    settings = settings_of(config, data_dir)

    async def work() -> tuple[int, int]:
        make_folder(settings.data_dir)
        database = database_in(*settings.database_place)
        database.check()
        before = database.schema()
        before.check()
        database.upgrade_unless_served()
        return before.applied, database.schema().applied

    before, after = run(work())
    words = f"the schema was {before} and is {after}" if before != after else f"the schema is {after}, as it was"
    answer(words, {"before": before, "after": after}, is_json=is_json)


@app.command("check")
def check_database(
    of_all: Annotated[bool, typer.Option("--all", help="Read the entries of closed months, too.")] = False,
    config: ConfigOption = None,
    data_dir: DataDirOption = None,
    is_json: JsonOption = False,
) -> None:
    """Say whether the database can be reached, has this version's schema, is undamaged, and has books that agree.

    Exits with 1 where one of these is not so. Changes nothing.
    """
    settings = settings_of(config, data_dir)
    numbers, faults = run(_looked_at(settings))
    if faults:
        _tell(numbers, faults, is_json=is_json)

    async def work(desk: Desk) -> None:
        _tell(numbers, await desk.ledger.check(of_all_entries=of_all), is_json=is_json)

    at_desk(config, data_dir, work)


async def _looked_at(settings: Settings) -> tuple[SchemaNumbers, list[str]]:
    """The schema, and what is wrong with that or beneath it: books are read of a database that is sound so far."""
    database = database_in(*settings.database_place)
    database.check()
    numbers = database.schema()
    numbers.check()
    if not numbers.applied:
        return numbers, ["there is no database yet: `mcp-gateway db migrate` makes it, as the server does"]
    if numbers.applied < numbers.latest:
        lack = f"the schema is {numbers.applied}, and this version needs {numbers.latest}: `mcp-gateway db migrate`"
        return numbers, [lack]
    return numbers, database.faults()


def _tell(numbers: SchemaNumbers, faults: list[str], *, is_json: bool) -> None:
    for fault in faults:
        typer.echo(shown(fault, 1000), err=True)
    words = "" if faults else f"the database is sound, with schema {numbers.applied}; every balance equals its entries"
    if words or is_json:
        answer(words, {"is_sound": not faults, "schema": numbers.applied, "faults": faults}, is_json=is_json)
    if faults:
        raise typer.Exit(1)


@app.command("copy")
def copy_database(
    to: Annotated[
        str | None,
        typer.Option(help="The new database, as database_url has it; otherwise that of the settings.", metavar="URL"),
    ] = None,
    config: ConfigOption = None,
    data_dir: DataDirOption = None,
    is_json: JsonOption = False,
) -> None:
    """Copy the database of the data folder into a new one elsewhere, while nobody serves; it stays as it is.

    All of it is copied, in one transaction, or nothing: keys, money, people, the request log. Both books are checked.
    """
    settings = settings_of(config, data_dir, {} if to is None else {"GATEWAY_DATABASE_URL": to})
    if settings.database_url is None:
        fail(_WHERE)
    if (settings.data_dir / PENDING).exists():
        fail("settlements wait to be written into the database: start the server once without database_url, then copy")
    copied = run(_copied(database_in(settings.data_dir), database_in(*settings.database_place)))
    rows, tables = sum(copied.values()), sum(map(bool, copied.values()))
    words = (
        f"copied {rows} rows of {tables} tables; the books agree on both sides\n"
        f"serve from the copy with GATEWAY_DATABASE_URL; what is in {settings.data_dir} stays as it was"
    )
    answer(words, {"rows": rows, "tables": copied}, is_json=is_json)


async def _copied(source: GatewayDatabase, target: GatewayDatabase) -> dict[str, int]:
    with source.contents() as contents:
        if discrepancies := contents.discrepancies():
            fail(f"nothing was copied, since the books do not agree: {shown(discrepancies[0], 1000)}")
        return dict(target.fill(contents))
