"""The head of an answer that is a stream of server-sent events, the same through both doors but for its type."""

HEADERS = (
    (b"cache-control", b"no-cache, no-transform"),
    (b"x-accel-buffering", b"no"),
)
"""No proxy keeps it, compresses it, or waits for more of it before it passes some on."""
