"""What one request may spend: whether it may be asked, how long its answer may be, what that costs at most. All pure.

A prompt is bounded by its bytes, since a token is at least one; where a backend has counted it, by that.
"""

from typing import NamedTuple

from mcp_gateway.core.caller import Caller
from mcp_gateway.core.catalog import Model
from mcp_gateway.core.config import LimitSettings, WalletSettings
from mcp_gateway.core.errors import GatewayError
from mcp_gateway.core.prices import Price
from mcp_gateway.core.surfaces.surface import Ask, Terms
from mcp_gateway.core.surfaces.usage import Usage

ROOM_ENOUGH_TOKENS = 4096
"""Left for an answer by the prompt's bytes: it is not worth a question how many tokens they are."""
_UNBOUNDED_TOKENS = 2**31


class Quote(NamedTuple):
    """What a request may cost, in nano-USD, with a prompt of so many tokens at that price; `least_tokens` are those of
    the shortest answer that is of use.
    """

    maximum_nano: int
    prompt_tokens: int
    least_tokens: int
    images: int
    price: Price

    @property
    def minimum_nano(self) -> int:
        """The least that a request is worth making for."""
        return self.price.most_nano(self.prompt_tokens, self.least_tokens, self.images)

    @property
    def prompt_nano(self) -> int:
        """What of it everything but the answer may cost."""
        return self.price.most_nano(self.prompt_tokens, 0, self.images)


def check(ask: Ask, model: Model, caller: Caller, limits: LimitSettings) -> None:
    """Raises GatewayError `guests_not_allowed`, or `invalid_value` for more choices than the caller may have."""
    check_access(model, caller)
    if model.task is not None and model.task not in ask.surface.tasks:
        problem = f"{model.id!r} cannot be asked for this: it is there to {model.task}."
        raise GatewayError("invalid_value", problem, param="model")
    most = 1 if caller.is_guest else limits.max_choices * ask.prompt.number
    if ask.choices > most:
        raise _too_many_choices(ask, most)


def check_access(model: Model, caller: Caller) -> None:
    """Raises GatewayError `guests_not_allowed`."""
    if caller.is_guest and not model.is_open_to_guests:
        raise GatewayError("guests_not_allowed", f"{model.id!r} needs an API key.", param="model")


def asked_terms(ask: Ask, limit: int) -> Terms:
    """What the caller asked for, within the limit in tokens of each choice; it may have asked for none."""
    asked = ask.output_limit
    if asked is None or asked <= limit:
        return Terms(asked, limit)
    return Terms(limit, limit, clamped_to=limit)


def bounded_in_size(terms: Terms, ask: Ask, model: Model, max_response_bytes: int) -> Terms:
    """The terms for an answer in one piece, which stays below what is held of one.

    Raises GatewayError `invalid_value` where the caller itself asked for more.
    """
    most_tokens = max(1, max_response_bytes // ask.answer_size.bytes_per_token)
    if (terms.output_limit or model.max_output_tokens) <= most_tokens:
        return terms
    if ask.output_limit is not None:
        raise _too_much(ask, most_tokens)
    return terms._replace(output_limit=most_tokens)


def lowered(terms: Terms, limit: int) -> Terms:
    """The terms with a limit that the caller is told of, since it stands for the wallet or for a backend's window."""
    least = limit if terms.output_limit is None else min(limit, terms.output_limit)
    return terms._replace(output_limit=least, clamped_to=limit)


def quote(terms: Terms, ask: Ask, model: Model, price: Price, prompt_tokens: int, wallet: WalletSettings) -> Quote:
    """The worst case of a request; one without a limit may use all that the model may put out."""
    most = most_output_tokens(terms, ask, model)
    least = min(most, wallet.min_useful_tokens * ask.choices)
    images = len(ask.prompt.images)
    return Quote(price.most_nano(prompt_tokens, most, images), prompt_tokens, least, images, price)


def worst_case(ask: Ask, model: Model, price: Price, wallet: WalletSettings) -> Quote:
    """The same of a model that may be asked after others, whose backends have not been asked for anything."""
    terms = asked_terms(ask, model.max_output_tokens)
    return quote(terms, ask, model, price, quoted_prompt_tokens(ask, model, wallet, None), wallet)


def quoted_prompt_tokens(ask: Ask, model: Model, wallet: WalletSettings, counted_tokens: int | None) -> int:
    """The longest prompt within the window: the model's where the prompt was counted, else any backend's.

    A count says nothing of images, which become tokens only later.
    """
    is_counted = counted_tokens is not None and not ask.prompt.images
    window = model.context_window if is_counted else model.widest_window
    return min(most_prompt_tokens(ask, model, wallet), window * ask.prompt.number)


def most_prompt_tokens(ask: Ask, model: Model, wallet: WalletSettings) -> int:
    """Bytes bound the prompt: a token is at least one byte, and a message's JSON longer than what it begins with.

    One that is sent as token ids has as many.

    The chat template adds what the backends have told; where they have not, that is assumed for each message too.
    """
    if ask.prompt.token_ids is not None:
        return ask.prompt.token_ids
    template = model.template_tokens
    if template is None:
        template = wallet.template_margin_tokens * (1 + ask.prompt.parts)
    return ask.prompt.text_bytes + template + wallet.max_image_tokens * len(ask.prompt.images)


def estimated_prompt_tokens(ask: Ask, model: Model, wallet: WalletSettings) -> int:
    """About what a prompt has."""
    if ask.prompt.token_ids is not None:
        return ask.prompt.token_ids
    image_tokens = wallet.max_image_tokens * len(ask.prompt.images)
    return min(ask.prompt.estimated_text_tokens + image_tokens, model.context_window * ask.prompt.number)


def reserved_output_tokens(terms: Terms, ask: Ask, model: Model, limits: LimitSettings) -> int:
    """What is counted of an answer against tokens a minute until its usage is known."""
    output = terms.output_limit or model.max_output_tokens
    if ask.output_limit is None:
        output = min(output, limits.assumed_output_tokens)
    return output * ask.choices


def cost_nano(usage: Usage, price: Price, images: int) -> int:
    """What so much costs, as it is billed."""
    prompt, completion, cached, written = usage
    return price.cost_nano(prompt, completion, cached or 0, written or 0, images)


def most_output_tokens(terms: Terms, ask: Ask, model: Model) -> int:
    """Of all choices together."""
    return (terms.output_limit or model.max_output_tokens) * ask.choices


def affordable_tokens(held_nano: int, worst: Quote, choices: int) -> int:
    """The limit whose worst case a hold of less than the maximum still covers."""
    tokens = worst.price.tokens_for(held_nano - worst.prompt_nano, worst.prompt_tokens)
    return _UNBOUNDED_TOKENS if tokens is None else max(1, tokens // choices)


def _too_many_choices(ask: Ask, most: int) -> GatewayError:
    asked, most = ask.choices // ask.prompt.number, max(1, most // ask.prompt.number)
    if asked <= most:
        return GatewayError("invalid_value", "Without an API key one prompt is answered at a time.", param="prompt")
    name = ask.choices_field
    return GatewayError("invalid_value", f"`{name}` must be at most {most}, not {asked}.", param=name)


def _too_much(ask: Ask, most_tokens: int) -> GatewayError:
    rest = "" if ask.answer_size.field == "max_tokens" else f", or lower `{ask.answer_size.field}`"
    problem = f"An answer this long is not held whole: ask for at most {most_tokens} `max_tokens`{rest}, or stream it."
    return GatewayError("invalid_value", problem, param=ask.answer_size.field)
