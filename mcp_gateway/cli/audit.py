"""`mcp-gateway audit`: who changed what of the operator's, by command or over HTTP."""

import json
from datetime import UTC, datetime
from typing import Annotated, Any

import typer

from mcp_gateway.cli.desk import LISTED_CHARS, ConfigOption, DataDirOption, JsonOption, answer, at_desk, fail
from mcp_gateway.core.audit.log import AuditEntry, AuditFilter
from mcp_gateway.core.gateway import Desk
from mcp_gateway.core.moments import unix_ms
from mcp_gateway.core.text import shown

app = typer.Typer(help="What was changed, by whom, when and from where.", no_args_is_help=True)

ActionOption = Annotated[str | None, typer.Option(help="Only such changes, as in account.limits.")]
SubjectOption = Annotated[str | None, typer.Option(help="Only of this account, key or budget, by its id.")]
ActorOption = Annotated[str | None, typer.Option("--by", help="Only by this user of a shell, or this key by its id.")]
SinceOption = Annotated[str | None, typer.Option(help="From when, in ISO 8601.")]
UntilOption = Annotated[str | None, typer.Option(help="Until when, in ISO 8601.")]


@app.command("list")
def list_changes(
    action: ActionOption = None,
    subject: SubjectOption = None,
    by: ActorOption = None,
    since: SinceOption = None,
    until: UntilOption = None,
    limit: Annotated[int, typer.Option(help="How many, the newest first.", min=1, max=1000)] = 50,
    config: ConfigOption = None,
    data_dir: DataDirOption = None,
    is_json: JsonOption = False,
) -> None:
    """Show the latest changes: when, who, from where, what, and how it was and is."""
    wanted = _wanted(action, subject, by, since, until)

    async def work(desk: Desk) -> None:
        entries = await desk.audit.page(wanted, before_id=None, limit=limit)
        answer("\n".join(map(_line, entries)), [entry.as_object() for entry in entries], is_json=is_json)

    at_desk(config, data_dir, work)


@app.command("export")
def export_changes(
    action: ActionOption = None,
    subject: SubjectOption = None,
    by: ActorOption = None,
    since: SinceOption = None,
    until: UntilOption = None,
    config: ConfigOption = None,
    data_dir: DataDirOption = None,
    is_json: JsonOption = False,
) -> None:
    """Print every change, the newest first, each in a line; with --json each as a line of JSON."""
    wanted = _wanted(action, subject, by, since, until)

    async def work(desk: Desk) -> None:
        async for entry in desk.audit.all(wanted):
            typer.echo(json.dumps(entry.as_object()) if is_json else _line(entry))

    at_desk(config, data_dir, work)


def _wanted(
    action: str | None, subject: str | None, by: str | None, since: str | None, until: str | None
) -> AuditFilter:
    return AuditFilter(action, subject, by, _moment("--since", since), _moment("--until", until))


def _moment(option: str, text: str | None) -> int | None:
    try:
        return None if text is None else unix_ms(text)
    except ValueError as error:
        fail(f"{option} {error}")


def _line(entry: AuditEntry) -> str:
    at = f"{datetime.fromtimestamp(entry.at_ms / 1000, UTC):%Y-%m-%d %H:%M:%SZ}"
    who = shown(f"{entry.actor.id} at {entry.actor.place}", LISTED_CHARS)
    was = "" if entry.before is None else f"{_facts(entry.before)} -> "
    told = "" if entry.after is None else _facts(entry.after)
    return f"{at}  {who}  {entry.action}  {shown(entry.subject, LISTED_CHARS)}  {was}{told}"


def _facts(facts: dict[str, Any]) -> str:
    """In ASCII, which no terminal takes for commands."""
    return json.dumps(facts)
