"""What of a caller's body counts as the same in the one that is sent."""

from typing import Any

from mcp_gateway.core.inference.unchanged import _is_kept
from tests.cases import each


def nested(levels: int, **more: Any) -> dict[str, Any]:
    """An object in so many others, with something more in the last."""
    return {"a": nested(levels - 1, **more)} if levels else {"b": 1} | more


@each(
    ("value", "written", "is_kept"),
    [
        ([1, {"a": [2.0]}], [1, {"a": [2]}], True),
        ([{"a": 1, "b": None, "c": []}], [{"a": 1}], True),
        ([{"a": 1}], [{"a": 1, "b": None}], False),
        ([{"a": 1}, {}], [{"a": 1}], False),
        ([{"a": 1, "b": False}], [{"a": 1}], False),
        ([{"a": 1, "b": {}}], [{"a": 1}], False),
        ([{"a": None}], [{"a": 1}], False),
        ({"a": 1}, [1], False),
        ("1", 1, False),
        (nested(5, c=None), nested(5), True),
        (nested(6, c=None), nested(6), False),  # no message has so many
        (nested(200), nested(200), True),
    ],
)
def test_what_says_nothing_may_be_missing_and_nothing_else(value: Any, written: Any, is_kept: bool) -> None:
    assert _is_kept("messages", value, {"messages": written}) == is_kept
