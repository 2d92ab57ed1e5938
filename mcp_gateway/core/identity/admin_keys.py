"""Keys of the operator's administrators: of no account, made on the command line alone, kept as SHA-256 alone.

Each is read from the database whenever it is shown, so that a revoked one is refused by the next request.
"""

import re
import secrets
from collections.abc import Callable
from dataclasses import dataclass

from mcp_gateway.core.caller import Administrator, Allowance, Caller, Quota
from mcp_gateway.core.engine import DatabaseError, Engine, Read, Scan, Write, unavailable
from mcp_gateway.core.errors import GatewayError
from mcp_gateway.core.identity.keys import FAULTS, Ending, digest_of, later, refusal
from mcp_gateway.core.text import check_one_line, shown

ADMIN_PREFIX = "gw_admin_"
_SHAPE = re.compile(rf"{ADMIN_PREFIX}[A-Za-z0-9_-]{{43}}")
_SHOWN_CHARACTERS = len(ADMIN_PREFIX) + 4
_OPERATOR_ACCOUNT_ID = "acc_operator"
"""Stands where a caller's account is asked for; there is none of that id."""
_UNLIMITED = Allowance(None, None, None, None)


@dataclass(frozen=True, slots=True)
class AdminKey(Ending):
    """One as it may be shown: never the key itself, `prefix` is its first characters."""

    id: str
    prefix: str
    name: str
    created_at_ms: int
    expires_at_ms: int | None = None
    revoked_at_ms: int | None = None


@dataclass(frozen=True, slots=True)
class CreateAdminKey(Write[None]):
    key: AdminKey
    digest: bytes


@dataclass(frozen=True, slots=True)
class RevokeAdminKey(Write[bool]):
    """False where there is no such key; one that has ended stays as it is."""

    key_id: str
    at_ms: int


@dataclass(frozen=True, slots=True)
class AdminKeyByDigest(Read[AdminKey | None]):
    digest: bytes


@dataclass(frozen=True, slots=True)
class AdminKeyById(Read[AdminKey | None]):
    key_id: str


@dataclass(frozen=True, slots=True)
class AllAdminKeys(Scan[list[AdminKey]]):
    """The oldest first."""


class AdminKeys:
    """All of them."""

    def __init__(self, store: Engine, *, new_id: Callable[[str], str], now_ms: Callable[[], int]) -> None:
        self._store = store
        self._new_id = new_id
        self._now_ms = now_ms

    async def identify(self, credential: str) -> Caller:
        """Who shows this. Raises GatewayError (401, 503)."""
        key = await self._find(credential) if _SHAPE.fullmatch(credential) is not None else None
        code = "invalid_api_key" if key is None else FAULTS[key.state_at(self._now_ms())]
        if key is None or code is not None:
            raise refusal(code or "invalid_api_key")
        return _caller(key)

    async def list(self) -> "list[AdminKey]":
        """All that were ever made, the oldest first."""
        return await self._store.read(AllAdminKeys())

    async def create(self, name: str, *, expires_at_ms: int | None = None) -> tuple[AdminKey, str]:
        """A new key and its raw text, which is not kept. Raises GatewayError `invalid_value`."""
        check_one_line(name, "name")
        raw, now_ms = ADMIN_PREFIX + secrets.token_urlsafe(32), self._now_ms()
        key = AdminKey(self._new_id("adm"), raw[:_SHOWN_CHARACTERS], name, now_ms, later(expires_at_ms, now_ms))
        await self._store.write(CreateAdminKey(key, digest_of(raw)))
        return key, raw

    async def revoke(self, key_id: str) -> AdminKey:
        """Make one useless for good. Raises GatewayError `not_found`."""
        await self._store.write(RevokeAdminKey(key_id, self._now_ms()))
        key = await self._store.read(AdminKeyById(key_id))
        if key is None:
            raise GatewayError("not_found", f"There is no administrator's key '{shown(key_id)}'.")
        return key

    async def _find(self, credential: str) -> AdminKey | None:
        try:
            return await self._store.read(AdminKeyByDigest(digest_of(credential)))
        except DatabaseError:
            raise unavailable() from None


def _caller(key: AdminKey) -> Caller:
    return Caller(
        _OPERATOR_ACCOUNT_ID,
        Administrator(key.id),
        (Quota("key", key.id, _UNLIMITED),),
        scopes=frozenset(),
    )
