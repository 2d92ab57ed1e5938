import json
import re
import tomllib
from inspect import signature
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from mcp_gateway.core.config import ConfigError, Setting, Settings, load_settings, passed_over, settings_of
from mcp_gateway.core.config_reference import example_toml, reference_markdown
from mcp_gateway.core.ledger.ledger import Ledger
from mcp_gateway.core.prices import Price, Rates, Tier
from mcp_gateway.core.upstream.configured import transport_to
from mcp_gateway.core.upstream.transport import Timeouts, TransportLimits
from tests.cases import each

ROOT = Path(__file__).parents[2]
CANARY = "canary-5f1c-do-not-show"
SETTINGS = list(settings_of(Settings))
WITH_VARIABLE = [setting for setting in SETTINGS if setting.variable]
PYDANTIC_WORDING = re.compile(r"pydantic|Input should|Value error|validation error|https://errors|\{|Traceback", re.I)


@pytest.fixture(autouse=True)
def empty_working_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return tmp_path


def load(toml: str = "", **environ: str) -> Settings:
    Path("gateway.toml").write_text(toml, encoding="utf-8")
    return load_settings(None, environ)


def faults(toml: str = "", **environ: str) -> list[str]:
    with pytest.raises(ConfigError) as raised:
        load(toml, **environ)
    assert str(raised.value).endswith("".join(f"\n- {fault}" for fault in raised.value.faults))
    return raised.value.faults


def faults_if_any(toml: str = "", **environ: str) -> str:
    """All that a person and a traceback would see; nothing when it loads."""
    try:
        load(toml, **environ)
    except ConfigError as error:
        return f"{error!r} {error} {error.__cause__ or ''} {error.__context__ or ''}"
    return ""


def example_of(setting: Setting) -> tuple[Any, str]:
    """Of what it may be, and how a variable says it."""
    shown = (setting.field.examples or [setting.field.default])[0]
    return shown, ",".join(map(str, shown)) if isinstance(shown, list | tuple) else str(shown)


def fault(toml: str = "", **environ: str) -> str:
    found = faults(toml, **environ)
    assert len(found) == 1, found
    return found[0]


ISSUER, PUBLIC = "https://id.example.com", "https://gateway.example.com"
HOOK_SECRET = "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw"
WHAT_OTHERS_NEED = """
valkey_url = "valkeys://valkey.internal"
trusted_proxies = ["10.0.0.1"]
public_url = "https://gateway.example.com"
[oidc]
issuer = "https://id.example.com"
client_id = "gateway"
role_claim = "roles"
owners = ["owner"]
[policy]
country_database = "x"
[stripe]
secret_key = "a"
webhook_secret = "b"
[webhooks]
url = "https://hooks.example.com"
secret = "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw"
"""
"""Settings without which some cannot be set."""


def toml_of(value: Any) -> str:
    return json.dumps(value)


