"""What another process leaves for the running server to decide, since that alone knows what requests hold.

An order is a row. The server carries it out and answers in one transaction; whoever left it waits, and takes it back
where no answer comes, so that nothing happens that nobody was told of. Where several serve, it is the elected one that
does so; what concerns each of them is left for each, by its number.
"""

import asyncio
import logging
from collections.abc import Awaitable, Callable, Mapping, Sequence
from contextlib import AbstractContextManager, suppress
from dataclasses import dataclass, fields
from typing import Any, Literal, NamedTuple

import orjson

from mcp_gateway.core.engine import DatabaseError, Engine, Read, Write
from mcp_gateway.core.errors import Code, GatewayError
from mcp_gateway.core.ledger.budgets import Budget, BudgetGroup, EndBudget, LeasesOver, MakeBudgets, SetZone
from mcp_gateway.core.ledger.entries import HeldOf, Move
from mcp_gateway.core.ledger.leases import Leases
from mcp_gateway.core.ledger.ledger import Ledger, check_can_own
from mcp_gateway.core.service_notice import SwitchMaintenance, TellIncident

logger = logging.getLogger(__name__)

LASTS_S = 10.0
"""How long an order is waited for, and stands."""
_TELL_WAIT_S = 2.0
"""The same of what needs no answer: a question, and what the server does a little later anyway."""
_LOOK_INTERVAL_S = 0.25
_POLL_S = 0.05
_BY, _FOR = "by", "for"
"""Among what is asked: who left the order, and which of several servers it is for."""

Kind = Literal[
    "move", "make_budgets", "end_budget", "set_zone", "switch_maintenance", "tell_incident", "give_back", "tell_held",
    "reload",
]  # fmt: skip
Ordered = Move | MakeBudgets | EndBudget | SetZone | SwitchMaintenance | TellIncident
"""What may lower what may be spent, and what the server goes by from one moment to the next."""
_KINDS: dict[type[Ordered], Kind] = {
    Move: "move", MakeBudgets: "make_budgets", EndBudget: "end_budget", SetZone: "set_zone",
    SwitchMaintenance: "switch_maintenance", TellIncident: "tell_incident",
}  # fmt: skip


_RELOADED = ("changed", "needs_restart")
"""What a server tells that has read its configuration again: names of settings."""


class Undecided(Exception):
    """The running server has not decided in time: the order was taken back."""


class Order(NamedTuple):
    """`asked` is a JSON object, if a command of ours left it."""

    id: int
    kind: Kind
    asked: str


@dataclass(frozen=True, slots=True)
class LeaveOrder(Write[int]):
    """Comes to the order's id."""

    kind: Kind
    asked: str
    at_ms: int


@dataclass(frozen=True, slots=True)
class OrdersLeft(Read[tuple[Order, ...]]):
    """Those without an answer that stand at a time, in their order."""

    at_ms: int


@dataclass(frozen=True, slots=True)
class ReplicasThere(Read[tuple[int, ...]]):
    """Those that serve now, or did just now; none where a server is alone."""


@dataclass(frozen=True, slots=True)
class AnswerOf(Read[str | None]):
    order_id: int


@dataclass(frozen=True, slots=True)
class TakeOrder(Write[str | None]):
    """Remove an order. Comes to its answer; None where it has none, and never will."""

    order_id: int


@dataclass(frozen=True, slots=True)
class CarryOut(Write[None]):
    """Write what an order says, and answer it with what comes of that; nothing where it was taken back."""

    order_id: int
    write: Write[Any]


@dataclass(frozen=True, slots=True)
class AnswerOrder(Write[None]):
    """Unless it is answered, as by another server."""

    order_id: int
    answer: str


