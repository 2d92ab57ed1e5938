"""Sums by the hour that differ from their requests are told and put right, whatever is summed up meanwhile."""

import asyncio
import json
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from mcp_gateway.cli.commands import app
from mcp_gateway.core.clock import HOUR_MS
from mcp_gateway.core.observe.hourly_sums import DifferencesIn, HourlySums, SumsDifference
from mcp_gateway.core.record import Attribution, RoutingFacts
from mcp_gateway.core.store.sqlite.database import DATABASE
from mcp_gateway.core.store.sqlite.store import Store
from tests.cases import each
from tests.databases import Query, changing, environ_at, migrated, open_store
from tests.recorded import recorded, write_records

MIDNIGHT_MS = 20_000 * 24 * HOUR_MS
TABLES = ("hourly_usage", "hourly_parts", "hourly_tasks", "hourly_attributed")
ROUTING, ATTRIBUTION = RoutingFacts("code", "simple", 0.9), Attribution("ann", ("red", "blue"))


async def write_requests(store: Store, account_id: str = "acc_guest") -> None:
    """Of two days and a half, of each kind that is summed up by itself, with numbers beyond all bounds."""
    await write_records(
        store,
        *(
            recorded(
                MIDNIGHT_MS + n * HOUR_MS,
                account_id=account_id,
                key_id=("key_1", None)[n % 2],
                model=("a", None, "b")[n % 3],
                surface=("chat", "score")[n // 2 % 2],
                http_status=(200, 502)[n // 3 % 2],
                routing=(None, ROUTING)[n // 5 % 2],
                attribution=(None, ATTRIBUTION, Attribution(None, ("red",)), Attribution("bob", ()))[n % 4],
                prompt_tokens=(10, -5, 2**40)[n % 3],
                cost_nano=(7, 2**62)[n // 7 % 2],
            )
            for n in range(60)
        ),
    )


async def sums(store: Store) -> list[list[Any]]:
    return [sorted(await store.read(Query(f"SELECT * FROM {table} WHERE requests <> 0"))) for table in TABLES]


async def rebuilt(store: Store, *, changes: bool = True) -> list[SumsDifference]:
    return [one async for one in HourlySums(store).rebuild(changes=changes)]


async def test_sums_that_triggers_kept_are_what_their_requests_come_to(store: Store) -> None:
    await write_requests(store)
    assert await rebuilt(store) == []


@each("table", TABLES)
@each("damage", ["DELETE FROM {}", "UPDATE {} SET requests = requests + 3, cost_nano = cost_nano - 1", "more"])
async def test_what_differs_is_told_and_put_right(store: Store, table: str, damage: str) -> None:
    await write_requests(store)
    right = await sums(store)
    if damage == "more":
        damage = "UPDATE {} SET model = 'c' WHERE hour % 3 = 1"
    if "WHERE" not in damage:
        damage += " WHERE hour > 480000"  # more in the first hour than its requests come to says that some are gone
    await store.write(changing(damage.format(table)))
    told = await rebuilt(store, changes=False)
    assert told
    assert {f"hourly_{one.sums}" for one in told} == {table}
    assert await sums(store) != right
    assert await rebuilt(store) == told
    assert await sums(store) == right
    assert await rebuilt(store) == []


async def test_sums_stay_whose_requests_are_gone_also_those_of_an_hour_of_which_some_are(store: Store) -> None:
    await write_records(store, *(recorded(MIDNIGHT_MS + n, account_id="acc_guest") for n in range(4)))
    await write_requests(store)
    right = await sums(store)
    await store.write(changing("DELETE FROM requests WHERE started_at_ms < ?", (MIDNIGHT_MS + 2,)))
    await store.write(changing("UPDATE hourly_usage SET cost_nano = cost_nano + 1 WHERE hour = 480003"))
    assert [one.names[1] for one in await rebuilt(store)] == [480_003]
    assert (await sums(store))[:3] == right[:3]
    await store.write(changing("DELETE FROM requests"))
    assert await rebuilt(store) == []


async def test_what_is_summed_up_between_the_look_and_the_change_counts_once(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    await write_requests(store)
    await store.write(changing("DELETE FROM hourly_usage"))
    read = store.read

    async def busy(one: Any) -> Any:
        found = await read(one)
        if isinstance(one, DifferencesIn):
            await write_records(store, recorded(MIDNIGHT_MS + one.since_hour % 24 * HOUR_MS, account_id="acc_guest"))
        return found

    monkeypatch.setattr(store, "read", busy)
    assert await rebuilt(store)
    monkeypatch.undo()
    assert await rebuilt(store) == []
    counted = await store.read(Query("SELECT COUNT(*), (SELECT SUM(requests) FROM hourly_usage) FROM requests"))
    assert counted[0][0] == counted[0][1] > 60


async def test_the_command_tells_and_changes_or_only_tells(tmp_path: Path) -> None:
    path = migrated(tmp_path / DATABASE)
    store = await open_store(path)  # as a server has it open
    await write_requests(store)
    await store.write(changing("UPDATE hourly_usage SET requests = requests + 1 WHERE hour IN (480001, 480002)"))
    command = ["usage", "rebuild", "--data-dir", str(tmp_path)]

    def run(*options: str) -> Any:
        return CliRunner(env=environ_at(path)).invoke(app, [*command, *options])

    told = await asyncio.to_thread(run, "--only-tell")
    assert (told.exit_code, "2 sums differed, and were left as they are" in told.stdout) == (1, True)
    assert "usage 2024-10-04T01:00:00+00:00 acc_guest: requests -1" in told.stdout
    changed = json.loads((await asyncio.to_thread(run, "--json")).stdout)
    assert (changed["are_changed"], changed["differing"], len(changed["differences"])) == (True, 2, 2)
    again = await asyncio.to_thread(run)
    assert (again.exit_code, again.stdout) == (0, "every sum is what its requests come to\n")
    await store.close()
