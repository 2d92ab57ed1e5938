"""What the bridge makes of the environments that people's machines have: settings, proxies and certificates."""

from __future__ import annotations

import asyncio
import os
import ssl
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pytest

from bridge.mcp_stdio_bridge import Unusable, choose_proxy, cleaned, is_exempt, is_loopback, main, read_egress, read_key
from tests.bridge.fake_server import Exchange, fake_server
from tests.bridge.process import INITIALIZE_PARAMS, bridge_process
from tests.core.upstream.misbehaving import make_certificate

FAR = "http://gateway.example/v1/mcp"
SECRET = "hunter2"
VARIABLES = ("SSL_CERT_FILE", "SSL_CERT_DIR", "SSLKEYLOGFILE", "GATEWAY_URL", "GATEWAY_API_KEY", "REQUEST_METHOD")


@pytest.fixture(autouse=True)
def _bare_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in list(os.environ):
        if name.lower().endswith("_proxy") or name in VARIABLES:
            monkeypatch.delenv(name)


def set_all(monkeypatch: pytest.MonkeyPatch, variables: dict[str, str]) -> None:
    for name, value in variables.items():
        monkeypatch.setenv(name, value)


@pytest.mark.parametrize(
    "value",
    ["a b", " a b\n", "a b\r\n", '"a b"', "'a b' ", '" a b\r"', "\ufeffa b", "`a b`", "\u201ca b\u201d", "\"'a b'\""],
)
def test_a_setting_is_read_without_what_configuration_files_leave_on_it(value: str) -> None:
    assert cleaned(value) == "a b"


@pytest.mark.parametrize("value", ["", '"', "a'", "'a", "\"a'"])
def test_what_is_no_pair_of_quotes_stays(value: str) -> None:
    assert cleaned(value) == value


