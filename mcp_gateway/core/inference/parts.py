"""What all requests for inference share, and what a door says of one."""

import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, NamedTuple

from mcp_gateway.core.catalog import Published
from mcp_gateway.core.config import Settings
from mcp_gateway.core.context import RequestContext
from mcp_gateway.core.dialects.dialect import Targets
from mcp_gateway.core.image_fetching.fetcher import ImageFetcher
from mcp_gateway.core.inference.auto_router import AutoRouter
from mcp_gateway.core.ledger.ledger import Ledger
from mcp_gateway.core.lifecycle import Lifecycle
from mcp_gateway.core.observe.activity import Activity
from mcp_gateway.core.observe.failures import Failures
from mcp_gateway.core.observe.metrics import Metrics
from mcp_gateway.core.observe.records import Records
from mcp_gateway.core.policy.images import ImagePolicy
from mcp_gateway.core.record import Door, SurfaceName
from mcp_gateway.core.surfaces.surface import Headers
from mcp_gateway.core.upstream.pool import Pool


class Call(NamedTuple):
    """What a door says of a request beside its body. `trace_headers` are passed on to the backend.

    What the request keeps in memory is counted by its `context`. `collect_above_tokens` stands for the setting of that
    name, where a door has one of its own. `provider` is the one source of answers that is to be asked. `as_sent` is the
    body before anything was read of it, where all of it has to reach who answers as it is, or be refused.
    """

    request_id: str
    door: Door
    surface: SurfaceName
    client_request_id: str | None = None
    trace_headers: Headers = ()
    context: RequestContext | None = None
    collect_above_tokens: int | None = None
    provider: str | None = None
    as_sent: dict[str, Any] | None = None


@dataclass(slots=True, kw_only=True, eq=False)
class Parts:
    """The rooms that a request passes."""

    settings: Settings
    published: Published
    pool: Pool
    auto_router: AutoRouter
    ledger: Ledger
    records: Records
    images: ImagePolicy
    image_fetcher: ImageFetcher | None
    targets: Targets
    metrics: Metrics
    failures: Failures
    activity: Activity
    lifecycle: Lifecycle
    now_s: Callable[[], float] = time.time
    monotonic_s: Callable[[], float] = time.monotonic
