"""What the operator switches of the service: heard by all servers of a database, and by each again that missed it."""

import asyncio
import contextlib
import logging
from collections.abc import AsyncIterator
from typing import Any

import pytest

from mcp_gateway.core.engine import DatabaseError, Read
from mcp_gateway.core.lifecycle import Lifecycle
from mcp_gateway.core.service_notice import NoticeKept, ServiceNotice, ServiceNotices, SwitchMaintenance, TellIncident
from mcp_gateway.core.store.sqlite.store import Store
from tests.clocks import MsClock
from tests.core.ledger.replicas import Replica, replica_at
from tests.logged import lines_logged
from tests.patience import eventually
from tests.postgres_server import Outside


@contextlib.asynccontextmanager
async def watched(store: Any) -> AsyncIterator[ServiceNotices]:
    notices = ServiceNotices(store, Lifecycle(), ServiceNotice())
    await notices.begin()
    watching = asyncio.ensure_future(notices.watch())
    yield notices
    watching.cancel()
    await asyncio.wait([watching])


@contextlib.asynccontextmanager
async def two(lent_url: str, clock: MsClock) -> AsyncIterator[tuple[Replica, ServiceNotices, ServiceNotices]]:
    """A replica, what it goes by, and what another does."""
    async with (
        replica_at(lent_url, clock) as one,
        replica_at(lent_url, clock) as other,
        watched(one.store) as own,
        watched(other.store) as others,
    ):
        yield one, own, others


@pytest.mark.engines
async def test_what_one_server_switches_all_go_by(lent_url: str, clock: MsClock) -> None:
    async with two(lent_url, clock) as (one, own, others):
        await one.store.write(SwitchMaintenance(is_on=True))
        assert own._lifecycle.is_in_maintenance
        await eventually(lambda: others._lifecycle.is_in_maintenance)
        await one.store.write(TellIncident("A disk is full."))
        await eventually(lambda: others.incident == "A disk is full.")
        assert list(others.history) == list(own.history)
        await one.store.write(SwitchMaintenance(is_on=False))
        await one.store.write(TellIncident(None))
        await eventually(lambda: others.incident is None)
        assert not others._lifecycle.is_in_maintenance


@pytest.mark.engines
async def test_who_did_not_hear_of_it_reads_it_once_he_hears_again(lent_url: str, clock: MsClock) -> None:
    async with two(lent_url, clock) as (_, __, others):
        with Outside(lent_url) as outside:
            outside.run("UPDATE service_notice SET is_in_maintenance = TRUE")
            outside.rows(
                "SELECT pg_terminate_backend(pid) FROM pg_stat_activity "
                "WHERE application_name = 'mcp-gateway, listening' AND datname = current_database()"
            )
        await eventually(lambda: others._lifecycle.is_in_maintenance)


async def test_what_is_switched_here_while_it_is_read_stands(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    async with watched(store) as notices:
        to_switch, kept = [SwitchMaintenance(is_on=True)], store.read

        async def read_before(read: Read[Any]) -> Any:
            found = await kept(read)
            if to_switch and isinstance(read, NoticeKept):
                await store.write(to_switch.pop())
            return found

        monkeypatch.setattr(store, "read", read_before)
        taken: list[bool] = []
        monkeypatch.setattr(notices, "_take", lambda switched: taken.append(switched.is_in_maintenance))
        notices._is_stale.set()
        await eventually(lambda: len(taken) == 2)
        assert taken == [True, True]


async def test_what_cannot_be_read_is_read_later(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("mcp_gateway.core.service_notice._REST_S", 0)
    async with watched(store) as notices:
        faults, kept = [DatabaseError("away"), DatabaseError("away")], store.read

        async def read_if_there(read: Read[Any]) -> Any:
            if faults:
                raise faults.pop()
            return await kept(read)

        monkeypatch.setattr(store, "read", read_if_there)
        taken: list[ServiceNotice] = []
        monkeypatch.setattr(notices, "_take", taken.append)
        with lines_logged(logging.ERROR) as lines:
            notices._is_stale.set()
            await eventually(lambda: taken == [ServiceNotice()])
        assert lines == ["what was switched elsewhere could not be read: away"] * 2
