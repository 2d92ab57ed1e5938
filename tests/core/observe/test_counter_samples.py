"""Samples of what backends counted: what is kept of them, for how long, and what they are reconciled with."""

import contextlib
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from mcp_gateway.core.errors import GatewayError
from mcp_gateway.core.ids import first_id_at
from mcp_gateway.core.observe.counter_samples import CounterSample, CounterSamples, NoteSamples, SamplesBetween
from mcp_gateway.core.observe.differences import Comparison
from mcp_gateway.core.observe.reconciliation import Reconciler, Uncompared
from mcp_gateway.core.observe.records import NoteMissingUsage
from mcp_gateway.core.observe.uses import NONE, Tokens
from mcp_gateway.core.store.sqlite.store import Store
from mcp_gateway.core.token_counters import TokenCounters
from tests.clocks import MsClock
from tests.databases import changing, locked, migrated, open_store
from tests.recorded import recorded, write_records

HOUR_MS = 3_600_000
DAY_MS = 24 * HOUR_MS
NOON_MS = MsClock().now_ms + DAY_MS // 2


@contextlib.asynccontextmanager
async def opened(folder: Path) -> AsyncIterator[Store]:
    """With an account beside the guests'."""
    store = await open_store(migrated(folder / "gateway.sqlite3"))
    await store.write(changing("INSERT INTO accounts (id, name, created_at_ms) VALUES ('acc_1', 'x', 0)"))
    try:
        yield store
    finally:
        await store.close()


async def kept(store: Store) -> list[CounterSample]:
    return await store.read(SamplesBetween(0, 2**48))


def counted(prompt: int, **told: Any) -> dict[str, TokenCounters]:
    return {"tiny": TokenCounters(prompt, 5, **told)}


async def test_a_sample_is_kept_as_it_was_read_with_the_time_that_it_took(tmp_path: Path) -> None:
    async with opened(tmp_path) as store:
        samples = CounterSamples(store, lambda: NOON_MS, kept_days=400)
        told = TokenCounters(10, 5, 3, 2, 1, NOON_MS - 7)
        written = samples.note(
            "vllm-1", {"a": told, "b": TokenCounters(1, 0)}, took_s=0.0125, ours=3, others=4, failed_requests=6
        )
        assert written is not None
        await written
        assert await kept(store) == [
            CounterSample(NOON_MS, NOON_MS - 13, "vllm-1", "a", NOON_MS, told, 3, 4, 6),
            CounterSample(NOON_MS, NOON_MS - 13, "vllm-1", "b", NOON_MS, TokenCounters(1, 0), 3, 4, 6),
        ]
        assert samples.note("vllm-1", {}, took_s=0.0, ours=0, others=0, failed_requests=0) is None


