"""Names that rows repeat: written once, and never another's after a transaction that was rolled back."""

import sqlite3
from collections.abc import Iterator
from contextlib import closing

import pytest

from mcp_gateway.core.engine import DatabaseError
from mcp_gateway.core.errors import GatewayError
from mcp_gateway.core.ids import now_ms
from mcp_gateway.core.record import AddRecord
from mcp_gateway.core.store import names
from mcp_gateway.core.store.sqlite import migrations
from mcp_gateway.core.store.sqlite.executors import EXECUTORS
from mcp_gateway.core.store.sqlite.store import Store
from mcp_gateway.core.store.transaction import Transaction
from tests.cases import each
from tests.databases import Query, Work, changing, of_version
from tests.recorded import recorded, write_records


@pytest.fixture
def transaction() -> Iterator[Transaction]:
    with closing(sqlite3.connect(":memory:", isolation_level=None)) as connection:
        connection.deserialize(of_version(max(migrations._files())))
        connection.execute("BEGIN")
        yield Transaction(connection, EXECUTORS, now_ms)


def written(transaction: Transaction) -> list[str]:
    return [name for (name,) in transaction.all("SELECT name FROM names ORDER BY name")]


def test_a_name_has_one_number_with_whatever_others_it_comes(transaction: Transaction) -> None:
    account, key, model = transaction.numbers["acc_1", None, "a"]
    assert key is None
    assert transaction.numbers["acc_1", "key_1", "a"] == (account, 3, model)
    assert transaction.numbers[("a",)] == (model,)
    assert written(transaction) == ["a", "acc_1", "key_1"]


def test_what_others_wrote_has_the_number_that_they_gave(transaction: Transaction) -> None:
    transaction.execute("INSERT INTO names VALUES (77, 'acc_1')")
    assert transaction.numbers[("acc_1",)] == (77,)


def test_so_many_are_known_at_once(transaction: Transaction, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(names, "_MOST", 3)
    found = {name: transaction.numbers[(name,)] for name in "abcdefgh"}
    assert len(transaction.numbers) <= 3
    assert {name: transaction.numbers[(name,)] for name in "abcdefgh"} == found


def test_what_a_refused_write_numbered_is_numbered_anew(transaction: Transaction) -> None:
    def refuse(inner: Transaction, _: object) -> None:
        assert inner.numbers[("never written",)] == (1,)
        raise GatewayError("not_found", "There is none.")

    with pytest.raises(GatewayError):
        transaction.whole(refuse, Work(lambda _: None))
    assert transaction.numbers[("first",)] == (1,)
    assert transaction.numbers[("never written",)] == (2,)
    assert written(transaction) == ["first", "never written"]


async def test_a_burst_that_is_run_again_writes_its_names_again(store: Store) -> None:
    @Work
    def fail(connection: sqlite3.Connection) -> None:
        connection.execute("INSERT INTO names (name) VALUES ('of a bug')")
        raise ZeroDivisionError

    first, last = recorded(1, model="new/one", key_id="key_new"), recorded(2, model="new/two")
    written, failed = store.write(AddRecord(first)), store.write(fail)
    await written
    with pytest.raises(ZeroDivisionError):
        await failed
    await write_records(store, last)
    asked = Query("SELECT id, account_id, key_id, model, backend, price_version FROM requests ORDER BY id")
    assert await store.read(asked) == [
        (one.id, one.account_id, one.key_id, one.model, one.backend, one.price_version) for one in (first, last)
    ]
    assert await store.read(Query("SELECT 1 FROM names WHERE name = 'of a bug'")) == []


@each("sql", ["DELETE FROM names", "UPDATE names SET name = 'other'"])
async def test_names_stay(store: Store, sql: str) -> None:
    await write_records(store, recorded(1))
    with pytest.raises(DatabaseError, match="names"):
        await store.write(changing(sql))


def test_what_is_noted_is_not_read_and_only_so_many_are_known(
    transaction: Transaction, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(names, "_MOST", 2)
    transaction.numbers.note([("a", None), ("b",)], {"a": 7, "b": 8})
    assert transaction.numbers["a", None] == (7, None)
    assert transaction.numbers[("b",)] == (8,)
    transaction.numbers.note([("c",)], {"c": 9})
    assert transaction.numbers == {("c",): (9,)}
