"""Who is told, and what waits to be delivered to whom: what is written and read of both.

Times in Unix milliseconds, amounts in nano-USD. A receiver is an account's id, or OPERATOR.
"""

from dataclasses import dataclass
from typing import Any, NamedTuple

from mcp_gateway.core.engine import Read, Scan, Write
from mcp_gateway.core.money import format_usd

OPERATOR = "operator"


class OutboxGrew(NamedTuple):
    """There is more to deliver. Told by the engine after each commit that added something."""


class EventsDropped(NamedTuple):
    """More waited for a receiver than may: so many of the oldest events are given up. Told after the commit."""

    receiver: str
    event_count: int


class Webhook(NamedTuple):
    """An account's, without its secrets; `former_until_ms` where the secret before the present one still signs."""

    url: str
    set_at_ms: int
    former_until_ms: int | None


class WebhookStanding(NamedTuple):
    """What an account has set of both."""

    webhook: Webhook | None
    low_balance_nano: int | None

    def in_words(self) -> str:
        """For people."""
        where = "no webhook is set" if self.webhook is None else f"told at {self.webhook.url}"
        mark_nano = self.low_balance_nano
        return f"{where}, {'no low balance' if mark_nano is None else f'low below {format_usd(mark_nano)} USD'}"

    def as_object(self) -> dict[str, Any]:
        """As HTTP and the command line tell it; nulls where nothing is set, times in Unix seconds."""
        url, set_at_ms, until_ms = self.webhook or (None, None, None)
        return {
            "url": url,
            "set_at": None if set_at_ms is None else set_at_ms // 1000,
            "former_secret_until": None if until_ms is None else until_ms // 1000,
            "low_balance_usd": None if self.low_balance_nano is None else format_usd(self.low_balance_nano),
        }


class Delivery(NamedTuple):
    """An event that is due at a receiver; the operator's has no secret here."""

    receiver: str
    event_id: str
    body: str
    tries: int
    url: str
    secret: str | None
    former_secret: str | None


@dataclass(frozen=True, slots=True)
class SetOperatorWebhook(Write[None]):
    """As the settings have it; None for no webhook, and then nothing that waits for the operator is delivered."""

    url: str | None


@dataclass(frozen=True, slots=True)
class PutWebhook(Write[bool]):
    """Whether it is new: then it has `secret`, else it keeps its own. What waits goes to the new address."""

    account_id: str
    url: str
    secret: str


@dataclass(frozen=True, slots=True)
class RotateSecret(Write[bool]):
    """The secret of before signs, too, until then. False where the account has no webhook."""

    account_id: str
    secret: str
    former_until_ms: int


@dataclass(frozen=True, slots=True)
class ForgetFormerSecrets(Write[None]):
    """Those that sign no more."""

    now_ms: int


@dataclass(frozen=True, slots=True)
class RemoveWebhook(Write[bool]):
    """With what waits for it. False where there is none."""

    account_id: str


@dataclass(frozen=True, slots=True)
class SetLowBalance(Write[None]):
    """None for no mark. Below it already, the account is told at once, unless it was since money last came in."""

    account_id: str
    mark_nano: int | None


@dataclass(frozen=True, slots=True)
class WebhookOf(Read[WebhookStanding]):
    account_id: str
    now_ms: int


@dataclass(frozen=True, slots=True)
class DueDeliveries(Scan[tuple[Delivery, ...]]):
    """Of each receiver that is not among `busy` the one that has been due the longest.

    Of the operator, and of `most_accounts` accounts at most: those come first that have been due the longest.
    """

    now_ms: int
    busy: frozenset[str]
    most_accounts: int


@dataclass(frozen=True, slots=True)
class EndDelivery(Write[None]):
    """It was delivered, or is given up."""

    receiver: str
    event_id: str


@dataclass(frozen=True, slots=True)
class PutOffDelivery(Write[None]):
    """A try has failed, after so many before it; the next is at `due_at_ms`. Nothing where others were made since."""

    receiver: str
    event_id: str
    tries: int
    due_at_ms: int
