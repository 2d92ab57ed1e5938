"""The table of promises is checked both ways, and so are the checks, on tables with planted faults."""

import ast
import re
from collections import Counter
from collections.abc import Collection, Iterable, Iterator
from pathlib import Path

from tests import promises
from tests.cases import each
from tests.sources import nodes_of

ROOT = Path(__file__).parent.parent
FILES = sorted(path for path in (ROOT / "tests").rglob("test_*.py"))
BY_CI = {
    f"make {target}"
    for line in (ROOT / ".ci" / "run").read_text().splitlines()
    if line.startswith("make ")
    for target in re.findall(r"(?<= )[a-z]\S*", line.partition("#")[0])
}
TESTS_OF = {test for area in promises.AREAS.values() for tests in area.promises.values() for test in tests}

NO_PROMISE = {
    "tests/test_cases.py",  # of `each`, with which other tests are written
}

DEFINITION = re.compile(r"^(    )?(?:async )?(?:def (test\w*)|class (\w+)|(Test\w*) = )")


def names_in(root: Path, path: Path) -> set[str]:
    """The file, if there is a test in it, and each of its tests, as pytest names them.

    It is read by lines, since the formatter has each definition begin one: to parse all files of tests takes 1.4 s.
    """
    file = path.relative_to(root).as_posix()
    names = {f"{file}::{name}" for name in _defined_in(path.read_text().splitlines())}
    return names and {file, *names}


def _defined_in(lines: Iterable[str]) -> Iterator[str]:
    within = ""
    for found in filter(None, map(DEFINITION.match, lines)):
        indent, test, tests, machine = found.groups()
        if indent and test and within.startswith("Test"):
            yield f"{within}::{test}"
        elif not indent:
            within = tests or ""
            yield from filter(None, [test or machine])


def unheld(held_by: Iterable[str], there: Collection[str]) -> list[str]:
    """What promises name that is not there."""
    return sorted(set(held_by) - set(there))


def unpromised(held_by: Iterable[str], files: Iterable[str]) -> list[str]:
    """Files of tests of which no promise names anything."""
    return sorted(set(files) - {test.partition("::")[0] for test in held_by})


def odd(tree: Iterable[ast.AST]) -> list[str]:
    """Promises that stand twice, in one area or two, that name no test or one twice, or that are no sentence.

    They are read from the source, since a dictionary keeps the last of two.
    """
    rows = [row for node in tree if isinstance(node, ast.Dict) for row in _rows_of(node)]
    times = Counter(said.casefold() for said, _ in rows)
    return [said for said, tests in rows if times[said.casefold()] > 1 or not _is_held(tests) or not _is_sentence(said)]


def _rows_of(table: ast.Dict) -> Iterator[tuple[str, list[str]]]:
    for key, value in zip(table.keys, table.values, strict=True):
        if key and isinstance(value, ast.List):
            yield ast.literal_eval(key), ast.literal_eval(value)


def _is_held(tests: list[str]) -> bool:
    return bool(tests) and len(tests) == len(set(tests))


def _is_sentence(said: str) -> bool:
    return said.endswith(".") and not said[0].islower()


def test_every_test_that_holds_a_promise_exists() -> None:
    there = {test for path in FILES for test in names_in(ROOT, path)}
    assert unheld(TESTS_OF, there | BY_CI) == []


def test_every_file_of_tests_holds_a_promise() -> None:
    files = {path.relative_to(ROOT).as_posix() for path in FILES}
    assert unpromised(TESTS_OF, files - NO_PROMISE) == []
    assert sorted(NO_PROMISE - files) == []


def test_every_promise_is_a_sentence_that_stands_once_and_is_held() -> None:
    assert odd(nodes_of(Path(promises.__file__))) == []


def test_every_page_of_the_docs_belongs_to_an_area() -> None:
    pages = {page for area in promises.AREAS.values() for page in area.said_in}
    assert sorted(page for page in pages if not (ROOT / page).is_file()) == []
    assert {f"docs/{path.name}" for path in (ROOT / "docs").glob("*.md")} - pages == set()


SOURCE = """
def test_plain(): pass
async def test_waiting(): pass
def helper(): pass
class TestNames:
    def test_inner(self): pass
    def helper(self): pass
class Other:
    def test_of_nobody(self): pass
TestLife = Life.TestCase
"""
THERE = ["::test_plain", "::test_waiting", "::TestNames::test_inner", "::TestLife"]


def planted(root: Path, source: str) -> set[str]:
    (root / "test_a.py").write_text(source)
    return names_in(root, root / "test_a.py")


def test_the_tests_of_a_file_are_found_and_nothing_else_is_one(tmp_path: Path) -> None:
    assert planted(tmp_path, SOURCE) == {"test_a.py", *(f"test_a.py{name}" for name in THERE)}


@each(
    "gone", ["test_a.py::test_gone", "test_a.py::test_inner", "test_a.py::Other::test_of_nobody", "test_b.py", "make x"]
)
def test_a_promise_whose_test_is_gone_is_found(tmp_path: Path, gone: str) -> None:
    assert unheld(["test_a.py", "test_a.py::test_plain", gone], planted(tmp_path, SOURCE)) == [gone]


def test_a_file_without_a_test_holds_nothing(tmp_path: Path) -> None:
    assert unheld(["test_a.py"], planted(tmp_path, "def helper(): pass")) == ["test_a.py"]


def test_a_file_without_a_promise_is_found() -> None:
    assert unpromised(["test_a.py::test_plain", "test_b.py", "make x"], ["test_a.py", "test_b.py", "test_c.py"]) == [
        "test_c.py"
    ]


@each(
    ("source", "found"),
    [
        ('{"One.": ["a"], "Two.": ["a", "b"]}', []),
        ('{"One.": ["a"], "One.": ["b"]}', ["One.", "One."]),
        ('[{"One.": ["a"]}, {"one.": ["b"], "Two.": ["c"]}]', ["One.", "one."]),
        ('{"One.": [], "Two.": ["a"]}', ["One."]),
        ('{"One.": ["a", "a"]}', ["One."]),
        ('{"One": ["a"], "two.": ["a"]}', ["One", "two."]),
    ],
)
def test_a_promise_that_stands_twice_or_is_held_by_nothing_is_found(source: str, found: list[str]) -> None:
    assert odd(ast.walk(ast.parse(source))) == found
