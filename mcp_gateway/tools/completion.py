"""Completes the arguments that name models, while a person types. Knows the names of models, and nothing else."""

from collections.abc import Iterable

from mcp import types

from mcp_gateway.core.errors import GatewayError
from mcp_gateway.tools.prompts import DEFINITIONS

_MAX_VALUES = 100
"""The specification's own bound."""
_MAX_TYPED_CHARS = 2000
"""What stands before the id being typed is repeated in each value."""
_NAMING_MODELS = frozenset({"id", "model", "models"})


def complete(
    ref: types.PromptReference | types.ResourceTemplateReference,
    argument: types.CompletionArgument,
    ids: Iterable[str],
    others: Iterable[str] = (),
) -> types.Completion:
    """`others` are further names that `model` may have.

    Ids that begin with what was typed, then those that contain it; nothing for arguments that name no model.

    Raises GatewayError `not_found` for a prompt or a resource that there is not.
    """
    _check_exists(ref)
    if argument.name not in _NAMING_MODELS or len(argument.value) > _MAX_TYPED_CHARS:
        return types.Completion(values=[], total=0, has_more=False)
    before, typed = _last_of_list(argument.value) if argument.name == "models" else ("", argument.value)
    names = (*ids, *others) if argument.name == "model" else ids
    found = _matching(typed.strip(), names)
    values = [before + name for name in found[:_MAX_VALUES]]
    return types.Completion(values=values, total=len(found), has_more=len(found) > _MAX_VALUES)


def _check_exists(ref: types.PromptReference | types.ResourceTemplateReference) -> None:
    if isinstance(ref, types.PromptReference):
        exists = any(prompt.name == ref.name for prompt in DEFINITIONS)
    else:
        exists = ref.uri.startswith("models://")
    if not exists:
        raise GatewayError("not_found", "There is nothing of that name to complete.")


def _last_of_list(text: str) -> tuple[str, str]:
    """What stands before the id being typed, and that id."""
    before, comma, typed = text.rpartition(",")
    return before + comma, typed


def _matching(typed: str, ids: Iterable[str]) -> list[str]:
    wanted = typed.lower()
    matching = [name for name in ids if wanted in name.lower()]
    return sorted(matching, key=lambda name: not name.lower().startswith(wanted))
