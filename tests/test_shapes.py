"""What is said of the shape of code is found where it is planted."""

import ast

from tests.cases import each
from tests.shapes import asked_for, attributes_of, made_in, too_large

NAMES, CLASSES = {"chat", "vllm"}, {"ChatSurface", "CHAT"}


@each(
    "asking",
    [
        'if ask.surface.name == "chat": pass',
        'is_it = "vllm" != name',
        'while name in ("messages", "chat"): pass',
        'pairs = [one for one in names if one not in {"x"} | {"chat"}]',
        "answer = 1 if ask.surface.name == other else 2",
        "assert self.target.dialect.name is not None",
        'match name:\n    case "chat" | "x":\n        pass',
        "match surface:\n    case ChatSurface():\n        pass",
        "is_it = isinstance(surface, ChatSurface)",
        "is_it = isinstance(surface, (str, ChatSurface))",
        "is_it = surface is CHAT",
    ],
)
def test_asking_for_a_name_is_found(asking: str) -> None:
    assert asked_for(ast.parse(asking), NAMES, CLASSES) == [asked_for(ast.parse(asking), NAMES, CLASSES)[0]]


@each(
    "other",
    [
        'table = {"chat": 1}',
        "translation = dialect.translations[ask.surface.name]",
        'name = "chat"',
        'is_it = body["chat"] == 1',
        "record(surface=ask.surface.name)",
        "is_it = isinstance(surface, str)",
        'is_it = model.name == "x"',
    ],
)
def test_what_only_bears_a_name_is_not(other: str) -> None:
    assert asked_for(ast.parse(other), NAMES, CLASSES) == []


def test_what_a_module_makes_of_its_classes_is_named_with_them() -> None:
    tree = ast.parse("class ChatSurface: pass\nCHAT = ChatSurface()\nOTHER = str()\nMOST = 5")
    assert made_in(tree) == {"ChatSurface", "CHAT"}


def a_class(attributes: int, methods: int) -> ast.Module:
    declared = [f"    a{number}: int = 0" for number in range(attributes)]
    ways = [f"    def m{number}(self): pass" for number in range(methods)]
    return ast.parse("\n".join(["class One:", *declared, *ways, "    pass"]))


@each(("attributes", "methods"), [(16, 0), (0, 21), (16, 21)])
def test_a_class_that_has_too_much_is_found(attributes: int, methods: int) -> None:
    assert too_large(a_class(attributes, methods)) == {"One": (attributes, methods)}


def test_a_class_that_has_as_much_as_it_may_is_not() -> None:
    assert too_large(a_class(15, 20)) == {}


def test_what_is_declared_and_what_is_set_count_once() -> None:
    tree = ast.parse(
        "class One:\n"
        "    __slots__ = ('a',)\n"
        "    a: int\n"
        "    b = c = 0\n"
        "    def __init__(self, other):\n"
        "        self.a = self.d = other.e = 1\n"
        "        self.f += 1\n"
        "    @property\n"
        "    def g(self): return self.h\n"
    )
    (node,) = [one for one in tree.body if isinstance(one, ast.ClassDef)]
    assert attributes_of(node) == {"a", "b", "c", "d", "f"}
