"""Where a request goes: home to its prefix, unless home has more than its share; else the less loaded of two."""

from collections import Counter
from random import Random
from typing import Any

import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st

from mcp_gateway.core.surfaces.chat import parse_chat
from mcp_gateway.core.surfaces.surface import Ask
from mcp_gateway.core.upstream.choice import choose, home_of, prefix_of

SYSTEM = {"role": "system", "content": "Be brief."}
HELLO = {"role": "user", "content": "Hello."}
ANSWER = {"role": "assistant", "content": "Hello to you."}
IDLE = {f"vllm-{number}": 0 for number in range(1, 6)}
PREFIXES = [number.to_bytes(16, "big") for number in range(2000)]


def request(*messages: Any, **fields: Any) -> Ask:
    return parse_chat(orjson.dumps({"model": "m", "messages": messages} | fields))


def prefix(*messages: Any, account_id: str = "acc_1") -> bytes:
    return prefix_of(request(*messages), account_id)


def test_a_conversation_keeps_its_prefix_as_it_grows() -> None:
    assert prefix(SYSTEM, HELLO) == prefix(SYSTEM, HELLO, ANSWER, {"role": "user", "content": "And now?"})


def test_a_list_of_texts_is_read_and_images_are_not() -> None:
    part = {"type": "text", "text": "Hello."}
    image = {"type": "image_url", "image_url": {"url": "data:image/png;base64,AAAA"}}
    assert prefix({"role": "user", "content": [part, image]}) == prefix(HELLO)
    assert prefix({"role": "user", "content": None}) != prefix(HELLO)


def test_only_so_many_parts_and_messages_are_read() -> None:
    parts = [{"type": "text", "text": "a"}] * 64
    assert prefix({"role": "user", "content": [*parts, {"type": "text", "text": "b"}]}) == prefix(
        {"role": "user", "content": parts}
    )
    assert prefix(*[SYSTEM] * 64, HELLO) == prefix(*[SYSTEM] * 64, ANSWER)
    assert prefix(*[SYSTEM] * 63, HELLO) != prefix(*[SYSTEM] * 63, ANSWER)


@pytest.mark.parametrize(
    "other",
    [
        prefix({"role": "system", "content": "Be long."}, HELLO),
        prefix(SYSTEM, {"role": "user", "content": "Bye."}),
        prefix(HELLO),
        prefix({"role": "developer", "content": "Be brief."}, HELLO),
        prefix(SYSTEM, HELLO, account_id="acc_2"),
    ],
    ids=["system prompt", "first message", "no system prompt", "role", "account"],
)
def test_what_begins_otherwise_has_a_prefix_of_its_own(other: bytes) -> None:
    assert prefix(SYSTEM, HELLO) != other


def test_homes_are_spread_over_all_backends() -> None:
    homes = Counter(home_of(prefix, IDLE) for prefix in PREFIXES)
    assert homes.keys() == IDLE.keys()
    assert max(homes.values()) < 1.3 * min(homes.values())


def test_a_backend_that_goes_moves_only_its_own_conversations() -> None:
    left = {name: 0 for name in IDLE if name != "vllm-3"}
    for prefix in PREFIXES:
        home = home_of(prefix, IDLE)
        assert home_of(prefix, left) == home or home == "vllm-3"


def test_an_idle_home_is_chosen_every_time() -> None:
    assert {choose(IDLE, PREFIXES[0], Random(seed)) for seed in range(50)} == {home_of(PREFIXES[0], IDLE)}


def test_a_home_with_more_than_its_share_is_left_for_the_less_loaded_of_two() -> None:
    home = home_of(PREFIXES[0], IDLE)
    other, *heavy = (name for name in IDLE if name != home)
    loads = dict.fromkeys(IDLE, 10) | {home: 20, other: 0}
    chosen = Counter(choose(loads, PREFIXES[0], Random(seed)) for seed in range(500))
    assert home not in chosen
    assert chosen[other] > 1.4 * max(chosen[name] for name in heavy)


@given(st.lists(st.integers(0, 10**6), min_size=1, max_size=8), st.binary(min_size=16, max_size=16), st.integers())
def test_what_is_chosen_is_never_the_only_busiest(amounts: list[int], prefix: bytes, seed: int) -> None:
    loads = {f"vllm-{number}": amount for number, amount in enumerate(amounts)}
    chosen = choose(loads, prefix, Random(seed))
    mean = sum(amounts) / len(amounts)
    assert loads[chosen] <= 1.25 * (mean + 1) + 1 or sorted(amounts)[-2] >= loads[chosen]


def test_one_conversation_asked_many_times_at_once_stays_within_a_quarter_of_an_even_load() -> None:
    loads = dict.fromkeys(IDLE, 0)
    random = Random(1)
    for _ in range(1000):
        loads[choose(loads, PREFIXES[0], random)] += 1
    assert max(loads.values()) <= 1.25 * 200 + 1
