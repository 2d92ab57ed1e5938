"""An e-mail address in the one form in which it is kept and compared. Sends nothing."""

import unicodedata

from mcp_gateway.core.errors import GatewayError
from mcp_gateway.core.text import is_one_line

_MAX_CHARS = 254
"""RFC 5321, 4.5.3.1.3."""
_MAX_LOCAL_CHARS = 64


def canonical_email(written: str, param: str = "email") -> str:
    """In lower case and NFKC, the domain as in the DNS. Raises GatewayError `invalid_value` for what is none.

    RFC 5321 lets a host tell `Ann@` from `ann@`; nobody does, and two users of whom one reads the other's mail would be
    worse.
    """
    local, at, domain = unicodedata.normalize("NFKC", written.strip()).casefold().rpartition("@")
    try:
        host = domain.encode("idna").decode("ascii")
    except UnicodeError:
        host = ""
    email = f"{local}{at}{host}"
    if not (0 < len(local) <= _MAX_LOCAL_CHARS and _is_host(host) and _is_local(local) and len(email) <= _MAX_CHARS):
        raise GatewayError("invalid_value", f"`{param}` is no e-mail address.", param=param)
    return email


def _is_host(host: str) -> bool:
    labels = host.split(".")
    return all(label.replace("-", "a").isalnum() and label.strip("-") == label for label in labels)


def _is_local(local: str) -> bool:
    return is_one_line(local) and not any(character.isspace() or character in '@,;:<>()[]\\"' for character in local)
