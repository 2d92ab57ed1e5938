"""Entries of `[[models]]` that were read from a table of prices, and their TOML. Knows no table."""

import json
import textwrap
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import date
from typing import Any

_WIDTH = 118


class NotInTable(Exception):
    """A provider or model that a table does not have; the text says which there are."""


@dataclass(frozen=True)
class PricedModel:
    """One of `[[models]]` as TOML has it, what of the table it does not say, and the table's own remarks."""

    settings: dict[str, Any]
    not_said: tuple[str, ...]
    remarks: tuple[str, ...]

    @property
    def id(self) -> str:
        return str(self.settings["id"])


@dataclass(frozen=True)
class ModelLeftOut:
    """A model for which nothing is written."""

    id: str
    reason: str


@dataclass(frozen=True)
class ImportedPrices:
    """What a table says on a day; `newest` is the latest day until then from which it has some price."""

    table: str
    on: date
    newest: date | None
    pages: tuple[str, ...]
    """Where the providers themselves tell their prices."""
    entries: tuple[PricedModel, ...]
    left_out: tuple[ModelLeftOut, ...]


def toml_of(imported: ImportedPrices) -> str:
    """The same text for the same table, models and day."""
    blocks = [_head(imported), *map(_entry, imported.entries)]
    if imported.left_out:
        blocks.append("\n".join(_comment(f"Not written: {one.id}: {one.reason}.") for one in imported.left_out))
    return "\n\n".join(blocks) + "\n"


def _head(imported: ImportedPrices) -> str:
    said = f"Prices in force on {imported.on} (UTC) by the table {imported.table}"
    said += f", whose newest price until then is of {imported.newest}." if imported.newest else "."
    said += " It promises nothing: compare what you sell by with the providers' own pages."
    return "\n".join([_comment(said), *(f"#   {page}" for page in imported.pages)])


def _entry(entry: PricedModel) -> str:
    pricing = dict(entry.settings["pricing"])
    tiers = pricing.pop("tiers", ())
    model = {name: value for name, value in entry.settings.items() if name != "pricing"}
    lines = [_comment(text) for text in (*(f"Not said here: {one}." for one in entry.not_said), *entry.remarks)]
    lines += [*_table("[[models]]", model), *_table("[models.pricing]", pricing)]
    for tier in tiers:
        lines += _table("[[models.pricing.tiers]]", tier)
    return "\n".join(lines)


def _table(heading: str, values: dict[str, Any]) -> Iterator[str]:
    """TOML writes texts, numbers and booleans as JSON does."""
    yield heading
    yield from (f"{name} = {json.dumps(value, ensure_ascii=False)}" for name, value in values.items())


def _comment(text: str) -> str:
    lines = textwrap.wrap(text, _WIDTH - len("# "), break_long_words=False, break_on_hyphens=False)
    return "\n".join(f"# {line}" for line in lines)
