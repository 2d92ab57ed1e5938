"""Pools of keys: which models may be in one, by which names, and which names are gone."""

import pytest

from mcp_gateway.core.catalog import Published, build_catalog
from mcp_gateway.core.config import ModelSettings
from mcp_gateway.core.errors import GatewayError
from mcp_gateway.core.key_pools import gone_from, named_pool
from tests.cases import each

ENTRIES = [
    {"id": "one", "aliases": ["first", "uno"]},
    {"id": "pub/two", "aliases": ["second"], "provider": "other", "backend_model": "two-latest", "free": True},
    {"id": "vectors", "task": "embed"},
    {"id": "ranks", "task": "score"},
    {"id": "texts", "task": "generate"},
]


@pytest.fixture
def published() -> Published:
    published = Published()
    published.replace(build_catalog(list(map(ModelSettings.model_validate, ENTRIES)), {}, publish_discovered=False))
    return published


@each(
    ("asked", "models", "pool"),
    [
        (["one", "first", "one", "texts"], None, ("one", "first", "texts")),
        (["second", "one"], None, ("second", "one")),
        (["other/two-latest", "other/second", "one"], None, ("pub/two", "one")),
        (["first"], {"uno", "gone"}, ("first",)),
    ],
)
def test_a_pool_keeps_the_names_that_it_was_given_in_their_order(
    published: Published, asked: list[str], models: set[str] | None, pool: tuple[str, ...]
) -> None:
    assert named_pool(asked, published, None if models is None else frozenset(models)) == pool


@each(
    ("asked", "models", "code"),
    [
        (["one", "two-latest"], None, "model_not_found"),
        (["auto"], None, "model_not_found"),
        (["one", "vectors"], None, "invalid_value"),
        (["ranks"], None, "invalid_value"),
        (["one", "texts"], {"first"}, "model_not_found"),
        (["vectors"], {"first"}, "model_not_found"),
        (["one"], {"gone"}, "model_not_found"),
    ],
)
def test_what_can_not_be_chosen_is_refused(
    published: Published, asked: list[str], models: set[str] | None, code: str
) -> None:
    with pytest.raises(GatewayError) as refused:
        named_pool(asked, published, None if models is None else frozenset(models))
    assert (refused.value.code, refused.value.param) == (code, "model_pool")


def test_a_refusal_names_no_model_that_the_key_may_not_ask_for(published: Published) -> None:
    with pytest.raises(GatewayError) as refused:
        named_pool(["texst"], published, frozenset({"one"}))
    assert "texts" not in refused.value.message


@each(
    ("models", "gone"),
    [
        (None, ["lost", "vectors"]),
        ({"uno", "vectors"}, ["lost", "second", "vectors"]),
        ({"lost"}, ["one", "lost", "second", "vectors"]),
    ],
)
def test_names_are_gone_that_are_no_model_of_the_keys_or_generate_no_text(
    published: Published, models: set[str] | None, gone: list[str]
) -> None:
    pool = ["one", "lost", "second", "vectors"]
    assert gone_from(pool, published, None if models is None else frozenset(models)) == gone
