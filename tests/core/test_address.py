"""What an address stands for."""

import logging

import pytest

from mcp_gateway.core.identity.address import AddressReader
from tests.cases import each


@each(
    ("trusted", "address", "is_shared"),
    [
        ((), "127.0.0.1", True),
        ((), "::1", True),
        ((), "::ffff:127.0.0.1", True),
        ((), "unknown", True),
        ((), "192.0.2.1", False),
        (("10.0.0.0/8",), "10.1.2.3", True),
        (("10.0.0.0/8",), "::ffff:10.1.2.3", True),
        (("10.0.0.0/8",), "127.0.0.1", False),
        (("10.0.0.0/8",), "2001:db8::1", False),
    ],
)
def test_many_may_stand_behind_a_proxy_and_behind_loopback_while_no_proxy_is_named(
    trusted: tuple[str, ...], address: str, is_shared: bool
) -> None:
    assert AddressReader(trusted).is_shared(address) == is_shared


@each(("proxies", "address"), [(0, "192.0.2.1"), (31, "192.0.2.1"), (32, "10.0.0.2"), (9000, "10.0.0.2")])
def test_only_so_many_proxies_are_looked_past(proxies: int, address: str) -> None:
    forwarded_for = b"192.0.2.1" + b", 10.0.0.2" * proxies
    assert AddressReader(["10.0.0.0/8"]).read(("10.0.0.1", 1), forwarded_for) == address


@each(
    ("trusted", "peer", "is_told"),
    [
        ((), "127.0.0.1", True),
        ((), "192.0.2.1", True),
        (("10.0.0.0/8",), "127.0.0.1", True),
        (("10.0.0.0/8",), "10.0.0.1", False),
        (("127.0.0.1",), "::ffff:127.0.0.1", False),
        (("127.0.0.1",), "::1", True),
    ],
)
def test_a_proxy_that_is_not_trusted_is_named_once_with_the_setting_that_would_trust_it(
    caplog: pytest.LogCaptureFixture, trusted: tuple[str, ...], peer: str, is_told: bool
) -> None:
    caplog.clear()
    reader = AddressReader(trusted)
    for _ in range(3):
        assert reader.read((peer, 1), None) == peer
        reader.read((peer, 1), b"192.0.2.7")
    assert caplog.text.count(f'trusted_proxies = ["{peer}"]') == is_told
    assert len(caplog.records) == is_told


def test_of_many_that_send_such_headers_few_are_named(caplog: pytest.LogCaptureFixture) -> None:
    reader = AddressReader([])
    for number in range(100):
        assert reader.read((f"192.0.2.{number}", 1), b"198.51.100.1") == f"192.0.2.{number}"
    assert 1 < len(caplog.records) <= 10
    assert {record.levelno for record in caplog.records} == {logging.WARNING}
