"""Which addresses are the public internet's."""

from mcp_gateway.core.image_fetching.public_address import is_public
from tests.cases import each


@each(
    "address",
    [
        "0.0.0.0", "0.1.2.3", "10.0.0.1", "10.255.255.255", "100.64.0.0", "100.100.100.200", "100.127.255.255",
        "127.0.0.1", "127.1.2.3", "168.63.129.16", "169.254.0.1", "169.254.169.254", "169.254.170.2", "172.16.0.1",
        "172.31.255.255", "192.0.0.1", "192.0.0.192", "192.0.2.7", "192.88.99.1", "192.168.1.1", "198.18.0.1",
        "198.19.255.255", "198.51.100.1", "203.0.113.9", "224.0.0.1", "239.255.255.255", "240.0.0.1",
        "255.255.255.255",
    ],
)  # fmt: skip
def test_an_ipv4_address_that_is_special_is_not(address: str) -> None:
    assert not is_public(address)
    assert not is_public(f"::ffff:{address}")
    assert not is_public(f"::{address}")
    assert not is_public(f"64:ff9b::{address}")
    assert not is_public(f"64:ff9b:1::{address}")


@each(
    "address",
    [
        "::", "::1", "::ffff:8.8.8.8", "64:ff9b:1::8.8.8.8", "100::1", "2001::1", "2001:0:7f00:1::", "2001:2::1",
        "2001:10::1", "2001:20::1", "2001:db8::1", "2002:7f00:1::", "2002:a00:1::1", "2002:808:808::1", "3fff::1",
        "5f00::1", "fc00::1", "fd00::1", "fd00:ec2::254", "fe80::1", "fe80::1%eth0", "2606:4700::1111%eth0",
        "fec0::1", "ff02::1", "2620:4f:8000::1", "4000::1",
    ],
)  # fmt: skip
def test_an_ipv6_address_that_is_special_is_not(address: str) -> None:
    assert not is_public(address)


@each("text", ["", "localhost", "example.com", "127.1", "2130706433", "0x7f.0.0.1", "1.2.3.4.5", " "])
def test_what_is_no_address_is_not(text: str) -> None:
    assert not is_public(text)


@each(
    "address",
    [
        "1.1.1.1", "8.8.8.8", "93.184.216.34", "9.255.255.255", "11.0.0.0", "100.63.255.255", "100.128.0.0",
        "168.63.129.17", "172.15.255.255", "172.32.0.0", "192.0.1.0", "198.17.255.255", "198.20.0.0", "223.255.255.255",
        "2606:4700::1111", "2a00:1450:4001:82a::200e", "2001:200::1", "2001:4860:4860::8888", "64:ff9b::8.8.8.8",
    ],
)  # fmt: skip
def test_what_anybody_reaches_is(address: str) -> None:
    assert is_public(address)
