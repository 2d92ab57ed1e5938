"""What is read out of expressions of PromQL, by which alerts and the dashboard are held against a gateway."""

import pytest

from tests.cases import each
from tests.deploy.promql import named_in

pytestmark = pytest.mark.slow


@each(
    ("expression", "metrics", "grouped"),
    [
        ("up == 0", {"up": set()}, set()),
        ('absent(up{job=~".*x.*"})', {"up": {"job"}}, set()),
        ('sum by (job, b) (rate(a_total{s=~"5..", c!="by (d)"}[5m])) > 0.01', {"a_total": {"s", "c"}}, {"job", "b"}),
        ("a_sum / on (job) group_left (x) b_count offset 1h", {"a_sum": set(), "b_count": set()}, {"job", "x"}),
        ("histogram_quantile(0.9, sum by (le) (rate(a[$__rate_interval]))) * b", {"a": set(), "b": set()}, {"le"}),
        ('a unless a{x="1"}', {"a": {"x"}}, set()),
    ],
)  # fmt: skip
def test_metrics_and_labels_are_found(expression: str, metrics: dict[str, set[str]], grouped: set[str]) -> None:
    assert named_in(expression) == (metrics, grouped)