class Orders:
    """The running server's side."""

    def __init__(
        self,
        store: Engine,
        ledger: Ledger,
        leases: Leases,
        written_by: Callable[[Sequence[Any]], Engine],
        reload: Callable[[Sequence[Any]], Awaitable[dict[str, Any]]],
        *,
        now_ms: Callable[[], int],
        replica: Callable[[], int | None] = lambda: None,
    ) -> None:
        """`written_by` notes what it writes as of whoever left an order, as RunningServer named them; for them `reload`
        reads the configuration again. `replica` is which of several servers this is.
        """
        self._reload = reload
        self._replica = replica
        self._store = store
        self._written_by = written_by
        self._ledger = ledger
        self._leases = leases
        self._now_ms = now_ms

    async def watch(self) -> None:
        """Decide orders as they are left, until cancelled."""
        while True:
            await asyncio.sleep(_LOOK_INTERVAL_S)
            try:
                await self.decide()
            except (DatabaseError, GatewayError) as error:  # whoever left them is told that nothing was decided
                logger.error("orders of the command line could not be decided: %s", error)

    async def decide(self) -> None:
        """Answer what was left for this server."""
        for order in await self._store.read(OrdersLeft(self._now_ms())):
            if not self._is_ours(order):
                continue
            try:
                await self._carry_out(order)
            except GatewayError:  # of the database, not of this one
                raise
            except Exception as error:  # noqa: BLE001 - whatever is wrong with an order, it costs that one alone
                logger.error("an order of the command line failed with %s", type(error).__name__)
                await self._store.write(_refused(order, "The running server could not carry out this order."))

    def _is_ours(self, order: Order) -> bool:
        try:
            whose = _told(order).get(_FOR)
        except (TypeError, orjson.JSONDecodeError):
            whose = None
        return self._store.is_elected if whose is None else whose == self._replica()

    async def _carry_out(self, order: Order) -> None:
        if order.kind == "tell_held":
            held = orjson.dumps(await self._ledger.held_by_all(), default=tuple).decode()
            return await self._store.write(AnswerOrder(order.id, held))
        if order.kind == "give_back":
            returned = orjson.dumps({"outcome": await self._leases.give_back()}).decode()
            return await self._store.write(AnswerOrder(order.id, returned))
        try:
            told = _told(order)
            if order.kind == "reload":
                return await self._reload_for(order, told[_BY])
            store, asked = self._written_by(told.pop(_BY)), _ordered(order.kind, told)
        except (LookupError, TypeError, orjson.JSONDecodeError):  # a command of another version
            return await self._store.write(_refused(order, "The running server does not know this order: restart it."))
        if isinstance(asked, MakeBudgets):
            return await self._make(order, asked, store)
        await store.write(CarryOut(order.id, asked))
        if isinstance(asked, EndBudget):
            await self._ledger.return_leases(asked.account_id)
        return None

    async def _reload_for(self, order: Order, by: Sequence[Any]) -> None:
        try:
            told = orjson.dumps(await self._reload(by)).decode()
        except GatewayError as refusal:
            return await self._store.write(_refused(order, refusal.message, refusal.code))
        return await self._store.write(AnswerOrder(order.id, told))

    async def _make(self, order: Order, asked: MakeBudgets, store: Engine) -> None:
        """What a lease takes is refused, or set aside, before anything is written."""
        try:
            await self._leases.make(asked, lambda decided: store.write(CarryOut(order.id, decided)))
        except DatabaseError:
            raise
        except GatewayError as refusal:
            await self._store.write(_refused(order, refusal.message, refusal.code))


def _told(order: Order) -> dict[str, Any]:
    """Raises TypeError or JSONDecodeError for what is no object."""
    told = orjson.loads(order.asked)
    if not isinstance(told, dict):
        raise TypeError
    return told


def _ordered(kind: Kind, asked: dict[str, Any]) -> Ordered:
    """Raises LookupError or TypeError for one that is none of ours."""
    if kind == "make_budgets":
        group = None if asked["group"] is None else BudgetGroup(*asked["group"])
        return MakeBudgets(tuple(Budget(*one) for one in asked["budgets"]), group, tuple(asked.get("above", ())))
    of = {name: of for of, name in _KINDS.items()}[kind]
    return of(**asked)


def _refused(order: Order, message: str, code: Code = "conflict") -> AnswerOrder:
    return AnswerOrder(order.id, orjson.dumps({"refusal": {"code": code, "message": message}}).decode())


class Orderer:
    """Leaves orders for servers that run, and waits for their answers."""

    def __init__(self, store: Engine, *, now_ms: Callable[[], int]) -> None:
        self._store = store
        self._now_ms = now_ms

    async def reload(self, by: Sequence[Any]) -> dict[str, Any]:
        """Have all read their configuration again. Raises as RunningServer.reload."""
        replicas = await self._store.read(ReplicasThere())
        told = await self._all_reloaded(by, replicas) if replicas else [await self.ask("reload", {_BY: by}, LASTS_S)]
        refusal = told[0].get("refusal")
        if refusal is not None and all(one.get("refusal") == refusal for one in told):
            raise GatewayError(**refusal)
        return _together(replicas, told) if replicas else told[0]

    async def reload_of(self, by: Sequence[Any], replicas: Sequence[int]) -> dict[str, Any]:
        """Have these do so. Raises GatewayError `conflict` where one of them has not; the others have all the same."""
        return _together(replicas, await self._all_reloaded(by, replicas))

    async def _all_reloaded(self, by: Sequence[Any], replicas: Sequence[int]) -> list[dict[str, Any]]:
        return await asyncio.gather(*(self._reloaded(by, one) for one in replicas))

    async def _reloaded(self, by: Sequence[Any], replica: int) -> dict[str, Any]:
        try:
            return await self.ask("reload", {_BY: by, _FOR: replica}, LASTS_S)
        except Undecided:
            return {"refusal": {"code": "conflict", "message": f"It did not answer within {LASTS_S:g} s."}}

    async def ask(self, kind: Kind, asked: dict[str, Any], wait_s: float) -> dict[str, Any]:
        """What comes of an order. Raises Undecided."""
        order_id = await self._store.write(
            LeaveOrder(kind, orjson.dumps(asked, default=tuple).decode(), self._now_ms())
        )
        try:
            await self._wait(order_id, round(wait_s / _POLL_S))
        finally:
            answer = await self._store.write(TakeOrder(order_id))
        if answer is None:
            raise Undecided(f"the running server did not decide within {wait_s:g} s: nothing was changed")
        told: dict[str, Any] = orjson.loads(answer)
        return told

    async def _wait(self, order_id: int, looks: int) -> None:
        """For an answer; another process gives it, so that there is no event to wait for."""
        for _ in range(looks):
            if await self._store.read(AnswerOf(order_id)) is not None:
                return
            await asyncio.sleep(_POLL_S)


