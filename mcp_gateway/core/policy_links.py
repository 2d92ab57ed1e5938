"""Where the operator's terms, privacy policy and support are: settings, and the one sentence by which refusals tell."""

import re
from dataclasses import dataclass
from typing import Annotated
from urllib.parse import urlsplit

from pydantic import AfterValidator

from mcp_gateway.core.errors import Code, GatewayError
from mcp_gateway.core.web_address import is_web_address

_EMAIL = re.compile(r"[A-Za-z0-9._%+-]{1,64}@[A-Za-z0-9-]{1,63}\.[A-Za-z0-9.-]{1,189}")
_MOST_CHARS = 500
"""Of an address, which stands in messages."""
_BY_TERMS: frozenset[Code] = frozenset({"content_policy"})
_BY_SUPPORT: frozenset[Code] = frozenset({
    "content_policy", "internal_error", "insufficient_balance", "below_minimum_balance", "budget_exhausted",
    "requests_per_minute", "requests_per_day", "tokens_per_minute", "in_flight", "guest", "too_many_sign_ins",
    "balance_held",
})  # fmt: skip
"""What is not allowed, what went wrong on our side, and limits."""


def _checked_policy_url(text: str) -> str:
    if not is_web_address(text) or urlsplit(text).username is not None or len(text) > _MOST_CHARS:
        raise ValueError("must be an address such as https://example.com/terms, without user name and password")
    return text


def _checked_contact(text: str) -> str:
    is_page = text.startswith("https://") and is_web_address(text) and urlsplit(text).username is None
    if not (is_page or _EMAIL.fullmatch(text)) or len(text) > _MOST_CHARS:
        raise ValueError("must be an e-mail address or an https address, such as help@example.com")
    return text


PolicyUrl = Annotated[str, AfterValidator(_checked_policy_url)]
SupportContact = Annotated[str, AfterValidator(_checked_contact)]


@dataclass(frozen=True, slots=True)
class PolicyLinks:
    """The addresses, as far as the operator has said them; `support` is an e-mail address or a page."""

    terms_url: str | None = None
    privacy_url: str | None = None
    support: str | None = None

    @property
    def are_there(self) -> bool:
        return (self.terms_url, self.privacy_url, self.support) != (None, None, None)

    @property
    def support_url(self) -> str | None:
        """Where a link to it leads."""
        return f"mailto:{self.support}" if self.support is not None and "://" not in self.support else self.support

    def told(self, refusal: GatewayError) -> GatewayError:
        """The refusal, whose message says once where to read or ask more, if that helps and there is anything."""
        sentence = self._sentence_of(refusal.code)
        if sentence and not refusal.message.endswith(sentence):
            refusal.message += sentence
        return refusal

    def _sentence_of(self, code: Code) -> str:
        """It ends with an address and no full stop, which would be taken for a part of that."""
        terms = f"terms: {self.terms_url}" if self.terms_url is not None and code in _BY_TERMS else ""
        support = f"support: {self.support}" if self.support is not None and code in _BY_SUPPORT else ""
        words = ", ".join(filter(None, (terms, support)))
        return f" {words[0].upper()}{words[1:]}" if words else ""


NO_LINKS = PolicyLinks()
