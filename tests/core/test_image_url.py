"""Which address an image may have, before anything is looked up."""

import pytest

from mcp_gateway.core.policy.image_url import MAX_URL_CHARS, ImageUrl, read_image_url
from tests.cases import each

HTTPS = {443}


@each(
    "url",
    [
        # another scheme, or none
        "http://example.com/a.png", "HTTP://example.com/a.png", "ftp://example.com/a", "file:///etc/passwd",
        "gopher://example.com/", "//example.com/a.png", "example.com/a.png", "", "https:", "https://", "https:///a.png",
        "https:example.com", "javascript:alert(1)", "s3://bucket/a.png", "blob:https://example.com/a",
        # credentials
        "https://user@example.com/", "https://user:word@example.com/", "https://@example.com/", "https://:@example.com/",
        "https://example.com@127.0.0.1/",
        # spellings of loopback that some resolvers take
        "https://2130706433/", "https://0x7f000001/", "https://0x7f.0.0.1/", "https://0177.0.0.1/", "https://127.1/",
        "https://017700000001/", "https://127.0.0.0x1/", "https://1.2.3.256/", "https://1.2.3/", "https://1.2.3.4.5/",
        "https://%31%32%37.0.0.1/", "https://①②⑦.⓪.⓪.①/", "https://127。0。0。1/", "https://１２７.0.0.1/",
        # IPv6 that is none, or has a zone
        "https://[::1%25eth0]/", "https://[fe80::1%eth0]/", "https://[::1/", "https://::1/", "https://[]/",
        "https://[example.com]/", "https://[v1.a]/", "https://[127.0.0.1]/", "https://[::1].example.com/",
        "https://[::1]443/", "https://[::1.]/", "https://[::1].:443/", "https://[::1]]/",
        # names that mean something else within a network
        "https://localhost/", "https://metadata/", "https://intranet./", "https://a..example.com/", "https://.example/",
        "https://./", "https://-.1/", f"https://{'a' * 64}.example.com/", f"https://{'a.' * 127}com/",
        "https://exa mple.com/", "https://example.com\\@127.0.0.1/", "https://example.com\\.evil.example/",
        "https://exam\tple.com/", "https://example.com\r\nx: y/", "https://example.com\x00.evil.example/",
        " https://example.com/", "https://example.com/ ", "https://example.com/a b", "https://bücher.example/",
        "https://example.\N{KELVIN SIGN}om/", "https://\N{KELVIN SIGN}.example.com/", "https://exampleſ.com/",
        "https://exаmple.com/", "https://example.com%2f@127.0.0.1/", "https://example.com%00/",
        # other ports
        "https://example.com:80/", "https://example.com:0/", "https://example.com:22/", "https://example.com:8443/",
        "https://example.com:65536/", "https://example.com:-443/", "https://example.com:443443/",
        "https://example.com:４４３/", "https://example.com:x/", "https://example.com:443:80/",
        "https://example.com/" + "a" * MAX_URL_CHARS,
    ],
)  # fmt: skip
def test_it_is_refused_in_words_that_do_not_repeat_it(url: str) -> None:
    with pytest.raises(ValueError, match=r"image") as raised:
        read_image_url(url, HTTPS)
    assert "example.com" not in str(raised.value)
    assert "127" not in str(raised.value)


@each(
    ("url", "host", "target"),
    [
        ("https://example.com", "example.com", "/"),
        ("HTTPS://EXAMPLE.com/A.png", "example.com", "/A.png"),
        ("https://example.com:443/a.png?w=1&h=2#top", "example.com", "/a.png?w=1&h=2"),
        ("https://example.com:/a", "example.com", "/a"),
        ("https://example.com./a", "example.com", "/a"),
        ("https://example.com?a=b", "example.com", "/?a=b"),
        ("https://example.com/a%20b/ü.png?q=ü", "example.com", "/a%20b/%C3%BC.png?q=%C3%BC"),
        ('https://example.com/"<>^`{|}', "example.com", "/%22%3C%3E%5E%60%7B%7C%7D"),
        ("https://example.com/a@b:c;d=e", "example.com", "/a@b:c;d=e"),
        ("https://example.com/../a", "example.com", "/../a"),
        ("https://xn--bcher-kva.example/", "xn--bcher-kva.example", "/"),
        ("https://a_b.s3-eu.example.co1/", "a_b.s3-eu.example.co1", "/"),
        ("https://127.0.0.1.nip.io/", "127.0.0.1.nip.io", "/"),
    ],
)
def test_a_name_is_read_with_what_is_asked_of_it(url: str, host: str, target: str) -> None:
    read = read_image_url(url, HTTPS)
    assert read == ImageUrl(host, False, 443, target)
    assert read.origin == f"https://{host}"


@each(
    ("url", "host", "origin"),
    [
        ("https://127.0.0.1/", "127.0.0.1", "https://127.0.0.1"),
        ("https://[::FFFF:127.0.0.1]/", "::ffff:7f00:1", "https://[::ffff:7f00:1]"),
        ("https://[2606:4700:0:0::1111]:443/", "2606:4700::1111", "https://[2606:4700::1111]"),
    ],
)
def test_an_address_is_read_in_its_one_form_and_judged_like_those_of_a_name(url: str, host: str, origin: str) -> None:
    read = read_image_url(url, HTTPS)
    assert (read.host, read.is_literal, read.origin) == (host, True, origin)


def test_another_port_is_one_that_a_setting_allows() -> None:
    read = read_image_url("https://example.com:8443/a", {443, 8443})
    assert (read.port, read.origin) == (8443, "https://example.com:8443")
    with pytest.raises(ValueError, match="no port but 443, 8443"):
        read_image_url("https://example.com:80/a", {443, 8443})
