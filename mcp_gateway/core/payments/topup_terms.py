"""What a top-up may be: which amounts can be paid, and where a browser goes afterwards."""

from dataclasses import dataclass
from typing import Self

from mcp_gateway.core.config import StripeSettings
from mcp_gateway.core.errors import GatewayError
from mcp_gateway.core.money import NANO_PER_CENT, format_usd, parse_usd
from mcp_gateway.core.payments.checkout import Pages


@dataclass(frozen=True, slots=True)
class TopupTerms:
    """The settings' own, whichever door asks."""

    minimum_nano: int
    maximum_nano: int
    pages: Pages

    @classmethod
    def of(cls, settings: StripeSettings, home_url: str) -> Self:
        """Where the settings name no page, a browser goes to `home_url`."""
        pages = Pages(settings.success_url or home_url, settings.cancel_url or home_url)
        return cls(parse_usd(settings.minimum_topup_usd), parse_usd(settings.maximum_topup_usd), pages)

    def payable_nano(self, amount_usd: str) -> int:
        """Raises GatewayError `invalid_value` for what is no amount, or cannot be paid."""
        try:
            amount_nano = parse_usd(amount_usd)
        except ValueError:
            amount_nano = 0
        if amount_nano % NANO_PER_CENT or not self.minimum_nano <= amount_nano <= self.maximum_nano:
            least, most = format_usd(self.minimum_nano), format_usd(self.maximum_nano)
            message = f"`amount_usd` must be a decimal string from {least} to {most} USD, in whole cents."
            raise GatewayError("invalid_value", message, param="amount_usd")
        return amount_nano
