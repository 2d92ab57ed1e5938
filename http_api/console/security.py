"""What every answer of the console carries so that no other site, script or frame has a part in it."""

from collections.abc import Sequence

from http_api.rendering import Stamps
from mcp_gateway.core.context import RequestContext
from mcp_gateway.core.limits.limiter import Standing
from mcp_gateway.wire.whole_answers import Headers

_CONTENT_SECURITY_POLICY = (
    "default-src 'none'",
    "script-src 'self'",
    "style-src 'self'",
    "img-src 'self' data:",
    "font-src 'self'",
    "connect-src 'self'",
    "base-uri 'none'",
    "frame-ancestors 'none'",
    "require-trusted-types-for 'script'",
    "trusted-types parts",
)
_HEADERS: Headers = [
    (b"x-content-type-options", b"nosniff"),
    (b"referrer-policy", b"same-origin"),
    (b"cross-origin-opener-policy", b"same-origin"),
    (b"cross-origin-resource-policy", b"same-origin"),
    (b"permissions-policy", b"camera=(), microphone=(), geolocation=(), payment=()"),
]


def security_headers(forms_end_at: Sequence[str]) -> Stamps:
    """Of every answer. `forms_end_at` are the origins of others, of payment pages, to which a form may lead.

    Browsers hold the redirect after a form against `form-action`, too.
    """
    policy = "; ".join((*_CONTENT_SECURITY_POLICY, " ".join(("form-action 'self'", *forms_end_at))))
    headers: Headers = [(b"content-security-policy", policy.encode()), *_HEADERS]

    def stamp(_context: RequestContext, _standing: Standing | None) -> Headers:
        return headers

    return stamp
