"""Files in MaxMind's format for tests: networks of IPv4 or IPv6, each with a record.

Format: https://maxmind.github.io/MaxMind-DB/
"""

from collections.abc import Mapping
from ipaddress import ip_network
from pathlib import Path
from typing import Any

_MARKER = b"\xab\xcd\xefMaxMind.com"
_NODE_BYTES = 8
"""Of a tree whose records have 32 bits."""
_V4_IN_V6_BITS = 96
Node = list[Any]


def write_countries(path: Path, records: Mapping[str, Any], *, ip_version: int = 6) -> None:
    """IPv4 stands in a tree of IPv6 below `::/96`, as in the files that are sold."""
    data, places = b"", {}
    nodes: list[Node] = [[None, None]]
    for network, record in records.items():
        places[network] = len(data)
        data += _written(record)
        _hang(nodes, _bits(network, ip_version), places[network])
    tree = b"".join(_record(side, len(nodes)) for node in nodes for side in node)
    facts = {
        "node_count": len(nodes),
        "record_size": 32,
        "ip_version": ip_version,
        "database_type": "Test-Country",
        "binary_format_major_version": 2,
        "binary_format_minor_version": 0,
        "build_epoch": 1_900_000_000,
        "languages": [],
        "description": {},
    }
    path.write_bytes(tree + bytes(16) + data + _MARKER + _written(facts))


def _bits(network: str, ip_version: int) -> str:
    parsed = ip_network(network)
    bits = f"{int(parsed.network_address):0{parsed.max_prefixlen}b}"[: parsed.prefixlen]
    return "0" * _V4_IN_V6_BITS + bits if ip_version == 6 and parsed.version == 4 else bits


def _hang(nodes: list[Node], bits: str, place: int) -> None:
    at = 0
    for bit in map(int, bits[:-1]):
        if nodes[at][bit] is None:
            nodes[at][bit] = len(nodes)
            nodes.append([None, None])
        at = nodes[at][bit]
    nodes[at][int(bits[-1])] = ("data", place)


def _record(side: Any, node_count: int) -> bytes:
    match side:
        case None:
            value = node_count
        case ("data", place):
            value = node_count + 16 + place
        case _:
            value = side
    return int(value).to_bytes(4)


def _written(value: Any) -> bytes:
    match value:
        case dict():
            return _head(7, len(value)) + b"".join(_written(key) + _written(one) for key, one in value.items())
        case list():
            return _head(11, len(value)) + b"".join(map(_written, value))
        case str():
            return _head(2, len(value.encode())) + value.encode()
        case _:
            raw = int(value).to_bytes(8).lstrip(b"\0")
            return _head(9, len(raw)) + raw


def _head(kind: int, size: int) -> bytes:
    return bytes([kind << 5 | size]) if kind < 8 else bytes([size, kind - 7])
