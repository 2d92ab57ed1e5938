"""What is kept of people, write by write: what is refused by what others have done since, and changes nothing."""

from dataclasses import replace
from typing import Any

import pytest

from mcp_gateway.core.errors import GatewayError
from mcp_gateway.core.identity.access_tokens import AllSigningKeys, MakeSigningKey, SigningKey
from mcp_gateway.core.identity.accounts import Account
from mcp_gateway.core.identity.own_limits import OwnLimits
from mcp_gateway.core.identity.people import (
    ChangePerson,
    CreatePerson,
    KeepSecret,
    NewPerson,
    OneTimeSecret,
    People,
    Person,
    PersonByEmail,
    PersonById,
    RenewHash,
    SetPasswordBySecret,
    SetPersonActive,
)
from mcp_gateway.core.identity.sessions import NoteSeen, OpenSession, SessionById, SessionsOf, UserSession, network_of
from mcp_gateway.core.ids import new_id, now_ms
from mcp_gateway.core.store.sqlite.store import Store
from tests.cases import each

NOW_MS, LATER_MS = 1_000, 10_000
ACCOUNT = Account("acc_1", "a@example.com", NOW_MS, True, OwnLimits(None, None, None, None))
SECRET = OneTimeSecret(b"s", "password", LATER_MS, user_id="usr_1")


@pytest.fixture
def people(store: Store) -> People:
    return People(store, new_id=new_id, now_ms=now_ms)


async def made(store: Store, email: str = "a@example.com", user_id: str = "usr_1", **more: Any) -> Person:
    new = NewPerson(user_id, email, "hash", replace(ACCOUNT, id=f"acc_{user_id}"), "owner", False, NOW_MS)
    return await store.write(CreatePerson(replace(new, **more)))


def session(number: int, seen_at_ms: int = NOW_MS) -> UserSession:
    return UserSession(
        f"ses_{number}", "usr_1", "acc_usr_1", "owner", False, NOW_MS, seen_at_ms, LATER_MS, "agent", "127.0.0.1"
    )


@each(
    ("address", "network"),
    [
        ("203.0.113.7", "203.0.113.0/24"),
        ("::ffff:203.0.113.7", "203.0.113.0/24"),
        ("::ffff:cb00:7107", "203.0.113.0/24"),
        ("2001:db8:1:2::3", "2001:db8:1::/48"),
        ("fe80::1%eth0", "fe80::/48"),
        ("unknown", "unknown"),
    ],
)
def test_of_an_address_its_network_is_kept_and_of_a_mapped_one_that_of_ipv4(address: str, network: str) -> None:
    assert network_of(address) == network


async def test_who_comes_second_is_not_the_first(store: Store) -> None:
    await made(store, only_first=True)
    with pytest.raises(GatewayError) as raised:
        await made(store, "b@example.com", "usr_2", only_first=True)
    assert raised.value.code == "registration_closed"


async def test_a_zone_is_kept_until_it_is_taken_back(store: Store, people: People) -> None:
    await made(store)
    for zone in ("Europe/Berlin", None):
        await people.set_zone("usr_1", zone)
        assert (await people.named("a@example.com")).zone == zone


async def test_a_hash_is_renewed_where_nobody_has_set_another_password(store: Store) -> None:
    await made(store)
    await store.write(RenewHash("usr_1", "another", "lost"))
    await store.write(RenewHash("usr_1", "hash", "renewed"))
    found = await store.read(PersonByEmail("a@example.com"))
    assert found is not None
    assert found.password_hash == "renewed"


@pytest.mark.parametrize("now_ms", [LATER_MS, LATER_MS + 1])
async def test_a_secret_that_has_ended_sets_no_password(now_ms: int, store: Store) -> None:
    await made(store)
    await store.write(KeepSecret(SECRET, NOW_MS))
    with pytest.raises(GatewayError):
        await store.write(SetPasswordBySecret(b"s", "stolen", now_ms))
    found = await store.read(PersonById("usr_1"))
    assert found is not None
    assert found.password_hash == "hash"


async def test_no_secret_is_kept_for_who_is_gone(store: Store) -> None:
    with pytest.raises(GatewayError) as refused:
        await store.write(KeepSecret(SECRET, NOW_MS))
    assert refused.value.code == "not_found"


