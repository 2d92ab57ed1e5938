"""What quality, cost and time are worth in each mode; docs/routing.md has the table. Knows no model."""

from typing import NamedTuple

from mcp_gateway.core.optimization import Mode


class Emphasis(NamedTuple):
    """What a model's expected quality, cost and time are worth, each of which is told from 0 to 1.

    `holds_quality` is whether a model has to come near the best one's quality before its price or time counts;
    `eases_with_work`, whether these count less the more work a prompt is.
    """

    quality: float
    cost: float
    latency: float
    holds_quality: bool = False
    eases_with_work: bool = False


EMPHASIS: dict[Mode, Emphasis] = {
    "balanced": Emphasis(1, 0.25, 0.10, eases_with_work=True),
    "quality": Emphasis(1, 0.02, 0.02),
    "cost": Emphasis(0, 1, 0.02, holds_quality=True),
    "latency": Emphasis(0, 0.02, 1, holds_quality=True),
}
