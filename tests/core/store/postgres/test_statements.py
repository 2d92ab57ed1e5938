"""Each statement of any engine that stands under a name is one that PostgreSQL takes, in its words."""

import importlib
import pkgutil
import re
from collections.abc import Iterator, Mapping

import pytest

from mcp_gateway.core.identity.accounts import Accounts
from mcp_gateway.core.identity.key_ring import KeyRing
from mcp_gateway.core.identity.keys import Key, KeysPerAccount
from mcp_gateway.core.ids import new_id
from mcp_gateway.core.store import sql
from mcp_gateway.core.store.postgres.words import statement_of
from mcp_gateway.core.store.sql import checks
from tests.clocks import MsClock
from tests.postgres_server import Outside, name_in
from tests.postgres_stores import lent_database, postgres_store

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


@pytest.mark.parametrize("left_out", ["enable_hashjoin, enable_mergejoin", "enable_nestloop, enable_mergejoin"])
async def test_the_makers_of_a_key_come_nearest_first_however_they_are_joined(left_out: str) -> None:
    with lent_database() as url, Outside(url) as outside:
        settings = [f"ALTER DATABASE {name_in(url)} SET {name} = off" for name in left_out.split(", ")]
        outside.run("; ".join(settings))
        try:
            async with postgres_store(MsClock(), url) as store:
                ring = KeyRing(store, new_id=new_id, now_ms=MsClock(), most=KeysPerAccount(live=9, a_day=9))
                account = await Accounts(store, new_id=new_id, now_ms=MsClock()).create("Ann")
                line: list[Key] = []
                for _ in range(6):
                    made_by = line[0].id if line else None
                    line.insert(0, (await ring.create(account.id, made_by=made_by))[0])
                assert [one.key_id for one in (await ring.get(line[0].id)).makers] == [one.id for one in line[1:]]
        finally:
            outside.run(f"ALTER DATABASE {name_in(url)} RESET ALL")


def test_postgresql_takes_each() -> None:
    refused = []
    with lent_database() as url, Outside(url) as outside:
        for number, (name, text) in enumerate(STATEMENTS.items()):
            try:
                outside.run(f"PREPARE statement_{number} AS {statement_of(text).text}")
            except Exception as error:  # noqa: BLE001 - all of them are told at once
                refused.append(f"{name}: {error}")
    assert not refused, "\n".join(refused)
