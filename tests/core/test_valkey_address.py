"""The address of a Valkey: what it may look like, and that nothing secret is told of it."""

import pytest

from mcp_gateway.core.config import ConfigError, load_settings
from mcp_gateway.core.valkey_address import ValkeyAddress, valkey_address
from tests.cases import each


@each(
    ["url", "address"],
    [
        ("valkey://valkey.internal", ValkeyAddress("valkey.internal", 6379, 0, "", "", False)),
        ("redis://:p%40ss@10.0.0.1:7000/3", ValkeyAddress("10.0.0.1", 7000, 3, "", "p@ss", False)),
        ("valkeys://me:secret@[::1]/", ValkeyAddress("::1", 6379, 0, "me", "secret", True)),
        ("rediss://h:1/2", ValkeyAddress("h", 1, 2, "", "", True)),
    ],
)
def test_an_address_says_where_and_as_whom(url: str, address: ValkeyAddress) -> None:
    assert valkey_address(url) == address
    assert "secret" not in repr(valkey_address(url))


@each(
    "url",
    [
        "valkey.internal:6379",
        "http://h",
        "valkey://",
        "valkey://h/one",
        "valkey://h/-1",
        "valkey://h:x",
        "valkey://h:1?a=b",
        "valkey://me@h",
    ],
)
def test_another_is_refused_in_words(url: str) -> None:
    with pytest.raises(ValueError, match=r"valkey://|password"):
        valkey_address(url)


@each(
    ["environ", "told"],
    [
        ({"GATEWAY_VALKEY_URL": "http://:s3cret@h"}, "valkey://valkey.internal"),
        ({"GATEWAY_VALKEY_CA_FILE": "ca.pem"}, "valkeys://"),
        ({"GATEWAY_VALKEY_CA_FILE": "ca.pem", "GATEWAY_VALKEY_URL": "valkey://h"}, "valkeys://"),
    ],
)
def test_settings_that_cannot_be_meant_are_refused(environ: dict[str, str], told: str) -> None:
    with pytest.raises(ConfigError) as refused:
        load_settings(None, environ)
    assert told in str(refused.value)
    assert "s3cret" not in str(refused.value)
