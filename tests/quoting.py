"""The worst case of a request, as it is held for where nothing lowers what was asked for."""

from mcp_gateway.core.catalog import Model
from mcp_gateway.core.config import WalletSettings
from mcp_gateway.core.inference.terms import Quote, asked_terms, quote, quoted_prompt_tokens
from mcp_gateway.core.prices import Price
from mcp_gateway.core.surfaces.surface import Ask


def quote_of(model: Model, price: Price, ask: Ask, wallet: WalletSettings, counted_tokens: int | None = None) -> Quote:
    """In nano-USD; the prompt by its bytes, or by a backend's count."""
    prompt_tokens = quoted_prompt_tokens(ask, model, wallet, counted_tokens)
    return quote(asked_terms(ask, model.max_output_tokens), ask, model, price, prompt_tokens, wallet)
