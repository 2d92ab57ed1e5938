"""Which paths of a provider may be asked: a path has one meaning, or none."""

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from mcp_gateway.core.provider_settings import ProviderSettings, presets, row_of
from mcp_gateway.core.proxy_paths import ProviderPath, ProxyPaths, query_without_keys, read_provider_path, written_query
from tests.cases import each

HOSTILE = (
    b"/proxy", b"/proxy/", b"/proxy/openai", b"/proxy/openai/", b"/proxy//v1/models", b"/proxy/openai//v1/models",
    b"/proxy/openai/v1//models", b"/proxy/openai/v1/models/", b"/proxy/openai/..", b"/proxy/openai/../admin",
    b"/proxy/openai/v1/../files", b"/proxy/openai/v1/./files", b"/proxy/openai/%2e%2e/admin", b"/proxy/openai/v1/%2E",
    b"/proxy/openai/.%2e/admin", b"/proxy/openai/%252e%252e/admin", b"/proxy/openai/v1%2ffiles",
    b"/proxy/openai/v1%2Ffiles", b"/proxy/openai/v1%252ffiles", b"/proxy/openai/v1\\files", b"/proxy/openai/v1%5cfiles",
    b"/proxy/openai/..%5cfiles", b"/proxy/openai/v1/%00", b"/proxy/openai/v1/a%0d%0ax:y", b"/proxy/openai/v1/a%20b",
    b"/proxy/openai/v1/a%09b", b"/proxy/openai/v1/files;x=1", b"/proxy/openai/v1/a%3fb", b"/proxy/openai/v1/a%23b",
    b"/proxy/openai/v1/%c0%af", b"/proxy/openai/v1/%ef%bc%8f", b"/proxy/openai/v1/\xc3\xa9", b"/proxy/openai/v1/%",
    b"/proxy/openai/v1/%zz", b"/proxy/openai/http://evil.test/", b"/proxy/openai/https:%2f%2fevil.test",
    b"/proxy/..%2fopenai/v1", b"/proxy/open%2fai/v1", b"/proxy/openai/v1/gw_live_abc", b"/proxy/openai/gw_test_x/v1",
    b"/proxy/openai/v1/gw%5flive_abc", b"/proxy/openai/v1/<script>", b"/proxy/openai/v1/{x}", b"/proxy/openai/v1/a|b",
    b"/proxy/openai/v1/%E2%80%AE",
)  # fmt: skip


@each("raw_path", HOSTILE)
def test_a_path_that_could_be_read_in_two_ways_is_none(raw_path: bytes) -> None:
    assert read_provider_path(raw_path) is None


@each(
    ("raw_path", "expected"),
    [
        (b"/proxy/openai/v1/chat/completions", ProviderPath("openai", "/v1/chat/completions")),
        (b"/proxy/openai/v1/chat%2dcompletions", ProviderPath("openai", "/v1/chat-completions")),
        (
            b"/%70roxy/google/v1beta/models/a-2.5:generateContent",
            ProviderPath("google", "/v1beta/models/a-2.5:generateContent"),
        ),
        (b"/proxy/cloudflare/run/@cf/meta/llama", ProviderPath("cloudflare", "/run/@cf/meta/llama")),
        (b"/proxy/cloudflare/run/%40cf/meta/llama", ProviderPath("cloudflare", "/run/@cf/meta/llama")),
        (
            b"/proxy/x/@evil.test/a",
            ProviderPath("x", "/@evil.test/a"),
        ),  # below a root, it is no host
        (b"/proxy/x/a:80/b", ProviderPath("x", "/a:80/b")),
        (b"/proxy/x/.../b", ProviderPath("x", "/.../b")),
    ],
)
def test_a_plain_path_is_sent_on_as_it_is_decoded_once(raw_path: bytes, expected: ProviderPath) -> None:
    assert read_provider_path(raw_path) == expected


@given(st.binary(max_size=60))
def test_whatever_is_sent_on_needs_no_escape_and_leads_nowhere_upwards(rest: bytes) -> None:
    target = read_provider_path(b"/proxy/p/" + rest)
    if target is not None:
        assert target.path.isascii()
        assert not set(target.path) & set("%\\?#;& \r\n\t\0")
        assert not {"", ".", ".."} & set(target.path.split("/")[1:])


@each(
    ("query", "kept"),
    [
        (b"", ""),
        (b"alt=sse", "?alt=sse"),
        (b"alt=sse&key=mine", "?alt=sse"),
        (b"KEY=mine&k%65y=mine&api_key=a&api-key=b&apiKey=c&x-goog-api-key=d", ""),
        (b"access_token=a&oauth_token=b&token=c&Authorization=Bearer+d&bearer_token=e", ""),
        (b"$httpHeaders=x&%24fields=y&alt=sse", "?alt=sse"),
        (b"name=gw_live_abc&other=gw%5ftest_abc&gw_live_x=1&a=", "?a="),
        (b"a=1&a=2&b=%20%26&c=%0d%0a", "?a=1&a=2&b=+%26&c=%0D%0A"),
        (b"a=\xff", "?a=%C3%BF"),
        (b"keyword=x&monkey=y", "?keyword=x&monkey=y"),
    ],
)
def test_no_key_travels_in_a_query(query: bytes, kept: str) -> None:
    assert written_query(query_without_keys(query)) == kept


@given(st.text(max_size=80))
def test_what_is_kept_of_a_query_means_the_same_when_it_is_written_again(text: str) -> None:
    kept = query_without_keys(text.encode("utf-8", "replace"))
    again = written_query(kept)
    assert again.isascii()
    assert query_without_keys(again.removeprefix("?").encode("ascii")) == kept


