"""Alerts and the dashboard: what Prometheus makes of them, and of what a live gateway tells.

An alert or a panel that names a metric or a label which the gateway does not have would stay quiet for ever.
"""

import asyncio
import json
import re
from itertools import combinations
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.cases import each
from tests.deploy.live import Scrapes, questions, scrapes_of_traffic
from tests.deploy.programs import DEPLOY, ROOT, accepted, refused, run
from tests.deploy.promql import named_in
from tests.registries import metrics

pytestmark = pytest.mark.slow
ALERTS = DEPLOY / "prometheus" / "alerts.yaml"
CASES = DEPLOY / "prometheus" / "alerts_test.yaml"
DASHBOARD = DEPLOY / "grafana" / "dashboard.json"
RUNBOOK = ROOT / "docs" / "alerts.md"
OF_PROMETHEUS = {"up"}
"""Which it has of each target by itself."""
ADDED = {"job", "instance", "worker"}
"""Labels that it adds to all that it reads; the last one the gateway does, where several processes have one address."""
AGGREGATED = re.compile(r"(sum|min|max) (by|without) |histogram_quantile\(")
OF_WHAT_IS_WRONG = {"gateway_unpaid_usd", "gateway_usage_missing", "gateway_usage_invalid"}
"""Metrics that have no sample before a backend, or a price, is at fault."""


def alerts() -> list[dict[str, Any]]:
    return [rule for group in yaml.safe_load(ALERTS.read_text())["groups"] for rule in group["rules"]]


def panels() -> list[dict[str, Any]]:
    return [panel for panel in json.loads(DASHBOARD.read_text())["panels"] if panel["type"] != "row"]


def shown() -> list[str]:
    """Each expression of the dashboard, with what Grafana puts in the place of its variables."""
    dashboard = json.loads(DASHBOARD.read_text())
    targets = [target for panel in panels() for target in panel["targets"]]
    expressions = [part["expr"] for part in (*targets, *dashboard["annotations"]["list"])]
    return [_filled_in(expression) for expression in expressions]


def _filled_in(expression: str) -> str:
    expression = expression.replace("$__rate_interval", "5m")
    return re.sub(r"\$(job|instance|worker|model)\b", ".*", expression)


def family_of(metric: str) -> str:
    """As the page of metrics calls it that a series belongs to."""
    ours = metrics()
    base = re.sub(r"_(bucket|sum|count|created)$", "", metric)
    return base if base in ours else metric


def labels_of(metric: str) -> set[str]:
    """Of ours, as the code has them; the process's have none."""
    labels = metrics().get(family_of(metric), ((), ""))[0]
    return {*labels, *ADDED, *({"le"} if metric.endswith("_bucket") else ())}


@pytest.fixture(scope="module")
def scrapes(tmp_path_factory: pytest.TempPathFactory) -> Scrapes:
    return asyncio.run(scrapes_of_traffic(tmp_path_factory.mktemp("watched")))


def test_prometheus_takes_the_alerts_and_their_cases() -> None:
    assert f"{len(alerts())} rules found" in accepted("promtool", "check", "rules", ALERTS)
    accepted("promtool", "test", "rules", CASES)


def test_every_alert_is_given_in_one_case_and_not_in_another() -> None:
    cases = [case for test in yaml.safe_load(CASES.read_text())["tests"] for case in test["alert_rule_test"]]
    given = [case["alertname"] for case in cases if case["exp_alerts"]]
    quiet = [case["alertname"] for case in cases if not case["exp_alerts"]]
    names = [alert["alert"] for alert in alerts()]
    assert (sorted(given), sorted(quiet)) == (sorted(names), sorted(names))


def test_an_alert_that_asks_the_opposite_fails_its_case(tmp_path: Path) -> None:
    (tmp_path / CASES.name).write_text(CASES.read_text())
    (tmp_path / ALERTS.name).write_text(
        ALERTS.read_text().replace("(worker) (gateway_ledger_writable) == 0", "(worker) (gateway_ledger_writable) == 1")
    )
    assert "GatewayCannotBill" in refused("promtool", "test", "rules", tmp_path / CASES.name)


@each("alert", alerts())
def test_an_alert_says_what_is_wrong_how_urgent_it_is_and_what_to_do(alert: dict[str, Any]) -> None:
    assert alert["labels"]["severity"] in ("page", "ticket")
    assert all(alert["annotations"][name].endswith(".") for name in ("summary", "description"))
    section = RUNBOOK.read_text().partition(f"\n### {alert['alert']}\n")[2].partition("\n### ")[0]
    assert len(section.split()) > 20, "docs/alerts.md says what to do"
    assert f"`{alert['labels']['severity']}`" in section.strip().splitlines()[0]


