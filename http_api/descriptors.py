"""How many files, sockets among them, this process may have open, and how many connections of clients that allows."""

import logging

try:
    import resource
except ImportError:  # Windows, whose sockets are not bounded so
    resource = None  # type: ignore[assignment]

logger = logging.getLogger(__name__)

_OPEN_MAX = 10_240
"""What macOS grants, whose hard limit it does not."""
_UNLIMITED = 1 << 20
_MOST_CONNECTIONS = 16_384
"""More than these, idle, take more memory than one process should give to clients that nobody knows."""
_FEW_CONNECTIONS = 1024
_OWN_DESCRIPTORS = 64
"""The database, the log, the event loop, the port."""


def raise_limit() -> int:
    """Raise the soft limit of open files to the hard one, and tell what it is then."""
    if resource is None:
        return _UNLIMITED
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    for wanted in (hard, _OPEN_MAX):
        if _is_more(wanted, soft):
            try:
                resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))
                break
            except (ValueError, OSError):
                continue
    now = resource.getrlimit(resource.RLIMIT_NOFILE)[0]
    return _UNLIMITED if now == resource.RLIM_INFINITY else now


def most_connections(limit: int, configured: int | None) -> int:
    """How many clients may be connected: half of what may be open, since each may need a connection to a backend."""
    derived = max(1, min(_MOST_CONNECTIONS, (limit - _OWN_DESCRIPTORS) // 2))
    most = configured or derived
    if most > derived or (configured is None and derived < _FEW_CONNECTIONS):
        raised = "raise its limit (ulimit -n, LimitNOFILE)"
        logger.warning("this process may open %d files, for %d connections of clients: %s", limit, most, raised)
    return most


def _is_more(wanted: int, soft: int) -> bool:
    infinity = resource.RLIM_INFINITY
    return soft != infinity and (wanted == infinity or wanted > soft)