def test_a_query_without_end_is_refused() -> None:
    with pytest.raises(ValueError, match="fields"):
        query_without_keys(b"&".join(b"a=1" for _ in range(101)))


PATHS = ProxyPaths(
    {"/v1/chat/completions": "chat", "/v1/listed": "models"},
    ("POST /v1/models/*:run", "POST /v1/*/tail", "GET /v1/models", "POST /run/*/*", "POST /v1/models/special:run"),
    {"POST /v1/models/*:run": 7, "GET /v1/models": 0},
)


@each(
    ("method", "path", "price_pico"),
    [
        ("POST", "/v1/models/a:run", 7),
        ("POST", "/v1/models/special:run", 7),  # the first that is meant
        ("POST", "/v1/models/:run", "none"),
        ("POST", "/v1/models/a:runs", "none"),
        ("POST", "/v1/models/a/b:run", "none"),
        ("GET", "/v1/models/a:run", "none"),
        ("PUT", "/v1/models", "none"),
        ("GET", "/v1/models", 0),
        ("HEAD", "/v1/models", "none"),
        ("GET", "/V1/models", "none"),
        ("GET", "/v1/models/x", "none"),
        ("POST", "/v1/x/tail", None),
        ("POST", "/run/@cf/x", None),
        ("POST", "/run/@cf", "none"),
        ("DELETE", "/v1/files/f-1", "none"),
    ],
)
def test_what_may_be_asked_is_what_the_list_names(method: str, path: str, price_pico: Any) -> None:
    entry = PATHS.allowed(method, path)
    assert ("none" if entry is None else entry.price_pico) == price_pico


def test_a_path_of_a_surface_is_one_for_what_is_posted() -> None:
    assert PATHS.surface_of("POST", "/v1/chat/completions") == "chat"
    assert PATHS.surface_of("GET", "/v1/chat/completions") is None
    assert PATHS.surface_of("GET", "/v1/listed") == "models"
    assert PATHS.surface_of("POST", "/v1/listed") is None
    assert PATHS.surface_of("POST", "/v1/chat/completions/x") is None


@each(
    "fields",
    [
        {"proxy_paths": ["/v1/models"]},
        {"proxy_paths": ["TRACE /v1/models"]},
        {"proxy_paths": ["POST v1/models"]},
        {"proxy_paths": ["POST /v1/../models"]},
        {"proxy_paths": ["POST /v1/**"]},
        {"proxy_paths": ["POST /v1/%2e"]},
        {"proxy_paths": ["POST /"]},
        {"proxy_paths": "POST /v1/models"},
        {"proxy_prices": {"POST /v1/files": "0.01"}},
        {"proxy_prices": {"POST /v1/moderations": 0.01}},
        {"proxy_prices": {"POST /v1/moderations": "-1"}},
        {"proxy_prices": {"POST /v1/moderations": "101"}},
        {"proxy_surfaces": {"/v1/chat/completions": "chats"}},
        {"proxy_headers": ["Authorization"]},
        {"proxy_headers": ["cookie"]},
        {"proxy_headers": ["X-Api-Key"]},
        {"proxy_base": "https://user@api.openai.com"},
    ],
)
def test_settings_that_would_let_something_else_through_are_refused(fields: dict[str, Any]) -> None:
    with pytest.raises(ValidationError):
        ProviderSettings.model_validate({"name": "openai", "api_key_env": "KEY"} | fields)


@each(
    ("fields", "root"),
    [
        ({"name": "openai"}, "https://api.openai.com"),
        ({"name": "groq"}, "https://api.groq.com"),
        ({"name": "google"}, "https://generativelanguage.googleapis.com"),
        ({"name": "deepseek"}, "https://api.deepseek.com"),
        ({"name": "groq", "base_url": "http://127.0.0.1:1/openai/v1"}, "http://127.0.0.1:1"),
        ({"name": "google", "base_url": "http://127.0.0.1:1/v1beta/openai"}, "http://127.0.0.1:1"),
        ({"name": "google", "base_url": "http://127.0.0.1:1/other"}, "http://127.0.0.1:1/other"),
        ({"name": "own", "kind": "openai", "base_url": "https://llm.test/a/v1"}, "https://llm.test/a"),
        ({"name": "own", "kind": "openai", "base_url": "https://llm.test/api"}, "https://llm.test/api"),
        (
            {"name": "own", "kind": "openai", "base_url": "https://llm.test/v1", "proxy_base": "https://b.test"},
            "https://b.test",
        ),
    ],
)
def test_paths_hang_where_the_provider_is_and_never_at_another_that_its_preset_names(
    fields: dict[str, Any], root: str
) -> None:
    assert row_of(ProviderSettings.model_validate({"api_key_env": "KEY"} | fields)).proxy_base == root


@each("kind", presets())
def test_no_preset_lets_a_path_through_that_is_not_for_inference(kind: str) -> None:
    row = presets()[kind]
    paths = ProxyPaths(row.proxy_surfaces, row.proxy_paths, {})
    for path in (
        "/v1/files", "/v1/files/f-1", "/v1/batches", "/v1/fine_tuning/jobs", "/v1/organization/users",
        "/v1/responses/r-1", "/v1/organizations/api_keys", "/v1/messages/batches", "/user/balance", "/v1/assistants",
        "/v1/threads", "/v1/containers", "/v1/models/x", "/v1beta/files", "/v1beta/cachedContents",
        "/v1beta/tunedModels/x", "/finetunes", "/api/pull", "/api/delete", "/api/create", "/run/finetunes",
        "/v1/connectors", "/v1/vector_stores",
    ):  # fmt: skip
        for method in ("GET", "POST", "DELETE", "PUT", "PATCH"):
            assert paths.allowed(method, path) is None, (kind, method, path)
            assert paths.surface_of(method, path) is None, (kind, method, path)
