"""Ids of sessions from which any replica can serve: what the session was opened with, signed for its owner.

An id is of use to its owner alone, who is no part of it, and for as long as sessions last.
"""

import base64
import binascii
import hashlib
import hmac
import secrets
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import orjson
from mcp.server.connection import Connection
from mcp.types.version import HANDSHAKE_PROTOCOL_VERSIONS

from mcp_gateway.mcp_door.shares import Owner

LIFETIME_S = 24 * 3600
_PREFIX = "mcp_"
_SIGNATURE_BYTES = 16
_CHANCE_BYTES = 9
_MOST_CHARS = 2048


@dataclass(frozen=True, slots=True)
class SessionFacts:
    """What an id says of its session; `opened_by` is the replica that has made it."""

    opened_by: str
    ends_at_s: int
    version: str
    client_info: Any
    capabilities: Any

    def connection(self) -> Connection:
        """As it is once its client has initialized it."""
        return Connection.from_envelope(self.version, self.client_info, self.capabilities)


class SessionIds:
    """Makes ids, and reads them. `now_s` is a clock that all replicas go by, about."""

    def __init__(self, secret: bytes, own_name: str, now_s: Callable[[], float], lifetime_s: int = LIFETIME_S) -> None:
        self._secret = secret
        self._own_name = own_name
        self._now_s = now_s
        self._lifetime_s = lifetime_s

    def make(self, owner: Owner, connection: Connection) -> str:
        params = connection.client_params
        facts: Mapping[str, Any] = {
            "by": self._own_name,
            "ends": int(self._now_s()) + self._lifetime_s,
            "v": connection.protocol_version,
            "info": None if params is None else _said(params.client_info),
            "can": None if params is None else _said(params.capabilities),
            "n": secrets.token_urlsafe(_CHANCE_BYTES),
        }
        told = orjson.dumps(facts)
        return _PREFIX + base64.urlsafe_b64encode(self._signature(owner, told) + told).decode().rstrip("=")

    def read(self, session_id: str, owner: Owner) -> SessionFacts | None:
        """None for what is no id of this owner's, or of a session that is over."""
        if not session_id.startswith(_PREFIX) or not session_id.isascii() or len(session_id) > _MOST_CHARS:
            return None
        encoded = session_id.removeprefix(_PREFIX)
        try:
            raw = base64.b64decode(encoded + "=" * (-len(encoded) % 4), altchars=b"-_", validate=True)
        except binascii.Error:
            return None
        signature, told = raw[:_SIGNATURE_BYTES], raw[_SIGNATURE_BYTES:]
        if not hmac.compare_digest(signature, self._signature(owner, told)):
            return None
        facts = orjson.loads(told)
        if facts["ends"] <= self._now_s() or facts["v"] not in HANDSHAKE_PROTOCOL_VERSIONS:
            return None
        return SessionFacts(facts["by"], facts["ends"], facts["v"], facts["info"], facts["can"])

    def lasts_s(self, session_id: str, owner: Owner) -> int:
        """For how long the session may still go on."""
        facts = self.read(session_id, owner)
        return 0 if facts is None else int(facts.ends_at_s - self._now_s()) + 1

    def _signature(self, owner: Owner, told: bytes) -> bytes:
        return hmac.digest(self._secret, orjson.dumps(owner) + told, hashlib.sha256)[:_SIGNATURE_BYTES]


def _said(model: Any) -> Any:
    return model.model_dump(by_alias=True, mode="json", exclude_none=True)
