"""Limits that replicas share: the same as those of one process, whatever becomes of Valkey meanwhile."""

import asyncio
import logging
import re
import weakref
from collections.abc import Awaitable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mcp_gateway.core.caller import GUEST, GUEST_ACCOUNT_ID, Allowance, Caller, Quota, Validity
from mcp_gateway.core.errors import GatewayError
from mcp_gateway.core.limits.limiter import Limiter, Turn, counted
from mcp_gateway.core.limits.shared import LEASE_S, SharedLimiter
from mcp_gateway.core.valkey.link import Command
from tests.engines.attempts import caller
from tests.engines.replicas import Replica, replica
from tests.logged import lines_logged
from tests.serving import Clock
from tests.valkey_server import ValkeyServer

pytestmark = pytest.mark.engines
Outcome = tuple[str, Any]


def guest(address: str) -> Caller:
    own = Quota("address", f"guest:{address}", Allowance(2, None, 50, 2, 3))
    return Caller(GUEST_ACCOUNT_ID, GUEST, (own, Quota("guests", "guests", Allowance(None, None, None, 3))))


CALLERS = [
    caller("key_1", {"rpm": 3, "rpd": 5, "tpm": 100, "places": 2}, {"rpm": 4, "places": 3, "listings": 2}),
    caller("key_2", {}, {"tpm": 60, "rpd": 4}),
    guest("192.0.2.1"),
    guest("192.0.2.2"),
]
STEPS = st.lists(
    st.one_of(
        st.tuples(st.just("admit"), st.integers(0, 3)),
        st.tuples(st.just("list"), st.integers(0, 3)),
        st.tuples(st.just("reserve"), st.integers(0, 5), st.integers(1, 110)),
        st.tuples(st.just("retry"), st.integers(0, 5), st.integers(1, 110)),
        st.tuples(st.just("end"), st.integers(0, 5), st.integers(0, 110)),
        st.tuples(st.just("pass"), st.sampled_from([1, 20, 60, 3600, 43_200])),
    ),
    max_size=30,
)


class Tried:
    """A limiter, and the turns that it gave."""

    def __init__(self, limiter: Limiter) -> None:
        self.limiter = limiter
        self.turns: list[Turn] = []

    async def does(self, step: tuple[Any, ...]) -> Outcome:
        """What a caller is told of it, and has left then."""
        name, *arguments = step
        try:
            return "done", await getattr(self, f"_{name}")(*arguments)
        except GatewayError as error:
            return "refused", error.as_object() | {"retry_after_s": error.retry_after_s}

    async def _admit(self, number: int) -> object:
        who = CALLERS[number]
        limiter = self.limiter
        self.turns.append(await limiter.admitted(who) if isinstance(limiter, SharedLimiter) else limiter.admit(who))
        return limiter.standing(who), limiter.in_flight

    async def _list(self, number: int) -> object:
        who = CALLERS[number]
        await counted(self.limiter, who)
        running = [self.limiter.running(quota) for quota in who.quotas]
        return self.limiter.standings(who), running

    async def _reserve(self, number: int, tokens: int) -> None:
        if self.turns and (pending := self.turns[number % len(self.turns)].reserve_tokens(tokens)) is not None:
            await pending

    async def _retry(self, number: int, tokens: int) -> None:
        """After an attempt that used nothing."""
        if self.turns:
            self.turns[number % len(self.turns)].true_up(0)
            await self._reserve(number, tokens)

    async def _end(self, number: int, tokens: int) -> None:
        if self.turns:
            turn = self.turns.pop(number % len(self.turns))
            turn.true_up(tokens)
            turn.release()


@given(steps=STEPS)
def test_one_replica_decides_and_tells_what_a_process_does_alone(valkey_server: ValkeyServer, steps: list[Any]) -> None:
    async def both() -> None:
        clock = Clock()
        async with replica(valkey_server.url(499), clock, lease_s=1e7) as shared:
            await shared.valkey.ask(("FLUSHDB",))
            alone, together = Tried(Limiter(clock, guest_addresses_per_minute=1000)), Tried(shared.limiter)
            for step in steps:
                if step[0] == "pass":
                    clock.now_s += step[1]
                else:
                    assert await together.does(step) == await alone.does(step), step

    asyncio.run(both())


def remaining(limiter: SharedLimiter, who: Caller) -> tuple[int | None, ...]:
    """Requests of this minute, of today, tokens of this minute."""
    standing = limiter.standing(who)
    return standing.minute_remaining, standing.day_remaining, standing.tokens_remaining


