"""Where a key may be used from, what it is for and its tags: as options and in words."""

from collections.abc import Sequence
from typing import Annotated

import typer

from mcp_gateway.cli.desk import LISTED_CHARS, fail
from mcp_gateway.core.identity.keys import Key
from mcp_gateway.core.identity.particulars import MAX_NOTE_CHARS, ParticularsChange
from mcp_gateway.core.networks import MAX_NETWORKS, Networks, networks_of
from mcp_gateway.core.tags import Tags, tags_of
from mcp_gateway.core.text import shown

_FORM = "CIDR,..."
NetworksOption = Annotated[
    list[str] | None,
    typer.Option(help="Where alone it may be used from: networks or addresses between commas.", metavar=_FORM),
]
NoteOption = Annotated[str | None, typer.Option(help="What it is for.")]
TagOption = Annotated[list[str] | None, typer.Option(help="A label for its costs; repeatable.")]
ChangedNetworksOption = Annotated[
    list[str] | None,
    typer.Option(
        help="Where alone it may be used from, instead of others; '' for anywhere. Left out: as it was.", metavar=_FORM
    ),
]
ChangedNoteOption = Annotated[str | None, typer.Option(help="What it is for; '' for nothing. Left out: as it was.")]
ChangedTagOption = Annotated[
    list[str] | None,
    typer.Option(help="A label for its costs, instead of others; repeatable; '' for none. Left out: as they were."),
]


def particulars_given(
    networks: Sequence[str] | None, note: str | None, tags: Sequence[str] | None
) -> ParticularsChange:
    """What is given; an empty text clears what was said before."""
    change = ParticularsChange()
    if networks is not None:
        change["networks"] = None if list(networks) == [""] else _networks(networks)
    if note is not None:
        if len(note) > MAX_NOTE_CHARS:
            fail(f"--note takes up to {MAX_NOTE_CHARS:,} characters")
        change["note"] = note or None
    if tags is not None:
        change["tags"] = () if list(tags) == [""] else _tags(tags)
    return change


def particulars_in_words(key: Key) -> str:
    """Nothing for a key of which nothing is said."""
    told = key.particulars_told()
    networks = f"from {', '.join(told['networks'])} alone" if told["networks"] else ""
    tags = f"tagged {', '.join(map(shown, told['tags']))}" if told["tags"] else ""
    note = f"({shown(told['note'], LISTED_CHARS)})" if told["note"] else ""
    return " ".join(filter(None, (networks, tags, note)))


def _networks(asked: Sequence[str]) -> Networks:
    try:
        networks = networks_of(word for text in asked for word in text.split(","))
    except ValueError as fault:
        fail(f"--networks: {fault}")
    if len(networks) > MAX_NETWORKS:
        fail(f"--networks takes up to {MAX_NETWORKS}")
    return networks


def _tags(asked: Sequence[str]) -> Tags:
    try:
        return tags_of(asked)
    except ValueError as fault:
        fail(f"--tag {fault}")
