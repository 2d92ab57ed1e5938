"""Lists and reports as CSV and as lines of JSON: every row, written as it is read, a page at a time."""

import asyncio
import csv
import io
import re
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, Iterator, Sequence
from typing import Any, Literal, TypeVar

import orjson

from http_api.operations import Asked, Streamed, Told
from http_api.paging import PageQuery

Format = Literal["json", "csv", "jsonl"]
CSV, LINES = "text/csv; charset=utf-8", "application/x-ndjson"
MEDIA_TYPES = ("application/json", CSV, LINES)
PAGE_ROWS = 500
"""Read at once."""
_ROWS_WITHOUT_A_TURN = 50
"""Written at once, before others have their turn."""

_ASKED_BY_ACCEPT: dict[str, Format] = {
    "text/csv": "csv", LINES: "jsonl", "application/jsonl": "jsonl",
    "application/json": "json", "application/*": "json", "*/*": "json",
}  # fmt: skip
_WEIGHT = re.compile(r"q=(0(?:\.[0-9]*)?|1(?:\.0*)?)")
_FORMULA = ("=", "+", "-", "@", "\t", "\r", "\n", *"\uff1d\uff0b\uff0d\uff20")
"""What a text in a table must not begin with, or spreadsheets run it, full-width too: OWASP, CSV injection."""
_NUMBER = re.compile(r"-?[0-9]+(\.[0-9]+)?")

Row = TypeVar("Row")


def format_of(asked: Asked[Any, Any]) -> Format:
    """What the query names, or else what `Accept` wants most."""
    named: Format | None = asked.query.format
    return named or _wanted_most(asked.context.sent.get(b"accept", b"").decode("latin-1").lower())


def _wanted_most(accepted: str) -> Format:
    """Of kinds of one weight the first that has a name of its own; with `q=0` one is not wanted (RFC 9110, 12.5.1)."""
    weighed = [_weighed(part) for part in accepted.split(",")]
    known = [(weight, "*" not in kind, _ASKED_BY_ACCEPT[kind]) for kind, weight in weighed if kind in _ASKED_BY_ACCEPT]
    weight, _, form = max(known, key=lambda one: one[:2], default=(0.0, False, "json"))
    return form if weight else "json"


def _weighed(part: str) -> tuple[str, float]:
    """A kind of answer and how much it is wanted; what is no weight counts as none that was said."""
    kind, *parameters = (piece.strip() for piece in part.split(";"))
    told = next(filter(None, map(_WEIGHT.fullmatch, parameters)), None)
    return kind, 1.0 if told is None else float(told[1])


def most_of(query: PageQuery) -> int | None:
    """How many rows an export has: all, unless it is said."""
    return query.limit if "limit" in query.model_fields_set else None


def export(name: str, form: Format, kind: type[Told], rows: AsyncIterator[Sequence[Told]]) -> Streamed:
    """A file of all `rows`, which come by the page; `kind` says which columns there are."""
    suffix, media_type = ("csv", CSV) if form == "csv" else ("jsonl", LINES)
    pieces = _table(kind, rows) if form == "csv" else _lines(rows)
    return Streamed(pieces, media_type, (attachment(f"{name}.{suffix}"),))


def attachment(file: str) -> tuple[bytes, bytes]:
    """The header by which a browser keeps an answer as a file of this name."""
    return b"content-disposition", f'attachment; filename="{file}"'.encode()


async def paged(
    read: Callable[[str | None, int], Awaitable[Sequence[Row]]],
    id_of: Callable[[Row], str],
    shown_of: Callable[[Sequence[Row]], Awaitable[Callable[[Row], Told]]],
    *,
    after: str | None,
    most: int | None,
) -> AsyncIterator[Sequence[Told]]:
    """All rows behind `after`, or so many at most, read by the page, a part of one after the other.

    `shown_of` finds out once for a page how each row of it is told.
    """
    left, last = most, after
    while left is None or left > 0:
        wanted = PAGE_ROWS if left is None else min(PAGE_ROWS, left)
        rows = await read(last, wanted)
        if rows:
            shown = await shown_of(rows)
            for part in _parts(rows):
                yield list(map(shown, part))
        if len(rows) < wanted:
            return
        last, left = id_of(rows[-1]), None if left is None else left - len(rows)


async def at_once(rows: Sequence[Told]) -> AsyncIterator[Sequence[Told]]:
    """Of a report that is known as a whole."""
    for part in _parts(rows):
        yield part


def _parts(rows: Sequence[Row]) -> Iterator[Sequence[Row]]:
    for start in range(0, len(rows), _ROWS_WITHOUT_A_TURN):
        yield rows[start : start + _ROWS_WITHOUT_A_TURN]


def safe_cell(value: object) -> object:
    """What no spreadsheet takes for a formula; a number stays one."""
    if isinstance(value, str) and value.startswith(_FORMULA) and not _NUMBER.fullmatch(value):
        return f"'{value}"
    return value


def written_rows(rows: Iterable[Iterable[object]]) -> str:
    text = io.StringIO()
    csv.writer(text).writerows(map(safe_cell, cells) for cells in rows)
    return text.getvalue()


async def _table(kind: type[Told], rows: AsyncIterator[Sequence[Told]]) -> AsyncIterator[bytes]:
    columns = [name for name in kind.model_fields if name != "object"]
    head = written_rows([columns])
    async for part in rows:
        yield (head + written_rows(_cells(row, columns) for row in part)).encode()
        head = ""
        await asyncio.sleep(0)
    if head:
        yield head.encode()


def _cells(row: Told, columns: Sequence[str]) -> list[object]:
    told = row.model_dump(mode="json")
    return [_cell(told.get(name)) for name in columns]


def _cell(value: Any) -> object:
    """What is not there is empty, and what is no single value is JSON."""
    if isinstance(value, dict | list):
        return orjson.dumps(value).decode()
    if isinstance(value, bool):
        return "true" if value else "false"
    return "" if value is None else value


async def _lines(rows: AsyncIterator[Sequence[Told]]) -> AsyncIterator[bytes]:
    async for part in rows:
        yield b"".join(row.model_dump_json(exclude_unset=True).encode() + b"\n" for row in part)
        await asyncio.sleep(0)
