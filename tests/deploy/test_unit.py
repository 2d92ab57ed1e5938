"""The unit for systemd: as systemd reads it, and what it says held against the gateway."""

import shutil
import subprocess
from pathlib import Path

import pytest

from mcp_gateway.core.config import Settings
from tests.deploy.programs import DEPLOY
from tests.test_pages import parse

pytestmark = pytest.mark.slow
UNITS = sorted((DEPLOY / "systemd").glob("*.service"))
UNIT = DEPLOY / "systemd" / "mcp-gateway.service"
REPLICA = DEPLOY / "systemd" / "mcp-gateway@.service"
needs_systemd = pytest.mark.skipif(shutil.which("systemd-analyze") is None, reason="systemd is not installed")


def said(name: str) -> list[str]:
    lines = [line.partition("=") for line in UNIT.read_text().splitlines()]
    return [value for key, _, value in lines if key == name]


def analyzed(*words: object) -> tuple[int, str]:
    ended = subprocess.run(["systemd-analyze", *map(str, words)], capture_output=True, text=True, check=False)
    return ended.returncode, ended.stdout + ended.stderr


def with_a_program(text: str) -> str:
    """One that is there, in the place of the gateway's."""
    return text.replace("/opt/mcp-gateway/bin/mcp-gateway", "/bin/true")


def placed(folder: Path, text: str) -> Path:
    unit = folder / UNIT.name
    unit.write_text(with_a_program(text))
    return unit


@needs_systemd
def test_systemd_takes_them(tmp_path: Path) -> None:
    for unit in (*UNITS, *UNIT.parent.glob("*.timer")):
        (tmp_path / unit.name).write_text(with_a_program(unit.read_text()))
    assert analyzed("verify", *tmp_path.iterdir()) == (0, "")


@needs_systemd
def test_systemd_finds_faults(tmp_path: Path) -> None:
    _, told = analyzed("verify", placed(tmp_path, UNIT.read_text().replace("ProtectSystem=", "ProtectTheSystem=")))
    assert "ProtectTheSystem" in told


@needs_systemd
def test_little_is_left_to_who_breaks_in(tmp_path: Path) -> None:
    """systemd's own measure: 0 is nothing and 10 all; 2.0 and more is told by its status."""
    status, told = analyzed("security", "--offline=true", "--threshold=20", placed(tmp_path, UNIT.read_text()))
    assert status == 0, told


def test_an_end_may_take_as_long_as_the_longest_drain() -> None:
    settings = Settings()
    assert int(said("TimeoutStopSec")[0]) >= 10 + settings.drain_announce_s + settings.drain_timeout_s


def test_it_may_write_its_data_and_nothing_else() -> None:
    assert (said("ProtectSystem"), said("StateDirectory"), said("StateDirectoryMode")) == (
        ["strict"],
        ["mcp-gateway"],
        ["0700"],
    )
    assert said("ReadWritePaths") == []


def test_the_user_that_it_runs_as_is_made() -> None:
    (user,) = said("User")
    made = (DEPLOY / "systemd" / "mcp-gateway.sysusers.conf").read_text()
    assert f"\nu {user} - " in made


def test_what_units_start_is_a_command_that_there_is() -> None:
    lines = [line for unit in UNITS for line in unit.read_text().splitlines() if line.startswith("ExecStart=")]
    assert len(lines) == 3
    for line in lines:
        parse(line.partition("/bin/mcp-gateway ")[2].rstrip("'").replace("%i", "8081"))


def test_a_replica_s_unit_differs_in_its_port_and_folder_alone() -> None:
    """And in that it leaves at once, since a balancer is in front."""

    def lines(unit: Path) -> list[str]:
        return [line for line in unit.read_text().splitlines() if not line.startswith("#")]

    alone, replica = lines(UNIT), lines(REPLICA)
    assert [line for line in replica if line not in alone] == [
        "Description=mcp-gateway at port %i",
        f"ExecStart={said('ExecStart')[0]} --port %i --data-dir /var/lib/mcp-gateway/%i",
        "Environment=GATEWAY_DRAIN_ANNOUNCE_S=0",
        "StateDirectory=mcp-gateway mcp-gateway/%i",
    ]
    assert [line.partition("=")[0] for line in alone if line not in replica] == [
        "Description",
        "ExecStart",
        "StateDirectory",
    ]
