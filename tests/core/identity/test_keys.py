"""Keys: what is kept of them, what they resolve to, and how soon a change is noticed."""

import asyncio
import re
import sqlite3
import sys
from collections.abc import AsyncIterator, Callable
from contextlib import closing
from pathlib import Path

import pytest

from mcp_gateway.core.errors import GatewayError
from mcp_gateway.core.identity import keys as keys_module
from mcp_gateway.core.identity.accounts import Accounts
from mcp_gateway.core.identity.keys import DEFAULT, KeyLimits, KeyRing
from mcp_gateway.core.store.store import Store


def refusal(keys: KeyRing, raw: str) -> str:
    with pytest.raises(GatewayError) as caught:
        keys.resolve(raw)
    return caught.value.code


async def until(is_true: Callable[[], bool]) -> None:
    async with asyncio.timeout(10):
        while not is_true():  # noqa: ASYNC110 - the change comes from another process
            await asyncio.sleep(0.01)


@pytest.fixture
async def watching(keys: KeyRing, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[KeyRing]:
    """The ring while it watches, a hundred times a second."""
    monkeypatch.setattr(keys_module, "_WATCH_INTERVAL_S", 0.01)
    task = asyncio.ensure_future(keys.watch())
    yield keys
    assert not task.done()
    task.cancel()


async def test_a_new_key_resolves_at_once(keys: KeyRing, account: str) -> None:
    key, raw = await keys.create(account, name="laptop")
    assert keys.resolve(raw) == key
    assert (key.account_id, key.name, key.is_test) == (account, "laptop", False)


@pytest.mark.parametrize(("is_test", "prefix"), [(False, "gw_live_"), (True, "gw_test_")])
async def test_a_key_says_what_it_is_for_and_is_hard_to_guess(
    keys: KeyRing, account: str, is_test: bool, prefix: str
) -> None:
    key, raw = await keys.create(account, is_test=is_test)
    assert re.fullmatch(prefix + r"[\w-]{32,}", raw)
    assert raw.startswith(key.prefix)
    assert len(key.prefix) == 12
    assert keys.resolve(raw).is_test is is_test


async def test_the_key_itself_is_kept_nowhere(keys: KeyRing, account: str, database: Path, store: Store) -> None:
    key, raw = await keys.create(account)
    await store.close()
    kept = b"".join(path.read_bytes() for path in database.parent.iterdir())
    assert key.prefix.encode() in kept
    assert raw[len(key.prefix) :].encode() not in kept
    assert raw not in repr(keys.resolve(raw))


@pytest.mark.parametrize(
    "raw", ["", "sk-something", "gw_live_", "gw_live_" + "A" * 43, "gw_live_" + "é" * 43, "gw_live_\udcff", "x" * 10**6]
)
async def test_what_is_no_key_is_401(keys: KeyRing, account: str, raw: str) -> None:
    await keys.create(account)
    assert refusal(keys, raw) == "invalid_api_key"


async def test_a_revoked_key_is_told_so_at_once_and_stays_listed(keys: KeyRing, account: str) -> None:
    key, raw = await keys.create(account)
    other, _ = await keys.create(account)
    revoked = await keys.revoke(key.id)
    assert refusal(keys, raw) == "revoked_api_key"
    assert await keys.list(account) == sorted([revoked, other], key=lambda key: key.id)
    assert await keys.revoke(key.id) == revoked  # again: the same moment


async def test_keys_of_a_deactivated_account_are_refused_until_it_is_active_again(
    keys: KeyRing, accounts: Accounts, account: str
) -> None:
    _, raw = await keys.create(account)
    await accounts.set_active(account, is_active=False)
    await keys.reload()
    assert refusal(keys, raw) == "account_deactivated"
    await accounts.set_active(account, is_active=True)
    await keys.reload()
    assert keys.resolve(raw)


async def test_limits_are_a_number_none_or_the_default(keys: KeyRing, account: str) -> None:
    limits = KeyLimits(requests_per_minute=7, requests_per_day=None)
    key, raw = await keys.create(account, limits=limits)
    assert key.limits == limits
    assert keys.resolve(raw).limits == limits
    assert (await keys.get(key.id)).limits.in_flight is DEFAULT


async def test_a_change_touches_only_what_it_names(keys: KeyRing, account: str) -> None:
    key, raw = await keys.create(account, name="old", limits=KeyLimits(in_flight=3))
    renamed = await keys.change(key.id, name="new")
    assert (renamed.name, renamed.limits) == ("new", KeyLimits(in_flight=3))
    limited = await keys.change(key.id, limits=KeyLimits(in_flight=2))
    assert keys.resolve(raw) == limited
    assert (limited.name, limited.limits) == ("new", KeyLimits(in_flight=2))


async def test_an_account_has_only_so_many_live_keys_even_if_asked_at_once(keys: KeyRing, account: str) -> None:
    made = await asyncio.gather(*(keys.create(account) for _ in range(8)), return_exceptions=True)
    refusals = [error.code for error in made if isinstance(error, GatewayError)]
    assert refusals == ["conflict"] * 5
    await keys.revoke((await keys.list(account))[0].id)
    await keys.create(account)


async def test_keys_are_listed_by_account(keys: KeyRing, accounts: Accounts, account: str) -> None:
    other = await accounts.create("Bob")
    mine, _ = await keys.create(account)
    his, _ = await keys.create(other.id)
    assert await keys.list(account) == [mine]
    assert {key.id for key in await keys.list()} == {mine.id, his.id}


async def test_unknown_accounts_and_keys_are_not_found(keys: KeyRing) -> None:
    for asked in (
        keys.create("acc_none"),
        keys.get("key_none"),
        keys.revoke("key_none"),
        keys.change("key_none", name="x"),
    ):
        with pytest.raises(GatewayError) as caught:
            await asked
        assert caught.value.code == "not_found"


async def test_a_listener_hears_of_each_key_that_stops_being_valid_once(
    keys: KeyRing, accounts: Accounts, account: str
) -> None:
    heard: list[str] = []
    keys.on_close(heard.append)
    first, second = [(await keys.create(account))[0] for _ in range(2)]
    await keys.change(first.id, name="still valid")
    assert heard == []
    await keys.revoke(first.id)
    assert heard == [first.id]
    await accounts.set_active(account, is_active=False)
    await keys.reload()
    assert heard == [first.id, second.id]


REVOKE_AND_CREATE = """
import asyncio, pathlib, sys
from mcp_gateway.core.identity.keys import KeyRing
from mcp_gateway.core.ids import new_id, now_ms
from mcp_gateway.core.store.store import Store
async def main():
    store = await Store.open(pathlib.Path(sys.argv[1]))
    keys = KeyRing(store, new_id=new_id, now_ms=now_ms, max_keys_per_account=3)
    key = await keys.revoke(sys.argv[2])
    print((await keys.create(key.account_id))[1])
    await store.close()
asyncio.run(main())
"""


async def test_a_server_notices_what_another_process_changes(watching: KeyRing, account: str, database: Path) -> None:
    heard: list[str] = []
    watching.on_close(heard.append)
    key, raw = await watching.create(account)
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-c", REVOKE_AND_CREATE, str(database), key.id, stdout=asyncio.subprocess.PIPE
    )
    printed, _ = await process.communicate()
    new_raw = printed.decode().strip()
    await until(lambda: heard == [key.id])
    assert refusal(watching, raw) == "revoked_api_key"
    await until(lambda: _is_known(watching, new_raw))


async def test_the_ring_keeps_what_it_knows_while_the_database_cannot_be_read_and_watches_on(
    watching: KeyRing, account: str, database: Path, caplog: pytest.LogCaptureFixture
) -> None:
    key, raw = await watching.create(account)
    with closing(sqlite3.connect(database, isolation_level=None)) as other:
        other.execute("ALTER TABLE identity_epoch RENAME TO away")
        await until(lambda: "could not be read" in caplog.text)
        assert watching.resolve(raw) == key
        other.execute("ALTER TABLE away RENAME TO identity_epoch")
        other.execute("UPDATE keys SET revoked_at_ms = 1")
        other.execute("UPDATE identity_epoch SET value = value + 1")
    await until(lambda: not _is_known(watching, raw))


def _is_known(keys: KeyRing, raw: str) -> bool:
    try:
        keys.resolve(raw)
    except GatewayError:
        return False
    return True