def _together(replicas: Sequence[int], told: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """What these have told. Raises GatewayError `conflict`, which names those that have refused."""
    by_replica = dict(zip(replicas, told, strict=True))
    refused = [f"replica {one}: {told['refusal']['message']}" for one, told in by_replica.items() if "refusal" in told]
    if refused:
        raise GatewayError("conflict", f"Not all replicas have read it again. {'; '.join(refused)}")
    return {name: list(dict.fromkeys(word for one in told for word in one[name])) for name in _RELOADED}


class RunningServer:
    """The other side: what a process asks of the server that works on its folder, or does itself where none does."""

    def __init__(
        self,
        store: Engine,
        ledger: Ledger,
        leases: Leases,
        alone: Callable[[], AbstractContextManager[bool]],
        by: Sequence[Any],
        *,
        now_ms: Callable[[], int],
    ) -> None:
        """`alone` keeps servers away while it is entered, and says whether it can. `by` says who asks."""
        self._by = by
        self._store = store
        self._ledger = ledger
        self._leases = leases
        self._alone = alone
        self._now_ms = now_ms
        self._orderer = Orderer(store, now_ms=now_ms)

    async def adjust(self, account_id: str, amount_nano: int, reference: str, *, note: str | None = None) -> bool:
        """As Ledger.adjust, but decided where it is known what is held. Raises Undecided, too."""
        check_can_own(account_id)
        return bool(await self.decide(Move(account_id, "adjustment", amount_nano, reference, note)))

    async def decide(self, write: Ordered) -> Any:
        """What comes of it. Raises Undecided, and what the write is refused with."""
        with self._alone() as is_alone:
            if is_alone:
                return await self._do(write)
        asked = {field.name: getattr(write, field.name) for field in fields(write)} | {_BY: self._by}
        answer = await self._orderer.ask(_KINDS[type(write)], asked, LASTS_S)
        if (refusal := answer.get("refusal")) is not None:
            raise GatewayError(**refusal)
        return answer["outcome"]

    async def _do(self, write: Ordered) -> Any:
        if isinstance(write, MakeBudgets):
            return await self._leases.make(write, self._store.write)
        if isinstance(write, EndBudget):
            return await self._leases.end(write.account_id, write.budget_id)
        return await self._store.write(write)

    async def reload(self) -> dict[str, Any]:
        """Have all servers read their configuration again; what that came to.

        Raises Undecided, and GatewayError for a configuration that cannot be used, where no server runs, or where one
        of several did not read its own.
        """
        with self._alone() as is_alone:
            if is_alone:
                raise GatewayError("conflict", "No server runs on this folder.")
        return await self._orderer.reload(self._by)

    async def give_back(self) -> None:
        """What is left of leases that this process has ended with their keys, of which a server has not heard yet."""
        if not await self._store.read(LeasesOver(self._now_ms())):
            return
        with self._alone() as is_alone:
            if is_alone:
                await self._leases.give_back()
                return
        with suppress(Undecided, GatewayError):
            await self._orderer.ask("give_back", {}, _TELL_WAIT_S)

    async def held(self) -> Mapping[str, HeldOf] | None:
        """What running requests hold, by account; None where no server says."""
        with self._alone() as is_alone:
            if is_alone:
                return None
        try:
            told = await self._orderer.ask("tell_held", {}, _TELL_WAIT_S)
            return {account_id: HeldOf(*held) for account_id, held in told.items()}
        except (Undecided, GatewayError):
            return None
