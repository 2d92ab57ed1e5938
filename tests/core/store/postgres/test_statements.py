"""Each statement of any engine that stands under a name is one that PostgreSQL takes, in its words."""

import importlib
import pkgutil
import re
from collections.abc import Iterator, Mapping

import pytest

from mcp_gateway.core.store import sql
from mcp_gateway.core.store.postgres.words import statement_of
from mcp_gateway.core.store.sql import checks
from tests.postgres_server import Outside
from tests.postgres_stores import lent_database

pytestmark = pytest.mark.engines

BEGINS = re.compile(r"\s*(SELECT|INSERT INTO|UPDATE|DELETE FROM|WITH)\b")
PARTS = {
    "budgets._OUT", "requests._SELECTED", "settlements._OF_A_REQUEST", "status_board._SINCE", "status_board._ADD",
}  # fmt: skip
"""What statements are made of."""


def named() -> Iterator[tuple[str, str]]:
    for found in pkgutil.iter_modules(sql.__path__):
        module = importlib.import_module(f"{sql.__name__}.{found.name}")
        for name, value in vars(module).items():
            if isinstance(value, str) and BEGINS.match(value) and f"{found.name}.{name}" not in PARTS:
                yield f"{found.name}.{name}", value.replace("{}", "?")
    for checked in (checks.CHECKS, checks.ALL_CHECKS):
        yield from checked.items()


STATEMENTS: Mapping[str, str] = dict(named())


def test_postgresql_takes_each() -> None:
    refused = []
    with lent_database() as url, Outside(url) as outside:
        for number, (name, text) in enumerate(STATEMENTS.items()):
            try:
                outside.run(f"PREPARE statement_{number} AS {statement_of(text).text}")
            except Exception as error:  # noqa: BLE001 - all of them are told at once
                refused.append(f"{name}: {error}")
    assert not refused, "\n".join(refused)
