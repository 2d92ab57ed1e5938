"""From which country a request comes, and whether inference and sign-up are refused there.

A country is told by a header of a trusted proxy, or by a local file in MaxMind's format. Refusals are counted by
country alone: no address is kept, logged or counted.
"""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import maxminddb

from mcp_gateway.core.config import ConfigError, PolicySettings
from mcp_gateway.core.countries import UNKNOWN_COUNTRY
from mcp_gateway.core.errors import GatewayError
from mcp_gateway.core.identity.address import AddressReader, counted_as
from mcp_gateway.core.policy.watched_file import WatchedFile

_MESSAGE = "This service is not available in your country or region."
Database = WatchedFile[maxminddb.Reader]


def read_country_database(path: Path) -> maxminddb.Reader:
    """The whole file in memory, so that it may be replaced under it. Raises ConfigError."""
    try:
        return maxminddb.open_database(path, maxminddb.MODE_MEMORY)
    except OSError as error:
        raise _fault(f"{path} cannot be read: {error.strerror}") from None
    except (maxminddb.InvalidDatabaseError, ValueError):
        raise _fault(f"{path} is no file in MaxMind's format (.mmdb)") from None


def _fault(fault: str) -> ConfigError:
    return ConfigError([f"policy.country_database: {fault}"])


class Regions:
    """The countries that are refused; `count` is told the country of each refusal."""

    def __init__(
        self,
        settings: PolicySettings,
        addresses: AddressReader,
        database: Database | None,
        count: Callable[[str], None],
    ) -> None:
        self._blocked = frozenset(settings.blocked_countries)
        self._header = settings.country_header.lower().encode() if settings.country_header else None
        self._addresses = addresses
        self._database = database
        self._count = count

    def refusal_for(
        self, peer: tuple[str, int] | None, headers: Sequence[tuple[bytes, bytes]], address: str
    ) -> Callable[[], GatewayError] | None:
        """What makes the refusal and counts it; None where the client's country may ask. `address` is the client's."""
        country = self.country_of(peer, headers, address)
        return (lambda: self._refusal(country)) if country in self._blocked else None

    def country_of(self, peer: tuple[str, int] | None, headers: Sequence[tuple[bytes, bytes]], address: str) -> str:
        """In two letters, XX where nobody knows."""
        told = self._told_by_proxy(peer, headers)
        return self._found(address) if told == UNKNOWN_COUNTRY else told

    def _told_by_proxy(self, peer: tuple[str, int] | None, headers: Sequence[tuple[bytes, bytes]]) -> str:
        """The last of several, which the proxy has put behind what its client sent."""
        if self._header is None or peer is None or not self._addresses.is_trusted(peer[0]):
            return UNKNOWN_COUNTRY
        told = [value for name, value in headers if name == self._header]
        return _code(told[-1].decode("latin-1")) if told else UNKNOWN_COUNTRY

    def _found(self, address: str) -> str:
        """An IPv6 address that was made of an IPv4 address is looked up as that."""
        if self._database is None:
            return UNKNOWN_COUNTRY
        try:
            return _country_in(self._database.value.get(counted_as(address).partition("/")[0]))
        except ValueError:  # no address, or one of IPv6 in a file of IPv4 alone
            return UNKNOWN_COUNTRY

    def _refusal(self, country: str) -> GatewayError:
        self._count(country)
        return GatewayError("unsupported_region", _MESSAGE)


def _country_in(record: Any) -> str:
    """As MaxMind's and DB-IP's files have it (`country.iso_code`), or IPinfo's (`country_code`, or `country`)."""
    if not isinstance(record, dict):
        return UNKNOWN_COUNTRY
    country = record.get("country")
    told = country.get("iso_code") if isinstance(country, dict) else record.get("country_code", country)
    return _code(told) if isinstance(told, str) else UNKNOWN_COUNTRY


def _code(text: str) -> str:
    plain = text.strip().upper()
    return plain if len(plain) == 2 and plain.isascii() and plain.isalnum() else UNKNOWN_COUNTRY  # noqa: PLR2004
