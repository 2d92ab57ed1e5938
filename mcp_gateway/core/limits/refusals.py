"""What a caller is told when one of its quotas is used up: the code, whose limit it is, and how long to wait.

Decides nothing.
"""

from mcp_gateway.core.caller import Quota, Whose
from mcp_gateway.core.errors import Code, GatewayError

_OF: dict[Whose, str] = {
    "key": "of this key",
    "user": "of yours",
    "maker": "of the key that made this one (all that it made together)",
    "account": "of your account (all of its keys together)",
    "origin": "of all accounts together that were made from one address and have not paid yet",
    "address": "of your address",
    "site": "of your network (your IPv6 address's /48)",
    "guests": "of all guests together",
}


def too_many_a_day(quota: Quota, wait_s: int) -> GatewayError:
    limit = f"{quota.allowance.requests_per_day} requests a day {_OF[quota.whose]}"
    return _used_up("requests_per_day", quota, f"The limit of {limit} is used up until midnight UTC.", wait_s)


def too_many_a_minute(quota: Quota, wait_s: int) -> GatewayError:
    limit = f"{quota.allowance.requests_per_minute} requests a minute {_OF[quota.whose]}"
    return _used_up("requests_per_minute", quota, f"The limit of {limit} is used up.", wait_s)


def too_many_listings(quota: Quota, wait_s: int) -> GatewayError:
    limit = f"{quota.allowance.listings_per_minute} listing requests a minute {_OF[quota.whose]}"
    return _used_up("requests_per_minute", quota, f"The limit of {limit} is used up.", wait_s)


def too_many_running(quota: Quota) -> GatewayError:
    limit = f"{quota.allowance.in_flight} running requests {_OF[quota.whose]}"
    return _used_up("in_flight", quota, f"The limit of {limit} is reached; wait until one has ended.", 1)


def too_many_tokens(quota: Quota, tokens: int, wait_s: int) -> GatewayError:
    limit = f"{quota.allowance.tokens_per_minute} tokens a minute {_OF[quota.whose]}"
    text = f"The limit of {limit} does not leave {tokens} for this request."
    return _used_up("tokens_per_minute", quota, text, wait_s)


def too_large(quota: Quota, tokens: int) -> GatewayError:
    """Not 429, since waiting does not help."""
    limit = f"{quota.allowance.tokens_per_minute} tokens a minute {_OF[quota.whose]}"
    text = f"This request may use {tokens} tokens, more than the whole limit of {limit}; "
    return GatewayError("invalid_value", text + "lower max_tokens or shorten the messages.", param="max_tokens")


def _used_up(code: Code, quota: Quota, text: str, wait_s: int) -> GatewayError:
    if quota.is_of_guests:
        return GatewayError("guest", f"{text} An API key has limits of its own.", retry_after_s=wait_s)
    return GatewayError(code, text, retry_after_s=wait_s)
