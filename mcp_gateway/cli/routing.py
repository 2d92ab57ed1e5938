"""`mcp-gateway routing`: outcomes that the operator brings, what they come to, and how a prompt would be answered."""

import sys
from pathlib import Path
from typing import Annotated, Any

import typer

from mcp_gateway.cli.desk import (
    LISTED_CHARS,
    ConfigOption,
    DataDirOption,
    JsonOption,
    answer,
    at_desk,
    fail,
    in_words,
    settings_of,
)
from mcp_gateway.cli.outcome_lines import OutcomeLines
from mcp_gateway.core.config import Settings
from mcp_gateway.core.gateway import Desk
from mcp_gateway.core.text import shown

app = typer.Typer(help="How a model is chosen for who asks for `auto`.", no_args_is_help=True)

_STANDARD_INPUT = "-"


@app.command("import")
def import_outcomes(
    file: Annotated[str, typer.Argument(help="Lines of JSON; - for standard input.", metavar="FILE")],
    skip_bad: Annotated[
        bool, typer.Option("--skip-bad", help="Pass over lines that cannot be read; otherwise nothing is imported.")
    ] = False,
    replace: Annotated[
        bool, typer.Option("--replace", help="Begin anew: what was imported before counts no more.")
    ] = False,
    config: ConfigOption = None,
    data_dir: DataDirOption = None,
    is_json: JsonOption = False,
) -> None:
    """Count judged answers of models, for the choices of all accounts; a file that is imported twice counts twice.

    A line has `model`, `score` from 0 to 1, and `task` or `prompt`, which is read for its task and dropped. A running
    server sees them within ten seconds.
    """
    settings = settings_of(config, data_dir)
    lines = OutcomeLines(_names_in(settings))
    _read(file, lines)
    if lines.bad_lines and not skip_bad:
        fail(f"{_told_of_bad(lines)}\nnothing is imported; --skip-bad passes over such lines")

    async def work(desk: Desk) -> None:
        await desk.outcomes.bring(lines.counts, in_place=replace)
        strange = [model for model in lines.models if model not in {entry.id for entry in settings.models}]
        if lines.bad_lines:
            typer.echo(_told_of_bad(lines), err=True)
        if strange:
            named = shown(", ".join(strange), LISTED_CHARS)
            typer.echo(f"these models are in no [[models]], and count if a backend lists them: {named}", err=True)
        words = f"imported {lines.outcomes} outcomes of {len(lines.models)} models"
        answer(words, _imported(lines, strange, replace=replace), is_json=is_json)

    at_desk(config, data_dir, work)


def _imported(lines: OutcomeLines, strange: list[str], *, replace: bool) -> dict[str, Any]:
    return {
        "outcomes": lines.outcomes,
        "models": lines.models,
        "not_configured": strange,
        "skipped": lines.bad_lines,
        "bad_lines": [bad._asdict() for bad in lines.bad],
        "replaced": replace,
    }


def _names_in(settings: Settings) -> dict[str, str]:
    return {name: entry.id for entry in settings.models for name in (*entry.aliases, entry.id)}


def _read(file: str, lines: OutcomeLines) -> None:
    try:
        if file == _STANDARD_INPUT:
            lines.read(sys.stdin.buffer)
            return
        with Path(file).open("rb") as opened:
            lines.read(opened)
    except OSError as error:
        fail(in_words(error))


def _told_of_bad(lines: OutcomeLines) -> str:
    told = [f"line {bad.number} {bad.reason}" for bad in lines.bad]
    more = lines.bad_lines - len(told)
    return "\n".join([*told, *([f"and {more} more"] if more else [])])
