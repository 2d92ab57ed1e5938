"""Who is in the pool that `auto` chooses from: pure."""

from collections.abc import Sequence
from dataclasses import replace

from mcp_gateway.core.caller import GUEST_ACCOUNT_ID, Caller, Guest, KeyHolder
from mcp_gateway.core.catalog import Catalog, build_catalog
from mcp_gateway.core.config import ModelSettings
from mcp_gateway.core.optimization import RoutingDefaults
from mcp_gateway.core.routing.model_pool import default_of, pool_of
from tests.cases import each

PLAIN = Caller("acc_1", KeyHolder("key_1"), ())
GUEST = Caller(GUEST_ACCOUNT_ID, Guest(), ())
OF_A_KEY = replace(PLAIN, routing=RoutingDefaults(model_pool=("large",)))


def catalog() -> Catalog:
    written = [
        {"id": "small", "aliases": ["s", "tiny"]},
        {"id": "large", "guests": False},
        {"id": "org/medium"},
        {"id": "vectors", "task": "embed"},
        {"id": "judge", "task": "score"},
        {"id": "writer", "task": "generate"},
    ]
    return build_catalog([ModelSettings.model_validate(row) for row in written], {}, publish_discovered=False)


def names_of(caller: Caller | None, configured: Sequence[str] = (), wanted: Sequence[str] | None = None) -> list[str]:
    return [model.id for model in pool_of(caller, catalog(), configured, wanted).models]


@each("caller", [PLAIN, None])
def test_where_nobody_names_any_it_is_all_that_generate_text(caller: Caller | None) -> None:
    assert names_of(caller) == ["small", "large", "org/medium", "writer"]


@each(
    ("caller", "configured", "wanted", "expected"),
    [
        (PLAIN, ["large", "small"], None, ["large", "small"]),
        (OF_A_KEY, ["small"], None, ["large"]),
        (OF_A_KEY, ["small"], ["org/medium"], ["org/medium"]),
        (PLAIN, ["small"], ["large"], ["large"]),
        (PLAIN, ["small"], [], ["small"]),
    ],
)
def test_a_request_goes_before_its_key_and_that_before_the_settings(
    caller: Caller, configured: list[str], wanted: list[str] | None, expected: list[str]
) -> None:
    assert names_of(caller, configured, wanted) == expected


def test_an_alias_is_its_model_which_is_there_once() -> None:
    assert names_of(PLAIN, ["tiny", "large", "small", "s"]) == ["small", "large"]


@each("name", ["vectors", "judge"])
def test_what_generates_no_text_is_in_none_by_any_name(name: str) -> None:
    assert pool_of(PLAIN, catalog(), [name, "small"]).gone == ()
    assert names_of(PLAIN, [name, "small"]) == ["small"]


def test_a_guest_has_those_that_are_open_to_guests() -> None:
    assert names_of(GUEST) == ["small", "org/medium", "writer"]
    assert names_of(GUEST, ["large", "small"]) == ["small"]


@each("names", [("gone", "small"), ("small", "gone"), ("Small", "small", "small/")])
def test_names_of_no_model_are_told_and_passed_over(names: tuple[str, ...]) -> None:
    pool = pool_of(replace(PLAIN, routing=RoutingDefaults(names)), catalog(), ())
    assert [model.id for model in pool.models] == ["small"]
    assert pool.gone == tuple(name for name in names if name != "small")


def test_where_all_names_are_gone_it_is_empty_and_not_all_there_is() -> None:
    assert pool_of(PLAIN, catalog(), ["gone"]) == ((), ("gone",))


def test_what_the_caller_may_not_see_is_gone_for_it() -> None:
    pool = pool_of(PLAIN, catalog().only(frozenset({"large"})), ["large", "small"])
    assert [model.id for model in pool.models] == ["large"]
    assert pool.gone == ("small",)


@each(("name", "default"), [("", "small"), ("large", "large"), ("tiny", "small"), ("gone", "small")])
def test_the_default_is_who_is_called_so_or_the_first(name: str, default: str) -> None:
    assert default_of(pool_of(PLAIN, catalog(), ()).models, name) == default


def test_an_empty_pool_has_no_default() -> None:
    assert default_of((), "small") is None
