"""What a top-up may be: which amounts can be paid, and where a browser goes afterwards."""

from dataclasses import dataclass
from typing import Self

from mcp_gateway.core.config import StripeSettings
from mcp_gateway.core.errors import GatewayError
from mcp_gateway.core.money import NANO_PER_CENT, format_usd, parse_usd
from mcp_gateway.core.payments.auto_topups import AutoTopUpTerms
from mcp_gateway.core.payments.checkout import Pages


@dataclass(frozen=True, slots=True)
class TopupTerms:
    """The settings' own, whichever door asks."""

    minimum_nano: int
    maximum_nano: int
    pages: Pages
    auto_maximum_per_day_nano: int

    @classmethod
    def of(cls, settings: StripeSettings, home_url: str) -> Self:
        """Where the settings name no page, a browser goes to `home_url`."""
        pages = Pages(settings.success_url or home_url, settings.cancel_url or home_url)
        return cls(
            parse_usd(settings.minimum_topup_usd),
            parse_usd(settings.maximum_topup_usd),
            pages,
            parse_usd(settings.maximum_auto_topup_per_day_usd),
        )

    def payable_nano(self, amount_usd: str) -> int:
        """Raises GatewayError `invalid_value` for what is no amount, or cannot be paid."""
        return _within("amount_usd", amount_usd, self.minimum_nano, self.maximum_nano)

    def auto_topup_of(self, *, threshold_usd: str, amount_usd: str, max_per_day_usd: str) -> AutoTopUpTerms:
        """Raises GatewayError `invalid_value`."""
        amount_nano = self.payable_nano(amount_usd)
        if amount_nano > self.auto_maximum_per_day_nano:
            most = format_usd(self.auto_maximum_per_day_nano)
            message = f"`amount_usd` must be at most {most} USD, the most that is paid by itself in a day."
            raise GatewayError("invalid_value", message, param="amount_usd")
        return AutoTopUpTerms(
            _within("threshold_usd", threshold_usd, NANO_PER_CENT, self.maximum_nano),
            amount_nano,
            _within("max_per_day_usd", max_per_day_usd, amount_nano, self.auto_maximum_per_day_nano),
        )


def _within(name: str, usd: str, least_nano: int, most_nano: int) -> int:
    try:
        nano = parse_usd(usd)
    except ValueError:
        nano = 0
    if nano % NANO_PER_CENT or not least_nano <= nano <= most_nano:
        least, most = format_usd(least_nano), format_usd(most_nano)
        message = f"`{name}` must be a decimal string from {least} to {most} USD, in whole cents."
        raise GatewayError("invalid_value", message, param=name)
    return nano
