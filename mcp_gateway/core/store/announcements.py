"""What servers of one database tell each other: every kind of it, by the name that it has on the way."""

from mcp_gateway.core.engine import Announcement
from mcp_gateway.core.identity.accounts import IdentitiesChanged

KINDS: dict[str, type[Announcement]] = {kind.word: kind for kind in (IdentitiesChanged,)}
