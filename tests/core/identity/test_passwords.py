"""Passwords alone: which may be chosen, what is kept of them, and that the loop goes on meanwhile."""

import asyncio
from collections.abc import Iterator

import pytest

from mcp_gateway.core.errors import GatewayError
from mcp_gateway.core.identity import passwords as module
from mcp_gateway.core.identity.emails import canonical_email
from mcp_gateway.core.identity.passwords import Passwords, check_new_password
from tests.cases import each

GOOD = "a quiet river in May"
EMAIL = "river.walker@example.com"
COMMON = (
    "password1234", "Password1234!", "p@ssw0rd2024", "123456789012", "qwertyuiop123", "1q2w3e4r5t6y", "abcdefghijkl",
    "aaaaaaaaaaaa", "abcabcabcabc", "abababababab", "iloveyou2023", "administrator", "2580258025802580", "!!!!!!!!!!!!",
    "1234567890123", "zxcvbnm,./zxcvbnm"[:7] + "12345", "lkjhgfdsapoiuytrewq"[:12], "river.walker", EMAIL,
)  # fmt: skip
FINE = (
    GOOD,
    "x9!kQ2#vLp0&",
    "correct horse battery staple",
    "пароль из двух слов",
    "🦆" * 4 + "mountain",
    "a" * 64 + "b" * 64,
)


NO_ADDRESSES = (
    "", "@", "a@", "@b", "a b@c", "a@b@c.de", "a@-b.de", "a@b..de", "a\u202e@b.de", "a\n@b.de", "a" * 255 + "@b.de",
)  # fmt: skip


@pytest.fixture
def passwords() -> Iterator[Passwords]:
    passwords = Passwords(time_cost=1, memory_kib=8)
    yield passwords
    passwords.close()


@each("password", [*COMMON, "", "short", "x" * 11, "ab" * 65])
def test_what_is_guessed_first_or_has_another_length_is_refused(password: str) -> None:
    with pytest.raises(GatewayError) as refused:
        check_new_password(password, EMAIL)
    assert (refused.value.code, refused.value.param) == ("invalid_value", "password")


@each("password", FINE)
def test_anything_else_is_taken(password: str) -> None:
    check_new_password(password, EMAIL)


async def test_a_hash_is_argon2id_with_the_costs_that_are_recommended_and_another_each_time() -> None:
    passwords = Passwords()
    hashes = {await passwords.hashed(GOOD) for _ in range(2)}
    passwords.close()
    assert len(hashes) == 2
    assert all(one.startswith("$argon2id$v=19$m=19456,t=2,p=1$") for one in hashes)


async def test_a_password_is_right_however_its_characters_were_typed(passwords: Passwords) -> None:
    known = await passwords.hashed("Jo\u0308rgs Fluss im Mai \u2167")
    assert await passwords.is_right("Jörgs Fluss im Mai VIII", known)
    assert not await passwords.is_right("Jörgs Fluss im Mai VIII ", known), "nothing is cut"


async def test_nothing_is_right_where_there_is_no_hash_or_none_that_is_one(passwords: Passwords) -> None:
    for known in (None, "", "plain text", "$argon2id$v=19$m=8,t=1,p=1$x"):
        assert not await passwords.is_right(GOOD, known)
    assert not await passwords.is_right("a password that nobody has chosen", None)


async def test_a_hash_by_other_costs_is_outdated(passwords: Passwords) -> None:
    known = await passwords.hashed(GOOD)
    dearer = Passwords(time_cost=2, memory_kib=16)
    assert not passwords.is_outdated(known)
    assert dearer.is_outdated(known)
    dearer.close()


async def test_more_than_may_wait_are_refused_at_once(passwords: Passwords) -> None:
    asked = [asyncio.ensure_future(passwords.hashed(GOOD)) for _ in range(module._MOST_WAITING + 1)]
    answers = await asyncio.gather(*asked, return_exceptions=True)
    refused = [one for one in answers if isinstance(one, GatewayError)]
    assert [one.code for one in refused] == ["overloaded"]
    assert await passwords.is_right(GOOD, await passwords.hashed(GOOD))


@each(
    ("written", "kept"),
    [
        ("Ann@Example.COM", "ann@example.com"),
        (" ann@example.com ", "ann@example.com"),
        ("ann@exämple.com", "ann@xn--exmple-cua.com"),
        ("ａｎｎ@example.com", "ann@example.com"),
        ("STRASSE@example.com", "strasse@example.com"),
        ("straße@example.com", "strasse@example.com"),
        ("o'brien+tag@example.com", "o'brien+tag@example.com"),
        ("ann@localhost", "ann@localhost"),
    ],
)
def test_an_address_has_one_form(written: str, kept: str) -> None:
    assert canonical_email(written) == kept
    assert canonical_email(kept) == kept


@each("written", NO_ADDRESSES)
def test_what_is_no_address_is_refused(written: str) -> None:
    with pytest.raises(GatewayError) as refused:
        canonical_email(written)
    assert (refused.value.code, refused.value.param) == ("invalid_value", "email")
