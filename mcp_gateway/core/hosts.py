"""Which hosts the gateway answers for, the one rule behind the Host checks of both doors; and where clients reach it.

A web page can have its own name resolve to this machine (DNS rebinding) and then reads what answers there; its requests
carry that name as their Host. An address as Host cannot come about that way, nor can a name of one label: nobody can
own one (ICANN allows no dotless domains), it stands for what this machine's own files and networks call by it.
"""

import logging
import re
from functools import lru_cache
from ipaddress import IPv6Address, ip_address
from urllib.parse import urlsplit

from mcp_gateway.core.config import ANY, Settings
from mcp_gateway.core.log_limit import LogLimit

logger = logging.getLogger(__name__)

_OF_CONTAINERS = frozenset({"host.docker.internal", "host.containers.internal"})
"""By which a container reaches its host. No page is served under them: nobody can own a name that ends in .internal."""
_ONE_LABEL = re.compile(r"[a-z0-9](?:[a-z0-9_-]{0,61}[a-z0-9])?")
_SHORT_BYTES = 128


class Hosts:
    """Loopback, names of one label, those that containers have for their host, the public address, and `allowed_hosts`,
    each with and without a port.

    Any name is answered where the gateway listens for other machines too, by whatever names they have for it.
    """

    def __init__(self, settings: Settings) -> None:
        self.are_limited = is_loopback(settings.host)
        public = urlsplit(settings.public_url or "")
        named = {public.netloc, public.hostname or "", settings.host, *settings.allowed_hosts, *_OF_CONTAINERS}
        self._names = {_bracketed(name.lower()) for name in named if name}
        self._known = lru_cache(1024)(self._is_known)
        self._log = LogLimit(logger)

    def admits(self, host: bytes | None) -> bool:
        """Whether a request with this Host is answered; one without comes from no browser."""
        if host is None or not self.are_limited:
            return True
        if (self._known if len(host) <= _SHORT_BYTES else self._is_known)(host):
            return True
        self._log.warning("a request was refused (421), since its Host is neither public_url's nor in allowed_hosts")
        return False

    def _is_known(self, host: bytes) -> bool:
        text = host.decode("latin-1").lower()
        name = without_port(text)
        is_named = bool(self._names & {text, name, name.removesuffix("."), ANY})
        return is_named or _ONE_LABEL.fullmatch(name) is not None or is_loopback(name)


def is_loopback(host: str) -> bool:
    """Whether a host, as an address or as in a URL, is this machine and nothing else; as RFC 6761 has its names."""
    try:
        address = ip_address(host.removeprefix("[").removesuffix("]"))
    except ValueError:
        return f".{host.removesuffix('.')}".endswith(".localhost")
    return (getattr(address, "ipv4_mapped", None) or address).is_loopback


def is_address(host: str) -> bool:
    """Whether a host, as in a URL without brackets, is an address and no name."""
    try:
        ip_address(host)
    except ValueError:
        return False
    return True


def without_port(host: str) -> str:
    name, colon, port = host.rpartition(":")
    return name if colon and not port.endswith("]") else host


def base_url_of(settings: Settings, host: str, port: int) -> str:
    """Where clients reach a gateway that listens there, as far as it can tell."""
    return settings.public_url or listening_url(host, port)


def listening_url(host: str, port: int) -> str:
    """Where this very machine reaches a gateway that listens there."""
    reachable = "127.0.0.1" if host in ("0.0.0.0", "::") else host  # noqa: S104 - compared, not bound
    return f"http://{_bracketed(reachable)}:{port}"


def path_of(base_url: str) -> str:
    """The path below which clients reach the gateway; empty for the root."""
    return urlsplit(base_url).path.rstrip("/")


def _bracketed(host: str) -> str:
    """An IPv6 address as a Host header has it."""
    try:
        return f"[{host}]" if isinstance(ip_address(host), IPv6Address) else host
    except ValueError:
        return host