async def test_the_first_administrator_is_the_first_user_or_nobody(store: Store) -> None:
    first = OneTimeSecret(b"f", "first_administrator", LATER_MS, is_administrator=True)
    assert await store.write(KeepSecret(first, NOW_MS))
    await made(store)
    assert not await store.write(KeepSecret(first, NOW_MS))
    with pytest.raises(GatewayError):
        await made(store, "b@example.com", "usr_2", secret_sha256=b"f")


async def test_who_was_switched_off_signs_in_no_more_and_the_oldest_session_gives_way(store: Store) -> None:
    await made(store)
    for number in range(3):
        await store.write(OpenSession(session(number, NOW_MS + number), bytes([number]), 2))
    await store.write(NoteSeen("ses_1", NOW_MS + 7))
    await store.write(NoteSeen("ses_1", NOW_MS + 5))
    seen = await store.read(SessionById("ses_1"))
    assert seen is not None
    assert seen.seen_at_ms == NOW_MS + 7
    assert {one.id for one in await store.read(SessionsOf("usr_1"))} == {"ses_1", "ses_2"}
    await store.write(SetPersonActive("usr_1", False))
    with pytest.raises(GatewayError):
        await store.write(OpenSession(session(9), b"9", 2))


async def test_two_processes_make_one_key_to_sign_by(store: Store) -> None:
    for name in ("sig_1", "sig_2"):
        await store.write(MakeSigningKey(SigningKey(name, b"k", NOW_MS, LATER_MS), 0))
    assert [key.id for key in await store.read(AllSigningKeys())] == ["sig_1"]


async def test_an_invitation_lets_in_whom_it_names_alone(store: Store) -> None:
    await store.write(KeepSecret(OneTimeSecret(b"i", "invitation", LATER_MS, email="a@example.com"), NOW_MS))
    with pytest.raises(GatewayError):
        await made(store, "b@example.com", "usr_2", secret_sha256=b"i")
    assert (await made(store, secret_sha256=b"i")).email == "a@example.com"


async def test_a_role_is_changed_of_a_user_that_there_is(people: People, store: Store) -> None:
    with pytest.raises(GatewayError) as caught:
        await store.write(ChangePerson("usr_none", "member", None))
    assert caught.value.code == "not_found"


async def test_whoever_is_switched_off_is_no_last_one(people: People) -> None:
    person = await people.create("ann@example.com", password_hash=None, is_administrator=True)
    with pytest.raises(GatewayError) as caught:
        await people.set_active(person.id, is_active=False)
    assert (caught.value.code, caught.value.param) == ("conflict", "even_last")
    await people.set_active(person.id, is_active=False, even_last=True)
    await people.set_active(person.id, is_active=False)
    changed = await people.change(person.id, role="viewer", is_administrator=False)
    assert (changed.role, changed.is_administrator, changed.is_active) == ("viewer", False, False)


async def test_whoever_gets_a_new_account_owns_it(people: People) -> None:
    with pytest.raises(GatewayError) as caught:
        await people.create("ann@example.com", password_hash=None, role="viewer")
    assert (caught.value.code, caught.value.param) == ("invalid_value", "role")
    with pytest.raises(GatewayError) as caught:
        await people.invite("ann@example.com", role="member")
    assert (caught.value.code, caught.value.param) == ("invalid_value", "role")
    with pytest.raises(GatewayError) as caught:
        await people.create("ann@example.com", password_hash=None, account_id="")
    assert caught.value.code == "not_found"


async def test_a_secret_is_made_by_whoever_owns_an_account_or_runs_the_gateway_then(people: People) -> None:
    owner = await people.create("ann@example.com", password_hash=None)
    member = await people.create("bob@example.com", password_hash=None, account_id=owner.account_id, role="member")
    with pytest.raises(GatewayError) as caught:  # an owner when they asked, and none any more
        await people.invite(None, account_id=owner.account_id, made_by=member.id)
    assert caught.value.code == "insufficient_permissions"
    await people.change(member.id, role=None, is_administrator=True)
    assert (await people.invite(None, account_id=owner.account_id, made_by=member.id)).raw.startswith("gw_invite_")


async def test_a_session_is_opened_by_no_password_that_was_replaced_meanwhile(store: Store) -> None:
    await made(store)
    await store.write(OpenSession(session(1), b"1", 2, "hash"))
    await store.write(RenewHash("usr_1", "hash", "another"))
    with pytest.raises(GatewayError, match="invalid_credentials"):
        await store.write(OpenSession(session(2), b"2", 2, "hash"))
    assert [one.id for one in await store.read(SessionsOf("usr_1"))] == ["ses_1"]
