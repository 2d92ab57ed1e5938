"""Addresses and networks: what is one, what lies within what, and that mapped IPv4 is IPv4."""

import pytest

from mcp_gateway.core.networks import address_of, are_within, network_of, networks_as_words, networks_in, networks_of
from tests.cases import each

READ = {
    "203.0.113.0/24": "203.0.113.0/24",
    " 203.0.113.7 ": "203.0.113.7/32",
    "0.0.0.0/0": "0.0.0.0/0",
    "2001:DB8::/32": "2001:db8::/32",
    "2001:db8::1": "2001:db8::1/128",
    "::/0": "::/0",
    "::ffff:203.0.113.0/120": "203.0.113.0/24",
    "::ffff:cb00:7107": "203.0.113.7/32",
    "::ffff:0:0/96": "0.0.0.0/0",
}
UNREAD = ["", "x", "/8", "10", "10.0.0.0/", "10.0.0.0/33", "10.0.0.0/-1", "10.0.0.0/0.0.0.255", "10.0.0.0/255.0.0.0",
          "010.0.0.1", "10.0.0.1:80", "fe80::1%eth0", "[::1]", "::/129", "10.0.0.0/8,11.0.0.0/8", "*", "localhost",
          "10.0.0.0/８", "\x1b[2J"]  # fmt: skip


@each("written", READ)
def test_a_network_is_written_in_one_way(written: str) -> None:
    assert str(network_of(written)) == READ[written]


@each("written", UNREAD)
def test_what_is_no_network_is_refused_in_a_line(written: str) -> None:
    with pytest.raises(ValueError, match="is no network; write one as") as refused:
        network_of(written)
    assert str(refused.value).isprintable()


@each("written", ["10.0.0.1/8", "2001:db8::1/32", "::ffff:10.0.0.1/104"])
def test_an_address_within_a_network_is_told_the_network(written: str) -> None:
    with pytest.raises(ValueError, match="the network is"):
        network_of(written)


def test_networks_are_each_there_once_and_kept_as_words() -> None:
    networks = networks_of(["10.0.0.0/8", "2001:db8::/32", "::ffff:10.0.0.0/104"])
    assert networks_as_words(networks) == "10.0.0.0/8 2001:db8::/32"
    assert networks_in("10.0.0.0/8 2001:db8::/32") == networks
    assert networks_in("") == ()


WITHIN = [
    (["10.1.0.0/16"], ["10.0.0.0/8"], True),
    (["10.0.0.0/8"], ["10.0.0.0/8"], True),
    (["10.0.0.0/7"], ["10.0.0.0/8", "11.0.0.0/8"], True),
    (["10.0.0.0/7"], ["10.0.0.0/8"], False),
    (["10.1.0.0/16", "11.0.0.1"], ["10.0.0.0/8"], False),
    (["10.0.0.1"], ["::/0"], False),
    (["::1"], ["0.0.0.0/0"], False),
    (["2001:db8:1::/48", "10.0.0.1"], ["10.0.0.0/24", "2001:db8::/32"], True),
    (["0.0.0.0/0"], ["0.0.0.0/1", "128.0.0.0/1"], True),
    (["10.0.0.1"], [], False),
]


@each(("networks", "most", "is_within"), WITHIN)
def test_networks_lie_within_others_or_do_not(networks: list[str], most: list[str], is_within: bool) -> None:
    assert are_within(networks_of(networks), networks_of(most)) is is_within


@each(
    ("text", "address"),
    [("::ffff:192.0.2.1", "192.0.2.1"), ("192.0.2.1", "192.0.2.1"), ("::1", "::1"), ("unknown", None), ("", None)],
)
def test_a_mapped_address_is_the_one_that_it_maps(text: str, address: str | None) -> None:
    parsed = address_of(text)
    assert (None if parsed is None else str(parsed)) == address
