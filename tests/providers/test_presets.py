"""The rows of known providers: two lines start each, an operator may say otherwise of any field; keys stay secret."""

import re
from pathlib import Path
from typing import Any

import orjson
import pytest

from mcp_gateway.core.config import ConfigError, Settings, load_settings
from mcp_gateway.core.dialects.openai import OpenAi
from mcp_gateway.core.provider_keys import headers_of, read_keys
from mcp_gateway.core.provider_settings import ProviderSettings, presets, row_of
from tests.cases import each
from tests.core.upstream.misbehaving import make_certificate
from tests.providers.doubles import KEY, Generic, serving
from tests.providers.kinds import sweep
from tests.providers.test_contract import MODEL
from tests.serving import open_door

CANARY = "key-5f1c-do-not-show"
KINDS = {"openai", "anthropic", "cohere", "groq", "cloudflare", "ollama", "deepseek", "mistral", "moonshot", "google"}


def settings_of(toml: str, folder: Path) -> Settings:
    file = folder / "gateway.toml"
    file.write_text(toml)
    return load_settings(file, {})


def test_the_ten_are_known_and_each_says_when_it_was_checked() -> None:
    assert presets().keys() == KINDS
    assert all(re.match(r"20\d\d-\d\d-\d\d: ", row.evidence) for row in presets().values())
    assert all(row.base_url.startswith("https://") for kind, row in presets().items() if kind != "ollama")


def test_each_says_what_it_has_beside_chats() -> None:
    others = {kind: {*OpenAi(row).translations} - {"chat", "messages"} for kind, row in presets().items()}
    assert {kind: " ".join(sorted(names)) for kind, names in others.items() if names} == {
        "openai": "completions embeddings responses",
        "cohere": "embeddings",
        "cloudflare": "embeddings",
        "ollama": "completions embeddings responses",
        "groq": "responses",
        "deepseek": "responses",
        "mistral": "embeddings",
        "google": "embeddings",
    }


def test_an_operator_may_say_a_part_of_what_a_surface_differs_in() -> None:
    own: dict[str, Any] = {"embeddings": {"most_inputs": 8}, "embeddings_path": "/embed", "chat_path": ""}
    row = row_of(ProviderSettings(name="mistral", api_key_env="K", **own))
    assert (row.embeddings.rename, row.embeddings.most_inputs) == ({"dimensions": "output_dimension"}, 8)
    assert list(OpenAi(row).translations) == ["embeddings"]


@sweep("kind", sorted(KINDS))
async def test_two_lines_start_each(kind: str, tmp_path: Path) -> None:
    more = 'account_id = "acc-77"\n' if kind == "cloudflare" else ""
    key = "" if kind == "ollama" else 'api_key_env = "A_KEY"\n'
    settings = settings_of(f'[[providers]]\nname = "{kind}"\n{key}{more}', tmp_path)
    (one,) = settings.providers
    async with open_door(
        tmp_path / "data", environ={"A_KEY": CANARY}, providers=[one.model_dump(exclude_unset=True)]
    ) as door:
        provider = door.gateway.pool.providers[kind]
        assert provider.status == "up"
        assert CANARY not in repr(provider)
        assert (await door.get("/v1/models", await door.key())).json()["data"][0]["served_by"] == "vllm"


@each(
    ("toml", "words"),
    [
        ('name = "groc"\napi_key_env = "K"', "kind groc is unknown; did you mean groq?"),
        ('name = "mine"\napi_key_env = "K"', "kind mine is unknown"),
        ('name = "groq"', "it needs api_key_env or api_key_file"),
        (f'name = "groq"\napi_key = "{CANARY}"', "the key itself must not stand here"),
        ('name = "cloudflare"\napi_key_env = "K"', "it needs account_id"),
        ('name = "vllm"\nkind = "groq"\napi_key_env = "K"', "vllm is a name of our own"),
        ('name = "groq"\napi_key_env = "not a name"', "api_key_env"),
        ('name = "groq"\napi_key_env = "K"\nbase_url = "ftp://x"', "must be an address"),
        ('name = "groq"\napi_key_env = "K"\nbase_url = "https://u:p@x/v1"', "without user name"),
        ('name = "groq"\napi_key_env = "K"\nheaders = { a = "b\\nc" }', "visible ASCII"),
        ('name = "groq"\napi_key_env = "K"\nmony_errors = ["402"]', "did you mean money_errors?"),
        ('name = "groq"\napi_key_env = "K"\nlimit_errors = ["429", "x"]', "must be a status"),
        ('name = "groq"\napi_key_env = "K"\nembeddings = { inputs = "x" }', "[providers.embeddings] inputs"),
        ('name = "groq"\napi_key_env = "K"\nembeddings = { input = "text" }', "there is no such setting"),
    ],
)
def test_what_cannot_be_is_refused_in_words(toml: str, words: str, tmp_path: Path) -> None:
    with pytest.raises(ConfigError) as caught:
        settings_of(f"[[providers]]\n{toml}", tmp_path)
    assert words in str(caught.value)
    assert CANARY not in str(caught.value)


def test_a_name_stands_once_and_a_model_names_one_that_is_there(tmp_path: Path) -> None:
    groq = '[[providers]]\nname = "groq"\napi_key_env = "K"\n'
    with pytest.raises(ConfigError, match="each name must stand once"):
        settings_of(groq + groq, tmp_path)
    with pytest.raises(ConfigError, match="names the provider grok, and"):
        settings_of(groq + '[[models]]\nid = "a"\nprovider = "grok"', tmp_path)


