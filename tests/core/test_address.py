"""What an address stands for."""

import pytest

from mcp_gateway.core.identity.address import AddressReader


@pytest.mark.parametrize(
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
