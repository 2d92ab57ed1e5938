"""Metrics of what is rare: they are on the page before anything of it has happened."""

from itertools import product
from typing import get_args

from prometheus_client.parser import text_string_to_metric_families

from http_api.connection.census import Cap
from mcp_gateway.core.observe.metrics import Metrics
from mcp_gateway.core.payments.auto_payments import Counted
from mcp_gateway.core.payments.facts import Uncreditable


def test_what_is_rare_is_counted_from_nothing_on_so_that_its_first_event_is_an_increase() -> None:
    """Of each kind that whoever counts there knows; labels are on the page in the order of their names."""
    kinds: dict[str, list[tuple[str, ...]]] = {
        "gateway_connections_refused": [(cap,) for cap in get_args(Cap)],
        "gateway_payments_uncredited": [(reason,) for reason in (*get_args(Uncreditable), "unreadable")],
        "gateway_auto_topups": [(outcome,) for outcome in get_args(Counted)],
        "gateway_webhook_deliveries": [*product(("delivered", "failed", "given_up"), ("operator", "account"))],
    }
    page = Metrics().exposition().decode()
    told = {
        family.name: [tuple(sample.labels.values()) for sample in family.samples if sample.name.endswith("_total")]
        for family in text_string_to_metric_families(page)
        if family.name in kinds
    }
    assert {name: sorted(labels) for name, labels in told.items()} == {
        name: sorted(labels) for name, labels in kinds.items()
    }
