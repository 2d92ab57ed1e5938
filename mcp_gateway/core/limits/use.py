"""What one subject has used of its limits in this minute and today, and how much of it is running."""

from mcp_gateway.core.clock import DAY_S

MINUTE_S = 60
_MINUTES_A_DAY = DAY_S // MINUTE_S


class Use:
    """Counts of one clock minute and the UTC day that it is in; they start anew with the next, whichever way time goes.

    Minutes are numbered since the Unix epoch.
    """

    __slots__ = ("is_kept", "listings", "minute", "requests", "requests_today", "running", "tokens")

    def __init__(self, *, is_kept: bool = False) -> None:
        self.minute = -1
        self.requests = self.listings = self.tokens = self.requests_today = self.running = 0
        self.is_kept = is_kept
        """Whether a table holds it."""

    def begin(self, minute: int) -> None:
        if day_of(minute) != day_of(self.minute):
            self.requests_today = 0
        self.requests = self.listings = self.tokens = 0
        self.minute = minute


def day_of(minute: int) -> int:
    """Since the Unix epoch, as minutes are numbered."""
    return minute // _MINUTES_A_DAY


def minute_end_s(minute: int) -> int:
    """The first second that is no longer in it."""
    return (minute + 1) * MINUTE_S


def day_end_s(minute: int) -> int:
    """The first second after the UTC day that the minute is in."""
    return (day_of(minute) + 1) * DAY_S
