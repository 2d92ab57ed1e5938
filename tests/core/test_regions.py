"""From which country a request comes: whom the gateway believes, and which files it understands."""

from pathlib import Path
from typing import Any

import pytest
from pydantic import ValidationError

from mcp_gateway.core.config import ConfigError, PolicySettings, Settings
from mcp_gateway.core.identity.address import AddressReader
from mcp_gateway.core.policy.regions import Regions, read_country_database
from mcp_gateway.core.policy.watched_file import WatchedFile
from tests.cases import each
from tests.country_file import write_countries

PROXY = ("10.0.0.1", 443)
STRANGER = ("203.0.113.9", 443)


def regions(database: Path | None = None, header: str | None = "CF-IPCountry", blocked: str = "KP") -> Regions:
    settings = PolicySettings(blocked_countries=(blocked,), country_header=header, country_database=database)
    file = None if database is None else WatchedFile(database, read_country_database)
    return Regions(settings, AddressReader(["10.0.0.0/8"]), file, lambda _: None)


def told(*values: str) -> list[tuple[bytes, bytes]]:
    return [(b"cf-ipcountry", value.encode()) for value in values]


@each(
    ("peer", "values", "country"),
    [
        (PROXY, ["KP"], "KP"),
        (PROXY, [" kp "], "KP"),
        (PROXY, ["T1"], "T1"),
        (PROXY, ["DE", "KP"], "KP"),
        (PROXY, [], "XX"),
        (PROXY, [""], "XX"),
        (PROXY, ["PRK"], "XX"),
        (PROXY, ["K\u00e9"], "XX"),
        (STRANGER, ["KP"], "XX"),
        (None, ["KP"], "XX"),
    ],
)
def test_a_country_is_believed_of_a_trusted_proxy_alone(
    peer: tuple[str, int] | None, values: list[str], country: str
) -> None:
    assert regions().country_of(peer, told(*values), "198.51.100.1") == country


@each(
    ("record", "country"),
    [
        ({"country": {"iso_code": "KP", "names": {"en": "North Korea"}}}, "KP"),
        ({"country_code": "KP"}, "KP"),
        ({"country": "KP"}, "KP"),
        ({"registered_country": {"iso_code": "KP"}}, "XX"),
        ({"country": {}}, "XX"),
        ({}, "XX"),
        ("KP", "XX"),
    ],
)
@each("address", ["192.0.2.7", "::ffff:192.0.2.7", "2002:c000:207::1", "2001:db8:1::5"])
def test_a_file_s_country_is_that_of_the_address(tmp_path: Path, record: Any, country: str, address: str) -> None:
    write_countries(tmp_path / "countries", {"192.0.2.0/24": record, "2001:db8:1::/48": record})
    assert regions(tmp_path / "countries").country_of(STRANGER, [], address) == country


@each("address", ["198.51.100.1", "2001:db8:2::1", "127.0.0.1", "unknown", ""])
@each("ip_version", [4, 6])
def test_what_a_file_does_not_have_is_unknown(tmp_path: Path, address: str, ip_version: int) -> None:
    write_countries(tmp_path / "countries", {"192.0.2.0/24": {"country": "KP"}}, ip_version=ip_version)
    assert regions(tmp_path / "countries").country_of(STRANGER, [], address) == "XX"


def test_a_proxy_that_knows_the_country_is_asked_before_the_file(tmp_path: Path) -> None:
    write_countries(tmp_path / "countries", {"192.0.2.0/24": {"country": "KP"}})
    there = regions(tmp_path / "countries")
    assert there.country_of(PROXY, told("DE"), "192.0.2.7") == "DE"
    for unknown in ([], told("XX"), told("?")):
        assert there.country_of(PROXY, unknown, "192.0.2.7") == "KP"


async def test_a_file_is_read_again_when_it_was_replaced_and_kept_where_it_cannot_be_read(tmp_path: Path) -> None:
    path = tmp_path / "countries"
    write_countries(path, {"192.0.2.0/24": {"country": "KP"}})
    file = WatchedFile(path, read_country_database)
    settings = PolicySettings(blocked_countries=("KP",), country_database=path)
    there = Regions(settings, AddressReader([]), file, lambda _: None)
    for written, country in (("DE", "DE"), (None, "DE"), ("FRANCE", "XX")):
        new = tmp_path / "new"
        if written is None:
            new.write_bytes(b"no such file")
        else:
            write_countries(new, {"192.0.2.0/24": {"country": written}})
        new.replace(path)
        await file.look()
        assert there.country_of(None, [], "192.0.2.7") == country
    path.unlink()
    await file.look()
    assert there.country_of(None, [], "192.0.2.7") == "XX"


@pytest.mark.parametrize("content", [None, b"", b"text", b"\xab\xcd\xefMaxMind.com"])
def test_what_is_no_such_file_is_told_at_the_start(tmp_path: Path, content: bytes | None) -> None:
    if content is not None:
        (tmp_path / "countries").write_bytes(content)
    with pytest.raises(ConfigError, match="country_database"):
        read_country_database(tmp_path / "countries")


@each(
    ("policy", "fault"),
    [
        ({"blocked_countries": ["KP"]}, "country_header or country_database"),
        ({"blocked_countries": ["UK"], "country_database": "x"}, "GB"),
        ({"blocked_countries": ["PRK"], "country_database": "x"}, "two letters"),
        ({"blocked_countries": ["KP"], "country_header": "CF-IPCountry"}, "trusted_proxies"),
        ({"country_header": "a b"}, "country_header"),
    ],
)
def test_settings_that_would_block_nobody_are_refused(policy: dict[str, Any], fault: str) -> None:
    with pytest.raises(ValidationError, match=fault):
        Settings.model_validate({"policy": policy})


def test_countries_may_be_written_in_small_letters_and_in_one_line() -> None:
    given = {"blocked_countries": "kp, ir", "country_database": "x"}
    assert PolicySettings.model_validate(given).blocked_countries == ("KP", "IR")
