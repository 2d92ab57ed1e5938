"""No regular expression of ours takes more than linear time, which is read from its parsed form."""

import ast
import re

import pytest

from tests.cases import each
from tests.expressions import Expression, Fault, _written, check, expressions, modules


@pytest.fixture(scope="module")
def every() -> list[Expression]:
    """All that are in the packages."""
    return expressions()


def test_it_is_linear_by_its_form(every: list[Expression]) -> None:
    for expression in every:
        check(expression)


def test_every_compiled_expression_was_seen(every: list[Expression]) -> None:
    seen = {expression.pattern for expression in every}
    compiled = {
        value.pattern for module in modules() for value in vars(module).values() if isinstance(value, re.Pattern)
    }
    assert compiled <= seen
    assert len(every) > 20


@each(
    "pattern",
    [
        r"(a+)+$",
        r"(?:a|a)*b",
        r"(?:a|ab)*c",
        r"(?:\w{1,200})*;",
        r"(?:a{1,200}){1,200};",
        r"(?:a?a){0,100};",
        r"x.*y.*z",
        r"a\s*\s*b",
        r"a\s*b?\s*c",
        r"'type': '(\w+)'.*?'msg': (['\"])(.*?)\2(?:, '|\})",
        r"^\d+ validation errors?:\s+| \(parameter=[\w.]+(?:, value=.*)?\)$",
        r"[\w.-]+\b",
        r"\s+$",
        r"\d{1,1000};",
        r"a(?=.*b)",
        rb'"model":\s?("(?:[^"\\]|\\.)*")',
        rb"\{[^{}]*(?:\{[^{}]*\}[^{}]*)*\}",
        r'"(?:[^"\\]+|\\.)*+"',
        r".*a++b",
    ],
)
def test_what_is_not_linear_is_found(pattern: str | bytes) -> None:
    with pytest.raises(Fault):
        check(Expression("planted", pattern, re.DOTALL, is_searched=True))


@each(
    ("pattern", "is_searched"),
    [
        (r"\w+", True),
        (r"\s+$", False),
        (r"a[^a]*b", True),
        (r"(\d{4})_\w+\.sql", False),
        (r"x\d+\.\d+z", True),
        (rb'"([^"\\]*(?:\\.[^"\\]*){0,64})"', True),
        (rb"(?m)^a[^\n]*b", True),
        (r'(?:[^"\\]++|\\.)*+', True),
        (r'"(?:[^"\\]++|\\.)*+"', False),
    ],
)
def test_what_is_linear_is_not_refused(pattern: str | bytes, is_searched: bool) -> None:
    check(Expression("planted", pattern, 0, is_searched))


@each("source", ["pattern", "'a' + b", "f'{a}'", "f'x{re.match(a)}'"])
def test_a_pattern_made_while_running_is_refused(source: str) -> None:
    with pytest.raises(Fault):
        _written(ast.parse(source, mode="eval").body, "planted")
