"""`mcp-gateway routing`: outcomes that the operator brings, what they come to, and how a prompt would be answered."""

import sys
from pathlib import Path
from typing import Annotated, Any

import typer

from mcp_gateway.cli.choice_told import choice_as_facts, choice_in_words, others_of
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
from mcp_gateway.cli.quality_told import qualities_as_facts, qualities_in_words
from mcp_gateway.core.catalog import Catalog, build_catalog
from mcp_gateway.core.config import Settings
from mcp_gateway.core.gateway import Desk
from mcp_gateway.core.optimization import Mode, mode_named
from mcp_gateway.core.routing.classifier.classifier import PromptClassifier
from mcp_gateway.core.routing.deciding import Decision, decide
from mcp_gateway.core.routing.eligibility import Contender, Requirements
from mcp_gateway.core.routing.model_pool import ModelPool, default_of, pool_of
from mcp_gateway.core.routing.outcomes import IMPORTED
from mcp_gateway.core.routing.quality import QualityTable
from mcp_gateway.core.surfaces.surface import PromptSize
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
        strange = sorted(set(lines.models) - {entry.id for entry in settings.models})
        if lines.bad_lines:
            typer.echo(_told_of_bad(lines), err=True)
        if strange:
            named = shown(", ".join(strange), LISTED_CHARS)
            typer.echo(f"these models are in no [[models]], and count if a backend lists them: {named}", err=True)
        words = f"outcomes imported: {lines.outcomes}, of models: {len(lines.models)}"
        answer(words, _imported(lines, strange, replace=replace), is_json=is_json)

    at_desk(config, data_dir, work)


@app.command("show")
def show_qualities(
    account: Annotated[str | None, typer.Option("--account", help="As its own scores move its choices, too.")] = None,
    config: ConfigOption = None,
    data_dir: DataDirOption = None,
    is_json: JsonOption = False,
) -> None:
    """Show what each model is expected to do well, by task: a rate from 0 to 1, and what stands behind it."""
    settings = settings_of(config, data_dir)

    async def work(desk: Desk) -> None:
        table, pool = await _table_and_pool(desk, settings, _catalog(settings), account)
        ids = list(dict.fromkeys([*(model.id for model in pool.models), *sorted(table.models)]))
        facts = {"account": account, "default_model": table.default_model, "rates": qualities_as_facts(table, ids)}
        answer(qualities_in_words(table, ids), facts, is_json=is_json)

    at_desk(config, data_dir, work)


async def _table_and_pool(
    desk: Desk, settings: Settings, catalog: Catalog, account_id: str | None
) -> tuple[QualityTable, ModelPool]:
    """Of the account, or of one without scores of its own. Raises GatewayError where there is no such account."""
    if account_id is not None:
        await desk.accounts.get(account_id)
    await desk.outcomes.begin()
    pool = pool_of(None, catalog, settings.routing.model_pool)
    default_model = default_of(pool.models, settings.routing.default_model)
    return desk.outcomes.table_of(account_id or IMPORTED, default_model), pool


@app.command("explain")
def explain_choice(
    prompt: Annotated[str, typer.Argument(help="What a user would say; - reads it from standard input.")],
    mode: Annotated[
        str | None, typer.Option(help="balanced, quality, cost or latency; otherwise as configured.")
    ] = None,
    account: Annotated[str | None, typer.Option("--account", help="As its own scores move its choices, too.")] = None,
    config: ConfigOption = None,
    data_dir: DataDirOption = None,
    is_json: JsonOption = False,
) -> None:
    """Show which models of the configured pool would answer a prompt, in order, with their scores, and who would not.

    It works beside a running server or without one, from the settings and the outcomes alone; the prompt is not kept.
    """
    settings = settings_of(config, data_dir)
    if not settings.models:
        fail("there are no [[models]]: what backends list is known to a running server alone")
    text = sys.stdin.read() if prompt == _STANDARD_INPUT else prompt

    async def work(desk: Desk) -> None:
        wanted = settings.routing.optimize if mode is None else mode_named(mode, "--mode")
        catalog = _catalog(settings)
        table, pool = await _table_and_pool(desk, settings, catalog, account)
        decision = _decided(text, wanted, table, settings, catalog)
        others = others_of(decision, catalog, pool.gone)
        answer(choice_in_words(decision, others), choice_as_facts(decision, others), is_json=is_json)

    at_desk(config, data_dir, work)


def _decided(text: str, mode: Mode, table: QualityTable, settings: Settings, catalog: Catalog) -> Decision:
    """As a running server would decide that knows of no speed, with every model of the settings in sight."""
    names, reading = settings.routing.model_pool, PromptClassifier().read(text)
    named = frozenset(model.id for name in names if (model := catalog.named(name)) is not None)
    size = PromptSize(len(text.encode(errors="replace")), 1)
    required = Requirements(prompt_tokens=size.estimated_text_tokens, pool=named if names else None)
    contenders = [Contender(model) for model in catalog.values()]
    return decide(contenders, required, reading, mode, table, least_quality=settings.routing.least_quality)


def _catalog(settings: Settings) -> Catalog:
    """What the settings alone tell of models: no backend is asked."""
    return build_catalog(settings.models, {}, publish_discovered=False)


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
