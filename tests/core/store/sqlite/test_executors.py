"""Every write and read of a room has an executor whose signature fits it: the table is untyped, its entries are not."""

import importlib
import pkgutil
from collections.abc import Iterator
from types import ModuleType, NoneType
from typing import Any, get_args, get_type_hints

import mcp_gateway.core
from mcp_gateway.core import engine
from mcp_gateway.core.engine import Read, Write
from mcp_gateway.core.store.sqlite.executors import EXECUTORS
from mcp_gateway.core.store.transaction import Rows, Transaction
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


def test_each_write_has_one_executor_and_each_read_one() -> None:
    carried_out = [*EXECUTORS.alone, *EXECUTORS.together]
    assert sorted(map(str, carried_out)) == sorted(map(str, values_of(Write)))
    assert sorted(map(str, EXECUTORS.reads)) == sorted(map(str, values_of(Read)))


@each(("kind", "run"), list(EXECUTORS.alone.items()))
def test_a_write_is_carried_out_by_what_takes_it_and_brings_what_it_says(kind: type, run: Any) -> None:
    assert signature_of(run) == [Transaction, kind, outcome_of(kind)]


@each(("kind", "run"), list(EXECUTORS.together.items()))
def test_neighbours_are_carried_out_by_what_takes_each_and_brings_what_it_says(kind: type, run: Any) -> None:
    transaction, writes, outcomes = signature_of(run)
    assert transaction is Transaction
    [taken], [brought] = get_args(writes), get_args(outcomes)
    assert kind is taken or kind in get_args(taken)
    said = outcome_of(kind)
    assert set(get_args(said) or [said]) <= set(get_args(brought) or [brought or NoneType])


@each(("kind", "answer"), list(EXECUTORS.reads.items()))
def test_a_read_is_answered_by_what_takes_it_and_brings_what_it_says(kind: type, answer: Any) -> None:
    assert signature_of(answer) == [Rows, kind, outcome_of(kind)]
