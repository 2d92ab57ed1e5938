"""Money that an operator enters by hand, by a command or over HTTP: paid in elsewhere, given, or put right."""

from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Literal, NamedTuple

from mcp_gateway.core.engine import Engine
from mcp_gateway.core.errors import GatewayError
from mcp_gateway.core.ledger.entries import Applied, AppliedBy, Grant, Move
from mcp_gateway.core.ledger.ledger import check_can_own
from mcp_gateway.core.text import check_one_line, shown

HandKind = Literal["credit", "grant", "adjustment"]
MAX_REFERENCE_CHARS = 255
MAX_NOTE_CHARS = 1000


@dataclass(frozen=True, slots=True, kw_only=True)
class HandEntry:
    """What is to be entered, in nano-USD; only an adjustment takes money away, and only a grant expires.

    The same `reference` again changes nothing; None for one of its own. `note` is a line for the operator alone.
    """

    account_id: str
    kind: HandKind
    amount_nano: int
    reference: str | None = None
    note: str | None = None
    expires_at_ms: int | None = None


class Entered(NamedTuple):
    """By which reference an entry stands, and whether it did not before."""

    reference: str
    is_new: bool


class Cashier:
    """Enters money. `decide` carries out what takes money away, which the process that knows what is held must do."""

    def __init__(
        self, store: Engine, decide: Callable[[Move], Awaitable[bool]], *, new_reference: Callable[[], str]
    ) -> None:
        self._store = store
        self._decide = decide
        self._new_reference = new_reference

    async def enter(self, entry: HandEntry) -> Entered:
        """Raises GatewayError: `invalid_value` for what is no entry, or more than a wallet can hold; `conflict` for the
        guests' account, and for a reference that stands for another entry.
        """
        _check(entry)
        reference = entry.reference or self._new_reference()
        is_new = await self._write(entry, reference)
        if not is_new and await self._applied(entry, reference) != (entry.account_id, entry.amount_nano):
            message = (
                f"The reference '{shown(reference)}' stands for another {entry.kind} already; nothing was changed."
            )
            raise GatewayError("conflict", message, param="reference")
        return Entered(reference, is_new)

    async def _write(self, entry: HandEntry, reference: str) -> bool:
        if entry.kind == "grant":
            grant = Grant(entry.account_id, entry.amount_nano, reference, entry.expires_at_ms, entry.note)
            return await self._store.write(grant)
        move = Move(entry.account_id, entry.kind, entry.amount_nano, reference, entry.note)
        return await (self._decide(move) if move.amount_nano < 0 else self._store.write(move))

    async def _applied(self, entry: HandEntry, reference: str) -> Applied | None:
        return await self._store.read(AppliedBy(entry.kind, reference))


def _check(entry: HandEntry) -> None:
    check_can_own(entry.account_id)
    for name, text, most in (
        ("reference", entry.reference, MAX_REFERENCE_CHARS),
        ("note", entry.note, MAX_NOTE_CHARS),
    ):
        if text is None:
            continue
        check_one_line(text, name)
        if not 0 < len(text) <= most:
            raise GatewayError("invalid_value", f"`{name}` has 1 to {most:,} characters.", param=name)
    if not entry.amount_nano:
        raise GatewayError("invalid_value", "An entry of nothing changes nothing.", param="amount_usd")
    if entry.amount_nano < 0 and entry.kind != "adjustment":
        raise GatewayError("invalid_value", f"A {entry.kind} is more than nothing.", param="amount_usd")
