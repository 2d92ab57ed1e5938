"""The keys that a server remembers: what they resolve to, how soon a change is noticed, and how little is kept."""

import asyncio
import sqlite3
import sys
from collections.abc import AsyncIterator, Set
from contextlib import closing
from pathlib import Path

import pytest

from mcp_gateway.core.errors import GatewayError
from mcp_gateway.core.identity import known_keys as module
from mcp_gateway.core.identity.accounts import Accounts
from mcp_gateway.core.identity.key_ring import AccountLimits, AccountLimitsOf, KeyByDigest, KeyRing
from mcp_gateway.core.identity.keys import Key, KeysPerAccount
from mcp_gateway.core.identity.known_keys import KnownKeys
from mcp_gateway.core.ids import new_id, now_ms
from mcp_gateway.core.store.sqlite.store import Store
from tests.clocks import MsClock
from tests.databases import reads_of
from tests.loop_clock import pass_time
from tests.patience import eventually


async def resolve(known: KnownKeys, raw: str) -> Key:
    return known.recall(raw) or await known.look_up(raw)


async def refusal(known: KnownKeys, raw: str) -> str:
    with pytest.raises(GatewayError) as caught:
        await resolve(known, raw)
    return caught.value.code


@pytest.fixture
async def watching(known: KnownKeys, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[KnownKeys]:
    """The memory while it watches, a hundred times a second."""
    monkeypatch.setattr(module, "_WATCH_INTERVAL_S", 0.01)
    task = asyncio.ensure_future(known.watch())
    yield known
    assert not task.done()
    task.cancel()


@pytest.fixture
def heard(known: KnownKeys) -> list[tuple[str, str]]:
    """The keys that stopped being valid, each with the code of its refusals."""
    heard: list[tuple[str, str]] = []
    known.on_close(lambda key_id, error: heard.append((key_id, error.code)))
    return heard


async def test_a_key_is_read_when_it_is_first_shown_and_remembered_then(
    known: KnownKeys, keys: KeyRing, account: str
) -> None:
    key, raw = await keys.create(account)
    assert known.recall(raw) is None
    assert await known.look_up(raw) == key
    assert known.recall(raw) == key


@pytest.mark.parametrize(
    "raw", ["", "sk-something", "gw_live_", "gw_live_" + "A" * 43, "gw_live_" + "é" * 43, "gw_live_\udcff", "x" * 10**6]
)
async def test_what_is_no_key_is_401(known: KnownKeys, keys: KeyRing, account: str, raw: str) -> None:
    await keys.create(account)
    for _ in range(2):
        assert await refusal(known, raw) == "invalid_api_key"


async def test_a_revoked_key_leaves_memory_and_is_told_so_at_once(
    known: KnownKeys, keys: KeyRing, account: str
) -> None:
    key, raw = await keys.create(account)
    await known.look_up(raw)
    await keys.revoke(key.id)
    assert len(known) == 0
    for _ in range(2):
        assert await refusal(known, raw) == "revoked_api_key"


async def test_a_refused_key_is_asked_of_the_database_once(
    known: KnownKeys, keys: KeyRing, account: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    key, raw = await keys.create(account)
    await keys.revoke(key.id)
    read: list[bytes] = []
    find = keys.find

    async def counted(digest: bytes) -> Key | None:
        read.append(digest)
        return await find(digest)

    monkeypatch.setattr(keys, "find", counted)
    for _ in range(5):
        assert await refusal(known, raw) == "revoked_api_key"
    assert len(read) == 1
    for _ in range(5):
        assert await refusal(known, "no key at all") == "invalid_api_key"
    assert len(read) == 1


async def test_of_refused_credentials_only_so_many_are_remembered(
    known: KnownKeys, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "_MAX_REFUSED", 3)
    for number in range(10):
        assert await refusal(known, f"gw_live_{number:043}") == "invalid_api_key"
    assert len(known._refused) == 3
    assert known.recall(f"gw_live_{0:043}") is None
    with pytest.raises(GatewayError):
        known.recall(f"gw_live_{9:043}")


async def test_keys_of_a_deactivated_account_are_refused_until_it_is_active_again(
    known: KnownKeys, keys: KeyRing, accounts: Accounts, account: str
) -> None:
    _, raw = await keys.create(account)
    await known.look_up(raw)
    await accounts.change(account, is_active=False)
    await known.catch_up()
    assert await refusal(known, raw) == "account_deactivated"
    await accounts.change(account, is_active=True)
    await known.catch_up()
    assert await resolve(known, raw)


async def test_a_changed_key_is_known_as_it_is_now(known: KnownKeys, keys: KeyRing, account: str) -> None:
    key, raw = await keys.create(account)
    await known.look_up(raw)
    limited = await keys.change(key.id, limits={"in_flight": 2})
    assert known.recall(raw) == limited


async def test_a_listener_hears_of_each_key_that_stops_being_valid_once(
    known: KnownKeys, keys: KeyRing, accounts: Accounts, account: str, heard: list[tuple[str, str]]
) -> None:
    (first, first_raw), (second, second_raw), (unseen, _) = [await keys.create(account) for _ in range(3)]
    await known.look_up(first_raw)
    await known.look_up(second_raw)
    await keys.change(first.id, name="still valid")
    await keys.revoke(unseen.id)
    assert heard == []
    await keys.revoke(first.id)
    await keys.revoke(first.id)
    assert heard == [(first.id, "revoked_api_key")]
    await accounts.change(account, is_active=False)
    await known.catch_up()
    assert heard[1:] == [(second.id, "account_deactivated")]


async def test_the_limits_of_an_account_are_read_once_for_all_of_its_minted_keys(
    known: KnownKeys, keys: KeyRing, accounts: Accounts, account: str, store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    maker, raw_of_maker = await keys.create(account)
    minted = [await keys.create(account, made_by=maker.id, has_budget=True) for _ in range(3)]
    asked = reads_of(store, monkeypatch)

    def reads() -> int:
        return sum(isinstance(one, AccountLimitsOf) for one in asked)

    for _, raw in minted:
        await known.look_up(raw)
    assert reads() == 1
    limits = known.account_limits(account)
    await known.look_up(raw_of_maker)  # which may use more than those that are known
    assert reads() == 2
    await accounts.change(account, limits={"in_flight": 3})
    await known.catch_up()
    assert (reads(), known.account_limits(account).own.in_flight) == (3, 3)
    assert known.account_limits(account) != limits


async def test_a_change_reads_the_keys_that_it_touches_and_no_others(
    known: KnownKeys, keys: KeyRing, account: str, store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    made = [await keys.create(account) for _ in range(3)]
    for _, raw in made:
        await known.look_up(raw)
    asked = reads_of(store, monkeypatch)
    await keys.revoke(made[1][0].id)
    assert len([one for one in asked if isinstance(one, KeyByDigest)]) == 1
    assert {one.lane for one in asked} == {"point"}


async def test_a_burst_that_shows_a_key_for_the_first_time_reads_it_once(
    known: KnownKeys, keys: KeyRing, account: str, store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    key, raw = await keys.create(account)
    asked = reads_of(store, monkeypatch)
    assert await asyncio.gather(*(known.look_up(raw) for _ in range(100))) == [key] * 100
    assert [type(one) for one in asked] == [KeyByDigest, AccountLimitsOf]


async def test_a_key_that_is_closed_as_its_look_up_ends_is_refused_to_all_who_waited(
    known: KnownKeys, keys: KeyRing, account: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    key, raw = await keys.create(account)
    remember = known._remember

    def and_close(digest: bytes, remembered: Key) -> None:
        remember(digest, remembered)
        asyncio.get_running_loop().call_soon(known._close, digest, key, "revoked_api_key")

    monkeypatch.setattr(known, "_remember", and_close)
    found = await asyncio.gather(*(known.look_up(raw) for _ in range(3)), return_exceptions=True)
    assert [one.code if isinstance(one, GatewayError) else one for one in found] == ["revoked_api_key"] * 3


async def test_a_key_that_is_revoked_while_it_is_looked_up_is_not_remembered(
    known: KnownKeys, keys: KeyRing, account: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    key, raw = await keys.create(account)
    find = keys.find
    is_read, is_revoked = asyncio.Event(), asyncio.Event()

    async def slow(digest: bytes) -> Key | None:
        found = await find(digest)
        is_read.set()
        await is_revoked.wait()
        return found

    monkeypatch.setattr(keys, "find", slow)
    looking_up = asyncio.ensure_future(known.look_up(raw))
    await is_read.wait()
    monkeypatch.setattr(keys, "find", find)
    await keys.revoke(key.id)
    is_revoked.set()
    with pytest.raises(GatewayError, match="revoked_api_key"):
        await looking_up
    assert len(known) == 0


async def test_an_expired_key_is_refused_to_the_millisecond_and_leaves_memory(
    known: KnownKeys, keys: KeyRing, account: str, clock: MsClock, heard: list[tuple[str, str]]
) -> None:
    key, raw = await keys.create(account, expires_at_ms=clock.now_ms + 10)
    await known.look_up(raw)
    clock.now_ms += 9
    assert known.recall(raw) == key
    clock.now_ms += 1
    for _ in range(2):
        assert await refusal(known, raw) == "expired_api_key"
    assert len(known) == 0
    assert heard == [(key.id, "expired_api_key")]


async def test_keys_that_expire_unasked_are_closed_each_at_its_time(
    known: KnownKeys, keys: KeyRing, account: str, clock: MsClock, heard: list[tuple[str, str]]
) -> None:
    made = [await keys.create(account, expires_at_ms=clock.now_ms + after_ms) for after_ms in (20, 10, 30)]
    for _, raw in made:
        await known.look_up(raw)
    await keys.change(made[2][0].id, name="looked at again")
    for after_ms, count in ((9, 0), (10, 1), (20, 2), (29, 2), (30, 3), (99, 3)):
        clock.now_ms = made[0][0].created_at_ms + after_ms
        known.end_expired()
        assert len(heard) == count
    assert [key_id for key_id, _ in heard] == [made[place][0].id for place in (1, 0, 2)]
    assert len(known) == 0


async def test_a_key_that_has_expired_before_it_is_shown_is_told_so(
    known: KnownKeys, keys: KeyRing, account: str, clock: MsClock
) -> None:
    _, raw = await keys.create(account, expires_at_ms=clock.now_ms + 10)
    clock.now_ms += 10
    assert await refusal(known, raw) == "expired_api_key"


# How many are known


@pytest.fixture
def few(monkeypatch: pytest.MonkeyPatch) -> int:
    """The most keys that are known, of which two are looked at for another to go."""
    monkeypatch.setattr(module, "_MOST_KNOWN", 3)
    monkeypatch.setattr(module, "_LOOKED_AT", 2)
    return 3


async def shown_keys(known: KnownKeys, keys: KeyRing, accounts: Accounts, number: int) -> list[tuple[Key, str]]:
    """Keys of as many accounts, each shown once."""
    made = [await keys.create((await accounts.create("Ann")).id) for _ in range(number)]
    for _, raw in made:
        await known.look_up(raw)
    return made


def kept(known: KnownKeys) -> list[int]:
    others = (known._digests, known._of_account, known._account_limits, known._made)
    return [len(known), *(len(one) for one in others)]


async def test_only_so_many_keys_are_known_and_others_are_read_again(
    known: KnownKeys, keys: KeyRing, accounts: Accounts, few: int, heard: list[tuple[str, str]]
) -> None:
    made = await shown_keys(known, keys, accounts, 10)
    assert kept(known) == [few, few, few, few, 0]
    assert known.recall(made[9][1]) == made[9][0]
    assert known.recall(made[0][1]) is None
    await keys.change(made[0][0].id, name="while it is forgotten")
    assert (await known.look_up(made[0][1])).name == "while it is forgotten"
    for key, raw in made:
        await keys.revoke(key.id)
        assert await refusal(known, raw) == "revoked_api_key"
    assert kept(known) == [0] * 5
    assert len(heard) == few


async def test_keys_that_others_made_go_from_all_lists(
    known: KnownKeys, keys: KeyRing, accounts: Accounts, account: str, few: int
) -> None:
    maker, raw = await keys.create(account)
    _, raw_of_made = await keys.create(account, made_by=maker.id)
    await known.look_up(raw)
    await known.look_up(raw_of_made)
    assert kept(known) == [2, 2, 1, 1, 1]
    await shown_keys(known, keys, accounts, 8)
    assert kept(known) == [few, few, few, few, 0]


async def test_of_those_that_are_looked_at_the_one_goes_that_was_used_longest_ago(
    known: KnownKeys, keys: KeyRing, accounts: Accounts, few: int
) -> None:
    uses: dict[str, int] = {}
    known.go_by(lambda key_id: uses.get(key_id, -1))
    (used, raw), *_ = await shown_keys(known, keys, accounts, few)
    uses[used.id] = 5
    for _ in range(5):
        await shown_keys(known, keys, accounts, 1)
        assert known.recall(raw) == used
    uses[used.id] = -2
    await shown_keys(known, keys, accounts, few)
    assert known.recall(raw) is None
    assert len(known) == few


async def test_a_key_stays_known_while_something_goes_on_for_it_and_hears_of_its_end(
    known: KnownKeys, keys: KeyRing, accounts: Accounts, few: int, heard: list[tuple[str, str]]
) -> None:
    held = set[str]()
    known.on_let_go(lambda key: key.id not in held)
    made = await shown_keys(known, keys, accounts, few)
    held.update(key.id for key, _ in made)
    await shown_keys(known, keys, accounts, 6)
    assert all(known.recall(raw) == key for key, raw in made)
    assert few < len(known) <= few + 2  # the one that was shown last is, too, and whichever were not looked at
    await keys.revoke(made[0][0].id)
    assert heard == [(made[0][0].id, "revoked_api_key")]
    held.clear()
    await shown_keys(known, keys, accounts, 4)
    assert len(known) == few


async def test_of_accounts_that_only_people_ask_for_so_many_are_known(
    known: KnownKeys, keys: KeyRing, accounts: Accounts, few: int
) -> None:
    of_key, _ = (await shown_keys(known, keys, accounts, 1))[0]
    for _ in range(20):
        account_id = (await accounts.create("Bob")).id
        await known.learn(account_id)
        assert known.has_learned(account_id)
    assert few <= len(known._account_limits) <= 2 * few
    assert known.has_learned(of_key.account_id)


async def test_limits_that_are_read_while_their_account_is_forgotten_stay_so(
    known: KnownKeys, keys: KeyRing, accounts: Accounts, few: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    (key, _), *_ = await shown_keys(known, keys, accounts, 1)
    read = keys.account_limits

    async def slow(account_id: str) -> AccountLimits:
        if account_id == key.account_id:
            await shown_keys(known, keys, accounts, 2 * few)
        return await read(account_id)

    await accounts.change(key.account_id, limits={"in_flight": 3})
    monkeypatch.setattr(keys, "account_limits", slow)
    await known.catch_up()
    assert not known.has_learned(key.account_id)


REVOKE_AND_CREATE = """
import asyncio, pathlib, sys
from mcp_gateway.core.identity.key_ring import KeyByDigest, KeyRing
from mcp_gateway.core.identity.keys import KeysPerAccount
from mcp_gateway.core.ids import new_id, now_ms
from mcp_gateway.core.ids import now_ms
from mcp_gateway.core.store.sqlite.executors import EXECUTORS
from mcp_gateway.core.ids import new_id, now_ms
from mcp_gateway.core.store.sqlite.store import Store
async def main():
    store = await Store.open(pathlib.Path(sys.argv[1]), EXECUTORS, now_ms=now_ms)
    keys = KeyRing(store, new_id=new_id, now_ms=now_ms, most=KeysPerAccount(3, 20))
    key = await keys.revoke(sys.argv[2])
    print((await keys.create(key.account_id))[1])
    await store.close()
asyncio.run(main())
"""


@pytest.mark.usefixtures("of_sqlite")
@pytest.mark.program
async def test_a_server_notices_what_another_process_changes(
    watching: KnownKeys, keys: KeyRing, account: str, database: Path, heard: list[tuple[str, str]]
) -> None:
    key, raw = await keys.create(account)
    await watching.look_up(raw)
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-c", REVOKE_AND_CREATE, str(database), key.id, stdout=asyncio.subprocess.PIPE
    )
    printed, _ = await process.communicate()
    await eventually(lambda: heard == [(key.id, "revoked_api_key")])
    assert await refusal(watching, raw) == "revoked_api_key"
    assert await resolve(watching, printed.decode().strip())


async def test_where_more_has_changed_than_is_kept_all_is_looked_at_again(
    known: KnownKeys, keys: KeyRing, account: str, store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("mcp_gateway.core.identity.key_ring._CHANGES_KEPT", 1)
    (gone, raw), (stays, other), (_, last) = [await keys.create(account) for _ in range(3)]
    heard: list[Set[str]] = []

    async def hear(ids: Set[str]) -> None:
        heard.append(ids)

    known.on_change(hear)
    for one in (raw, other, last):
        await known.look_up(one)
    beside = KeyRing(store, new_id=new_id, now_ms=now_ms, most=KeysPerAccount(live=9, a_day=9))
    await beside.revoke(gone.id)
    assert await beside.forget_changes()
    await known.catch_up()
    assert await refusal(known, raw) == "revoked_api_key"
    assert known.recall(other) == stays
    assert "any session" in heard[-1]
    await known.catch_up()
    assert len(heard) == 1


@pytest.mark.usefixtures("of_sqlite")
async def test_what_is_known_stays_while_the_database_cannot_be_read_and_is_caught_up_with_then(
    watching: KnownKeys, keys: KeyRing, account: str, database: Path, caplog: pytest.LogCaptureFixture
) -> None:
    (key, raw), (_, unseen) = [await keys.create(account) for _ in range(2)]
    await watching.look_up(raw)
    with closing(sqlite3.connect(database, isolation_level=None)) as other:
        other.execute("UPDATE keys SET revoked_at_ms = 1 WHERE id = ?", (key.id,))
        other.execute("INSERT INTO identity_changes (changed_id) VALUES (?)", (key.id,))
        other.execute("ALTER TABLE keys RENAME TO away")
        await eventually(lambda: "could not be read" in caplog.text)
        assert watching.recall(raw) == key
        assert await refusal(watching, unseen) == "ledger_unavailable"
        other.execute("ALTER TABLE away RENAME TO keys")
    await eventually(lambda: not len(watching))
    assert await refusal(watching, raw) == "revoked_api_key"
    assert await resolve(watching, unseen)


@pytest.mark.usefixtures("of_sqlite")
async def test_what_could_not_be_read_for_long_is_known_no_more_until_it_can(
    watching: KnownKeys, keys: KeyRing, account: str, database: Path
) -> None:
    key, raw = await keys.create(account)
    await watching.look_up(raw)
    with closing(sqlite3.connect(database, isolation_level=None)) as other:
        other.execute("INSERT INTO identity_changes (changed_id) VALUES (?)", (key.id,))
        other.execute("ALTER TABLE keys RENAME TO away")
        await asyncio.sleep(0)
        pass_time(module._TRUSTED_S)
        await eventually(lambda: watching.recall(raw) is None)
        assert await refusal(watching, raw) == "ledger_unavailable"
        other.execute("ALTER TABLE away RENAME TO keys")
    await eventually(lambda: watching.recall(raw) == key)
