"""What bears an Idempotency-Key is answered by one of several replicas at a time, and by another once that is dead."""

import asyncio
import contextlib
from collections.abc import AsyncIterator

import pytest

from mcp_gateway.core.caller import Caller, KeyHolder
from mcp_gateway.core.errors import GatewayError
from mcp_gateway.core.idempotency import KEPT_MS, ClaimRequest, Idempotency, Repeats
from tests.clocks import MsClock
from tests.core.ledger.replicas import Replica, account_in, cut_off, make_old, replica_at
from tests.databases import Query
from tests.loop_clock import pass_time
from tests.patience import settled
from tests.postgres_server import Outside

pytestmark = pytest.mark.engines


@pytest.fixture
async def both(lent_url: str, clock: MsClock) -> AsyncIterator[tuple[Replica, Replica]]:
    async with replica_at(lent_url, clock) as one, replica_at(lent_url, clock) as two:
        yield one, two


class Asked:
    """A replica that is asked the same again and again."""

    def __init__(self, replica: Replica, clock: MsClock, caller: Caller) -> None:
        self.replica = replica
        self.once = Idempotency(replica.store, now_ms=clock, is_replica=True)
        self.repeats = Repeats(replica.store, now_ms=clock, is_replica=True)
        self.caller = caller

    @contextlib.asynccontextmanager
    async def answering(self, request_id: str) -> AsyncIterator[None]:
        async with self.repeats.answering(self.caller, "key", request_id):
            yield

    async def has_ended(self) -> None:
        """What it has claimed, as far as it is at nothing any more."""
        await self.replica.store.flushed()

    async def code_of(self, request_id: str) -> str | None:
        """With which a request is refused, if it is."""
        try:
            async with self.answering(request_id):
                pass
            await self.has_ended()
            return None
        except GatewayError as refusal:
            return refusal.code

    async def made(self, count: list[str]) -> object:
        async with self.once.answering("acc_guest", "key", "make", b"{}") as request:
            if request.kept is not None:
                return request.kept.body
            count.append(self.replica.session.name)
            await self.once.keep(request, 201, {"made": len(count)})
            return {"made": len(count)}


async def firsts(*asked: Asked) -> dict[str, str]:
    """The first requests of those that repeated them, as all of these have noted it."""
    for one in asked:
        await one.replica.store.flushed()
    return dict(await asked[0].replica.store.read(Query("SELECT id, first_id FROM request_repeats")))


@pytest.fixture
async def asked(both: tuple[Replica, Replica], clock: MsClock) -> tuple[Asked, Asked]:
    caller = Caller(await account_in(both[0].store, clock), KeyHolder("key_1"), ())
    return Asked(both[0], clock, caller), Asked(both[1], clock, caller)


async def test_while_one_answers_another_refuses_and_answers_then(asked: tuple[Asked, Asked]) -> None:
    one, two = asked
    async with one.answering("req_1"):
        with pytest.raises(GatewayError) as refusal:
            async with two.answering("req_2"):
                pass
        assert (refusal.value.code, refusal.value.retry_after_s) == ("conflict", 1)
        assert await one.code_of("req_3") == "conflict"
    await one.has_ended()
    assert await two.code_of("req_4") is None
    assert await one.code_of("req_5") is None


async def test_of_many_at_once_one_is_done_wherever_they_come_in(asked: tuple[Asked, Asked]) -> None:
    count: list[str] = []
    told = await asyncio.gather(*(asked[number % 2].made(count) for number in range(20)), return_exceptions=True)
    assert len(count) == 1
    assert {one.code if isinstance(one, GatewayError) else str(one) for one in told} == {"conflict", "{'made': 1}"}
    for one in asked:
        await one.has_ended()
        assert await one.made(count) == {"made": 1}
    assert len(count) == 1


async def test_who_asks_the_other_at_once_when_he_is_answered_is_answered_there(asked: tuple[Asked, Asked]) -> None:
    one, two = asked
    async with one.answering("req_1"):
        asks = asyncio.ensure_future(two.code_of("req_2"))
        await settled()
        await two.has_ended()  # what it has asked for was refused, as the other has not said yet that it has ended
    await one.has_ended()
    pass_time(0.1)
    assert await asks is None


async def test_the_purposes_and_the_askers_of_a_key_are_apart(asked: tuple[Asked, Asked]) -> None:
    one, two = asked
    count: list[str] = []
    async with one.answering("req_1"):
        assert await two.made(count) == {"made": 1}
        other = Caller("acc_other", KeyHolder("key_2"), ())
        async with two.repeats.answering(other, "key", "req_2"):
            pass


