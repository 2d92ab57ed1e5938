"""That the contract can fail: each broken engine is found by the tests that are named, and one that is not by none."""

import inspect
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from mcp_gateway.core.audit.auditing import Auditing
from mcp_gateway.core.audit.log import Actor
from tests.core.store.contract import test_contract as contract
from tests.core.store.contract.broken import (
    AppliesHalf,
    Forgets,
    LosesTheLast,
    Reorders,
    Repeats,
    Sound,
    Tears,
    TellsTooEarly,
)
from tests.core.store.contract.noting import Note, NotesTwice, refuse
from tests.core.store.contract.places import Around, OpenEngine, SqlitePlace

Given = dict[str, Any]

FOUND: list[tuple[type[Sound], Callable[..., Any], Given]] = [
    (LosesTheLast, contract.test_writes_happen_in_the_order_of_their_calls, {}),
    (LosesTheLast, contract.test_closing_commits_what_is_queued_and_tells_it_once_it_is_on_the_disk, {}),
    (Reorders, contract.test_writes_happen_in_the_order_of_their_calls, {}),
    (TellsTooEarly, contract.test_whatever_was_told_is_there_after_the_power_failed, {}),
    (TellsTooEarly, contract.test_what_is_durable_is_told_once_the_disk_has_it, {}),
    (
        AppliesHalf,
        contract.test_several_as_one_of_which_one_fails_leave_nothing,
        {"end": refuse, "place_of_it": 2},
    ),
    (Repeats, contract.test_what_is_kept_is_refused_and_happens_once_in_its_order, {"kind": "locked", "write": Note}),
    (Forgets, contract.test_what_is_kept_is_refused_and_happens_once_in_its_order, {"kind": "locked", "write": Note}),
    (Tears, contract.test_a_read_sees_one_moment, {"twice": NotesTwice}),
]


class AuditedStore(Auditing):
    """The engine of the operator's commands, which is around another as well."""

    def __init__(self, store: OpenEngine) -> None:
        super().__init__(store, Actor("shell", "ann", "host"))
        self._beneath = store

    async def close(self) -> list[Any]:
        return await self._beneath.close()


async def tried(double: Around, test: Callable[..., Any], given: Given, folder: Path) -> None:
    place = SqlitePlace(folder, double)
    async with place.opened() as engine:
        there = {"engine": engine, "place": place}
        await test(**{name: one for name, one in there.items() if name in inspect.signature(test).parameters}, **given)


@pytest.mark.parametrize(("double", "test", "given"), FOUND)
async def test_a_broken_engine_is_found(
    double: type[Sound], test: Callable[..., Any], given: Given, tmp_path: Path
) -> None:
    await tried(Sound, test, given, tmp_path / "sound")
    await tried(AuditedStore, test, given, tmp_path / "audited")
    with pytest.raises(AssertionError):
        await tried(double, test, given, tmp_path / "broken")
