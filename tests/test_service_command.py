"""`mcp-gateway maintenance` and `incident`: what they switch where no server runs, which the next one goes by."""

import json
from pathlib import Path
from typing import Any

import pytest

from tests.cases import each
from tests.test_command_line import data_dir, outside_of, run

pytestmark = pytest.mark.gateways

__all__ = ["data_dir"]


def kept(data_dir: Path) -> Any:
    with outside_of(data_dir) as another:
        return another.rows("SELECT is_in_maintenance, incident FROM service_notice")[0]


def test_both_are_switched_and_switched_back(data_dir: Path) -> None:
    for words, told, state in (
        (("maintenance", "on"), "maintenance is switched on", (1, None)),
        (("incident", "A disk is full."), "the incident is told", (1, "A disk is full.")),
        (("maintenance", "off"), "maintenance is switched off", (0, "A disk is full.")),
        (("incident", "--over"), "there is no incident", (0, None)),
    ):
        result = run(*words)
        assert (result.exit_code, result.stdout.strip(), kept(data_dir)) == (0, told, state)
    noted = [json.loads(line)["action"] for line in run("audit", "export", "--json").stdout.splitlines()]
    assert noted == ["service.incident", "service.maintenance"] * 2


@each("words", [(), ("a", "--over"), ("",), ("a\nb",), ("x" * 501,)])
def test_what_is_no_incident_is_refused_in_words(data_dir: Path, words: tuple[str, ...]) -> None:
    result = run("incident", *words)
    assert result.exit_code != 0
    assert "incident" in result.output
