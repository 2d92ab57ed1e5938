"""What a key says of the choice of a model for `auto`, as options and in words."""

from collections.abc import Sequence
from typing import Annotated

import typer

from mcp_gateway.cli.desk import fail, model_names
from mcp_gateway.core.errors import GatewayError
from mcp_gateway.core.optimization import (
    MAX_POOL_NAMES,
    MODE_ALIASES,
    MODES,
    Mode,
    RoutingChange,
    RoutingDefaults,
    mode_named,
)
from mcp_gateway.core.text import shown

_MODE_NAMES = "|".join((*MODES, *MODE_ALIASES))

PoolOption = Annotated[
    list[str] | None,
    typer.Option(help="What `auto` chooses from for it: ids between commas; repeatable.", metavar="MODEL,..."),
]
ModeOption = Annotated[str | None, typer.Option(help="What it chooses by.", metavar=_MODE_NAMES)]
EventOption = Annotated[
    bool, typer.Option("--routing-event", help="Begin its streams of chats with the choice under /v1, too.")
]
ChangedPoolOption = Annotated[
    list[str] | None,
    typer.Option(
        help="What `auto` chooses from for it, instead of others; '' for what the settings say. Left out: as it was.",
        metavar="MODEL,...",
    ),
]
ChangedModeOption = Annotated[
    str | None,
    typer.Option(help="What it chooses by; '' for what the settings say. Left out: as it was.", metavar=_MODE_NAMES),
]
ChangedEventOption = Annotated[
    bool | None,
    typer.Option(
        "--routing-event/--no-routing-event",
        help="Begin its streams of chats with the choice under /v1, too. Left out: as it was.",
    ),
]


def routing_given(pool: Sequence[str] | None, mode: str | None, tells_event: bool | None) -> RoutingChange:
    """What is given; an empty text clears what was said before."""
    change = RoutingChange()
    if pool is not None:
        change["model_pool"] = None if pool == [""] else _pool(pool)
    if mode is not None:
        change["mode"] = _mode(mode) if mode else None
    if tells_event is not None:
        change["tells_event"] = tells_event
    return change


def routing_in_words(routing: RoutingDefaults) -> str:
    """Nothing where the settings say it all."""
    pool = f"of {', '.join(map(shown, routing.model_pool))}" if routing.model_pool else ""
    mode = f"by {routing.mode}" if routing.mode else ""
    told = "told in streams" if routing.tells_event else ""
    words = " ".join(filter(None, (pool, mode, told)))
    return f"auto {words}" if words else ""


def _pool(asked: Sequence[str]) -> tuple[str, ...]:
    pool = tuple(dict.fromkeys(model_names(asked, "--model-pool")))
    if len(pool) > MAX_POOL_NAMES:
        fail(f"--model-pool takes up to {MAX_POOL_NAMES} models")
    return pool


def _mode(name: str) -> Mode:
    try:
        return mode_named(name, "--optimize-mode")
    except GatewayError as refusal:
        fail(refusal.message)
