"""Changes at random, of bytes and of JSON; all of them follow from the dice, so that a number repeats them."""

import copy
from random import Random
from typing import Any

TOKENS = [
    b"\r\n", b"\n", b"\r", b"\0", b" ", b"\t", b":", b",", b";", b'"', b"\\", b"{", b"}", b"[", b"]", b"?", b"#",
    b"%00", b"%0a", b"%2f", b"..", b"//", b"-1", b"\x7f", b"\xff", b"\xc3\xa9", b"HTTP/1.0", b"HTTP/2.0", b"0\r\n\r\n",
    b"5\r\nhello\r\n", b"ffffffffffffffff", b"content-length: 5\r\n", b"Content-Length: 0\r\n", b"host: x\r\n",
    b"transfer-encoding: chunked\r\n", b"Transfer-Encoding: gzip, chunked\r\n", b"connection: close\r\n",
    b"expect: 100-continue\r\n", b"upgrade: h2c\r\nconnection: upgrade\r\n", b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
    b"GET / HTTP/1.1\r\nhost: localhost\r\n\r\n", b"data: [DONE]\n\n", b"data: {}\n\n", b": x\n\n", b"null", b"1e400",
]  # fmt: skip
VALUES: list[Any] = [
    None, True, False, 0, 1, -1, 2, 1.5, -0.0, 1e308, -1e-308, 2**31, 2**53, 2**63, 2**64 - 1, -(2**63), "", " ",
    "x", "\0", "\x1b[2J", "\n", "\u2028", "\ud7ff", "é" * 200, "a" * 5000, "0" * 5000, "9" * 5000, "1e999999999",
    "NaN", "-0", "0x1", "١٢", "gw_live_x", "demo/echo", "models://", "models://catalog", "file:///etc/passwd",
    "data:image/png;base64,AAAA", "http://127.0.0.1/", " (parameter=a, value=" * 20, [], {}, [[]], [{}], [None],
    [1, "a", None, {}], {"": None},
    {"type": []}, {"type": "text"}, {"type": "function", "function": []}, {"a": {"b": {"c": []}}}, [[[[[[[[]]]]]]]],
]  # fmt: skip


def mutated_bytes(dice: Random, data: bytes) -> bytes:
    """One change, or some more."""
    changed = bytearray(data)
    for _ in range(dice.choice((1, 1, 2, 3, 8))):
        _change_bytes(dice, changed, dice.randint(0, len(changed)))
    return bytes(changed)


def _change_bytes(dice: Random, data: bytearray, at: int) -> None:
    match dice.randrange(6):
        case 0:
            data[at:at] = dice.choice(TOKENS)
        case 1:
            data[at : at + 1] = bytes([dice.randrange(256)])
        case 2:
            del data[at : at + dice.choice((1, 1, 2, 10, 100))]
        case 3:
            data[at:at] = data[at : at + dice.choice((1, 5, 50, 500))] * dice.choice((1, 2, 20))
        case 4:
            other = dice.randint(0, len(data))
            data[at:at] = data[other : other + dice.choice((2, 20, 200))]
        case _:
            data[at : at + 1] = bytes(byte ^ 1 << dice.randrange(8) for byte in data[at : at + 1])


def mutated_json(dice: Random, value: Any, names: list[str]) -> Any:
    """A copy with a member or two changed, added, repeated or left out; `names` are those of new members."""
    value = copy.deepcopy(value)
    for _ in range(dice.choice((1, 1, 1, 2, 3))):
        places = _places(value)
        if not places:
            break
        _change_member(dice, *dice.choice(places), names)
    return value


def _places(container: Any) -> list[tuple[Any, Any]]:
    """Every member of every object and list within, as its container and its key."""
    keys: list[Any] = []
    if isinstance(container, dict):
        keys = list(container)
    elif isinstance(container, list):
        keys = list(range(len(container)))
    return [(container, key) for key in keys] + [place for key in keys for place in _places(container[key])]


def _change_member(dice: Random, container: Any, key: Any, names: list[str]) -> None:
    odd = copy.deepcopy(dice.choice(VALUES))
    match dice.randrange(6):
        case 0 | 1 | 2:
            container[key] = odd
        case 3:
            del container[key]
        case 4:
            container[key] = [container[key]] * dice.choice((1, 3))
        case _ if isinstance(container, dict):
            container[dice.choice(names)] = odd
        case _:
            container.insert(key, odd)


def cut(dice: Random, data: bytes) -> list[bytes]:
    """The same in a few pieces, or in one."""
    cuts = sorted(dice.randint(0, len(data)) for _ in range(dice.choice((0, 0, 1, 3))))
    return [data[start:end] for start, end in zip([0, *cuts], [*cuts, len(data)], strict=True)]
