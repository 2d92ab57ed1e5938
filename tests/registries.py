"""What there is to document, read from where it is defined: commands, metrics, tools and prompts."""

from collections.abc import Iterator
from inspect import cleandoc
from typing import Any

from mcp import types
from typer.core import TyperGroup
from typer.main import get_command

from mcp_gateway import server
from mcp_gateway.cli.commands import app
from mcp_gateway.core.observe.metrics import Metrics
from mcp_gateway.tools import prompts


def commands() -> dict[str, str]:
    """What each says of itself first, by the words that call it."""
    return dict(_leaves(get_command(app)))


def _leaves(command: Any, *words: str) -> Iterator[tuple[str, str]]:
    if not isinstance(command, TyperGroup):
        yield " ".join(words), cleandoc(command.help or "").partition("\n")[0]
        return
    for name, inner in command.commands.items():
        yield from _leaves(inner, *words, name)


def metrics() -> dict[str, tuple[tuple[str, ...], str]]:
    """The labels and the meaning of each of our own, by the name on the page."""
    ours = Metrics()
    kept: list[Any] = [metric for metric in vars(ours).values() if hasattr(metric, "_labelnames")]
    families = [(family, metric._labelnames) for metric in kept for family in metric.describe()]
    traffic: Iterator[Any] = ours._traffic.collect()
    families += [(family, family._labelnames) for family in traffic]
    return {
        family.name + ("_total" if family.type == "counter" else ""): (tuple(labels), family.documentation)
        for family, labels in families
    }


def tools() -> dict[str, types.Tool]:
    kinds = [kind for kind in vars(server).values() if isinstance(kind, type)]
    definitions = [getattr(kind, "definition", None) for kind in kinds]
    return {definition.name: definition for definition in definitions if isinstance(definition, types.Tool)}


def prompt_arguments() -> dict[str, list[str]]:
    return {
        definition.name: [argument.name for argument in definition.arguments or ()]
        for definition in prompts.DEFINITIONS
    }
