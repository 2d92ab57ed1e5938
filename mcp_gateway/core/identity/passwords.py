"""Passwords: which may be chosen, and their argon2id hashes, made and compared beside the event loop."""

import asyncio
import string
import unicodedata
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import cached_property
from typing import TYPE_CHECKING, TypeVar

from mcp_gateway.core.errors import GatewayError

if TYPE_CHECKING:
    from argon2 import PasswordHasher

T = TypeVar("T")

MIN_CHARS, MAX_CHARS = 12, 128
_TIME_COST, _MEMORY_KIB, _PARALLELISM = 2, 19_456, 1
"""What OWASP recommends; 16 ms of a processor."""
_THREADS = 2
_MOST_WAITING = 32
"""Beyond these a sign-in would wait for longer than a quarter of a second."""
_COMMON_STEMS = frozenset({
    "password", "passw0rd", "p@ssword", "p@ssw0rd", "pass", "letmein", "welcome", "iloveyou", "administrator", "admin",
    "changeme", "default", "secret", "qwerty", "qwertyuiop", "qwertz", "azerty", "asdfghjkl", "zxcvbnm", "abc",
    "monkey",
    "dragon",
    "football", "baseball", "basketball", "princess", "sunshine", "superman", "batman", "master", "trustno",
    "starwars", "computer", "internet", "michael", "jennifer", "jordan", "liverpool", "chelsea", "manchester",
    "unknown", "whatever", "hello", "login", "access", "mustang", "shadow", "killer", "test", "tester", "testing",
    "passwordpassword", "iloveyouforever", "ilovemyself", "mypassword", "mynameis", "temppassword", "newpassword",
})  # fmt: skip
"""What the common passwords of that many characters consist of, with digits and marks before or behind."""
_ROWS = (
    "abcdefghijklmnopqrstuvwxyz", "01234567890123456789", "qwertyuiopasdfghjklzxcvbnm", "qwertzuiopasdfghjklyxcvbnm",
    "azertyuiopqsdfghjklmwxcvbn", "1q2w3e4r5t6y7u8i9o0p", "1qaz2wsx3edc4rfv5tgb6yhn7ujm8ik",
    "qazwsxedcrfvtgbyhnujmikolp",
    "q1w2e3r4t5y6u7i8o9p0", "zaq12wsxcde34rfvbgt56yhn", "1a2b3c4d5e6f7g8h9i0j",
)  # fmt: skip
"""In the order of the alphabet or of a keyboard."""
_AROUND = string.digits + string.punctuation + string.whitespace
_FEW = 4
"""Characters that are repeated until a text is long enough."""


def normal_password(written: str) -> str:
    """As it is hashed, whichever keyboard it was typed on; nothing of it is cut."""
    return unicodedata.normalize("NFKC", written)


def check_new_password(written: str, email: str, param: str = "password") -> None:
    """Raises GatewayError `invalid_value` for one that is too short, too long, or among the first that are guessed."""
    password = normal_password(written)
    if not MIN_CHARS <= len(password) <= MAX_CHARS:
        message = f"`{param}` must have {MIN_CHARS} to {MAX_CHARS} characters."
        raise GatewayError("invalid_value", message, param=param)
    if _is_common(password.casefold(), email):
        message = f"`{param}` is one of the first that anybody would guess; choose another."
        raise GatewayError("invalid_value", message, param=param)


def _is_common(password: str, email: str) -> bool:
    stem = password.strip(_AROUND)
    unit = next(size for size in range(1, len(password) + 1) if password == _repeated(password[:size], len(password)))
    is_row = any(password in row or password in row[::-1] for row in _ROWS)
    return is_row or unit <= _FEW or not stem or stem in _COMMON_STEMS or password in (email, email.partition("@")[0])


def _repeated(unit: str, length: int) -> str:
    return (unit * (length // len(unit) + 1))[:length]


class Passwords:
    """Hashes and compares in a few threads, since each takes 16 ms and 19 MiB; argon2 does so without the GIL."""

    def __init__(self, *, time_cost: int = _TIME_COST, memory_kib: int = _MEMORY_KIB) -> None:
        self._costs = time_cost, memory_kib
        self._threads = ThreadPoolExecutor(_THREADS, thread_name_prefix="passwords")
        self._waiting = 0

    async def hashed(self, password: str) -> str:
        """Raises GatewayError `overloaded` where too many wait."""
        return await self._beside(lambda: self._hasher.hash(normal_password(password)))

    async def is_right(self, password: str, known_hash: str | None) -> bool:
        """Whether a hash is of this password; takes as long where there is none. Raises as `hashed`."""
        return await self._beside(lambda: self._compare(password, known_hash or self._of_nobody)) and bool(known_hash)

    def is_outdated(self, known_hash: str) -> bool:
        """Whether it was made with other parameters than today's."""
        return self._hasher.check_needs_rehash(known_hash)

    def close(self) -> None:
        self._threads.shutdown(wait=False, cancel_futures=True)

    @cached_property
    def _hasher(self) -> "PasswordHasher":
        from argon2 import PasswordHasher  # noqa: PLC0415 - few commands need it, and it takes 20 ms to import

        time_cost, memory_kib = self._costs
        return PasswordHasher(time_cost=time_cost, memory_cost=memory_kib, parallelism=_PARALLELISM)

    @cached_property
    def _of_nobody(self) -> str:
        return self._hasher.hash("a password that nobody has chosen")

    def _compare(self, password: str, known_hash: str) -> bool:
        from argon2.exceptions import InvalidHashError, VerificationError  # noqa: PLC0415 - as above

        _ = self._of_nobody  # made for whoever is first, known or not
        try:
            return self._hasher.verify(known_hash, normal_password(password))
        except (VerificationError, InvalidHashError):
            return False

    async def _beside(self, work: Callable[[], T]) -> T:
        if self._waiting >= _MOST_WAITING:
            raise GatewayError("overloaded", "Too many sign in at once; try again shortly.", retry_after_s=1)
        self._waiting += 1
        try:
            return await asyncio.get_running_loop().run_in_executor(self._threads, work)
        finally:
            self._waiting -= 1
