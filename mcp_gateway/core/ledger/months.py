"""What a month did to an account's wallet: where it began, what moved it, what was used, where it ended."""

import re
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import NamedTuple, Self

from mcp_gateway.core.engine import Engine, Report, Scan
from mcp_gateway.core.money import EntryKind

_WRITTEN = re.compile(r"[1-8][0-9]{3}-(0[1-9]|1[0-2])")


@dataclass(frozen=True, slots=True)
class Month:
    """A month by UTC; `name` is as in 2026-01. From `since_ms` on and before `until_ms`, in Unix milliseconds."""

    name: str
    since_ms: int
    until_ms: int

    @classmethod
    def named(cls, name: str) -> Self:
        """Raises ValueError for what is no month."""
        if not _WRITTEN.fullmatch(name):
            raise ValueError("a month is written as in 2026-01")
        first = datetime(int(name[:4]), int(name[5:]), 1, tzinfo=UTC)
        following = first.replace(year=first.year + first.month // 12, month=first.month % 12 + 1)
        return cls(name, int(first.timestamp() * 1000), int(following.timestamp() * 1000))

    @classmethod
    def at(cls, at_ms: int) -> Self:
        """The one that a moment is in."""
        return cls.named(datetime.fromtimestamp(at_ms / 1000, UTC).strftime("%Y-%m"))


class Moves(NamedTuple):
    """All entries of one kind, and what they brought or took, in nano-USD."""

    kind: EntryKind
    entries: int
    amount_nano: int


class ModelUse(NamedTuple):
    """What was paid for a model, less what was given back; None for requests of which no record is kept."""

    model: str | None
    requests: int
    prompt_tokens: int
    completion_tokens: int
    cached_tokens: int
    cost_nano: int


@dataclass(frozen=True, slots=True)
class MonthlyStatement:
    """What the account owns, held money included: `opening_nano`, with all moves, less all use, is `closing_nano`.

    Of a month that `is_archived` settlements may have left the ledger, which this has by the sums that stay.
    """

    opening_nano: int
    moves: tuple[Moves, ...]
    use: tuple[ModelUse, ...]
    closing_nano: int
    is_archived: bool = False


@dataclass(frozen=True, slots=True)
class StatementOf(Report[MonthlyStatement]):
    account_id: str
    month: Month


class Earned(NamedTuple):
    """What an account was charged for a model, less what was given back; `granted_nano` of it nobody had paid for."""

    account_id: str
    model: str | None
    requests: int
    revenue_nano: int
    granted_nano: int


@dataclass(frozen=True, slots=True)
class EarnedIn(Scan[tuple[Earned, ...]]):
    """By account and model, the dearest first."""

    month: Month


class Months:
    """The books by month."""

    def __init__(self, store: Engine) -> None:
        self._store = store

    async def statement(self, account_id: str, month: Month) -> MonthlyStatement:
        """An account's; the running month's as of now."""
        return await self._store.read(StatementOf(account_id, month))

    async def earned(self, month: Month) -> tuple[Earned, ...]:
        """For the operator."""
        return await self._store.read(EarnedIn(month))


def statement_of(
    now_nano: int, later_nano: int, moves: tuple[Moves, ...], use: tuple[ModelUse, ...], *, is_archived: bool = False
) -> MonthlyStatement:
    """From what the account owns now, and what came after the month."""
    closing_nano = now_nano - later_nano
    change_nano = sum(move.amount_nano for move in moves) - sum(one.cost_nano for one in use)
    return MonthlyStatement(closing_nano - change_nano, moves, use, closing_nano, is_archived)
