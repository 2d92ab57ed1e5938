"""How doubles among the names of classes are found, tried on trees that are written here."""

from pathlib import Path

from tests.cases import each
from tests.class_names import alias_names_in, class_names_in, doubles

NESTED = "def make():\n    class Turn:\n        pass\n    return Turn\n"


def tree(folder: Path, **sources: str) -> dict[str, Path]:
    for name, source in sources.items():
        (folder / f"{name}.py").write_text(source)
    return {name: folder / f"{name}.py" for name in sources}


@each(
    ("first", "second", "name"),
    [
        ("class Turn:\n    pass\n", "class Turn:\n    pass\n", "Turn"),
        ("class Turn:\n    pass\n", "from typing import Protocol\nclass Turn(Protocol): ...\n", "Turn"),
        ("class _Turn:\n    pass\n", "class Other:\n    class _Turn:\n        pass\n", "_Turn"),
        (NESTED, "if True:\n    class Turn(int):\n        pass\n", "Turn"),
        ("class Turn: ...\nclass Turn: ...\n", "", "Turn"),
    ],
)
def test_a_double_is_found_wherever_it_stands(tmp_path: Path, first: str, second: str, name: str) -> None:
    assert list(doubles(class_names_in(tree(tmp_path, first=first, second=second)))) == [name]


def test_a_double_is_told_with_both_places(tmp_path: Path) -> None:
    modules = tree(tmp_path, first="class Turn: ...\n", second="\nclass Turn: ...\n")
    assert doubles(class_names_in(modules)) == {"Turn": ["first:1", "second:2"]}


def test_names_that_differ_are_no_double(tmp_path: Path) -> None:
    modules = tree(tmp_path, first="class Turn: ...\n", second="class _Turn: ...\nTurn = int\nfrom first import Turn\n")
    assert doubles(class_names_in(modules)) == {}


def test_aliases_are_told_from_constants_and_from_what_a_function_assigns(tmp_path: Path) -> None:
    source = "Turn = int\n_Keep: type = str\nLIMIT = 5\nturn = 6\nKind, Other = int, str\ndef f():\n    Inner = int\n"
    assert alias_names_in(tree(tmp_path, first=source)) == {"Turn": ["first:1"], "_Keep": ["first:2"]}