def test_every_alert_that_the_runbook_tells_of_exists() -> None:
    assert re.findall(r"^### (Gateway\w+)$", RUNBOOK.read_text(), re.MULTILINE) == [rule["alert"] for rule in alerts()]


def test_every_metric_of_the_alerts_and_the_dashboard_is_one_that_a_live_gateway_tells(scrapes: Scrapes) -> None:
    named = {name for alert in alerts() for name in named_in(alert["expr"]).metrics} - OF_PROMETHEUS
    named |= {name for expression in shown() for name in named_in(expression).metrics}
    assert len(named) > 40
    with_samples = {name for name, _ in scrapes.samples()}
    missing = {name for name in named if name not in with_samples}
    assert {re.sub("_total$", "", name) for name in missing} == OF_WHAT_IS_WRONG
    assert missing <= scrapes.families


def test_no_alert_is_given_once_a_worker() -> None:
    """Whoever is told by an alert acts on a machine, a pod or the gateway."""
    for alert in alerts():
        if named_in(alert["expr"]).metrics.keys() != OF_PROMETHEUS:
            assert AGGREGATED.match(alert["expr"]), alert["alert"]
    cases = [case for test in yaml.safe_load(CASES.read_text())["tests"] for case in test["alert_rule_test"]]
    assert not any("worker" in given["exp_labels"] for case in cases for given in case["exp_alerts"])


def test_every_label_of_the_alerts_and_the_dashboard_is_one_of_its_metric() -> None:
    for expression in (*(alert["expr"] for alert in alerts()), *shown()):
        named = named_in(expression)
        for metric, labels in named.metrics.items():
            assert labels <= labels_of(metric), expression
        assert named.grouped <= set().union(*map(labels_of, named.metrics)), expression


@each("told_by", ["a process", "workers"])
def test_every_expression_of_the_dashboard_gives_something_of_what_a_live_gateway_tells(
    told_by: str, scrapes: Scrapes, tmp_path: Path
) -> None:
    scrapes = scrapes.of_workers() if told_by == "workers" else scrapes
    with_samples = {name for name, _ in scrapes.samples()}
    expressions = [text for text in shown() if named_in(text).metrics.keys() <= with_samples and "changes(" not in text]
    assert len(expressions) > 40
    (tmp_path / "test.yaml").write_text(yaml.safe_dump(questions(scrapes.series(), expressions)))
    accepted("promtool", "test", "rules", tmp_path / "test.yaml")


def test_an_expression_that_gives_nothing_is_found(scrapes: Scrapes, tmp_path: Path) -> None:
    asked = ['gateway_requests_total{status="200"}', 'gateway_requests_total{status="299"}']
    (tmp_path / "test.yaml").write_text(yaml.safe_dump(questions(scrapes.series(), asked)))
    told = refused("promtool", "test", "rules", tmp_path / "test.yaml")
    assert "299" in told
    assert 'status=\\"200\\"' not in told


def test_every_expression_of_the_dashboard_is_one_that_prometheus_takes(tmp_path: Path) -> None:
    rules = [{"record": f"shown:{number}", "expr": expression} for number, expression in enumerate(shown())]
    (tmp_path / "rules.yaml").write_text(yaml.safe_dump({"groups": [{"name": "shown", "rules": rules}]}))
    accepted("promtool", "check", "rules", tmp_path / "rules.yaml")


def test_what_a_live_gateway_tells_is_what_prometheus_reads(scrapes: Scrapes) -> None:
    """promtool also advises on names and exits with 3 then; what it cannot read is 1."""
    ended = run("promtool", "check", "metrics", given=scrapes.after)
    assert ended.returncode in (0, 3), ended.stderr


def test_panels_say_what_they_show_and_stand_beside_each_other() -> None:
    dashboard = json.loads(DASHBOARD.read_text())
    assert all(panel["description"] and panel["targets"] for panel in panels())
    ids = [panel["id"] for panel in dashboard["panels"]]
    assert len(ids) == len(set(ids))
    for one, other in combinations([panel["gridPos"] for panel in dashboard["panels"]], 2):
        is_beside = one["x"] + one["w"] <= other["x"] or other["x"] + other["w"] <= one["x"]
        is_above = one["y"] + one["h"] <= other["y"] or other["y"] + other["h"] <= one["y"]
        assert is_beside or is_above
