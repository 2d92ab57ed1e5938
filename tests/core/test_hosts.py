"""Which hosts are the gateway's own, how often the log says that one is not, and which address clients are told."""

import logging

import pytest

from mcp_gateway.core.config import Settings
from mcp_gateway.core.hosts import Hosts, base_url_of, is_loopback
from mcp_gateway.core.log_limit import LogLimit
from tests.cases import each

NAMED = {
    "host": "127.0.0.2",
    "public_url": "https://gw.example.com",
    "allowed_hosts": ("also.example.com", "Inside.example.com:8443", "fd00::7"),
}
KNOWN = [
    "localhost", "LOCALHOST:8080", "127.0.0.1", "127.0.0.1:8080", "127.8.9.10:80", "[::1]", "[::1]:8080",
    "[::ffff:127.0.0.1]:80", "[0:0:0:0:0:0:0:1]", "gw.example.com", "GW.example.com:443", "also.example.com:1",
    "inside.example.com:8443", "[fd00::7]:8080", "localhost.", "LocalHost.:80", "app.localhost:80", "127.0.0.2:8080",
    "host.docker.internal", "HOST.docker.internal:8080", "host.containers.internal:1", "gw.example.com.:443",
    "gateway", "My-Laptop:8080", "x",
]  # fmt: skip
UNKNOWN = [
    "evil.example.com", "localhost.evil.example.com", "127.0.0.1.evil.example.com", "evil.example.com:8443",
    "inside.example.com", "10.0.0.1", "[fd00::8]", "0.0.0.0", "localhost:80:80", "x" * 500, "",
    "gw.example.com.evil.io", "evil.docker.internal", "host.docker.internal.evil.io", "localhost..",
    "evil..", ".", "a b", "-", "evil-", "é",
    "localhost.example.com.",
]  # fmt: skip


@each("host", KNOWN)
def test_loopback_and_what_the_settings_name_are_known(host: str) -> None:
    assert Hosts(Settings.model_validate(NAMED)).admits(host.encode())


@each("host", UNKNOWN)
def test_any_other_name_or_address_is_not(host: str) -> None:
    assert not Hosts(Settings.model_validate(NAMED)).admits(host.encode())


@each("host", KNOWN + UNKNOWN)
def test_any_host_can_be_allowed(host: str) -> None:
    assert Hosts(Settings.model_validate({"allowed_hosts": ("*",)})).admits(host.encode())


@each("listens_on", ["0.0.0.0", "::", "192.168.1.5", "gateway"])
def test_any_host_is_known_where_other_machines_are_listened_for(listens_on: str) -> None:
    hosts = Hosts(Settings(host=listens_on))
    assert all(hosts.admits(host.encode()) for host in KNOWN + UNKNOWN)


def test_no_browser_sends_a_request_without_a_host() -> None:
    assert Hosts(Settings()).admits(None)


@each(
    ("host", "expected"),
    [
        ("localhost", True), ("127.0.0.1", True), ("127.255.0.1", True), ("::1", True), ("[::1]", True),
        ("::ffff:127.0.0.1", True), ("0.0.0.0", False), ("::", False), ("10.0.0.1", False), ("gateway", False),
        ("localhost.example", False), ("", False),
    ],
)  # fmt: skip
def test_loopback_is_this_machine_and_nothing_else(host: str, expected: bool) -> None:
    assert is_loopback(host) is expected


def test_the_log_names_the_setting_once_and_never_the_host(caplog: pytest.LogCaptureFixture) -> None:
    hosts = Hosts(Settings())
    for number in range(50):
        assert not hosts.admits(b"evil-%d.example" % number)
    assert len(caplog.records) == 1
    assert "allowed_hosts" in caplog.text
    assert "evil" not in caplog.text


def test_a_line_that_is_limited_comes_again_after_a_minute(caplog: pytest.LogCaptureFixture) -> None:
    now_s = 0.0
    log = LogLimit(logging.getLogger("test"), lambda: now_s)
    for now_s in (0.0, 1.0, 59.9, 60.0, 61.0, 119.9, 500.0, 500.0):
        log.warning("at %s", now_s)
    assert caplog.messages == ["at 0.0", "at 60.0", "at 500.0"]


REACHED = {
    "127.0.0.1": "127.0.0.1",
    "0.0.0.0": "127.0.0.1",
    "::": "127.0.0.1",
    "::1": "[::1]",
    "fd00::7": "[fd00::7]",
    "gateway": "gateway",
}


@each("host", list(REACHED))
def test_clients_are_told_an_address_that_they_can_ask(host: str) -> None:
    assert base_url_of(Settings(), host, 80) == f"http://{REACHED[host]}:80"
    public = Settings.model_validate({"public_url": "https://gw.example.com"})
    assert base_url_of(public, host, 80) == "https://gw.example.com"
