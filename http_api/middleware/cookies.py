"""The cookies by which a browser shows its session or a sign-in under way, and from which pages they are taken.

SameSite does not tell the ports of a host apart, so that Sec-Fetch-Site is read, too (Fetch Metadata). Whether a cookie
is good is judged elsewhere.
"""

from collections.abc import Mapping

from mcp_gateway.core.errors import GatewayError

_SAFE = ("GET", "HEAD", "OPTIONS")
Header = tuple[bytes, bytes]


class Cookie:
    """Its name, and how it is set: for this host alone and over TLS (`__Host-`), unless the settings say otherwise."""

    def __init__(self, name: bytes, *, is_insecure: bool, lifetime_s: int) -> None:
        self._name = name if is_insecure else b"__Host-" + name
        self._rest = b"; Path=/; HttpOnly; SameSite=Lax" + (b"" if is_insecure else b"; Secure")
        self._lifetime_s = lifetime_s

    def of(self, value: str) -> Header:
        """The header that sets it."""
        return b"set-cookie", b"%b=%b; Max-Age=%d%b" % (self._name, value.encode(), self._lifetime_s, self._rest)

    @property
    def cleared(self) -> Header:
        return b"set-cookie", b"%b=; Max-Age=0%b" % (self._name, self._rest)

    def value_in(self, sent: Mapping[bytes, bytes]) -> str | None:
        """The value that is sent; None without one."""
        for pair in sent.get(b"cookie", b"").split(b";"):
            name, _, value = pair.partition(b"=")
            if name.strip() == self._name and value.strip():
                return value.strip().decode("latin-1")
        return None


def is_own_page(sent: Mapping[bytes, bytes]) -> bool:
    """Whether a request comes from a page of the gateway itself, as the browser says."""
    return sent.get(b"sec-fetch-site") == b"same-origin"


def is_no_page_of_others(sent: Mapping[bytes, bytes]) -> bool:
    """The same, or of no page at all: typed by a person, or sent by a program."""
    site = sent.get(b"sec-fetch-site")
    if site is not None:
        return site in (b"same-origin", b"none")
    origin = sent.get(b"origin")  # of a browser that does not tell more
    return origin is None or origin.partition(b"://")[2] == sent.get(b"host")


def is_opened_by_link(sent: Mapping[bytes, bytes]) -> bool:
    """Whether a page is opened in a tab of its own, from wherever: whoever sent a browser here cannot read it."""
    return sent.get(b"sec-fetch-mode") == b"navigate" and sent.get(b"sec-fetch-dest") == b"document"


def check_page(method: str, sent: Mapping[bytes, bytes]) -> None:
    """Raises GatewayError `foreign_origin` for what a page of others would have a browser do."""
    if method not in _SAFE and not is_no_page_of_others(sent):
        raise GatewayError("foreign_origin", "A page of another site may not do this.")
