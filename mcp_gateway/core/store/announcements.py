"""What servers of one database tell each other: every kind of it, by the name that it has on the way."""

from mcp_gateway.core.engine import Announcement
from mcp_gateway.core.identity.access_tokens import SigningKeyMade
from mcp_gateway.core.identity.accounts import IdentitiesChanged
from mcp_gateway.core.ledger.allotments import BudgetsMoved, MoneyReturned, MoneyWanted
from mcp_gateway.core.routing.outcomes import OutcomesMoved
from mcp_gateway.core.service_notice import ServiceSwitched

KINDS: dict[str, type[Announcement]] = {
    kind.word: kind
    for kind in (
        BudgetsMoved,
        IdentitiesChanged,
        MoneyReturned,
        MoneyWanted,
        OutcomesMoved,
        ServiceSwitched,
        SigningKeyMade,
    )
}