class TestSources:
    def test_without_file_and_variables_every_default_holds(self) -> None:
        settings = load_settings(None, {})
        assert settings == Settings()
        assert (settings.host, settings.port, settings.models) == ("127.0.0.1", 8080, ())

    def test_the_environment_of_the_process_is_not_read(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setenv("GATEWAY_PORT", "1234")
        assert load_settings(None, {}).port == 8080

    def test_a_named_file_is_read_instead_of_the_one_in_the_working_folder(self, tmp_path: Path) -> None:
        Path("gateway.toml").write_text("port = 1")
        other = tmp_path / "other.toml"
        other.write_text("host = '0.0.0.0'")
        settings = load_settings(other, {})
        assert (settings.host, settings.port) == ("0.0.0.0", 8080)

    def test_a_variable_wins_over_the_file_and_leaves_its_neighbours_alone(self) -> None:
        limits = load("[limits]\nin_flight = 3\nmax_choices = 2", GATEWAY_LIMITS__IN_FLIGHT="5").limits
        assert (limits.in_flight, limits.max_choices, limits.keys_per_account) == (5, 2, 100)

    def test_an_empty_variable_counts_as_unset(self) -> None:
        settings = load("port = 1", GATEWAY_PORT="", GATEWAY_METRICS_TOKEN="", GATEWAY_UNHEARD_OF="")
        assert (settings.port, settings.metrics_token) == (1, None)

    def test_variables_of_the_bridge_and_of_others_are_passed_over(self) -> None:
        assert load(GATEWAY_URL="http://a", GATEWAY_API_KEY="k", PATH="/bin", MY_GATEWAY_PORT="1") == Settings()

    @each(
        "links",
        [
            {"GATEWAY_PORT": "tcp://10.0.0.1:8080", "GATEWAY_SERVICE_HOST": "10.0.0.1", "GATEWAY_SERVICE_PORT": "8080",
             "GATEWAY_SERVICE_PORT_HTTP": "8080", "GATEWAY_PORT_8080_TCP": "tcp://10.0.0.1:8080",
             "GATEWAY_PORT_8080_TCP_PROTO": "tcp", "GATEWAY_PORT_8080_TCP_PORT": "8080",
             "GATEWAY_PORT_8080_TCP_ADDR": "10.0.0.1"},
            {"GATEWAY_PORT": "tcp://[fd00::1]:8080"},
            {"GATEWAY_PORT": "udp://10.0.0.1:53", "GATEWAY_PORT_53_UDP": "udp://10.0.0.1:53"},
            {"GATEWAY_MCP_PORT": "tcp://10.0.0.1:80", "GATEWAY_MCP_SERVICE_HOST": "10.0.0.1"},
            {"GATEWAY_VLLM_PORT_8000_TCP": "tcp://10.0.0.2:8000", "GATEWAY_VLLM_SERVICE_PORT": "8000"},
        ],
    )  # fmt: skip
    def test_the_links_of_a_service_are_passed_over(self, links: dict[str, str]) -> None:
        assert passed_over(links | {"OTHER_PORT": "tcp://10.0.0.3:1"}) == sorted(links)
        assert load("port = 9", **links).port == 9

    def test_a_port_beside_the_links_of_a_service_is_a_setting(self) -> None:
        links = {"GATEWAY_SERVICE_HOST": "10.0.0.1", "GATEWAY_PORT_8080_TCP": "tcp://10.0.0.1:8080"}
        assert load(GATEWAY_PORT="1234", **links).port == 1234
        assert fault(GATEWAY_PORT="tpc://10.0.0.1:8080", **links) == "GATEWAY_PORT: must be a whole number"

    @each(
        "variable",
        [("GATEWAY_SERVICE_HOST", "10.0.0.1"), ("GATEWAY_SERVICE_PORT", "8080"), ("GATEWAY_PORT_8080_TCP_PORT", "1"),
         ("GATEWAY_PORT", "http://10.0.0.1:8080"), ("GATEWAY_PROT", "tcp://10.0.0.1:8080"),
         ("GATEWAY_DRAIN_TIMEOUT_S", "tcp://10.0.0.1:8080"), ("GATEWAY_PORT_8080_TCP", "10.0.0.1:8080")],
    )  # fmt: skip
    def test_what_is_no_link_of_a_service_is_refused_by_its_name(self, variable: tuple[str, str]) -> None:
        name, text = variable
        assert fault(**{name: text}).startswith(f"{name}: ")

    def test_lists_in_variables_are_separated_by_commas(self) -> None:
        assert load(GATEWAY_VLLM_URLS="http://a:8000/v1, https://b/x/ ,").vllm_urls == ("http://a:8000", "https://b/x")

    @each(
        ("text", "urls"),
        [
            ('["http://a:8000/v1", "https://b/x/"]', ("http://a:8000", "https://b/x")),
            (' [ "http://a:8000" ] ', ("http://a:8000",)),
            ("[]", ()),
        ],
    )
    def test_lists_in_variables_may_be_json(self, text: str, urls: tuple[str, ...]) -> None:
        assert load(GATEWAY_VLLM_URLS=text).vllm_urls == urls

    @each("text", ['["http://a:8000"', '["http://a", 5]', "[[]]", '["http://a",]', '[{"a": 1}]', "[" * 5000])
    def test_a_list_that_is_no_json_is_refused_in_words(self, text: str) -> None:
        with pytest.raises(ConfigError, match="GATEWAY_VLLM_URLS"):
            load(GATEWAY_VLLM_URLS=text)

    def test_an_address_in_brackets_is_no_json(self) -> None:
        assert load(GATEWAY_ALLOWED_HOSTS="[::1]:8080,a").allowed_hosts == ("[::1]:8080", "a")

    @each(
        ("one", "other", "is_one"),
        [
            ("http://localhost:8000", "http://127.0.0.1:8000", True),
            ("http://LOCALHOST.:8000/v1", "http://127.0.0.1:8000/", True),
            ("http://A", "http://a:80", True),
            ("https://a", "https://a:443/v1", True),
            ("http://a", "https://a", False),
            ("http://a", "http://a:8000", False),
            ("http://a/one", "http://a/two", False),
            ("http://127.0.0.1:8000", "http://127.0.0.2:8000", False),
            ("http://localhost:8000", "http://localhost:8001", False),
        ],
    )
    def test_two_spellings_of_one_server_are_one(self, one: str, other: str, is_one: bool) -> None:
        if not is_one:
            assert len(load(f"vllm_urls = ['{one}', '{other}']").vllm_urls) == 2
            return
        with pytest.raises(ConfigError, match="same server twice"):
            load(f"vllm_urls = ['{one}', '{other}']")

    @each("setting", WITH_VARIABLE)
    def test_every_setting_can_be_set_by_its_variable(self, setting: Setting) -> None:
        shown, text = example_of(setting)
        value: Any = load(WHAT_OTHERS_NEED, **{str(setting.variable): text})
        for name in setting.path:
            value = getattr(value, name)
        plain = value.get_secret_value() if hasattr(value, "get_secret_value") else value
        assert plain == (tuple(shown) if isinstance(shown, list) else type(plain)(shown))

    @each(
        ("oidc", "fault"),
        [
            ({"client_id": "gateway"}, "needs issuer"),
            ({"only": True}, "needs issuer"),
            ({"creates_users": True}, "needs issuer"),
            ({"issuer": "id.example.com"}, "must be an address"),
            ({"issuer": "http://id.example.com"}, "must be https://"),
            ({"issuer": "https://ann@id.example.com"}, "without user name"),
            ({"issuer": "https://id.example.com/?tenant=1"}, "without user name"),
            ({"issuer": ISSUER, "only": True}, "only needs client_id"),
            ({"issuer": ISSUER, "client_id": "g", "scopes": ["email"]}, "scopes needs openid"),
            ({"issuer": ISSUER, "scopes": ["open id"]}, "without spaces"),
            ({"issuer": ISSUER, "client_id": "g", "audiences": ["a", "g"]}, "client_id_is_audience = true"),
            ({"issuer": ISSUER, "role_claim": "roles"}, "role_claim needs owners"),
            ({"issuer": ISSUER, "owners": ["a"]}, "need role_claim"),
            ({"issuer": ISSUER, "administrators": ["a"]}, "need role_claim"),
        ],
    )
    def test_an_issuer_that_could_let_nobody_in_or_anybody_is_refused(self, oidc: dict[str, Any], fault: str) -> None:
        with pytest.raises(ConfigError, match=fault):
            load(f'public_url = "{PUBLIC}"\n[oidc]\n' + "\n".join(f"{name} = {toml_of(oidc[name])}" for name in oidc))

    def test_an_issuer_needs_an_address_of_ours_and_users_who_are_who_they_say(self) -> None:
        assert "needs public_url" in fault(f"[oidc]\nissuer = '{ISSUER}'")
        open_to_all = f"public_url = '{PUBLIC}'\n[users]\nregistration = 'open'\n[oidc]\nissuer = '{ISSUER}'\n"
        for registration in ("open", "invite"):
            chosen = open_to_all.replace("open", registration)
            assert "link_by_email needs" in fault(chosen + "link_by_email = true")
        load(open_to_all + "link_by_email = true\nonly = true\nclient_id = 'gateway'")
        load(open_to_all)

    def test_tokens_that_say_who_signed_in_are_taken_for_no_others_unless_that_is_asked_for(self) -> None:
        ours = f"public_url = '{PUBLIC}'\n[oidc]\nissuer = '{ISSUER}'\nclient_id = '{PUBLIC}/v1'\n"
        assert "audiences has the client_id" in fault(ours)
        load(ours + "client_id_is_audience = true")

    def test_tokens_are_for_the_addresses_of_both_doors_unless_others_are_named(self) -> None:
        assert load().oidc_audiences == ()
        assert (load().oidc.is_configured, load().oidc.has_browser, load().oidc.shown_name) == (False, False, "")
        toml = f"public_url = '{PUBLIC}/v1/'\n[oidc]\nissuer = 'http://127.0.0.1:9/realms/x/'\n"
        settings = load(toml + "client_id = 'gateway'")
        below = ("/v1", "/api/v1/inference")
        assert settings.oidc_audiences[:3] == (PUBLIC, *(PUBLIC + prefix for prefix in below))
        for door in ("/mcp", "/mcp/", "/mcp/sse", "/mcp/sse/"):
            assert {PUBLIC + prefix + door for prefix in below} <= set(settings.oidc_audiences)
        assert (settings.oidc.has_browser, settings.oidc.shown_name) == (True, "127.0.0.1")
        named = load(toml + "client_id = 'g'\naudiences = ['g']\nclient_id_is_audience = true\nname = 'Example'")
        assert (named.oidc_audiences, named.oidc.shown_name) == (("g",), "Example")

    @each(
        ("webhooks", "fault"),
        [
            ({"url": "https://hooks.example.com"}, "url needs secret"),
            ({"secret": HOOK_SECRET}, "url needs secret"),
            ({"url": "https://hooks.example.com", "secret": "whsec_c2hvcnQ="}, "24 to 64 random bytes"),
            ({"url": "http://hooks.example.com", "secret": HOOK_SECRET}, "must be https://"),
            ({"url": "http://10.0.0.1/", "secret": HOOK_SECRET}, "must be https://"),
            ({"url": "https://ann:word@hooks.example.com", "secret": HOOK_SECRET}, "without user name"),
            ({"url": "https://hooks.example.com/#here", "secret": HOOK_SECRET}, "without user name"),
            ({"ports": []}, "must name a port"),
        ],
    )
    def test_a_webhook_that_nobody_could_trust_is_refused(self, webhooks: dict[str, Any], fault: str) -> None:
        with pytest.raises(ConfigError, match=fault) as caught:
            load("[webhooks]\n" + "\n".join(f"{name} = {value!r}" for name, value in webhooks.items()))
        assert "whsec_c2" not in str(caught.value)

    @each(
        ("url", "more"),
        [
            ("https://hooks.example.com/a?b=c", ""),
            ("http://127.0.0.1:9000/", ""),
            ("http://[::1]/", ""),
            ("http://localhost/hook", ""),
            ("http://hooks.internal/", "allow_http = true"),
        ],
    )
    def test_the_operators_webhook_is_private_on_its_way_unless_that_is_waived(self, url: str, more: str) -> None:
        assert load(f"[webhooks]\nurl = '{url}'\nsecret = '{HOOK_SECRET}'\n{more}").webhooks.url == url

    def test_a_limit_of_keys_can_be_switched_off(self) -> None:
        limits = load("[limits]\nrequests_per_day = 'none'", GATEWAY_LIMITS__TOKENS_PER_MINUTE="None").limits
        assert (limits.requests_per_day, limits.tokens_per_minute, limits.in_flight) == (None, None, 64)

    def test_models_are_read_with_prices_in_the_order_of_the_file(self) -> None:
        first, second = load(
            "[[models]]\nid = 'a/b'\nfeatures = []\n[models.pricing]\nprompt = '0.00000005'\n"
            "completion = '0'\n[[models]]\nid = 'c'\nfree = true"
        ).models
        assert (first.id, first.features, first.free) == ("a/b", (), False)
        assert first.pricing is not None
        assert (first.pricing.price.prompt_pico, first.pricing.price.completion_pico) == (50_000, 0)
        assert (second.id, second.pricing, second.free) == ("c", None, True)

    @each(
        ("per_million", "price", "pico"),
        [
            (False, "0", 0),
            (False, "0.000000000001", 1),
            (False, "0.01", 10**10),
            (True, "0", 0),
            (True, "0.000001", 1),
            (True, "0.05", 50_000),
            (True, "0.15", 150_000),
            (True, "2.50", 2_500_000),
            (True, "75", 75_000_000),
            (True, "20000", 2 * 10**10),
            (True, "1000000", 10**12),
        ],
    )
    def test_a_price_is_for_one_token_or_for_a_million(self, per_million: bool, price: str, pico: int) -> None:
        for order in (["per_million", "prompt", "completion"], ["completion", "prompt", "per_million"]):
            told = {"per_million": str(per_million).lower(), "prompt": f"'{price}'", "completion": "'0'"}
            lines = "\n".join(f"{name} = {told[name]}" for name in order)
            (model,) = load(f"[[models]]\nid = 'a'\n[models.pricing]\n{lines}").models
            assert model.pricing is not None
            assert (model.pricing.price.prompt_pico, model.pricing.price.completion_pico) == (pico, 0)

    def test_a_price_may_tell_of_caches_fees_and_long_prompts(self) -> None:
        pricing = (
            load(
                "[[models]]\nid = 'a'\n[models.pricing]\nper_million = true\nprompt = '1'\ncompletion = '3'\n"
                "cached_prompt = '0.1'\ncache_write = '1.25'\nrequest = '0.001'\nimage = '2'\n"
                "[[models.pricing.tiers]]\nabove_prompt_tokens = 1000\nprompt = '2'\ncompletion = '6'\n"
                "[[models.pricing.tiers]]\nabove_prompt_tokens = 2000\nprompt = '4'\ncompletion = '9'\n"
                "cached_prompt = '0'"
            )
            .models[0]
            .pricing
        )
        assert pricing is not None
        tiers = Tier(1000, Rates(2 * 10**6, 6 * 10**6)), Tier(2000, Rates(4 * 10**6, 9 * 10**6, 0))
        assert pricing.price == Price(10**6, 3 * 10**6, 10**5, 1_250_000, 10**9, 2 * 10**12, tiers)

    @each(
        ("lines", "expected"),
        [
            (
                "request = '101'",
                '[models.pricing] request: must be USD, from "0" to "100", at most 12 decimals, such as "0.001"',
            ),
            (
                "image = '-1'",
                '[models.pricing] image: must be USD, from "0" to "100", at most 12 decimals, such as "0.001"',
            ),
            ("cached_prompt = '0.02'", "[models.pricing] cached_prompt: is more than 0.01 USD for a single token"),
            ("tiers = 5", "[models.pricing] tiers: must be headed [[models.pricing.tiers]], with double brackets"),
            ("[models.pricing.tiers]\nprompt = '0'", "[models.pricing] tiers: must be headed [[models.pricing.tiers]]"),
            (
                "[[models.pricing.tiers]]\nprompt = '0'",
                "[[models.pricing.tiers]] number 1: above_prompt_tokens: is missing",
            ),
            (
                "[[models.pricing.tiers]]\nabove_prompt_tokens = 9\nprompt = '0'",
                "has a tier without a price for completion tokens",
            ),
            (
                "[[models.pricing.tiers]]\nabove_prompt_tokens = 9\nprompt = '1'\ncompletion = '0'",
                "[models.pricing] tiers: number 1: prompt is more than 0.01 USD for a single token",
            ),
            (
                2 * "[[models.pricing.tiers]]\nabove_prompt_tokens = 9\nprompt = '0'\ncompletion = '0'\n",
                "tiers: must stand by above_prompt_tokens, the shortest first, no two alike",
            ),
        ],
    )
    def test_a_price_that_cannot_be_is_refused_where_it_stands(self, lines: str, expected: str) -> None:
        begun = "[[models]]\nid = 'a'\n[models.pricing]\nprompt = '0'\ncompletion = '0'\n"
        assert expected in fault(begun + lines)

    @each(("host", "expected"), [("[::1]", "::1"), ("::", "::"), ("fe80::1%eth0", "fe80::1%eth0"), ("a.b", "a.b")])
    def test_an_address_to_listen_on_may_have_the_brackets_of_a_url(self, host: str, expected: str) -> None:
        assert load(f"host = '{host}'").host == expected

    def test_a_tilde_is_the_home_folder(self) -> None:
        assert load("data_dir = '~/data'").data_dir == Path.home() / "data"

    def test_a_file_that_starts_with_a_byte_order_mark_is_read(self) -> None:
        Path("gateway.toml").write_bytes(b"\xef\xbb\xbfport = 1")
        assert load_settings(None, {}).port == 1

    def test_the_tree_is_frozen(self) -> None:
        with pytest.raises(ValidationError, match="frozen"):
            Settings().limits.in_flight = 1


class TestFaults:
    def test_all_faults_of_file_and_variables_are_listed_at_once(self) -> None:
        found = faults("port = 'x'\nprot = 1", GATEWAY_MAINTENANCE="perhaps", GATEWAY_UNHEARD_OF="1")
        assert sorted(line.partition(": there")[0].partition(": must")[0] for line in found) == [
            "GATEWAY_MAINTENANCE",
            "GATEWAY_UNHEARD_OF",
            "gateway.toml: port",
            "gateway.toml: prot",
        ]

    @each(
        ("toml", "expected"),
        [
            ("prot = 1", "gateway.toml: prot: there is no such setting; did you mean port?"),
            (
                "[limits]\nrequests_per_minut = 1",
                "gateway.toml: [limits] requests_per_minut: there is no such setting; "
                "did you mean requests_per_minute?",
            ),
            ("[limitz]\nin_flight = 1", "gateway.toml: limitz: there is no such setting; did you mean limits?"),
            (
                "[limits]\nport = 1",
                "gateway.toml: [limits] port: there is no such setting; "
                "port belongs at the top of the file, above the first [table]",
            ),
            (
                "total_timeout_s = 1",
                "gateway.toml: total_timeout_s: there is no such setting; total_timeout_s belongs in [upstream]",
            ),
            (
                "[[models]]\nid = 'a'\nprompt = '0'",
                "gateway.toml: [[models]] number 1: prompt: there is no such setting; "
                "prompt belongs in [models.pricing] or in a [[models.pricing.tiers]] entry",
            ),
            (
                "[[models]]\nid = 'a'\n[[models]]\nid = 'b'\n[models.pricing]\npromt = '0'",
                "gateway.toml: [[models]] number 2: [models.pricing] promt: there is no such setting; "
                "did you mean prompt?",
            ),
            ("zzzzzz = 1", "gateway.toml: zzzzzz: there is no such setting; gateway.example.toml lists them all"),
        ],
    )
    def test_an_unknown_key_is_refused_with_where_it_belongs_or_the_nearest_name(
        self, toml: str, expected: str
    ) -> None:
        assert fault(toml) == expected

    @each(
        ("variable", "advice"),
        [
            ("GATEWAY_LIMITS__IN_FLIGT", "did you mean GATEWAY_LIMITS__IN_FLIGHT?"),
            ("GATEWAY_LIMITS_IN_FLIGHT", "did you mean GATEWAY_LIMITS__IN_FLIGHT?"),
            ("GATEWAY_port", "did you mean GATEWAY_PORT?"),
            ("GATEWAY_MODELS", "models are written in the configuration file, as [[models]]"),
            ("GATEWAY_MODELS__0__ID", "models are written in the configuration file, as [[models]]"),
        ],
    )
    def test_an_unknown_variable_is_refused_with_the_nearest_name(self, variable: str, advice: str) -> None:
        line = fault(**{variable: "1"})
        assert line.startswith(f"{variable}: ")
        assert line.endswith(advice)

    @each(
        ("toml", "expected"),
        [
            ("port = 'x'", "port: must be a whole number"),
            ("port = true", "port: must be a number, not true or false"),
            ("port = 80.5", "port: must be a whole number"),
            ("port = 70000", "port: must be 65535 or less"),
            ("port = -1", "port: must be 0 or more"),
            ("max_body_bytes = 0", "max_body_bytes: must be 1 or more"),
            ("max_header_bytes = 1023", "max_header_bytes: must be 1024 or more"),
            ("max_body_bytes = 33554433", "max_in_flight_bytes must be at least 8 times max_body_bytes"),
            ("max_in_flight_bytes = 134217727", "max_in_flight_bytes must be at least 8 times max_body_bytes"),
            (
                "[upstream]\nmax_response_bytes = 218103809",
                "max_in_flight_bytes is too little for one body of max_body_bytes and one answer of max_response_bytes",
            ),
            ("max_in_flight_bytes = 0", "max_in_flight_bytes: must be 1 or more"),
            ("client_stall_timeout_s = 0", "client_stall_timeout_s: must be more than 0"),
            ("client_stall_timeout_s = inf", "client_stall_timeout_s: must be a finite number"),
            ("drain_timeout_s = 'long'", "drain_timeout_s: must be a number"),
            ("maintenance = 'perhaps'", "maintenance: must be true or false"),
            (
                "[image_fetch]\nports = []",
                "[image_fetch] ports: must name a port, such as 443; fetch_images = false is how nothing is fetched",
            ),
            ("[image_fetch]\nports = [443, 0]", "[image_fetch] ports, entry 2: must be 1 or more"),
            *(
                (
                    f"[[models]]\nid = 'a'\ninput_modalities = {modalities}",
                    '[[models]] number 1: input_modalities: must be ["text"] or ["text", "image"]: '
                    "every model is asked in text",
                )
                for modalities in ("[]", "['image']")
            ),
            ("host = 5", 'host: must be text in quotes, such as "text"'),
            ("host = ''", "host: must not be empty or hold spaces or line ends"),
            *(
                (
                    f"host = '{host}'",
                    "host: must be an address or a name alone, such as 127.0.0.1; the port is a setting of its own",
                )
                for host in ("localhost:80", "http://localhost", "127.0.0.1:80", "[::1]:80", "::1::", "10.0.0.0/8", ":")
            ),
            ("data_dir = ''", "data_dir: must not be empty"),
            ("data_dir = 1", 'data_dir: must be text in quotes, such as "text"'),
            ("log_level = 'loud'", "log_level: must be 'debug', 'info', 'warning' or 'error'"),
            ("vllm_urls = 5", 'vllm_urls: must be a list, such as ["one", "two"]'),
            (
                "vllm_urls = ['http://a', 'b:8000']",
                "vllm_urls, entry 2: must be an address such as http://10.0.0.5:8000",
            ),
            ("vllm_urls = ['http://a:99999']", "vllm_urls, entry 1: must be an address such as http://10.0.0.5:8000"),
            ("vllm_urls = ['http://a', 'http://a/v1']", "vllm_urls: must not name the same server twice"),
            (
                "public_url = 'http://me:pw@a'",
                "public_url: must be an address without user name, password, `?` or `#`; "
                "keys have a setting of their own",
            ),
            (
                "trusted_proxies = ['10.0.0.0/8', '10.0.0.256', '::1']",
                "trusted_proxies, entry 2: must be an IP address or network, such as 10.0.0.5 or 10.0.0.0/8",
            ),
            (
                "allowed_hosts = ['http://a']",
                "allowed_hosts, entry 1: must be a host name as in a Host header, "
                "such as gateway.example.com or localhost:8080",
            ),
            (
                "allowed_origins = ['https://a/']",
                "allowed_origins, entry 1: must be scheme and host without a path or final slash, "
                "such as https://app.example.com, or *",
            ),
            (
                "cors_origins = ['https://a', 'https://*.b']",
                "cors_origins, entry 2: must be scheme and host without a path or final slash, "
                "such as https://app.example.com, or *",
            ),
            ("metrics_token = ''", "metrics_token: must be visible ASCII characters, without spaces or line ends"),
            (
                "limits = 5",
                "limits: must be a table of settings in square brackets, as gateway.example.toml shows",
            ),
            (
                "[models]\nid = 'a'",
                "models: must be headed [[models]], with double brackets, once for each model",
            ),
            ("[[models]]", "[[models]] number 1: id: is missing, and there is no default"),
            ("[[models]]\nid = ''", "[[models]] number 1: id: must not be empty or hold spaces or line ends"),
            (
                "[[models]]\nid = 'a'\n[[models]]\nid = 'b'\n[[models]]\nid = 'a'",
                "models: each id and alias must stand once; more than one use has a",
            ),
            (
                "[[models]]\nid = 'a'\naliases = ['b', 'c']\n[[models]]\nid = 'b'\naliases = ['c']",
                "models: each id and alias must stand once; more than one use has b, c",
            ),
            (
                "[[models]]\nid = 'a'\naliases = ['a']",
                "models: each id and alias must stand once; more than one use has a",
            ),
            (
                "[[models]]\nid = 'a'\naliases = ['b', 'b']",
                "models: each id and alias must stand once; more than one use has b",
            ),
            (
                "[[models]]\nid = 'a'\ncontext_window = 10\nmax_output_tokens = 11",
                "[[models]] number 1: max_output_tokens must not be more than context_window, "
                "which counts the prompt too",
            ),
            (
                "[[models]]\nid = 'a'\nfeatures = ['tools', 'toolz']",
                "[[models]] number 1: features, entry 2: must be "
                "'tools', 'json_mode', 'structured_outputs', 'logprobs' or 'reasoning'",
            ),
            (
                "[[models]]\nid = 'a'\npricing = {prompt = 5e-8}",
                "[[models]] number 1: [models.pricing] prompt: "
                'money is exact only as a string: write it with quotes, "0.00000005"',
            ),
            (
                "[[models]]\nid = 'a'\npricing = {prompt = '2'}",
                "[[models]] number 1: [models.pricing] prompt: "
                "is more than 0.01 USD for a single token: write per_million = true beside it if it is for a million "
                'tokens, or the price of one ("0.15" for a million is "0.00000015" for one)',
            ),
            (
                "[[models]]\nid = 'a'\npricing = {per_million = true, prompt = '0.0000005'}",
                "[[models]] number 1: [models.pricing] prompt: must be USD for a million tokens, as per_million says, "
                'from "0" to "1000000", at most 6 decimals, such as "0.05"',
            ),
            (
                "[[models]]\nid = 'a'\nfree = true\npricing = {prompt = '0', completion = '0.000001'}",
                "[[models]] number 1: is free and has prices: leave out free = true, or [models.pricing]",
            ),
            (
                "[wallet]\nminimum_balance_usd = '-1'",
                '[wallet] minimum_balance_usd: must be an amount in USD, at most 9 decimals, such as "0.50"',
            ),
        ],
    )
    def test_a_bad_value_is_refused_with_its_place_and_what_to_write(self, toml: str, expected: str) -> None:
        assert fault(toml) == f"gateway.toml: {expected}"

    def test_a_bad_value_of_a_variable_names_the_variable(self) -> None:
        assert fault("port = 1", GATEWAY_PORT="x") == "GATEWAY_PORT: must be a whole number"
        assert fault(GATEWAY_TRUSTED_PROXIES="10.0.0.1,x").startswith("GATEWAY_TRUSTED_PROXIES, entry 2: must be an IP")

    def test_a_variable_does_not_hide_that_its_table_is_none(self) -> None:
        assert "limits: must be a table" in fault("limits = 5", GATEWAY_LIMITS__IN_FLIGHT="1")

    @each("price", ["-1", "1e-8", "0.0000000000001", "", "free", "NaN", "1,5"])
    def test_a_price_that_is_no_exact_decimal_is_refused(self, price: str) -> None:
        assert "USD for a single token" in fault(f"[[models]]\nid = 'a'\npricing = {{completion = '{price}'}}")

    @each("price", ["0.010000000001", "0.05", "0.15", "2.50", "75", "1000001"])
    @each("name", ["prompt", "completion"])
    def test_a_price_that_is_meant_for_a_million_tokens_is_refused_until_it_says_so(
        self, name: str, price: str
    ) -> None:
        prices = {"prompt": "0", "completion": "0"} | {name: price}
        lines = "\n".join(f"{name} = '{price}'" for name, price in prices.items())
        told = fault(f"[[models]]\nid = 'a'\n[models.pricing]\n{lines}")
        assert f"[models.pricing] {name}: is more than 0.01 USD for a single token" in told
        assert "per_million = true" in told

    @each("price", ["1000000.01", "1000001", "0.0000001", "-1", "1e3", "", "free"])
    def test_a_price_for_a_million_tokens_has_bounds_too(self, price: str) -> None:
        told = fault(f"[[models]]\nid = 'a'\npricing = {{per_million = true, completion = '{price}'}}")
        assert "USD for a million tokens" in told

    @each(
        ("prices", "missing"),
        [
            ("prompt = '0.000001'", "completion"),
            ("completion = '0.000001'", "prompt"),
            ("prompt = '0'", "completion"),
            ("", "prompt and completion"),
            ("per_million = true", "prompt and completion"),
            ("per_million = true\ncompletion = '3'", "prompt"),
        ],
    )
    @each("is_free", ["", "free = true\n"])
    def test_a_model_has_both_prices_or_none(self, prices: str, missing: str, is_free: str) -> None:
        told = fault(f"[[models]]\nid = 'a'\n{is_free}[models.pricing]\n{prices}")
        assert f"has no price for {missing}: " in told

    @each(("task", "missing"), [("generate", "completion"), ("embed", None), ("score", None)])
    def test_only_a_model_that_generates_needs_a_price_for_that(self, task: str, missing: str | None) -> None:
        text = f"[[models]]\nid = 'a'\ntask = '{task}'\n[models.pricing]\nprompt = '0.000001'"
        if missing is not None:
            assert f"has no price for {missing}: " in fault(text)
            return
        pricing = load(text).models[0].pricing
        assert pricing is not None
        assert (pricing.price.prompt_pico, pricing.price.completion_pico) == (1_000_000, 0)

    @each("prices", ["prompt = '0'\ncompletion = '0'", "prompt = '0.000000'\ncompletion = '0'"])
    def test_free_may_be_said_of_what_costs_nothing(self, prices: str) -> None:
        assert load(f"[[models]]\nid = 'a'\nfree = true\n[models.pricing]\n{prices}").models[0].free

    def test_a_syntax_error_names_the_line(self) -> None:
        assert re.match(r"gateway.toml: is not TOML: .*line 2, column 8", fault("port = 1\nhost = localhost"))

    def test_a_file_that_cannot_be_read_is_named(self, tmp_path: Path) -> None:
        for file in (tmp_path / "absent.toml", tmp_path):
            with pytest.raises(ConfigError, match=f"{re.escape(str(file))}: cannot be read: "):
                load_settings(file, {})

    def test_a_file_in_another_encoding_is_refused(self) -> None:
        Path("gateway.toml").write_bytes(b"host = '\xff\xfe'")
        with pytest.raises(ConfigError, match="is not UTF-8 text"):
            load_settings(None, {})


class TestSecrets:
    def test_a_secret_is_in_no_repr(self) -> None:
        settings = load(GATEWAY_VLLM_API_KEY=CANARY, GATEWAY_METRICS_TOKEN=CANARY)
        assert settings.vllm_api_key is not None
        assert settings.vllm_api_key.get_secret_value() == CANARY
        assert CANARY not in f"{settings!r} {settings}"

    @each("setting", WITH_VARIABLE)
    def test_a_secret_put_in_the_wrong_variable_is_not_shown(self, setting: Setting) -> None:
        shown = faults_if_any(**{str(setting.variable): f"{CANARY} \n"})
        assert CANARY not in shown
        assert not PYDANTIC_WORDING.search(shown)

    def test_a_tree_made_in_code_shows_no_value_either(self) -> None:
        with pytest.raises(ValidationError) as raised:
            Settings.model_validate({"port": CANARY})
        assert CANARY not in str(raised.value)


class TestFilesOfVariables:
    """`_FILE` behind the name of a setting's variable."""

    @each("setting", WITH_VARIABLE)
    def test_every_setting_can_be_read_from_a_file_that_its_variable_names(self, setting: Setting) -> None:
        _, text = example_of(setting)
        if not text:
            return
        Path("value").write_text(f"{text}\n")
        by_file = load(WHAT_OTHERS_NEED, **{f"{setting.variable}_FILE": str(Path("value").absolute())})
        assert by_file == load(WHAT_OTHERS_NEED, **{str(setting.variable): text})

    def test_it_wins_over_the_configuration_file(self) -> None:
        Path("port").write_text("81")
        assert load("port = 80", GATEWAY_PORT_FILE="port").port == 81

    def test_a_setting_whose_own_name_ends_so_is_no_such_variable(self) -> None:
        assert load(GATEWAY_IMAGE_BLOCKLIST_FILE="/nowhere").image_blocklist_file == Path("/nowhere")

    @each(
        ("written", "told"),
        [
            (None, "the file cannot be read: No such file or directory"),
            (b" \n", "the file is empty"),
            (b"a" * (1024 * 1024 + 1), "the file has more than 1 MiB, as no setting has"),
            (b"\xff", "the file is not UTF-8 text"),
        ],
    )
    def test_a_file_that_gives_no_text_is_a_fault(self, written: bytes | None, told: str) -> None:
        Path("token").unlink(missing_ok=True)
        if written is not None:
            Path("token").write_bytes(written)
        assert fault(GATEWAY_METRICS_TOKEN_FILE="token") == f"GATEWAY_METRICS_TOKEN_FILE: {told}"

    @each(
        ("file", "told"),
        [
            ("~nobody-of-this-name/x", "the file cannot be read"),
            (".", "the file cannot be read: Is a directory"),
            ("\0", "the file is not UTF-8 text"),
        ],
    )
    def test_what_names_no_file_is_a_fault(self, file: str, told: str) -> None:
        assert told in fault(GATEWAY_PORT_FILE=file)

    def test_both_at_once_is_a_fault_that_shows_neither(self) -> None:
        Path("token").write_text(CANARY)
        told = fault(GATEWAY_METRICS_TOKEN=CANARY, GATEWAY_METRICS_TOKEN_FILE="token")
        assert told == "GATEWAY_METRICS_TOKEN_FILE: say it by this variable or by the one without _FILE, not by both"

    def test_a_bad_text_is_told_by_the_variable_that_named_the_file_and_not_shown(self) -> None:
        Path("token").write_text(f"{CANARY} {CANARY}")
        told = fault(GATEWAY_METRICS_TOKEN_FILE="token")
        assert told.startswith("GATEWAY_METRICS_TOKEN_FILE: ")
        assert CANARY not in told

    def test_a_misspelt_one_is_refused_with_the_nearest_name(self) -> None:
        assert fault(GATEWAY_METRICS_TOKN_FILE="token").endswith("did you mean GATEWAY_METRICS_TOKEN?")


junk = st.recursive(
    st.sampled_from([CANARY, f"{CANARY} ", True, 5, -5, 1.5, 10**30, float("nan"), 5e-8]),
    lambda inner: st.lists(inner, max_size=2) | st.dictionaries(st.just("id") | st.just("x"), inner, max_size=2),
    max_leaves=4,
)


@given(st.sampled_from(SETTINGS), junk)
def test_whatever_a_setting_is_given_the_faults_are_in_our_words_and_show_no_value(
    setting: Setting, value: Any
) -> None:
    for name in reversed(setting.path):
        value = {name: value}
    if "models" in value:
        value = {"models": [{"id": "a"} | value["models"]]}
        if setting.path[-2] == "tiers":
            value["models"][0]["pricing"]["tiers"] = [value["models"][0]["pricing"]["tiers"]]
    shown = faults_if_any("\n".join(f"{key} = {inline_toml(part)}" for key, part in value.items()))
    assert not PYDANTIC_WORDING.search(shown)
    assert "cannot be used; " not in shown
    assert CANARY not in shown


def inline_toml(value: object) -> str:
    if isinstance(value, dict):
        return "{" + ", ".join(f"{key} = {inline_toml(part)}" for key, part in value.items()) + "}"
    if isinstance(value, list):
        return "[" + ", ".join(map(inline_toml, value)) + "]"
    return str(value).lower() if isinstance(value, bool) else repr(value)


OF_PROGRAMS = ("command", "args", "env", "api_key_file")
"""Settings that exclude others of the example."""


def switched_on(*, but: tuple[str, ...] = OF_PROGRAMS) -> str:
    """The example file with every line but these switched on."""
    everything = re.sub(r"^#(?=\S)", "", example_toml(), flags=re.M)
    return "\n".join(line for line in everything.splitlines() if line.partition(" = ")[0] not in but)


class TestReference:
    def test_the_example_file_is_current(self) -> None:
        assert (ROOT / "gateway.example.toml").read_text(encoding="utf-8") == example_toml(), "run: make docs"

    def test_the_reference_page_is_current(self) -> None:
        assert (ROOT / "docs" / "configuration.md").read_text(encoding="utf-8") == reference_markdown(), (
            "run: make docs"
        )

    def test_the_example_file_as_it_stands_changes_nothing(self) -> None:
        assert load(example_toml()) == Settings()

    def test_the_example_file_loads_with_every_line_switched_on(self) -> None:
        settings = load(switched_on())
        assert [model.id for model in settings.models] == ["gwmm/gemma-4-12b-it"]
        assert [server.url for server in settings.mcp_servers] == ["https://mcp.example.com/mcp"]
        without = switched_on(but=("url", "secret", "transport", "api_key_env", "api_key_file", "api_key_header"))
        programs = load(without.replace('auth = "bearer"', 'auth = "none"'))
        assert [server.command for server in programs.mcp_servers] == ["uvx"]
        written = tomllib.loads(switched_on(but=()))
        written["models"], written["mcp_servers"] = written["models"][0], written["mcp_servers"][0]
        written["models"]["pricing"]["tiers"] = written["models"]["pricing"]["tiers"][0]
        written["models"]["candidates"] = written["models"]["candidates"][0]
        written["providers"] = written["providers"][0]
        for setting in SETTINGS:
            table = written
            for name in setting.path[:-1]:
                table = table[name]
            assert setting.path[-1] in table

    def test_a_switched_on_line_shows_the_default_unless_the_setting_has_an_example(self) -> None:
        settings = load(switched_on())
        assert (settings.limits, settings.guests, settings.upstream) == (
            Settings().limits,
            Settings().guests,
            Settings().upstream,
        )

    @each("setting", SETTINGS)
    def test_every_setting_has_help_and_a_row(self, setting: Setting) -> None:
        assert setting.field.description
        assert setting.field.description.endswith(".")
        assert f"| `{setting.path[-1]}` | {f'`{setting.variable}`' if setting.variable else 'in the file'}" in (
            reference_markdown()
        )

    def test_every_time_carries_its_unit_in_its_name(self) -> None:
        times = [s.path[-1] for s in SETTINGS if re.search(r"timeout|interval|grace|announce|keep_alive", s.path[-1])]
        assert times
        assert all(name.endswith("_s") for name in times)


class TestNames:
    @each("mark", ["\\u001b", "\\n", "\\u007f", "\\u009b", "\\u202e", "\\u2028"])
    @pytest.mark.parametrize(
        "line",
        [
            'incident = "{}"', 'host = "{}"', '[[models]]\nid = "{}"', '[[models]]\nid = "a"\nname = "{}"',
            '[[models]]\nid = "a"\nbackend_model = "{}"', '[[models]]\nid = "a"\ndescription = "{}"',
            '[[models]]\nid = "a"\nquantization = "{}"',
        ],
    )  # fmt: skip
    def test_text_that_is_no_line_is_a_fault(self, line: str, mark: str, tmp_path: Path) -> None:
        file = tmp_path / "gateway.toml"
        file.write_text(line.format(f"a{mark}b"))
        with pytest.raises(ConfigError) as caught:
            load_settings(file, {})
        (fault,) = caught.value.faults
        assert fault.endswith("must be one line without control characters or marks that change the direction of text")

    def test_an_unknown_name_is_shown_escaped(self, tmp_path: Path) -> None:
        file = tmp_path / "gateway.toml"
        file.write_text('"a\\u001b[2Jb" = 1')
        with pytest.raises(ConfigError) as caught:
            load_settings(file, {})
        assert all(map(str.isprintable, caught.value.faults))


def test_values_that_are_made_without_settings_have_the_defaults_of_the_settings() -> None:
    settings = Settings()
    transport = transport_to("http://127.0.0.1", settings.upstream)
    assert (transport.timeouts, transport.limits) == (Timeouts(), TransportLimits())
    assert signature(Ledger).parameters["settle_wait_s"].default == settings.wallet.settle_wait_s


class TestMcpServers:
    URL = 'label = "a"\nurl = "http://127.0.0.1:9/mcp"\n'
    PROGRAM = 'label = "a"\ncommand = "server"\n'

    def test_a_server_is_for_nobody_unless_it_says_for_whom(self) -> None:
        [server] = load(f"[[mcp_servers]]\n{self.URL}").mcp_servers
        assert (server.accounts, server.tools, server.shared) == ((), ("*",), False)

    @each(
        ("lines", "told"),
        [
            ('label = "a"', "needs either url or command"),
            (URL + 'command = "x"', "needs either url or command"),
            (URL + 'args = ["x"]', "args and env are for a command"),
            (URL + 'env = ["X"]', "args and env are for a command"),
            (PROGRAM + 'api_key_env = "X"', "api_key_... are for a url"),
            (PROGRAM + 'transport = "sse"', "api_key_... are for a url"),
            (URL + 'api_key_env = "X"\napi_key_file = "y"', "not both"),
            (URL + 'api_key_header = "X-Key"', "no key"),
            ('label = "a b"\ncommand = "x"', "label: "),
            ('label = "a"\nurl = "ftp://x"', "url: must be an address"),
            ('label = "a"\nurl = "https://me:pass@example.com/mcp"', "api_key_env"),
            ('label = "a"\nurl = "https://example.com/mcp#x"', "without user name"),
            (URL + 'accounts = ["acc_guest"]', "guests have none"),
            (URL + 'accounts = ["alice"]', "must be an account's id"),
            (URL + 'account = ["*"]', "did you mean accounts?"),
            (URL + f"[[mcp_servers]]\n{PROGRAM}", "each label must stand once"),
        ],
    )
    def test_what_cannot_be_meant_is_refused(self, lines: str, told: str) -> None:
        found = fault(f"[[mcp_servers]]\n{lines}")
        assert "[[mcp_servers]]" in found or "mcp_servers" in found
        assert told in found
        assert "pass" not in found.replace("password", "")

    def test_servers_are_written_in_the_file_and_in_no_variable(self) -> None:
        assert fault(GATEWAY_MCP_SERVERS="x") == (
            "GATEWAY_MCP_SERVERS: mcp servers are written in the configuration file, as [[mcp_servers]]"
        )
        assert "[[mcp_servers]], with double brackets" in fault("[mcp_servers]\nlabel = 'a'")


class TestRouting:
    def test_what_a_model_is_expected_to_do_well_is_named_by_task(self) -> None:
        [model] = load('[[models]]\nid = "a"\nquality = {coding = 0.7, "Creative-Writing" = 1}').models
        assert model.quality == {"code": 0.7, "creative_writing": 1.0}

    def test_a_mode_is_known_by_the_names_of_dashboards(self) -> None:
        assert load('[routing]\noptimize = "Cheapest"').routing.optimize == "cost"

    @each(
        ("lines", "told"),
        [
            ('[[models]]\nid = "a"\nquality = {poetry = 0.7}', "these tasks: code, math"),
            ('[[models]]\nid = "a"\nquality = {code = 1.1}', "quality"),
            ('[[models]]\nid = "a"\nquality = {code = true}', "not true or false"),
            ('[[models]]\nid = "auto"', "`auto` stands for whichever model is chosen"),
            ('[[models]]\nid = "a"\naliases = ["auto"]', "`auto` stands for whichever model is chosen"),
            ('[routing]\noptimize = "speed"', "must be one of balanced, quality, cost, latency"),
            ("[routing]\noptimize = 1", "optimize"),
            ("[routing]\nleast_quality = 2", "least_quality"),
        ],
    )
    def test_what_cannot_be_meant_is_refused(self, lines: str, told: str) -> None:
        assert told in fault(lines)
