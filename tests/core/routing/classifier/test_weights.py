"""The file of weights is checked as it is read, and says the same as what was fitted."""

import json
import zlib
from typing import Any

import pytest

from mcp_gateway.core.prompt_tasks import TASKS
from mcp_gateway.core.routing.classifier.features import Feature
from mcp_gateway.core.routing.classifier.weights import FILE, decoded, encoded
from tests.cases import each

NOTHING = [0.0] * len(TASKS)
ROWS: dict[Feature, list[float]] = {
    ("*write", ""): [0.0, 2.0, *NOTHING[2:]],
    "*write": [1.0, -1.0, *NOTHING[2:]],
    "hello": [0.5, *NOTHING[1:]],
    "ü": [-0.25, *NOTHING[1:]],
}


def test_weights_that_were_written_are_read_with_their_signs() -> None:
    weights = decoded(encoded(ROWS, NOTHING, 1.2, 2.0))
    sums = weights.sums(["hello", "*write", "ü", "unheard of", "hello", ("*write", "?")])
    assert sums.known == 3
    assert [one * weights.scale for one in sums.by_task[:3]] == pytest.approx([1.25, -1.0, 0.0], abs=0.02)
    assert weights.temperature == 1.2
    assert weights.sums([("*write", "")]).by_task[1] == 127
    assert weights.sums([]) == ((0,) * len(TASKS), 0)


def test_as_many_features_as_a_prompt_can_have_add_up() -> None:
    rows: dict[Feature, list[float]] = {f"feature {number}": [1.0, -1.0, *NOTHING[2:]] for number in range(3000)}
    sums = decoded(encoded(rows, NOTHING, 1.0, 1.0)).sums([*rows])
    assert sums == ((127 * 3000, -127 * 3000, *[0] * 10), 3000)


def test_a_weight_above_the_largest_is_cut() -> None:
    weights = decoded(encoded(ROWS, NOTHING, 1.0, 0.5))
    assert weights.sums(["*write"]).by_task[:2] == (127, -127)


def changed(**fields: Any) -> bytes:
    line, _, table = zlib.decompress(encoded(ROWS, NOTHING, 1.0, 1.0)).partition(b"\n")
    return zlib.compress(json.dumps(json.loads(line) | fields).encode() + b"\n" + table)


def test_what_is_not_changed_is_read() -> None:
    assert len(decoded(changed())) == 4


@each(
    "content",
    [
        b"",
        b"no zlib",
        FILE.read_bytes()[:-100],
        zlib.compress(b"no json\n"),
        zlib.compress(b"[]\n"),
        zlib.compress(b"{}\n"),
        zlib.decompress(FILE.read_bytes()),
        zlib.compress(zlib.decompress(FILE.read_bytes())[:-1]),
        zlib.compress(zlib.decompress(FILE.read_bytes())[: -len(TASKS)]),
        changed(format=2),
        changed(lexicon="0" * 16),
        changed(tasks=[*reversed(TASKS)]),
        changed(tasks=[*TASKS[:-1]]),
        changed(bias=[0.0]),
        changed(bias=[float("nan")] * len(TASKS)),
        changed(bias=["none"] * len(TASKS)),
        changed(scale=float("inf")),
        changed(scale=None),
        changed(temperature=0),
        changed(temperature=-1),
        changed(features=["a", "b"]),
        changed(features=["a", "b", "c", "c"]),
        changed(features=3),
    ],
)
def test_what_is_no_file_of_weights_or_another_lexicons_is_refused(content: bytes) -> None:
    with pytest.raises(ValueError, match="weights"):
        decoded(content)