async def refusal(asked: Awaitable[object]) -> GatewayError:
    with pytest.raises(GatewayError) as raised:
        await asked
    return raised.value


async def test_a_caller_is_told_what_all_replicas_have_left(valkey_url: str) -> None:
    who = caller("key_1", {"rpm": 10, "rpd": 20, "tpm": 1000, "places": 5})
    async with replica(valkey_url) as one, replica(valkey_url) as two:
        turn = await one.limiter.admitted(who)
        pending = turn.reserve_tokens(400)
        assert pending is not None
        await pending
        await two.limiter.admitted(who)
        assert remaining(two.limiter, who) == (8, 18, 600)
        await counted(one.limiter, who)
        assert remaining(one.limiter, who) == (8, 18, 600)
        assert [one.limiter.running(quota) for quota in who.quotas] == [2, 2]
        assert (one.limiter.in_flight, two.limiter.in_flight) == (1, 1)


async def test_nothing_holds_a_caller_for_whom_nothing_goes_on(valkey_url: str) -> None:
    """Else its key could not be forgotten within the minute, however many others are shown."""
    async with replica(valkey_url) as one:
        who = replace(caller("key_1", {"tpm": 100}), validity=Validity())
        held = weakref.ref(who.validity)
        turn = await one.limiter.admitted(who)
        pending = turn.reserve_tokens(40)
        assert pending is not None
        await pending
        turn.true_up(3)
        turn.release()
        await counted(one.limiter, who)
        del who, turn, pending
        await one.valkey.ask(("PING",))
        assert held() is None


