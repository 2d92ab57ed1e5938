"""Answers are kept for 24 hours, and noted in the transaction that does what was asked."""

from pathlib import Path

import pytest

from mcp_gateway.core.errors import GatewayError
from mcp_gateway.core.idempotency import KEPT_MS, Idempotency
from mcp_gateway.core.store.sqlite.store import Store
from tests.clocks import MsClock
from tests.databases import Query
from tests.fake_stripe import bytes_of


async def answered(idempotency: Idempotency, key: str, body: bytes = b"{}") -> dict[str, int]:
    """What a request is answered: the kept answer, or a new one that counts the answers made."""
    async with idempotency.answering("acc_guest", key, "count", body) as attempt:
        if attempt.kept is not None:
            return attempt.kept.body
        answer = {"of": int(attempt.started_at_ms)}
        await idempotency.keep(attempt, 201, answer)
        return answer


async def test_an_answer_is_kept_for_24_hours_and_then_forgotten(store: Store, clock: MsClock) -> None:
    idempotency = Idempotency(store, now_ms=clock)
    first = await answered(idempotency, "k")
    clock.now_ms += KEPT_MS - 1
    assert await answered(idempotency, "k") == first
    clock.now_ms += 1
    assert await answered(idempotency, "k", b"another body") != first
    assert len(await store.read(Query("SELECT * FROM idempotent_answers"))) == 1


async def test_expired_answers_are_removed_by_whoever_comes_next(store: Store, clock: MsClock) -> None:
    idempotency = Idempotency(store, now_ms=clock)
    for number in range(3):
        await answered(idempotency, f"k{number}")
    clock.now_ms += KEPT_MS
    await answered(idempotency, "another")
    assert len(await store.read(Query("SELECT * FROM idempotent_answers"))) == 1


async def test_an_answer_outlives_the_process(store: Store, clock: MsClock) -> None:
    first = await answered(Idempotency(store, now_ms=clock), "k")
    clock.now_ms += 1
    assert await answered(Idempotency(store, now_ms=clock), "k") == first


async def test_neither_the_key_nor_the_body_is_stored(store: Store, clock: MsClock, tmp_path: Path) -> None:
    await answered(Idempotency(store, now_ms=clock), "MARK-of-the-key", b"MARK of the body")
    kept = bytes_of(tmp_path)
    assert b"acc_guest" in kept
    assert b"MARK" not in kept


async def test_an_attempt_that_comes_too_late_changes_nothing(store: Store, clock: MsClock) -> None:
    """One that was cancelled while its write was under way no longer counts as in flight."""
    slow, fast = Idempotency(store, now_ms=clock), Idempotency(store, now_ms=clock)
    async with slow.answering("acc_guest", "k", "count", b"{}") as late:
        await answered(fast, "k")
        with pytest.raises(GatewayError) as refusal:
            await slow.keep(late, 201, {"of": 2})
    assert refusal.value.code == "conflict"
    assert await answered(fast, "k") == {"of": clock.now_ms}


async def test_a_request_that_failed_is_no_longer_in_flight(store: Store, clock: MsClock) -> None:
    idempotency = Idempotency(store, now_ms=clock)
    with pytest.raises(ZeroDivisionError):
        async with idempotency.answering("acc_guest", "k", "count", b"{}"):
            raise ZeroDivisionError
    assert await answered(idempotency, "k") == {"of": clock.now_ms}
