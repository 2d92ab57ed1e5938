"""Who is this? A credential and an address in, a Caller out."""

from mcp_gateway.core.caller import GUEST_ACCOUNT_ID, Allowance, Caller
from mcp_gateway.core.config import GuestSettings, LimitSettings
from mcp_gateway.core.errors import GatewayError
from mcp_gateway.core.identity.address import counted_as
from mcp_gateway.core.identity.keys import DEFAULT, LIMIT_NAMES, Key, KeyLimits
from mcp_gateway.core.identity.known_keys import KnownKeys


class Authenticator:
    """Knows keys and guests; each Caller carries what it may use."""

    def __init__(self, keys: KnownKeys, guests: GuestSettings, limits: LimitSettings) -> None:
        self._keys = keys
        self._guests = guests
        self._limits = limits
        self._callers: dict[str, tuple[Key, Caller]] = {}
        self._guest_allowance = Allowance(
            requests_per_minute=guests.requests_per_minute,
            requests_per_day=None,
            tokens_per_minute=None,
            in_flight=guests.in_flight_per_address,
        )
        keys.on_close(lambda key_id, _: self._forget(key_id))

    def identify(self, credential: str | None, address: str) -> Caller | None:
        """The caller of a request; None where `look_up` has to tell.

        Raises GatewayError (401, 403) for a credential that is known to be wrong, or a missing one.
        """
        if credential is not None:
            key = self._keys.recall(credential)
            return None if key is None else self._key_caller(key)
        if not self._guests.enabled:
            raise GatewayError("missing_credentials", "Send an API key as `Authorization: Bearer gw_live_...`.")
        return Caller(GUEST_ACCOUNT_ID, None, f"guest:{counted_as(address)}", self._guest_allowance)

    async def look_up(self, credential: str) -> Caller:
        """The caller with a credential that is shown for the first time. Raises GatewayError (401, 403, 503)."""
        return self._key_caller(await self._keys.look_up(credential))

    def allowance_of(self, limits: KeyLimits) -> Allowance:
        """A key's limits with the configured defaults filled in."""
        return Allowance(**{name: self._limit(limits, name) for name in LIMIT_NAMES})

    def _limit(self, limits: KeyLimits, name: str) -> int | None:
        own = getattr(limits, name)
        limit: int | None = getattr(self._limits, name) if own is DEFAULT else own
        return limit

    def _key_caller(self, key: Key) -> Caller:
        caller = self._callers.get(key.id)
        if caller is None or caller[0] is not key:
            allowance = self.allowance_of(key.limits)
            made = Caller(key.account_id, key.id, key.id, allowance, key.is_test, key.scopes)
            caller = self._callers[key.id] = (key, made)
        return caller[1]

    def _forget(self, key_id: str) -> None:
        self._callers.pop(key_id, None)
