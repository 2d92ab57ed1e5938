"""GET /billing/statements/{month}: what a month did to an account's wallet, as JSON, CSV or a page to print."""

from collections.abc import Callable, Iterator
from html import escape
from typing import Literal, NamedTuple

from http_api.exports import CSV, attachment, written_rows
from http_api.moments import rfc_3339
from http_api.operations import Answered, Asked, Nothing, Told
from http_api.query import Query
from http_api.usage import UsageTotals, totals_fields
from mcp_gateway.core.errors import GatewayError
from mcp_gateway.core.ledger.months import Month, MonthlyStatement, Months
from mcp_gateway.core.money import EntryKind, format_usd

MEDIA_TYPES = {"json": "application/json", "csv": CSV, "html": "text/html; charset=utf-8"}
_MOVES: dict[EntryKind, str] = {
    "credit": "Paid in",
    "grant": "Granted",
    "adjustment": "Corrected by hand",
    "refund": "Refunded",
    "dispute": "Disputed payments",
    "expire": "Grants that expired",
}
_ARCHIVED = "(charges of this month's requests were archived: the ledger lists their sum)"
_NO_SCRIPTS = (b"content-security-policy", b"default-src 'none'; style-src 'unsafe-inline'")


class StatementQuery(Query):
    """`html` is a page to print."""

    format: Literal["json", "csv", "html"] = "json"


class MovesObject(Told):
    """All entries of one kind; what they took is negative."""

    kind: EntryKind
    transactions: int
    amount_usd: str


class ModelUseObject(UsageTotals):
    """Requests that cost something, less those that were given back; the model is null where no record is kept."""

    model: str | None


class StatementObject(Told):
    """What is owned, held money included: opening and moves, less the cost of all usage, are the closing balance.

    Of a month by UTC, which is over once `is_final`; of one that `is_archived` the ledger lists the sum of what
    requests were charged, and no longer each charge. Times in Unix seconds; `until` is the first that is not in it.
    """

    object: Literal["statement"]
    account_id: str
    month: str
    is_final: bool
    is_archived: bool
    since: int
    until: int
    currency: Literal["USD"]
    opening_balance_usd: str
    moves: list[MovesObject]
    usage: list[ModelUseObject]
    cost_usd: str
    closing_balance_usd: str


class Statements:
    def __init__(self, months: Months, now_ms: Callable[[], int]) -> None:
        self._months = months
        self._now_ms = now_ms

    async def get(self, asked: Asked[StatementQuery, Nothing]) -> StatementObject | Answered[StatementObject]:
        account_id, now_ms = asked.about.account_id, self._now_ms()
        month = _month(asked.path["month"], now_ms)
        told = _object(account_id, month, await self._months.statement(account_id, month), now_ms)
        match asked.query.format:
            case "json":
                return told
            case "csv":
                file = attachment(f"statement-{month.name}.csv")
                return Answered(_csv(told), headers=(file,), media_type=CSV)
            case "html":
                return Answered(_page(told), headers=(_NO_SCRIPTS,), media_type=MEDIA_TYPES["html"])


def _month(name: str, now_ms: int) -> Month:
    try:
        month = Month.named(name)
    except ValueError:
        raise GatewayError("invalid_value", "A month is written as in 2026-01.", param="month") from None
    if month.since_ms > now_ms:
        raise GatewayError("not_found", f"The month {month.name} has not begun.", param="month")
    return month


def _object(account_id: str, month: Month, statement: MonthlyStatement, now_ms: int) -> StatementObject:
    return StatementObject(
        object="statement",
        account_id=account_id,
        month=month.name,
        is_final=month.until_ms <= now_ms,
        is_archived=statement.is_archived,
        since=month.since_ms // 1000,
        until=month.until_ms // 1000,
        currency="USD",
        opening_balance_usd=format_usd(statement.opening_nano),
        moves=[
            MovesObject(kind=kind, transactions=entries, amount_usd=format_usd(amount_nano))
            for kind, entries, amount_nano in statement.moves
        ],
        usage=[ModelUseObject(model=one.model, **totals_fields(one)) for one in statement.use],
        cost_usd=format_usd(sum(one.cost_nano for one in statement.use)),
        closing_balance_usd=format_usd(statement.closing_nano),
    )


class _Line(NamedTuple):
    """A line of the statement; numbers that it does not have are empty."""

    item: str
    amount_usd: str
    number: int | str = ""
    prompt_tokens: int | str = ""
    completion_tokens: int | str = ""
    cached_tokens: int | str = ""


def _lines(told: StatementObject) -> Iterator[_Line]:
    yield _Line("Opening balance", told.opening_balance_usd)
    for moves in told.moves:
        yield _Line(_MOVES[moves.kind], moves.amount_usd, moves.transactions)
    for use in told.usage:
        tokens = use.prompt_tokens, use.completion_tokens, use.cached_tokens
        yield _Line(use.model or "(models that are not recorded)", _less(use.cost_usd), use.requests, *tokens)
    if told.is_archived and told.usage:
        yield _Line(_ARCHIVED, format_usd(0))
    yield _Line("Closing balance", told.closing_balance_usd)


def _less(amount_usd: str) -> str:
    return amount_usd if amount_usd == format_usd(0) else f"-{amount_usd}"


def _csv(told: StatementObject) -> bytes:
    return written_rows((_Line._fields, *_lines(told))).encode()


_HEADINGS = ("Item", "USD", "Number", "Prompt tokens", "Completion tokens", "Cached tokens")
_PAGE = """<!doctype html>
<html lang="en">
<meta charset="utf-8">
<meta name="viewport" content="width=device-width">
<title>Statement {month}</title>
<style>
body {{ font: 1rem/1.5 system-ui, sans-serif; max-width: 60rem; margin: 2rem auto; padding: 0 1rem; }}
table {{ border-collapse: collapse; width: 100%; font-variant-numeric: tabular-nums; }}
th, td {{ padding: .3rem .6rem; border-bottom: 1px solid #bbb; text-align: right; }}
th:first-child, td:first-child {{ text-align: left; overflow-wrap: anywhere; }}
tr:first-child td, tr:last-child td {{ font-weight: bold; }}
@media print {{ body {{ margin: 0; }} tr {{ break-inside: avoid; }} }}
</style>
<h1>Statement {month}</h1>
<p>Account {account_id}. From {since} to {until}, UTC{state}.
Amounts in USD; what is held for running requests is the account's.</p>
<table>
<thead><tr>{headings}</tr></thead>
<tbody>
{rows}
</tbody>
</table>
</html>
"""


def _page(told: StatementObject) -> bytes:
    return _PAGE.format(
        month=told.month,
        account_id=escape(told.account_id),
        since=rfc_3339(told.since),
        until=rfc_3339(told.until),
        state="" if told.is_final else "; the month is not over",
        headings="".join(f'<th scope="col">{heading}</th>' for heading in _HEADINGS),
        rows="\n".join(f"<tr>{_cells(line)}</tr>" for line in _lines(told)),
    ).encode()


def _cells(line: _Line) -> str:
    return "".join(f"<td>{escape(str(cell))}</td>" for cell in line)
