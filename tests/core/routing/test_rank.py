"""Where a request goes: home to its prefix, unless home has more than its share; else the less loaded of two."""

from collections import Counter
from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from random import Random
from typing import Any, Literal, get_args

import orjson
from hypothesis import given
from hypothesis import strategies as st

from mcp_gateway.core.catalog import VLLM, Offer
from mcp_gateway.core.prices import FREE, Price, dearest
from mcp_gateway.core.routing.rank import Candidate, next_of, prefix_of, rank
from mcp_gateway.core.surfaces.chat import parse_chat
from mcp_gateway.core.surfaces.surface import Ask
from tests.cases import each

Prospect = Literal["sound", "doubtful", "none"]
Fleet = tuple[tuple[Offer, ...], dict[str, list["Server"]]]
OFFER = Offer(VLLM, "m", FREE)
OFFERS = (OFFER,)
SYSTEM = {"role": "system", "content": "Be brief."}
HELLO = {"role": "user", "content": "Hello."}
ANSWER = {"role": "assistant", "content": "Hello to you."}
IDLE = {f"vllm-{number}": 0 for number in range(1, 6)}
NAMES = [str(number) for number in range(2000)]


@dataclass(eq=False)
class Server:
    """A backend as it is; sound for every model that nothing else is said of."""

    name: str
    load: int
    prospects: dict[str, Prospect] = field(default_factory=dict)

    def prospect(self, backend_model: str) -> Prospect:
        return self.prospects.get(backend_model, "sound")

    def can_take(self, backend_model: str) -> bool:
        return self.prospect(backend_model) != "none"

    def is_sound_for(self, backend_model: str) -> bool:
        return self.prospect(backend_model) == "sound"


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


@each(
    "other",
    [
        prefix({"role": "system", "content": "Be long."}, HELLO),
        prefix(SYSTEM, {"role": "user", "content": "Bye."}),
        prefix(HELLO),
        prefix({"role": "developer", "content": "Be brief."}, HELLO),
        prefix(SYSTEM, HELLO, account_id="acc_2"),
    ],
)
def test_what_begins_otherwise_has_a_prefix_of_its_own(other: bytes) -> None:
    assert prefix(SYSTEM, HELLO) != other


def ranked(name: str, loads: Mapping[str, int] = IDLE) -> list[str]:
    """The backends in the order in which a conversation is sent to them that begins with this text."""
    sight = {VLLM: [Server(backend, load) for backend, load in loads.items()]}
    asked = request({"role": "user", "content": name})
    return [candidate.backend.name for candidate in rank(OFFERS, sight, asked, "acc_1")]


def test_homes_are_spread_over_all_backends() -> None:
    homes = Counter(ranked(name)[0] for name in NAMES)
    assert homes.keys() == IDLE.keys()
    assert max(homes.values()) < 1.3 * min(homes.values())


def test_a_backend_that_goes_moves_only_its_own_conversations() -> None:
    left = {name: 0 for name in IDLE if name != "vllm-3"}
    for name in NAMES:
        assert ranked(name, left) == [backend for backend in ranked(name) if backend != "vllm-3"]


def next_name(loads: Mapping[str, int], seed: int, failed: Collection[str] = ()) -> str | None:
    """Whom a request goes to, where the first of the loads is its home."""
    ranking = [Candidate(OFFER, Server(name, load)) for name, load in loads.items()]
    failures = [candidate for candidate in ranking if candidate.backend.name in failed]
    chosen = next_of(ranking, failures, Random(seed))
    return None if chosen is None else chosen.backend.name


def test_an_idle_home_is_chosen_every_time() -> None:
    assert {next_name(IDLE, seed) for seed in range(50)} == {"vllm-1"}


def test_a_home_with_more_than_its_share_is_left_for_the_less_loaded_of_two() -> None:
    home, other, *heavy = IDLE
    loads = dict.fromkeys(IDLE, 10) | {home: 20, other: 0}
    chosen = Counter(next_name(loads, seed) for seed in range(500))
    assert home not in chosen
    assert chosen[other] > 1.4 * max(chosen[name] for name in heavy)


@given(st.lists(st.integers(0, 10**6), min_size=1, max_size=8), st.integers())
def test_what_is_chosen_is_never_the_only_busiest(amounts: list[int], seed: int) -> None:
    loads = {f"vllm-{number}": amount for number, amount in enumerate(amounts)}
    chosen = next_name(loads, seed)
    assert chosen is not None
    mean = sum(amounts) / len(amounts)
    assert loads[chosen] <= 1.25 * (mean + 1) + 1 or sorted(amounts)[-2] >= loads[chosen]