async def test_what_is_used_up_is_refused_without_asking(valkey_url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    who = caller("key_1", {"rpm": 1})
    async with replica(valkey_url) as one:
        (await one.limiter.admitted(who)).release()
        asked: list[object] = []
        ask = one.valkey.ask

        def noted(command: Command) -> asyncio.Future[object]:
            asked.append(command)
            return ask(command)

        monkeypatch.setattr(one.valkey, "ask", noted)
        for _ in range(3):
            assert (await refusal(one.limiter.admitted(who))).code == "requests_per_minute"
            with pytest.raises(GatewayError):
                one.limiter.check(who)
        assert asked == []


async def test_tokens_without_a_limit_are_waited_for_by_nobody_and_counted_all_the_same(valkey_url: str) -> None:
    clock = Clock()
    async with replica(valkey_url, clock) as one, replica(valkey_url, clock) as two:
        turn = await one.limiter.admitted(caller("key_1", {}))
        assert turn.reserve_tokens(400) is None
        turn.true_up(70)
        turn.release()
        await one.valkey.ask(("PING",))
        limited = caller("key_1", {"tpm": 100})
        await counted(two.limiter, limited)
        assert remaining(two.limiter, limited) == (None, None, 30)


async def test_a_further_round_has_tokens_of_its_own_and_no_place(valkey_url: str) -> None:
    who = caller("key_1", {"tpm": 100, "places": 1})
    async with replica(valkey_url) as one:
        first = await one.limiter.admitted(who)
        again = first.again()
        for turn, tokens in ((first, 30), (again, 50)):
            pending = turn.reserve_tokens(tokens)
            assert pending is not None
            await pending
        again.true_up(10)
        again.release()
        assert (await refusal(one.limiter.admitted(who))).code == "in_flight"
        first.release()
        first.release()
        await counted(one.limiter, who)
        assert remaining(one.limiter, who) == (None, None, 60)
        assert one.limiter.in_flight == 0


async def test_who_leaves_while_it_waits_for_its_admission_has_no_place(own_valkey: ValkeyServer) -> None:
    who = caller("key_1", {"places": 1, "tpm": 100})
    async with replica(own_valkey.url()) as one:
        own_valkey.freeze()
        leaving = asyncio.ensure_future(one.limiter.admitted(who))
        await asyncio.sleep(0)
        leaving.cancel()
        own_valkey.thaw()
        assert (await asyncio.gather(leaving, return_exceptions=True))[0].__class__ is asyncio.CancelledError
        turn = await one.limiter.admitted(who)
        own_valkey.freeze()
        pending = turn.reserve_tokens(100)
        assert pending is not None
        reserving = asyncio.ensure_future(pending)
        await asyncio.sleep(0)
        reserving.cancel()
        own_valkey.thaw()
        await asyncio.gather(reserving, return_exceptions=True)
        again = turn.reserve_tokens(100)
        assert again is not None
        await again


async def test_a_long_answer_keeps_its_place(valkey_url: str) -> None:
    clock, who = Clock(), caller("key_1", {"places": 1})
    async with replica(valkey_url, clock) as one, replica(valkey_url, clock) as two:
        turn = await one.limiter.admitted(who)
        for _ in range(5):
            clock.now_s += LEASE_S - 1
            await one.limiter.renew()
            assert (await refusal(two.limiter.admitted(who))).code == "in_flight"
        turn.release()
        await one.valkey.ask(("PING",))
        (await two.limiter.admitted(who)).release()


async def test_places_of_the_dead_refuse_nobody_once_their_leases_are_over(valkey_url: str) -> None:
    clock, who = Clock(), caller("key_1", {"places": 1})
    async with replica(valkey_url, clock) as one, replica(valkey_url, clock) as two:
        await one.limiter.admitted(who)
        clock.now_s += LEASE_S + 1
        (await two.limiter.admitted(who)).release()


async def test_places_of_the_dead_are_told_of_until_the_next_minute(valkey_url: str) -> None:
    clock, who = Clock(), caller("key_1", {})
    async with replica(valkey_url, clock) as one, replica(valkey_url, clock) as two:
        await one.limiter.admitted(who)
        clock.now_s += 50
        await two.limiter.admitted(who)
        assert two.limiter.running(who.quotas[0]) == 2
        clock.now_s += 10
        await counted(two.limiter, who)
        assert two.limiter.running(who.quotas[0]) == 1


async def test_places_are_kept_a_minute_longer_than_a_lease(valkey_url: str) -> None:
    """Since for how long is said with the first of a minute, of whatever kind, and not with each."""
    clock, who, lease_s = Clock(), caller("key_1", {"tpm": 1000}), 1000

    async def begin(one: Replica) -> None:
        await one.limiter.admitted(who)

    async def count(one: Replica) -> None:
        await counted(one.limiter, who)

    async def end(one: Replica) -> None:
        turn.true_up(100)
        turn.release()

    async def renew(one: Replica) -> None:
        await one.limiter.renew()

    async with replica(valkey_url, clock, lease_s=lease_s) as one:
        turn = await one.limiter.admitted(who)
        for does in (begin, count, end, renew):
            await one.valkey.ask(("PEXPIRE", "{limits}:l:key_1", 1000))
            clock.now_s += 60
            await does(one)
            lasts_ms = await one.valkey.ask(("PTTL", "{limits}:l:key_1"))
            assert isinstance(lasts_ms, int)
            assert lease_s < lasts_ms / 1000 <= lease_s + 60, does


async def test_tokens_count_in_the_minute_in_which_they_end(valkey_url: str) -> None:
    """By what a replica knows of the time; a minute that another has begun since is not undone."""
    clock, ahead, who = Clock(), Clock(), caller("key_1", {"tpm": 100})
    async with replica(valkey_url, clock, lease_s=1000) as one, replica(valkey_url, ahead) as two:
        first, second, third = await tried(one.limiter, who, 3)
        pending = third.reserve_tokens(50)
        assert pending is not None
        await pending
        for made in (clock, ahead):
            made.now_s += 60
        first.true_up(30)
        first.release()
        await one.valkey.ask(("PING",))
        await counted(two.limiter, who)
        assert remaining(two.limiter, who) == (None, None, 70)
        ahead.now_s += 60
        await counted(two.limiter, who)
        second.true_up(20)
        second.release()
        third.true_up(10)  # of what was reserved in a minute that is over nothing comes back
        third.release()
        await one.valkey.ask(("PING",))
        await counted(two.limiter, who)
        assert remaining(two.limiter, who) == (None, None, 80)


async def test_guests_beyond_those_who_are_counted_apart_are_counted_as_one(valkey_url: str) -> None:
    clock = Clock()
    async with replica(valkey_url, clock) as one, replica(valkey_url, clock) as two:
        one.limiter._guest_addresses_per_minute = 2  # with all guests together
        for address in ("192.0.2.1", "192.0.2.2", "192.0.2.3"):
            (await one.limiter.admitted(guest(address))).release()
        assert (await refusal(one.limiter.admitted(guest("192.0.2.4")))).code == "guest"
        (await two.limiter.admitted(guest("192.0.2.4"))).release()


async def test_a_restored_day_counts_for_all(valkey_url: str) -> None:
    clock, who = Clock(), caller("key_1", {"rpd": 5})
    async with replica(valkey_url, clock) as one, replica(valkey_url, clock) as two:
        one.limiter.restore_day({"key_1": 3})
        (await one.limiter.admitted(who)).release()
        (await two.limiter.admitted(who)).release()
        assert remaining(two.limiter, who) == (None, 0, None)
        assert two.limiter.take_admitted() == {"key_1": 5, "of key_1": 2}
        clock.now_s += 86_400
        (await two.limiter.admitted(who)).release()
        assert remaining(two.limiter, who) == (None, 4, None)


async def test_minutes_are_those_of_the_servers_clock(valkey_url: str) -> None:
    """Whatever the replicas' own clocks say."""
    who = caller("key_1", {"rpm": 100})
    async with replica(valkey_url) as one:
        limiter = SharedLimiter(one.valkey, lambda: 1.0, guest_addresses_per_minute=10)
        (await limiter.admitted(who)).release()
        told = await one.valkey.ask(("TIME",))
        assert isinstance(told, list)
        assert 0 < limiter.standing(who).minute_ends_at_s - int(told[0]) <= 61


async def test_guests_are_forgotten_after_two_minutes_and_keys_with_their_day(valkey_url: str) -> None:
    clock = Clock()
    async with replica(valkey_url, clock) as one:
        for who in (guest("192.0.2.1"), caller("key_1", {"rpm": 5})):
            (await one.limiter.admitted(who)).release()
        await one.valkey.ask(("PING",))
        assert await one.valkey.ask(("KEYS", "{limits}:l:*")) == []
        lasts_ms = [await one.valkey.ask(("PTTL", f"{{limits}}:n:{name}")) for name in ("guest:192.0.2.1", "key_1")]
        assert isinstance(lasts_ms[0], int)
        assert isinstance(lasts_ms[1], int)
        assert 0 < lasts_ms[0] <= 120_000 < lasts_ms[1] <= 12 * 3_600_000 + 60_000


# While Valkey is away


async def alone(made: Replica) -> None:
    await made.until(lambda limiter: limiter.is_alone)


async def together(made: Replica) -> None:
    """Once it is back, and knows of everything."""
    await made.until(lambda limiter: not limiter.is_alone and not limiter.owed)
    await made.valkey.ask(("PING",))


async def tried(limiter: SharedLimiter, who: Caller, times: int) -> list[Turn]:
    turns = list[Turn]()
    for _ in range(times):
        try:
            turns.append(await limiter.admitted(who))
        except GatewayError:
            continue
    return turns


async def test_each_replica_has_its_share_while_valkey_is_away(own_valkey: ValkeyServer) -> None:
    clock, who = Clock(), caller("key_1", {"rpm": 10, "rpd": 30, "tpm": 100, "places": 4, "listings": 6})
    async with replica(own_valkey.url(), clock) as one, replica(own_valkey.url(), clock) as two:
        for made in (one, two, one):
            await made.limiter.renew()
        assert (one.limiter.replicas, two.limiter.replicas) == (2, 2)
        for turn in await tried(one.limiter, who, 3):
            turn.release()
        own_valkey.kill()
        await asyncio.gather(alone(one), alone(two))
        ours = await tried(one.limiter, who, 10)
        assert len(ours) == 2  # of places; and of the five requests it has had three
        for turn in ours:
            turn.release()
        assert await tried(one.limiter, who, 10) == []
        theirs = await tried(two.limiter, who, 10)
        assert len(theirs) == 2
        assert remaining(two.limiter, who) == (3, 13, 50)
        assert two.limiter.running(who.quotas[0]) == 2
        pending = theirs[0].reserve_tokens(80)  # takes all of its share
        assert pending is not None
        await pending
        second = theirs[1].reserve_tokens(1)
        assert second is not None
        assert (await refusal(second)).code == "tokens_per_minute"
        too_many = theirs[1].reserve_tokens(101)
        assert too_many is not None
        assert (await refusal(too_many)).code == "invalid_value"
        for _ in range(3):
            await counted(two.limiter, who)
        assert (await refusal(counted(two.limiter, who))).code == "requests_per_minute"
        with pytest.raises(GatewayError):
            one.limiter.check(who)


async def test_what_was_admitted_meanwhile_counts_once_it_is_back(own_valkey: ValkeyServer) -> None:
    clock, who = Clock(), caller("key_1", {"rpm": 10, "rpd": 20, "tpm": 1000, "places": 5})
    async with replica(own_valkey.url(), clock) as one:
        before = await one.limiter.admitted(who)
        ends_without = await one.limiter.admitted(who)
        own_valkey.kill()
        await alone(one)
        ended, running = await tried(one.limiter, who, 2)
        for turn, tokens in ((ended, 100), (running, 200)):
            pending = turn.reserve_tokens(tokens)
            assert pending is not None
            await pending
        ended.true_up(50)
        ended.release()
        ends_without.release()
        assert one.limiter.owed == 3
        own_valkey.begin()  # and it has forgotten everything
        await together(one)
        async with replica(own_valkey.url(), clock) as two:
            await counted(two.limiter, who)
            assert [two.limiter.running(quota) for quota in who.quotas] == [2, 2]
            assert remaining(two.limiter, who) == (6, 16, 750)
            for turn in (before, running):
                turn.release()
            await one.valkey.ask(("PING",))
            await counted(two.limiter, who)
            assert [two.limiter.running(quota) for quota in who.quotas] == [0, 0]


async def test_what_an_outage_admitted_in_another_minute_counts_for_its_day_alone(own_valkey: ValkeyServer) -> None:
    clock, who = Clock(), caller("key_1", {"rpm": 10, "rpd": 20})
    async with replica(own_valkey.url(), clock) as one:
        own_valkey.kill()
        await alone(one)
        for turn in await tried(one.limiter, who, 3):
            turn.release()
        clock.now_s += 60
        own_valkey.begin()
        await together(one)
        (await one.limiter.admitted(who)).release()
        assert remaining(one.limiter, who) == (9, 16, None)


async def test_an_admission_whose_answer_is_lost_counts_once(own_valkey: ValkeyServer) -> None:
    clock, who = Clock(), caller("key_1", {"rpm": 10, "places": 5})
    async with replica(own_valkey.url(), clock) as one:
        link = one.valkey._link
        assert link is not None
        asked = asyncio.ensure_future(one.limiter.admitted(who))
        await asyncio.sleep(0)
        link._flush()
        assert link._transport is not None
        link._transport.pause_reading()
        async with replica(own_valkey.url(), clock) as two:  # which is answered behind it
            await counted(two.limiter, who)
            assert two.limiter.running(who.quotas[0]) == 1
            link.abort("the answer is lost")
            turn = await asked
            assert one.limiter.owed == 1
            await together(one)
            await counted(two.limiter, who)
            assert (two.limiter.running(who.quotas[0]), remaining(two.limiter, who)[0]) == (1, 9)
            turn.release()
            await one.valkey.ask(("PING",))
            await counted(two.limiter, who)
            assert two.limiter.running(who.quotas[0]) == 0


async def test_nobody_waits_longer_for_a_frozen_server_than_for_one_answer(own_valkey: ValkeyServer) -> None:
    who = caller("key_1", {"rpm": 50})
    async with replica(own_valkey.url(), answer_s=0.05) as one:
        own_valkey.freeze()
        turns = await asyncio.gather(*(one.limiter.admitted(who) for _ in range(20)))
        assert one.limiter.is_alone
        turns += await tried(one.limiter, who, 5)
        own_valkey.thaw()
        await together(one)
        await counted(one.limiter, who)
        assert remaining(one.limiter, who)[0] == 25
        for turn in turns:
            turn.release()
        await one.valkey.ask(("PING",))
        await counted(one.limiter, who)
        assert one.limiter.running(who.quotas[0]) == 0


async def test_a_server_that_refuses_a_script_is_taken_for_away(own_valkey: ValkeyServer) -> None:
    who = caller("key_1", {"rpm": 5})
    async with replica(own_valkey.url()) as one:
        await one.valkey.ask(("REPLICAOF", "127.0.0.1", "1"))
        turn = await one.limiter.admitted(who)
        turn.release()
        assert one.limiter.owed == 1
        assert not await one.valkey._connect()
        assert one.limiter.is_alone


async def test_a_user_of_valkey_needs_no_more_rights_than_the_documents_name(tmp_path: Path) -> None:
    documents = Path(__file__).parents[2] / "docs/operations.md"
    found = re.search(r"A user needs `([^`]*)`", documents.read_text())
    assert found is not None
    server = ValkeyServer(tmp_path, "--user", "gateway", "on", ">secret", *found[1].split())
    try:
        with lines_logged(logging.WARNING) as lines:
            async with replica(server.url().replace("//", "//gateway:secret@").replace("/0", "")) as one:
                assert lines == []
                who = caller("key_1", {"rpm": 5, "tpm": 100})
                turn = await one.limiter.admitted(who)
                pending = turn.reserve_tokens(50)
                assert pending is not None
                await pending
                turn.true_up(10)
                turn.release()
                await counted(one.limiter, who)
                await one.limiter.renew()
                await one.valkey.ask(("PING",))
                assert remaining(one.limiter, who) == (4, None, 90)
            assert lines == []
    finally:
        server.end()