async def test_what_a_replica_answers_that_is_dead_another_takes_once_it_is_known_to_be(
    asked: tuple[Asked, Asked], lent_url: str
) -> None:
    one, two = asked
    dead = one.replica.id
    with Outside(lent_url) as outside:
        async with contextlib.AsyncExitStack() as answering:
            await answering.enter_async_context(one.answering("req_1"))
            async with cut_off(one.replica, outside):
                assert await two.code_of("req_2") == "conflict"  # its connection alone may have ended
                make_old(outside, dead)
                async with two.answering("req_3"):
                    await answering.aclose()
        assert await one.code_of("req_4") is None
    assert one.replica.id != dead


async def test_another_that_goes_on_with_it_is_let_do_so(asked: tuple[Asked, Asked], lent_url: str) -> None:
    """Whoever was taken for dead and comes back has no part in what another answers meanwhile."""
    one, two = asked
    with Outside(lent_url) as outside:
        async with contextlib.AsyncExitStack() as answering:
            await answering.enter_async_context(one.answering("req_1"))
            async with cut_off(one.replica, outside):
                make_old(outside, one.replica.id)
                await answering.enter_async_context(two.answering("req_2"))
            await one.replica.store.flushed()
            assert await one.code_of("req_3") == "conflict"


async def test_one_that_was_closed_is_not_waited_for(lent_url: str, clock: MsClock) -> None:
    async with replica_at(lent_url, clock) as one:
        async with replica_at(lent_url, clock) as two:
            await two.store.write(ClaimRequest(b"name", "req_1", clock()))
            await two.store.write(ClaimRequest(b"name", "req_1", clock()))  # its own are no others
            with pytest.raises(GatewayError):
                await one.store.write(ClaimRequest(b"name", "req_2", clock()))
        assert await one.store.write(ClaimRequest(b"name", "req_2", clock())) == "req_1"


async def test_the_first_is_known_to_all_for_a_day(asked: tuple[Asked, Asked], clock: MsClock) -> None:
    one, two = asked
    for number, replica in enumerate((one, two, one, two)):
        assert await replica.code_of(f"req_{number}") is None
        clock.now_ms += 1
    before = dict.fromkeys(("req_1", "req_2", "req_3"), "req_0")
    assert await firsts(one, two) == before
    clock.now_ms += KEPT_MS
    assert await two.code_of("req_4") is None
    assert await one.code_of("req_5") is None
    assert await firsts(one, two) == before | {"req_5": "req_4"}


async def test_one_that_a_limit_refuses_is_no_first(asked: tuple[Asked, Asked]) -> None:
    one, two = asked
    with pytest.raises(GatewayError):
        async with one.answering("req_1"):
            raise GatewayError("requests_per_minute", "Wait.")
    await one.has_ended()
    assert await two.code_of("req_2") is None
    with pytest.raises(GatewayError):
        async with one.answering("req_3"):
            raise GatewayError("requests_per_minute", "Wait.")
    await one.has_ended()
    assert await two.code_of("req_4") is None
    assert await firsts(one, two) == {"req_4": "req_2"}


async def test_nothing_is_left_of_what_was_not_inference(asked: tuple[Asked, Asked], clock: MsClock) -> None:
    one, two = asked
    with pytest.raises(ZeroDivisionError):
        async with one.once.answering("acc_guest", "key", "make", b"{}"):
            raise ZeroDivisionError
    await one.code_of("req_1")
    await one.has_ended()
    clock.now_ms += KEPT_MS
    assert await two.made([]) == {"made": 1}
    await two.has_ended()
    assert await one.replica.store.read(Query("SELECT * FROM claims")) == []


async def test_who_cannot_know_whether_another_answers_does_not(asked: tuple[Asked, Asked], lent_url: str) -> None:
    one, two = asked
    with Outside(lent_url) as outside:
        async with cut_off(one.replica, outside):
            assert await one.code_of("req_1") == "ledger_unavailable"
            assert await two.code_of("req_2") is None
        await one.replica.store.flushed()
        assert await two.code_of("req_3") is None


async def test_one_that_is_given_up_is_not_in_the_way(asked: tuple[Asked, Asked]) -> None:
    one, two = asked
    answering = asyncio.ensure_future(one.code_of("req_1"))
    await asyncio.sleep(0)  # it has asked for its claim, and is not told yet
    answering.cancel()
    await asyncio.wait([answering])
    await one.replica.store.flushed()
    assert await two.code_of("req_2") is None