async def test_a_sample_that_cannot_be_kept_is_missing_and_nothing_else(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    store = await open_store(migrated(tmp_path / "gateway.sqlite3"), busy_timeout_s=0)
    samples = CounterSamples(store, lambda: NOON_MS, kept_days=400)
    with caplog.at_level("INFO"):
        async with locked(tmp_path / "gateway.sqlite3"):
            written = samples.note("vllm-1", counted(1), took_s=0.0, ours=0, others=0, failed_requests=0)
            assert written is not None
            with pytest.raises(GatewayError, match="ledger_unavailable"):
                await written
        assert "what a backend has counted could not be kept" in caplog.text
    assert await kept(store) == []
    await store.close()


async def test_of_samples_older_than_a_day_the_last_of_each_hour_stays_and_all_go_in_the_end(tmp_path: Path) -> None:
    async with opened(tmp_path) as store:
        clock = MsClock()
        samples = CounterSamples(store, clock, kept_days=3)
        for number in range(4 * 24 * 4):  # every quarter of an hour for four days
            samples.note("vllm-1", counted(number), took_s=0.0, ours=0, others=0, failed_requests=0)
            clock.now_ms += HOUR_MS // 4
        await store.flushed()
        ages_ms = [clock.now_ms - sample.at_ms for sample in await kept(store)]
        assert max(ages_ms) <= 3 * DAY_MS + HOUR_MS
        young = [age_ms for age_ms in ages_ms if age_ms <= DAY_MS]
        assert len(young) == 24 * 4
        old = [sample.at_ms for sample in await kept(store) if clock.now_ms - sample.at_ms > DAY_MS + HOUR_MS]
        assert len({at_ms // HOUR_MS for at_ms in old}) == len(old) >= 47
        assert {at_ms % HOUR_MS for at_ms in old} == {HOUR_MS // 4 * 3}


async def test_what_was_read_before_a_restart_is_kept_beside_what_was_read_after_it_in_the_same_hour(
    tmp_path: Path,
) -> None:
    async with opened(tmp_path) as store:
        clock = MsClock()
        for began_at_ms in (1, 1, 2):  # the gateway starts again, then that and the backend
            samples = CounterSamples(store, clock, kept_days=3)
            for _ in range(2):
                samples.note(
                    "vllm-1", counted(1, began_at_ms=began_at_ms), took_s=0.0, ours=0, others=0, failed_requests=0
                )
                clock.now_ms += 60_000
        clock.now_ms += 2 * DAY_MS
        CounterSamples(store, clock, kept_days=3).note(
            "vllm-1", counted(9), took_s=0.0, ours=0, others=0, failed_requests=0
        )
        await store.flushed()
        assert len(await kept(store)) == 3 + 1


def sample(
    minute: int, backend: str = "vllm-1", model: str = "tiny", prompt: int = 0, completion: int = 0
) -> CounterSample:
    at_ms = NOON_MS + minute * 60_000
    return CounterSample(at_ms, at_ms - 5, backend, model, 0, TokenCounters(prompt, completion), 0, 0, 0)


async def reconciled(store: Store, *samples: CounterSample) -> tuple[list[Comparison], tuple[Uncompared, ...]]:
    await store.write(NoteSamples(samples))
    names = {"public/a": "a", "public/b": "b", "other/a": "a"}
    found = await Reconciler(store, HOUR_MS).reconcile(NOON_MS - DAY_MS, NOON_MS + DAY_MS, names)
    return list(found.comparisons), found.uncompared


async def test_requests_of_all_accounts_are_found_by_whatever_hour_they_began_in(tmp_path: Path) -> None:
    async with opened(tmp_path) as store:
        at = [NOON_MS + minute * 60_000 for minute in (1, 59, 61, 130, 239)]
        accounts = ("acc_guest", "acc_1", "acc_guest", "acc_1", "acc_1")
        with_accounts = [recorded(ms, account_id=account) for ms, account in zip(at, accounts, strict=True)]
        early = recorded(NOON_MS + 30_000)._replace(
            id=first_id_at("req", NOON_MS - 40 * 60_000) + "0" * 20
        )  # it waited
        await write_records(store, *with_accounts, early, recorded(NOON_MS - 60_000), recorded(NOON_MS + 241 * 60_000))
        comparisons, rest = await reconciled(store, sample(0), sample(240, prompt=60, completion=24))
        (one,) = comparisons
        assert (one.requests, one.difference, one.unexplained, rest) == (6, NONE, NONE, ())


async def test_several_models_of_a_server_are_told_apart_by_the_names_of_the_settings(tmp_path: Path) -> None:
    async with opened(tmp_path) as store:
        names = ("public/a", "other/a", "public/b", "b", "nobody/knows", None)
        await write_records(store, *(recorded(NOON_MS + 60_000, model=name) for name in names))
        await write_records(
            store, recorded(NOON_MS + 60_000, backend="vllm-9"), recorded(NOON_MS + 60_000, backend="demo")
        )
        comparisons, rest = await reconciled(
            store, sample(0, model="a"), sample(0, model="b"), sample(9, model="a", prompt=20, completion=8),
            sample(9, model="b", prompt=20, completion=8), sample(9, backend="vllm-9"),
        )  # fmt: skip
        assert [(one.model, one.models, one.requests, one.difference) for one in comparisons] == [
            ("a", ("other/a", "public/a"), 2, NONE), ("b", ("b", "public/b"), 2, NONE),
        ]  # fmt: skip
        assert rest == (
            Uncompared("vllm-1", None, 1, Tokens(10, 4)), Uncompared("vllm-1", "nobody/knows", 1, Tokens(10, 4)),
            Uncompared("vllm-9", "priced/tiny", 1, Tokens(10, 4)),
        )  # fmt: skip


async def test_a_server_with_one_model_counts_all_names_under_its_own(tmp_path: Path) -> None:
    """Also adapters, and names that it was given beside the first."""
    async with opened(tmp_path) as store:
        await write_records(
            store, *(recorded(NOON_MS + 60_000, model=name) for name in ("public/a", "an/adapter", None))
        )
        comparisons, rest = await reconciled(
            store, sample(0, model="its own"), sample(9, model="its own", prompt=30, completion=12)
        )
        assert ([one.difference for one in comparisons], rest) == ([NONE], ())


async def test_a_request_that_was_estimated_is_known_by_the_note_beside_its_record(tmp_path: Path) -> None:
    async with opened(tmp_path) as store:
        record = recorded(NOON_MS + 60_000)
        await write_records(store, record)
        await store.write(NoteMissingUsage("acc_1", record.id, "estimate"))
        ((one,), _) = await reconciled(store, sample(0), sample(9, prompt=11, completion=4))
        assert "estimated" in [reason.name for reason in one.reasons]
