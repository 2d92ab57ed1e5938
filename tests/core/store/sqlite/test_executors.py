"""Every write and read of a room has an executor whose signature fits it: the table is untyped, its entries are not."""

import importlib
import pkgutil
from collections.abc import Iterator
from types import ModuleType, NoneType
from typing import Any, get_args, get_type_hints

import mcp_gateway.core
from mcp_gateway.core import engine
from mcp_gateway.core.engine import Read, Write
from mcp_gateway.core.ledger import allotments
from mcp_gateway.core.store.postgres.allotments import EXECUTORS as OF_REPLICAS
from mcp_gateway.core.store.postgres.claims import EXECUTORS as OF_CLAIMS
from mcp_gateway.core.store.postgres.executors import EXECUTORS as OF_POSTGRES
from mcp_gateway.core.store.sqlite.executors import EXECUTORS
from mcp_gateway.core.store.transaction import Executors, Rows, Transaction
from tests.cases import each


def rooms() -> Iterator[ModuleType]:
    for found in pkgutil.walk_packages(mcp_gateway.core.__path__, "mcp_gateway.core."):
        if not found.name.startswith("mcp_gateway.core.store") and not found.name.endswith("__main__"):
            yield importlib.import_module(found.name)


def values_of(base: type) -> list[type]:
    """The writes or reads that rooms define."""
    return [
        value
        for room in rooms()
        if room is not engine
        for value in vars(room).values()
        if isinstance(value, type) and issubclass(value, base) and value.__module__ == room.__name__
    ]


def outcome_of(kind: type) -> Any:
    """T of a Write[T] or Read[T]."""
    outcome = get_args(kind.__orig_bases__[0])[0]  # type: ignore[attr-defined]
    return NoneType if outcome is None else outcome


def signature_of(function: Any) -> list[Any]:
    return list(get_type_hints(function).values())


OF_REPLICAS_ALONE = [
    *((kind, run) for kind, run in OF_REPLICAS.alone.items() if kind.__module__ == allotments.__name__),
    *OF_CLAIMS.alone.items(),
]


def concerns_replicas(kind: type) -> bool:
    return kind.__module__ == allotments.__name__ or kind in OF_CLAIMS.alone


@each(("executors", "has_replicas"), [(EXECUTORS, False), (OF_POSTGRES, True)])
def test_each_write_has_one_executor_and_each_read_one(executors: Executors, has_replicas: bool) -> None:
    """On each engine; a database that serves one gateway has no replicas."""
    carried_out = {*executors.alone, *executors.together}
    assert len(carried_out) == len(executors.alone) + len(executors.together)
    assert carried_out == {one for one in values_of(Write) if has_replicas or not concerns_replicas(one)}
    assert set(executors.reads) == {one for one in values_of(Read) if has_replicas or not concerns_replicas(one)}


@each(("kind", "run"), [*EXECUTORS.alone.items(), *OF_REPLICAS_ALONE])
def test_a_write_is_carried_out_by_what_takes_it_and_brings_what_it_says(kind: type, run: Any) -> None:
    assert signature_of(run) == [Transaction, kind, outcome_of(kind)]


@each(("kind", "run"), [*EXECUTORS.together.items(), *OF_REPLICAS.together.items()])
def test_neighbours_are_carried_out_by_what_takes_each_and_brings_what_it_says(kind: type, run: Any) -> None:
    transaction, writes, outcomes = signature_of(run)
    assert transaction is Transaction
    [taken], [brought] = get_args(writes), get_args(outcomes)
    assert kind is taken or kind in get_args(taken)
    said = outcome_of(kind)
    assert set(get_args(said) or [said]) <= set(get_args(brought) or [brought or NoneType])


@each(("kind", "answer"), [*EXECUTORS.reads.items(), *OF_REPLICAS.reads.items()])
def test_a_read_is_answered_by_what_takes_it_and_brings_what_it_says(kind: type, answer: Any) -> None:
    assert signature_of(answer) == [Rows, kind, outcome_of(kind)]
