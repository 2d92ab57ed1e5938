"""What every answer of the console carries so that no other site, script or frame has a part in it."""

from mcp_gateway.core.context import RequestContext
from mcp_gateway.core.limits.limiter import Standing
from mcp_gateway.wire.whole_answers import Headers

_STRIPE = "https://checkout.stripe.com https://billing.stripe.com"
"""Where a form of the wallet's ends: browsers hold the redirect after it against `form-action`, too."""
_CONTENT_SECURITY_POLICY = "; ".join((
    "default-src 'none'",
    "script-src 'self'",
    "style-src 'self'",
    "img-src 'self' data:",
    "font-src 'self'",
    "connect-src 'self'",
    f"form-action 'self' {_STRIPE}",
    "base-uri 'none'",
    "frame-ancestors 'none'",
    "require-trusted-types-for 'script'",
    "trusted-types parts",
))  # fmt: skip
_HEADERS: Headers = [
    (b"content-security-policy", _CONTENT_SECURITY_POLICY.encode()),
    (b"x-content-type-options", b"nosniff"),
    (b"referrer-policy", b"same-origin"),
    (b"cross-origin-opener-policy", b"same-origin"),
    (b"cross-origin-resource-policy", b"same-origin"),
    (b"permissions-policy", b"camera=(), microphone=(), geolocation=(), payment=()"),
]


def security_headers(_context: RequestContext, _standing: Standing | None) -> Headers:
    return _HEADERS
