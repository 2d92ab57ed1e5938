"""`mcp-gateway prices`: what providers ask for their models, as entries for the settings file."""

from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from datetime import UTC, date, datetime
from pathlib import Path
from typing import Annotated, Any

import typer

from mcp_gateway.cli.desk import ConfigOption, DataDirOption, JsonOption, answer, fail, settings_of
from mcp_gateway.cli.price_entries import ImportedPrices, NotInTable, PricedModel, toml_of
from mcp_gateway.core.config import ModelSettings, PricingSettings, Settings
from mcp_gateway.core.prices import in_words
from mcp_gateway.core.text import shown

app = typer.Typer(help="Prices of other providers' models.", no_args_is_help=True)

_NOT_INSTALLED = (
    "the table of prices is in the package genai-prices, which is not installed: pip install 'mcp-gateway[prices]', "
    "or pip install genai-prices into the gateway's environment"
)


@app.command("import")
def import_prices(
    models: Annotated[
        list[str] | None,
        typer.Argument(help="PROVIDER, or PROVIDER/MODEL, in which * stands for anything; left out: who there is."),
    ] = None,
    on: Annotated[str | None, typer.Option(help="The day whose prices to take, by UTC; otherwise today.")] = None,
    output: Annotated[Path | None, typer.Option(help="The file to write; otherwise standard output.")] = None,
    replace: Annotated[bool, typer.Option("--replace", help="Write over the file that is there.")] = False,
    config: ConfigOption = None,
    data_dir: DataDirOption = None,
    is_json: JsonOption = False,
) -> None:
    """Write [[models]] with the prices that the package genai-prices has, and what of them could not be said."""
    settings = settings_of(config, data_dir)
    imported = _read(models or (), _day(on))
    text = toml_of(imported)
    if output is not None:
        _write(output, text, replace=replace)
    facts = _object(imported) | {"file": None if output is None else str(output)}
    answer(text.rstrip("\n") if output is None else f"wrote {output}", facts, is_json=is_json)
    for line in _summary(imported, settings):
        typer.echo(line, err=True)


def _day(text: str | None) -> date:
    if text is None:
        return datetime.now(UTC).date()
    try:
        return date.fromisoformat(text)
    except ValueError:
        fail(f"'{shown(text)}' is no day: write it as in 2026-01-31")


def _read(asked: Sequence[str], on: date) -> ImportedPrices:
    try:
        from mcp_gateway.cli.price_table import PriceTable  # noqa: PLC0415 - an extra, and takes 0.2 s to import
    except ModuleNotFoundError as error:
        if error.name != "genai_prices":
            raise
        fail(_NOT_INSTALLED)
    table = PriceTable()
    if not asked:
        fail(f"say whose prices, or of which model (openai, 'anthropic/claude-*', '*'); there are {table.in_words()}")
    try:
        return table.read(asked, on)
    except NotInTable as error:
        fail(str(error))


def _write(file: Path, text: str, *, replace: bool) -> None:
    try:
        with file.open("w" if replace else "x", encoding="utf-8") as written:
            written.write(text)
    except FileExistsError:
        fail(f"{file} is there already: name another one, or say --replace")
    except OSError as error:
        fail(f"{file} cannot be written: {error.strerror}")


def _object(imported: ImportedPrices) -> dict[str, Any]:
    return {
        "table": imported.table,
        "on": imported.on.isoformat(),
        "newest_price_of": None if imported.newest is None else imported.newest.isoformat(),
        "models": [{**one.settings, "not_said": list(one.not_said)} for one in imported.entries],
        "not_written": [{"id": one.id, "reason": one.reason} for one in imported.left_out],
    }


def _summary(imported: ImportedPrices, settings: Settings) -> Iterator[str]:
    entries = imported.entries
    partly = sum(bool(one.not_said) for one in entries)
    yield (
        f"{imported.table}, prices of {imported.on}: models written: {len(entries)}, with something that could not be "
        f"said: {partly}; not written: {len(imported.left_out)}"
    )
    for note, count in _most_common(note.partition(" = ")[0] for one in entries for note in one.not_said):
        yield f"not said of {count}: {note}"
    for reason, count in _most_common(one.reason for one in imported.left_out):
        yield f"not written, {count}: {reason}"
    configured = {model.id: model for model in settings.models}
    for entry in entries:
        if entry.id in configured:
            yield f"{entry.id} is configured already, {_compared(configured[entry.id], entry)}"


def _most_common(texts: Iterable[str]) -> list[tuple[str, int]]:
    return Counter(texts).most_common()


def _compared(model: ModelSettings, entry: PricedModel) -> str:
    if model.pricing is None:
        return "without a price"
    price = PricingSettings.model_validate(entry.settings["pricing"]).price
    return "at these prices" if model.pricing.price == price else f"at other prices: {in_words(model.pricing.price)}"