@pytest.mark.parametrize(
    "value", ["gw_live_x", " gw_live_x\r\n", '"gw_live_x"', "Bearer gw_live_x", "'bearer  gw_live_x'",
              'Bearer "gw_live_x"', "Authorization: Bearer gw_live_x"]
)  # fmt: skip
def test_a_key_is_found_in_what_was_pasted(value: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("GATEWAY_API_KEY", value)
    assert read_key() == "gw_live_x"


@pytest.mark.parametrize("value", ["gw live", "gw_\u00e4", "gw_\nx"])
def test_what_no_key_can_be_is_refused(value: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("GATEWAY_API_KEY", value)
    with pytest.raises(Unusable, match="GATEWAY_API_KEY"):
        read_key()


@pytest.mark.parametrize(
    "host", ["localhost", "LOCALHOST", "localhost.", "a.localhost", "127.0.0.1", "127.9.9.9", "127.1", "0x7f.1",
             "2130706433", "::1", "0:0:0:0:0:0:0:1", "::ffff:127.0.0.1", "0.0.0.0", "::"]
)  # fmt: skip
def test_loopback_is_known_by_all_its_names(host: str) -> None:
    assert is_loopback(host)


@pytest.mark.parametrize(
    "host", ["gateway.example", "localhost.example", "127.0.0.1.example", "10.0.0.1", "fe80::1", "128.1", ""]
)
def test_other_hosts_are_not_loopback(host: str) -> None:
    assert not is_loopback(host)


PROXY = "http://proxy.example:8080"


@pytest.mark.parametrize(
    ("url", "variables", "named_in"),
    [
        (FAR, {"HTTP_PROXY": PROXY}, "HTTP_PROXY"),
        (FAR, {"http_proxy": PROXY}, "http_proxy"),
        (FAR, {"ALL_PROXY": PROXY}, "ALL_PROXY"),
        (FAR, {"all_proxy": "proxy.example:8080"}, "all_proxy"),
        (FAR, {"HTTP_PROXY": PROXY, "ALL_PROXY": "http://other.example"}, "HTTP_PROXY"),
        (FAR, {"HTTP_PROXY": "http://other.example", "http_proxy": PROXY}, "http_proxy"),
        (FAR, {"Http_Proxy": f' "{PROXY}/"\r\n'}, "Http_Proxy"),
        (FAR, {"HTTPS_PROXY": PROXY}, ""),
        (FAR, {"HTTP_PROXY": ""}, ""),
        (FAR.replace("http:", "https:"), {"HTTPS_PROXY": PROXY}, "HTTPS_PROXY"),
        (FAR.replace("http:", "HTTPS:"), {"https_proxy": PROXY}, "https_proxy"),
        (FAR.replace("http:", "https:"), {"HTTP_PROXY": PROXY}, ""),
        (FAR, {"HTTP_PROXY": PROXY, "NO_PROXY": "gateway.example"}, ""),
        (FAR, {"http_proxy": PROXY, "no_proxy": "*"}, ""),
        (FAR, {"HTTP_PROXY": PROXY, "NO_PROXY": ' "localhost, .example" '}, ""),
        (FAR, {"HTTP_PROXY": PROXY, "NO_PROXY": "other.example"}, "HTTP_PROXY"),
        ("http://127.0.0.1:8080/v1/mcp", {"HTTP_PROXY": PROXY, "ALL_PROXY": PROXY}, ""),
        ("http://[::1]:8080/v1/mcp", {"http_proxy": PROXY}, ""),
        ("https://localhost/v1/mcp", {"HTTPS_PROXY": PROXY}, ""),
    ],
)
def test_the_proxy_is_the_one_that_the_environment_names_for_the_url(
    url: str, variables: dict[str, str], named_in: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    set_all(monkeypatch, variables)
    assert choose_proxy(url) == ((PROXY if named_in else ""), named_in)


@pytest.mark.parametrize(
    ("host", "port", "rules"),
    [
        ("a.example", 80, "a.example"), ("a.example", 80, "example"), ("b.a.example", 80, ".a.example"),
        ("a.example", 80, "*.example"), ("a.example", 80, "x,A.EXAMPLE"), ("a.example", 80, "x a.example"),
        ("a.example", 8080, "a.example:8080"), ("a.example", 80, "http://a.example"), ("a.example.", 80, "a.example"),
        ("10.1.2.3", 80, "10.0.0.0/8"), ("10.1.2.3", 80, "10.1.2.3"), ("10.1.2.3", 81, "10.1.2.3:81"),
        ("fd07::1", 80, "fd00::/8"), ("fd07::1", 80, "[fd07::1]"), ("fd07::1", 80, "fd07:0::1"),
        ("fd07::1", 8, "[fd07::1]:8"), ("fd07::1", 80, "[fd07::]/16"), ("a.example", 80, "*"),
    ],
)  # fmt: skip
def test_a_host_is_exempt_by_any_form_that_no_proxy_takes(host: str, port: int, rules: str) -> None:
    assert is_exempt(host, port, rules)


@pytest.mark.parametrize(
    ("host", "port", "rules"),
    [
        ("a.example", 80, ""), ("a.example", 80, "b.example"), ("ba.example", 80, "a.example"),
        ("a.example", 80, "a.example:81"), ("10.1.2.3", 80, "11.0.0.0/8"), ("fd07::1", 80, "10.0.0.0/8"),
        ("fd07::1", 80, "[fd07::1]:81"), ("a.example", 80, ".,/,::"), ("110.1.2.3", 80, "10.1.2.3"),
    ],
)  # fmt: skip
def test_other_hosts_are_not_exempt(host: str, port: int, rules: str) -> None:
    assert not is_exempt(host, port, rules)


@pytest.mark.parametrize(
    ("url", "name", "value"),
    [
        (FAR, "HTTP_PROXY", f"http://user:{SECRET}/x@proxy.example:8080"),
        (FAR, "HTTP_PROXY", f"http://user:12/{SECRET}@proxy.example:8080"),
        (FAR, "HTTP_PROXY", f"http://user:12#{SECRET}@proxy.example:8080"),
        (FAR, "HTTP_PROXY", f"http://user:12?{SECRET}@proxy.example:8080"),
        (FAR, "http_proxy", f"proxy.example:8080:{SECRET}"),
        (FAR, "ALL_PROXY", f"http://u:{SECRET}@"),
        (FAR, "ALL_PROXY", f"http://u:{SECRET}@proxy.example:99999"),
        (FAR, "ALL_PROXY", f"http://u:{SECRET} x@proxy.example"),
        (FAR, "ALL_PROXY", f"http://u:{SECRET}@[::1"),
        (FAR, "ALL_PROXY", f"ftp://u:{SECRET}@proxy.example"),
        (FAR, "ALL_PROXY", f"socks4://u:{SECRET}@proxy.example"),
        (FAR, "ALL_PROXY", f"socks5://u:{SECRET}@proxy.example:1080"),
        (FAR, "all_proxy", f"socks://u:{SECRET}@proxy.example:1080"),
        (FAR.replace("http:", "https:"), "HTTPS_PROXY", f"http://pro{SECRET}\u00ff\u2028xy..example:8"),
        (FAR.replace("http:", "https:"), "SSL_CERT_FILE", f"/nonexistent/{SECRET}"),
        (FAR.replace("http:", "https:"), "SSL_CERT_FILE", "/"),
        (FAR.replace("http:", "https:"), "SSL_CERT_FILE", __file__),
        (FAR.replace("http:", "https:"), "SSL_CERT_DIR", f"/nonexistent/{SECRET}"),
        (FAR, "GATEWAY_API_KEY", f"{SECRET} {SECRET}"),
    ],
)
def test_what_cannot_be_used_is_refused_in_one_line_that_names_the_variable_and_never_its_value(
    url: str, name: str, value: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv(name, value)
    with pytest.raises(SystemExit) as raised:
        main([url])
    said = capsys.readouterr()
    assert raised.value.code == 2
    assert (said.out, said.err.count("\n")) == ("", 1)
    assert f" {name} " in said.err
    assert SECRET not in said.err


def test_a_key_log_that_cannot_be_written_is_named(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    make_certificate(tmp_path)
    monkeypatch.setenv("SSL_CERT_FILE", str(tmp_path / "server.pem"))
    monkeypatch.setenv("SSLKEYLOGFILE", "/nonexistent/keys")
    with pytest.raises(Unusable, match="SSLKEYLOGFILE"):
        read_egress("https://gateway.example/v1/mcp")


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("HTTPS_PROXY", "a:b:c"), ("SSL_CERT_FILE", "/nonexistent"), ("SSL_CERT_DIR", "/nonexistent"),
        ("SSLKEYLOGFILE", "/nonexistent/keys"), ("ALL_PROXY", "socks5://127.0.0.1:1"), ("NO_PROXY", "[::,/,::/999"),
    ],
)  # fmt: skip
def test_what_a_url_does_not_need_is_not_looked_at(name: str, value: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(name, value)
    assert read_egress("http://127.0.0.1:8080/v1/mcp").proxy is None


@pytest.mark.parametrize("url", ["http://a b/mcp", "http://a/m\ncp", "http://a/\tmcp", "http://a/\u2028mcp"])
def test_a_url_with_a_space_or_line_end_in_it_is_refused(url: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as raised:
        main([url])
    assert raised.value.code == 2
    assert capsys.readouterr().err.count("\n") == 1


async def hello(exchange: Exchange) -> None:
    if exchange.method == "CONNECT":
        await exchange.head(502, content_length="0")
    elif exchange.rpc_method == "initialize":
        await exchange.json(exchange.result(protocolVersion="2025-11-25", capabilities={}))
    else:
        await exchange.head(202, content_length="0")


@pytest.mark.program
async def test_plain_http_through_a_proxy_works_and_warns() -> None:
    async with fake_server(hello) as proxy:
        proxy_url = proxy.url.removesuffix("/v1/mcp")
        async with bridge_process(FAR, GATEWAY_API_KEY=SECRET, HTTP_PROXY=proxy_url) as bridge:
            assert "result" in await bridge.call("initialize", INITIALIZE_PARAMS, id=1)
            _, _, log = await bridge.end()
        assert proxy.exchanges[0].path == FAR
    assert log.count(b"\n") == 1
    assert b"HTTP_PROXY" in log
    assert SECRET.encode() not in log


@pytest.mark.program
async def test_a_failure_behind_a_proxy_names_what_names_the_proxy() -> None:
    async with fake_server(hello) as proxy:
        variables: dict[str, Any] = {"https_proxy": proxy.url.removesuffix("/v1/mcp"), "HTTPS_PROXY": "a:b:c"}
        async with bridge_process(FAR.replace("http:", "https:"), **variables) as bridge:
            error = (await bridge.call("initialize", INITIALIZE_PARAMS, id=1))["error"]
        assert proxy.methods == ["CONNECT"]
    assert "https_proxy" in error["message"]


@pytest.mark.program
@pytest.mark.parametrize("host", ["127.0.0.1", "localhost"])
async def test_loopback_is_never_reached_through_a_proxy(host: str) -> None:
    async with fake_server(hello) as server, fake_server(hello) as proxy:
        url, proxy_url = server.url.replace("127.0.0.1", host), proxy.url.removesuffix("/v1/mcp")
        variables: dict[str, Any] = dict.fromkeys(("HTTP_PROXY", "http_proxy", "ALL_PROXY", "all_proxy"), proxy_url)
        async with bridge_process(f" {url}\r\n", GATEWAY_API_KEY=f"'{SECRET}'", **variables) as bridge:
            assert "result" in await bridge.call("initialize", INITIALIZE_PARAMS, id=1)
        assert server.exchanges[0].headers["authorization"] == f"Bearer {SECRET}"
        assert proxy.exchanges == []


@pytest.fixture(scope="module")
def tls(tmp_path_factory: pytest.TempPathFactory) -> tuple[ssl.SSLContext, str]:
    """A server's context, and the file of its certificate, which is for 127.0.0.1."""
    folder = tmp_path_factory.mktemp("tls")
    context, _ = make_certificate(folder)
    return context, str(folder / "server.pem")


@pytest.mark.program
async def test_a_certificate_that_is_not_trusted_is_told_with_the_variable_that_would_help(
    tls: tuple[ssl.SSLContext, str],
) -> None:
    context, file = tls
    asyncio.get_running_loop().set_exception_handler(lambda *_: None)  # the server's own complaint
    async with fake_server(hello, context) as server:
        async with bridge_process(server.url) as bridge:
            error = (await bridge.call("initialize", INITIALIZE_PARAMS, id=1))["error"]
            assert "SSL_CERT_FILE" in error["message"]
            assert error["data"] == {"type": "server_unreachable", "may_have_been_delivered": False}
        async with bridge_process(server.url, SSL_CERT_FILE=f' "{file}"\n') as bridge:
            assert "result" in await bridge.call("initialize", INITIALIZE_PARAMS, id=1)
        elsewhere = f"https://localhost:{urlsplit(server.url).port}/v1/mcp"
        async with bridge_process(elsewhere, SSL_CERT_FILE=file) as bridge:
            error = (await bridge.call("initialize", INITIALIZE_PARAMS, id=1))["error"]
    assert "mismatch" in error["message"]
    assert "SSL_CERT_FILE" not in error["message"]