def test_one_conversation_asked_many_times_at_once_stays_within_a_quarter_of_an_even_load() -> None:
    servers = [Server(name, 0) for name in IDLE]
    ranking = [Candidate(OFFER, server) for server in servers]
    random = Random(1)
    for _ in range(1000):
        chosen = next_of(ranking, (), random)
        assert chosen is not None
        chosen.backend.load += 1
    assert max(server.load for server in servers) <= 1.25 * 200 + 1


# -- any offers at any backends


@st.composite
def fleets(draw: st.DrawFn) -> tuple[tuple[Offer, ...], dict[str, list[Server]]]:
    """Offers of one model at up to three sources, whose backends are in any state, and lack models or not."""
    names = draw(st.lists(st.sampled_from("abc"), min_size=1, max_size=3, unique=True))
    prices = st.builds(Price, st.integers(0, 10**9), st.integers(0, 10**9))
    offers = tuple(Offer(name, f"{name}/model", draw(prices)) for name in names)
    prospects = st.sampled_from(get_args(Prospect))
    loads = st.integers(0, 20)
    servers = {
        name: [
            Server(f"{name}-{number}", draw(loads), {f"{name}/model": draw(prospects)})
            for number in range(draw(st.integers(0, 4)))
        ]
        for name in names
    }
    return offers, servers


def prospect_of(candidate: Candidate[Server]) -> Prospect:
    return candidate.backend.prospect(candidate.offer.name)


texts = st.text(max_size=20)


def of_text(text: str) -> Ask:
    return request({"role": "user", "content": text})


@given(fleets(), texts)
def test_all_that_can_be_asked_is_ranked_once_and_in_the_order_of_the_offers(fleet: Fleet, text: str) -> None:
    offers, servers = fleet
    ranking = rank(offers, servers, of_text(text), "acc_1")
    assert [candidate.offer for candidate in ranking] == sorted(
        (candidate.offer for candidate in ranking), key=offers.index
    )
    able = {
        (offer, server) for offer in offers for server in servers[offer.source] if server.prospect(offer.name) != "none"
    }
    assert set(ranking) == able
    assert len(ranking) == len(able)


@given(fleets(), texts, st.randoms(use_true_random=False))
def test_the_order_rests_on_the_beginning_and_the_account_alone(fleet: Fleet, text: str, random: Random) -> None:
    offers, servers = fleet
    grown = request({"role": "user", "content": text}, ANSWER, HELLO)
    first = [(one.offer, one.backend.name) for one in rank(offers, servers, of_text(text), "acc_1")]
    for peers in servers.values():
        random.shuffle(peers)
        for server in peers:
            server.load = random.randrange(20)
    assert [(one.offer, one.backend.name) for one in rank(offers, servers, grown, "acc_1")] == first


@given(fleets(), texts, st.integers(), st.data())
def test_asking_goes_on_to_what_is_sound_of_the_first_offer_and_to_nobody_twice(
    fleet: Fleet, text: str, seed: int, data: st.DataObject
) -> None:
    offers, servers = fleet
    ranking = rank(offers, servers, of_text(text), "acc_1")
    failures: list[Candidate[Server]] = []
    while (chosen := next_of(ranking, failures, Random(seed))) is not None:
        assert chosen not in failures
        sound = [one for one in ranking if one not in failures and prospect_of(one) == "sound"]
        assert chosen.offer is (sound[0].offer if sound else ranking[0].offer)
        assert chosen in sound or not (sound or failures), "what is doubtful is asked only first, for want of others"
        failures.append(chosen)
        for one in ranking:  # what becomes of the others meanwhile
            one.backend.prospects[one.offer.name] = data.draw(st.sampled_from(get_args(Prospect)))
    sound = [one for one in ranking if one not in failures and prospect_of(one) == "sound"]
    assert not sound


@given(fleets())
def test_no_offer_exceeds_the_dearest(fleet: Fleet) -> None:
    offers, _ = fleet
    most = dearest([offer.price for offer in offers])
    assert all(offer.price.cost_nano(1000, 500) <= most.cost_nano(1000, 500) for offer in offers)


def test_the_prefix_is_not_read_where_there_is_no_choice() -> None:
    asked = request(HELLO)
    asked.body = {}  # which has no beginning
    assert len(rank(OFFERS, {VLLM: [Server("vllm-1", 0), Server("vllm-2", 0, {"m": "none"})]}, asked, "acc_1")) == 1
