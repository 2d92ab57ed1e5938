"""Scores of texts as vLLM has them: how well documents answer a query, and how alike two texts are."""

from collections.abc import Iterable
from typing import Any, NamedTuple

from mcp_gateway.core.config import Task
from mcp_gateway.core.errors import GatewayError
from mcp_gateway.core.json_bounds import LONG_BYTES
from mcp_gateway.core.json_fields import at_least, at_most, kind_of, make_whole, required
from mcp_gateway.core.record import SurfaceName
from mcp_gateway.core.surfaces.openings import opening_bytes
from mcp_gateway.core.surfaces.surface import AnswerSize, Ask, PromptSize

MAX_PAIRS = 2048
_PAIR_TOKENS = 8
"""More than a model puts around the two texts of a pair."""


class Sides(NamedTuple):
    """The fields of the two texts of each pair; one text may stand against many."""

    left: str
    right: str


class ScoresSurface:
    """POST /v1/rerank and /v2/rerank, or POST /v1/score."""

    tasks: tuple[Task, ...] = ("score", "embed")
    needs_limit = False
    is_conversation = False
    done = b""
    comment = b""

    def __init__(self, name: SurfaceName, sides: Sides) -> None:
        self.name = name
        self.prompt_field = sides.right
        self._sides = sides

    def read(self, body: dict[str, Any], size_bytes: int) -> Ask:
        """Read a parsed body of `size_bytes`. Raises GatewayError (400) with a message that says what to change."""
        make_whole(body, ("top_n", "truncate_prompt_tokens"))
        model = required(body, "model", str, "a model's id")
        at_least(body, "top_n", 0)
        left, right = (_texts(body, name) for name in self._sides)
        if len(left) not in (1, len(right)):
            problem = f"`{self._sides.left}` must have one text, or as many as `{self._sides.right}`."
            raise GatewayError("invalid_value", problem, param=self._sides.left)
        repeated = len(left[0].encode("utf-8", "replace")) * (len(right) - len(left))
        return Ask(
            surface=self,
            body=body,
            model=model,
            prompt=PromptSize(size_bytes + repeated + _PAIR_TOKENS * len(right), len(right), len(right) + len(left)),
            choices=0,
            answer_size=AnswerSize(1, self._sides.right),
            is_long=size_bytes > LONG_BYTES,
        )

    def opening(self, body: dict[str, Any]) -> Iterable[bytes]:
        """The beginning of the query."""
        first = body[self._sides.left]
        yield opening_bytes(first if isinstance(first, str) else first[0])

    def last_frames(self, error: GatewayError, request_id: str, model: str) -> bytes:
        raise NotImplementedError  # no answer is a stream


RERANK = ScoresSurface("rerank", Sides("query", "documents"))
SCORE = ScoresSurface("score", Sides("text_1", "text_2"))


def _texts(body: dict[str, Any], name: str) -> list[str]:
    value = body.get(name)
    if value is None or value in ("", []):
        raise GatewayError("missing_parameter", f"`{name}` is missing or empty: give texts.", param=name)
    texts = value if isinstance(value, list) else [value]
    at_most(texts, MAX_PAIRS, name)
    if set(map(type, texts)) != {str}:
        odd = next(one for one in texts if not isinstance(one, str))
        raise GatewayError(
            "invalid_type", f"`{name}` must be a text or a list of texts, not {kind_of(odd)}.", param=name
        )
    return texts
