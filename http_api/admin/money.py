"""POST /admin/accounts/{account_id}/credits, /grants and /adjustments: money that is entered by hand."""

from collections.abc import Callable
from hashlib import sha256
from typing import Annotated, Literal, TypeVar

from pydantic import BaseModel, ConfigDict, Field

from http_api.admin.actors import Desks, actor_of, own_idempotency_key
from http_api.idempotency import replayed
from http_api.operations import Answered, Asked, Told
from http_api.query import Query
from mcp_gateway.core.errors import GatewayError
from mcp_gateway.core.idempotency import Idempotency, IdempotentRequest
from mcp_gateway.core.ledger.by_hand import MAX_NOTE_CHARS, MAX_REFERENCE_CHARS, HandEntry, HandKind
from mcp_gateway.core.ledger.ledger import Ledger
from mcp_gateway.core.money import format_usd, parse_usd

_MAX_LIFETIME_S = 10**9


class EntryBody(BaseModel):
    """An amount in USD and what it is for; the same `reference` again changes nothing."""

    model_config = ConfigDict(extra="forbid", strict=True)

    amount_usd: Annotated[str, Field(max_length=40)]
    reference: Annotated[str, Field(min_length=1, max_length=MAX_REFERENCE_CHARS)] | None = None
    note: Annotated[str, Field(min_length=1, max_length=MAX_NOTE_CHARS)] | None = None


class GrantBody(EntryBody):
    """The same of a gift; what is left of it after `expires_in_s` is taken back."""

    expires_in_s: Annotated[int, Field(ge=1, le=_MAX_LIFETIME_S)] | None = None


class EntryObject(Told):
    """What was entered, and what the account may spend now; `was_applied_before` where the entry stood already."""

    object: Literal["entry"]
    account_id: str
    kind: HandKind
    reference: str
    amount_usd: str
    balance_usd: str
    was_applied_before: bool


Body = TypeVar("Body", bound=EntryBody)


class MoneyDoor:
    """Each entry takes effect once: by its reference, or by its Idempotency-Key."""

    def __init__(
        self,
        desks: Desks,
        ledger: Ledger,
        idempotency: Idempotency,
        now_ms: Callable[[], int],
    ) -> None:
        self._desks = desks
        self._ledger = ledger
        self._idempotency = idempotency
        self._now_ms = now_ms

    async def credit(self, asked: Asked[Query, EntryBody]) -> EntryObject | Answered[EntryObject]:
        return await self._enter(asked, "credit", None)

    async def grant(self, asked: Asked[Query, GrantBody]) -> EntryObject | Answered[EntryObject]:
        lasts_s = asked.body.expires_in_s
        return await self._enter(asked, "grant", None if lasts_s is None else self._now_ms() + lasts_s * 1000)

    async def adjust(self, asked: Asked[Query, EntryBody]) -> EntryObject | Answered[EntryObject]:
        return await self._enter(asked, "adjustment", None)

    async def _enter(
        self, asked: Asked[Query, Body], kind: HandKind, expires_at_ms: int | None
    ) -> EntryObject | Answered[EntryObject]:
        account_id, body, actor = asked.about.account_id, asked.body, actor_of(asked)
        amount_nano = _nano_of(body.amount_usd)
        once = own_idempotency_key(asked)
        async with self._idempotency.answering(account_id, once, f"admin/{kind}", asked.raw) as request:
            if request.kept is not None:
                return replayed(request.kept)
            entry = HandEntry(
                account_id=account_id,
                kind=kind,
                amount_nano=amount_nano,
                reference=body.reference or _reference_of(request),
                note=body.note,
                expires_at_ms=expires_at_ms,
            )
            reference, is_new = await self._desks(actor).cashier.enter(entry)
            answer = EntryObject(
                object="entry",
                account_id=account_id,
                kind=kind,
                reference=reference,
                amount_usd=format_usd(amount_nano),
                balance_usd=(await self._ledger.balance(account_id)).as_object().balance_usd,
                was_applied_before=not is_new,
            )
            status = 201 if is_new else 200
            await self._idempotency.keep(request, status, answer.model_dump())
            return Answered(answer.model_dump_json().encode(), status)


def _reference_of(request: IdempotentRequest) -> str | None:
    """The same for each sending of a request with a key, so that it is entered once whatever happens in between."""
    return None if request.name is None else f"once_{sha256(request.name.encode()).hexdigest()[:32]}"


def _nano_of(text: str) -> int:
    """Raises GatewayError `invalid_value`."""
    try:
        return parse_usd(text)
    except ValueError as fault:
        raise GatewayError("invalid_value", f"`amount_usd`: {fault}.", param="amount_usd") from None
