"""Statements of any engine in PostgreSQL's words."""

from typing import Any

from mcp_gateway.core.store.postgres.words import statement_of
from mcp_gateway.core.store.sql import webhooks
from tests.cases import each


@each(
    ("sql", "text", "given", "ordered"),
    [
        ("SELECT ?, ?", "SELECT $1, $2", (1, 2), [1, 2]),
        ("SELECT ?2, ?1, ?2", "SELECT $2, $1, $2", (1, 2), [1, 2]),
        ("SELECT :b, :a, :b", "SELECT $1, $2, $1", {"a": 1, "b": 2, "c": 3}, [2, 1]),
        ("SELECT '?', ':a', 'it''s ?' -- why?\n, ?", "SELECT '?', ':a', 'it''s ?' \n, $1", (1,), [1]),
        ("SELECT x::text, '%H:00:00Z'", "SELECT x::text, '%H:00:00Z'", (), []),
        ("a IS NOT ? AND b IS NOT NULL", "a IS DISTINCT FROM $1 AND b IS NOT NULL", (1,), [1]),
        ("a IS b AND c IS NULL", "a IS NOT DISTINCT FROM b AND c IS NULL", (), []),
        ("a CROSS JOIN b ON c CROSS JOIN d", "a JOIN b ON c CROSS JOIN d", (), []),
        ("a CROSS JOIN b AS c USING (d)", "a JOIN b AS c USING (d)", (), []),
        ("FROM a INDEXED BY i WHERE +x = y + z", "FROM a WHERE x = y + z", (), []),
        ("IFNULL(INSTR(a, b), 0)", "COALESCE(strpos(a, b), 0)", (), []),
        ("SELECT budgets.window", 'SELECT budgets."window"', (), []),
        ("json_group_array(json_array(a))", "json_group_array(json_build_array(a))", (), []),
    ],
)
def test_a_statement_keeps_what_it_says(sql: str, text: str, given: Any, ordered: list[Any]) -> None:
    statement = statement_of(sql)
    assert statement.text == text
    assert list(statement.ordered(given)) == ordered


def test_one_that_needs_words_of_its_own_has_them() -> None:
    assert "is_told <> 0" in statement_of(webhooks._CLEAR_MARK).text