def test_a_key_comes_from_its_variable_or_else_its_file(tmp_path: Path) -> None:
    file = tmp_path / "key"
    file.write_text(CANARY + "\n")
    provider = ProviderSettings(name="groq", api_key_env="K", api_key_file=str(file))
    assert read_keys([provider], {"K": "other"}) == {"groq": "other"}
    assert read_keys([provider], {}) == {"groq": CANARY}
    for text in ("", "two words", "ü"):
        file.write_text(text)
        with pytest.raises(ConfigError) as caught:
            read_keys([provider], {})
        assert text == "" or text not in str(caught.value)
    with pytest.raises(ConfigError, match="groq: K is not set"):
        read_keys([ProviderSettings(name="groq", api_key_env="K")], {})


@each(
    ("more", "expected"),
    [
        ({}, ((b"authorization", b"Bearer k"),)),
        ({"auth": "x-header"}, ((b"x-api-key", b"k"),)),
        ({"auth": "x-header", "auth_header": "Api-Key"}, ((b"api-key", b"k"),)),
        ({"auth": "none"}, ()),
        ({"headers": {"X-Team": "a"}}, ((b"x-team", b"a"), (b"authorization", b"Bearer k"))),
    ],
)
def test_a_key_is_sent_as_the_settings_say(more: dict[str, Any], expected: tuple[tuple[bytes, bytes], ...]) -> None:
    provider = ProviderSettings(name="x", kind="openai", base_url="https://x/v1", api_key_env="K", **more)
    assert headers_of(row_of(provider), "k") == expected


async def test_an_operator_may_say_otherwise_of_any_field(tmp_path: Path) -> None:
    async with serving(Generic()) as double:
        own = {
            "name": "own", "kind": "openai", "base_url": double.url + "/v1", "auth": "x-header",
            "auth_header": "api-key", "api_key_env": "K", "rename": {"seed": "random_seed"}, "drop": ["user"],
            "refuse": ["logprobs"], "clamp": {"temperature": [0, 1]}, "set": {"store": False},
            "pass_fields": ["thinking"], "stream_usage": "always",
            "output_limit": "max_completion_tokens", "content": "string", "schema_form": "bare",
        }  # fmt: skip
        double.manner.auth = "none"
        async with open_door(
            tmp_path, environ={"K": CANARY}, providers=[own], models=[MODEL | {"provider": "own"}]
        ) as door:
            schema = {"type": "json_schema", "json_schema": {"name": "a", "schema": {"type": "object"}}}
            parts = [{"type": "text", "text": "a"}, {"type": "text", "text": "b"}]
            response = await door.chat(
                await door.key(credit="10"), model="sold/model", seed=1, user="u", temperature=1.7,
                thinking={"a": 1}, top_k=5, max_tokens=9, stream=True, response_format=schema,
                messages=[{"role": "user", "content": parts}],
            )  # fmt: skip
            assert response.status_code == 200, response.text
            assert response.headers["x-ignored-parameters"] == "top_k, user"
        (asked,) = double.asked
        assert asked.headers["api-key"] == CANARY
        assert "authorization" not in asked.headers
        assert asked.body == {
            "model": "m-1", "messages": [{"role": "user", "content": "a\nb"}], "random_seed": 1, "temperature": 1,
            "thinking": {"a": 1}, "max_completion_tokens": 9, "stream": True, "store": False,
            "response_format": {"type": "json_schema", "json_schema": {"type": "object"}},
        }  # fmt: skip
        assert orjson.dumps(asked.body)


async def test_tools_that_run_at_a_provider_are_refused(tmp_path: Path) -> None:
    async with serving(Generic()) as double:
        settings: dict[str, Any] = {"providers": [double.settings("own", kind="openai")]}
        settings |= {"models": [MODEL | {"provider": "own"}], "environ": {"DOUBLE_KEY": CANARY}}
        async with open_door(tmp_path, **settings) as door:
            key = await door.key(credit="1")
            for tool in (
                {"type": "web_search"},
                {"type": "builtin_function", "function": {"name": "$web_search"}},
                "x",
            ):
                assert (await door.chat(key, model="sold/model", tools=[tool])).status_code == 400
            assert double.asked == []


async def test_a_provider_is_asked_over_tls_for_its_name_alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    tls, _ = make_certificate(tmp_path)
    async with serving(Generic(), tls=tls) as double:
        settings: dict[str, Any] = {"providers": [double.settings("own")], "environ": {"DOUBLE_KEY": KEY}}
        settings |= {"models": [MODEL | {"provider": "own"}]}
        async with open_door(tmp_path / "strange", **settings) as door:
            response = await door.chat(await door.key(credit="1"), model="sold/model")
            assert (response.status_code, response.json()["error"]["code"]) == (502, "connect_failed")
        monkeypatch.setenv("SSL_CERT_FILE", str(tmp_path / "server.pem"))
        async with open_door(tmp_path / "trusted", **settings) as door:
            key = await door.key(credit="1")
            for is_stream in (False, True, False):
                assert (await door.chat(key, model="sold/model", stream=is_stream)).status_code == 200
        assert len(double.asked) == 3
