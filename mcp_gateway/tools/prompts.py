"""The prompts that a person picks in a client: compare models, estimate a cost. Knows the catalog, asks no model."""

from collections.abc import Callable, Mapping
from functools import partial

from mcp import types

from mcp_gateway.core.caller import Caller
from mcp_gateway.core.catalog import Model
from mcp_gateway.core.errors import GatewayError
from mcp_gateway.core.money import format_usd
from mcp_gateway.core.prices import in_words
from mcp_gateway.core.routing.auto_model import AutoModel
from mcp_gateway.core.text import shown

_MAX_NUMBER = 10**12
Arguments = Mapping[str, str]
Find = Callable[[str], Model]
"""Raises GatewayError for the name of no model."""


def _argument(name: str, description: str, *, required: bool = False) -> types.PromptArgument:
    return types.PromptArgument(name=name, description=description, required=required)


DEFINITIONS = (
    types.Prompt(
        name="compare_models",
        title="Compare models",
        description="Ask several models the same question and compare their answers and what they cost.",
        arguments=[
            _argument("question", "What each model is asked.", required=True),
            _argument("models", "Model ids, separated by commas; otherwise two or three that differ are chosen."),
        ],
    ),
    types.Prompt(
        name="estimate_cost",
        title="Estimate a cost",
        description="Work out what requests to a model will cost before they are sent.",
        arguments=[
            _argument("model", "A model id.", required=True),
            _argument("prompt_tokens", "Tokens of each prompt; otherwise 1000."),
            _argument("completion_tokens", "Tokens of each answer; otherwise 500."),
            _argument("requests", "How many requests; otherwise 1."),
        ],
    ),
)


class Prompts:
    """Renders a prompt with the catalog in force."""

    def __init__(self, auto_model: AutoModel) -> None:
        self._auto_model = auto_model
        self._render: dict[str, Callable[[Find, Arguments], str]] = {
            "compare_models": _compare_models,
            "estimate_cost": _estimate_cost,
        }

    def get(self, name: str, arguments: Arguments, caller: Caller) -> types.GetPromptResult:
        """The prompt with its arguments filled in, at the prices that the caller pays.

        Raises GatewayError for a prompt or an argument that is wrong.
        """
        definition = next((prompt for prompt in DEFINITIONS if prompt.name == name), None)
        if definition is None:
            raise GatewayError("not_found", f"There is no prompt '{shown(name)}'.")
        for argument in definition.arguments or ():
            if argument.required and not arguments.get(argument.name, "").strip():
                raise GatewayError("missing_parameter", f"`{argument.name}` is missing.", param=argument.name)
        text = self._render[name](partial(self._auto_model.find, caller), arguments)
        message = types.PromptMessage(role="user", content=types.TextContent(text=text))
        return types.GetPromptResult(description=definition.description, messages=[message])


def _compare_models(find: Find, arguments: Arguments) -> str:
    names = [name.strip() for name in arguments.get("models", "").split(",") if name.strip()]
    if names:
        models = "\n".join(f"- {_priced(find(name))}" for name in dict.fromkeys(names))
        choice = f"Ask each of these models the question below:\n{models}\n"
    else:
        choice = "Choose two or three models with list_models that differ in price, and ask each the question below.\n"
    return (
        f"{choice}\nUse chat_completion once for each model, with the question as the only message and otherwise the "
        "same arguments. Then show a table with the model, its answer in a sentence, completion tokens and cost_usd; "
        "say where the answers disagree and which is right, and which model is the best choice for such questions."
        f"\n\nThe question:\n{arguments['question']}"
    )


def _estimate_cost(find: Find, arguments: Arguments) -> str:
    model = find(arguments["model"].strip())
    prompt = _number(arguments, "prompt_tokens", 1000)
    completion = _number(arguments, "completion_tokens", 500)
    requests = _number(arguments, "requests", 1)
    one_nano = model.price.cost_nano(prompt, completion)
    return (
        f"What will it cost to send {requests} request(s) of {prompt} prompt tokens to {_priced(model)}, with answers "
        f"of {completion} tokens?\n\nBy these prices one request costs {format_usd(one_nano)} USD and all of them cost "
        f"{format_usd(one_nano * requests)} USD. Explain the sum, say what get_balance shows is left, and name a "
        "cheaper model from list_models that could do the same, if there is one."
    )


def _priced(model: Model) -> str:
    return f"{model.id} ({'free' if model.price.is_free else in_words(model.price)})"


def _number(arguments: Arguments, name: str, default: int) -> int:
    text = arguments.get(name, "").strip().replace(",", "").replace("_", "") or str(default)
    digits = text.lstrip("0") or text[:1]
    if not (text.isascii() and text.isdigit() and len(digits) <= len(str(_MAX_NUMBER)) and int(digits) <= _MAX_NUMBER):
        raise GatewayError("invalid_value", f"`{name}` must be a whole number, such as {default}.", param=name)
    return int(digits)
