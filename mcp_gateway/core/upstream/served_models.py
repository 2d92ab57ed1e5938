"""The models of one server: what its list says of each, what its templates add, and which of them it lacks."""

import logging
from dataclasses import dataclass, field, replace
from typing import Any, NamedTuple, TypeGuard

from mcp_gateway.core.catalog import UNKNOWN_WINDOW_TOKENS, Listing
from mcp_gateway.core.errors import Code
from mcp_gateway.core.text import is_one_line

logger = logging.getLogger(__name__)

_MAX_MODELS = 2000
"""Of one server's list; it is read again and again, and every list of ours is made from it."""
_MAX_NAME_CHARS = 256


ALL_MODELS = ""
"""In the place of a model's name."""


class Rest(NamedTuple):
    """Until when a model is not asked, and what callers are told meanwhile."""

    until_s: float
    code: Code


@dataclass(slots=True, eq=False)
class ServedModels:
    """By the server's names for them."""

    measured: frozenset[str] = frozenset()
    """Those whose shortest chat it is to count, once, where it lists them."""
    listings: dict[str, Listing] = field(default_factory=dict)
    templates: dict[str, int | None] = field(default_factory=dict, repr=False)
    """What it told of those that are measured; None where it does not tell."""
    missing: set[str] = field(default_factory=set)
    """Those that it listed and yet did not have: what fails so quickly would look idle and draw ever more."""
    nameless: int = 0
    rests: dict[str, Rest] = field(default_factory=dict, repr=False)
    """Those that are not asked for a while, since a provider said so."""

    def window_of(self, name: str) -> int | None:
        """What prompt and answer may have together, in tokens; None where it does not tell."""
        listing = self.listings.get(name)
        return None if listing is None else listing.max_model_len

    def rest_of(self, name: str, now_s: float) -> Rest | None:
        """The rest that a model has now, be it of all models; None where it may be asked."""
        for resting in (ALL_MODELS, name):
            rest = self.rests.get(resting)
            if rest is not None and rest.until_s > now_s:
                return rest
            self.rests.pop(resting, None)
        return None

    def take(self, rows: list[Any], server: str) -> None:
        """List the models of these rows; one line tells how many have no name, each time that this number changes."""
        named = [row for row in rows if isinstance(row, dict) and _is_name(row.get("id"))]
        self.listings = {row["id"]: _listing(row, self.templates.get(row["id"])) for row in named[:_MAX_MODELS]}
        self.missing.clear()
        before, self.nameless = self.nameless, len(rows) - len(named)
        if self.nameless and self.nameless != before:
            logger.warning("backend %s lists %d models by no name that can be understood", server, self.nameless)

    @property
    def unmeasured(self) -> frozenset[str]:
        """Those that it has still to be asked about."""
        return self.measured & self.listings.keys() - self.templates.keys()

    def note_template(self, name: str, tokens: int | None) -> None:
        """Take its count of a model's shortest chat, where that can be."""
        row = self.listings[name]
        fits = tokens is not None and tokens < (row.max_model_len or UNKNOWN_WINDOW_TOKENS)
        self.templates[name] = tokens if fits else None
        self.listings[name] = replace(row, template_tokens=self.templates[name])


def _is_name(value: Any) -> TypeGuard[str]:
    """Whether it is text that can name something: short, in one line, without white space around it."""
    return (
        isinstance(value, str) and 0 < len(value) <= _MAX_NAME_CHARS and value == value.strip() and is_one_line(value)
    )


def _listing(row: dict[str, Any], template_tokens: int | None) -> Listing:
    owner, length = row.get("owned_by"), row.get("max_model_len")
    is_length = isinstance(length, int) and not isinstance(length, bool) and 0 < length <= UNKNOWN_WINDOW_TOKENS
    return Listing(
        id=row["id"],
        owned_by=owner if _is_name(owner) else "vllm",
        max_model_len=length if is_length else None,
        template_tokens=template_tokens,
    )
