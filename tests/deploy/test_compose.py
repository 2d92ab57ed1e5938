"""The compose file: as its own schema has it, and what it says of the gateway held against the gateway."""

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
import yaml

from mcp_gateway.core.config import ENV_PREFIX, Settings, load_settings, settings_of
from tests.cases import each
from tests.deploy.programs import DEPLOY, accepted, refused

pytestmark = pytest.mark.slow
FILE = DEPLOY / "compose.yaml"
ENGINES = [DEPLOY / "compose.postgres.yaml", DEPLOY / "compose.valkey.yaml"]
"""What is laid over it, each an engine of its own."""
REPLICAS = DEPLOY / "compose.replicas.yaml"
"""What is laid over all of these."""
PROMETHEUS = DEPLOY / "prometheus" / "prometheus.yaml"
PROMETHEUS_OF_REPLICAS = DEPLOY / "prometheus" / "prometheus.replicas.yaml"
VARIABLE = re.compile(r"\$\{(\w+)(?::-((?:[^{}]|\$\{[^}]*\})*))?\}")


def with_variables(told: Any, given: Mapping[str, str]) -> Any:
    """As compose puts them into what it has read: `${NAME:-otherwise}`."""
    if isinstance(told, dict):
        return {name: with_variables(value, given) for name, value in told.items()}
    if isinstance(told, list):
        return [with_variables(value, given) for value in told]
    while isinstance(told, str) and (found := VARIABLE.search(told)) is not None:
        told = told[: found.start()] + (given.get(found[1]) or found[2] or "") + told[found.end() :]
    return told


def compose(file: Path = FILE, **given: str) -> Any:
    return with_variables(yaml.safe_load(file.read_text()), given)


def laid_over(one: Any, other: Any) -> Any:
    """As compose merges files, as far as these go: mappings by name, lists one after the other."""
    if isinstance(one, dict):
        return one | {name: laid_over(one[name], value) if name in one else value for name, value in other.items()}
    return [*one, *other] if isinstance(one, list) else other


def seconds(text: str) -> int:
    return int(text.removesuffix("s"))


def test_they_are_what_the_specification_has() -> None:
    accepted("check-jsonschema", "--builtin-schema", "vendor.compose-spec", FILE, *ENGINES, REPLICAS)


def test_what_is_no_compose_file_is_refused(tmp_path: Path) -> None:
    (tmp_path / "compose.yaml").write_text(FILE.read_text().replace("stop_grace_period:", "stop_grace_time:"))
    assert "stop_grace_time" in refused(
        "check-jsonschema", "--builtin-schema", "vendor.compose-spec", tmp_path / "compose.yaml"
    )


def test_files_that_it_names_are_there_but_for_secrets() -> None:
    told = compose()
    for named in told["configs"].values():
        assert (DEPLOY / named["file"]).is_file(), named
    assert all(named["file"].startswith("./secrets/") for named in told["secrets"].values())
    assert (DEPLOY / told["services"]["gateway"]["build"]["context"] / "deploy/docker/Dockerfile").is_file()


def test_the_gateway_starts_with_its_environment(tmp_path: Path) -> None:
    """Whose secrets come from files that compose puts there."""
    for name in ("metrics_token", "operator_token"):
        (tmp_path / name).write_text(f"the-{name}\n")
    told = compose(GATEWAY_VLLM_URLS="http://vllm:8000")
    environ = {
        name: value.replace("/run/secrets", str(tmp_path))
        for name, value in told["services"]["gateway"]["environment"].items()
    }
    settings = load_settings(DEPLOY / told["configs"]["gateway"]["file"], environ)
    assert settings.metrics_token is not None
    assert settings.metrics_token.get_secret_value() == "the-metrics_token"
    assert settings.vllm_urls == ("http://vllm:8000",)
    subnet = told["networks"]["gateway"]["ipam"]["config"][0]
    assert settings.trusted_proxies == (subnet["gateway"],)
    assert set(told["services"]["gateway"]["secrets"]) == {
        Path(value).name for name, value in environ.items() if name.endswith("_FILE")
    }


def test_without_variables_it_serves_the_demo() -> None:
    told = compose()["services"]["gateway"]
    given = {name: value for name, value in told["environment"].items() if not name.endswith("_FILE")}
    assert load_settings(None, given).vllm_urls == ()
    assert told["ports"] == ["127.0.0.1:8080:8080"]
    known = {setting.variable for setting in settings_of(Settings)}
    assert {name.removesuffix("_FILE") for name in told["environment"] if name.startswith(ENV_PREFIX)} <= known


def test_an_end_may_take_as_long_as_the_longest_drain() -> None:
    told, settings = compose(), Settings()
    assert (
        seconds(told["services"]["gateway"]["stop_grace_period"])
        >= 10 + settings.drain_announce_s + settings.drain_timeout_s
    )


def test_the_gateway_may_write_its_data_and_nothing_else() -> None:
    gateway = compose()["services"]["gateway"]
    assert (gateway["read_only"], gateway["cap_drop"], gateway["user"]) == (True, ["ALL"], "10001:10001")
    assert gateway["volumes"] == ["data:/var/lib/mcp-gateway"]


@each(
    ("engine", "setting", "url"),
    [
        ("postgres", "database_url", "postgresql://gateway:secret@postgres/gateway"),
        ("valkey", "valkey_url", "valkey://:secret@valkey:6379/0"),
    ],
)
def test_an_engine_is_there_before_the_gateway_that_is_told_of_it_by_a_file(
    engine: str, setting: str, url: str, tmp_path: Path
) -> None:
    told = compose(DEPLOY / f"compose.{engine}.yaml")
    gateway, server = told["services"].pop("gateway"), told["services"].pop(engine)
    assert not told["services"]
    assert gateway["depends_on"] == {engine: {"condition": "service_healthy"}}
    assert server["healthcheck"]["test"]
    assert server["networks"] == ["gateway"]
    assert (gateway["secrets"], told["secrets"][setting]) == ([setting], {"file": f"./secrets/{setting}"})
    (tmp_path / setting).write_text(f"{url}\n")
    (variable, file), *_ = gateway["environment"].items()
    settings = load_settings(
        DEPLOY / "../gateway.example.toml", {variable: file.replace("/run/secrets", str(tmp_path))}
    )
    assert getattr(settings, setting).get_secret_value() == url


def test_every_published_port_is_this_machine_s_alone() -> None:
    files = [compose(file) for file in (FILE, *ENGINES, REPLICAS)]
    published = [port for told in files for service in told["services"].values() for port in service.get("ports", ())]
    assert len(published) == 5
    assert all(port.startswith("127.0.0.1:") for port in published)


def test_replicas_differ_in_their_volume_and_their_address_alone() -> None:
    """And in the port, which the first one has by itself."""
    told = compose(REPLICAS)
    first = compose()["services"]["gateway"]
    for file in (*ENGINES, REPLICAS):
        first = laid_over({**first, "networks": {}}, compose(file)["services"]["gateway"])
    replicas = [first, told["services"]["gateway-2"], told["services"]["gateway-3"]]
    assert first.pop("ports")
    addresses, volumes = zip(*((one.pop("networks")["gateway"], one.pop("volumes")) for one in replicas), strict=True)
    assert replicas[0] == replicas[1] == replicas[2]
    assert len({one["ipv4_address"] for one in addresses}) == 3
    assert [one for (one,) in volumes] == [f"{name}:/var/lib/mcp-gateway" for name in ("data", "data-2", "data-3")]
    assert {"data-2", "data-3"} == told["volumes"].keys()


def test_a_replica_believes_the_balancer_and_who_is_in_front_of_it_and_leaves_at_once() -> None:
    told = compose(REPLICAS)
    settings = load_settings(None, told["services"]["gateway"]["environment"])
    balancer = told["services"]["balancer"]
    in_front = compose()["networks"]["gateway"]["ipam"]["config"][0]["gateway"]
    assert settings.trusted_proxies == (in_front, balancer["networks"]["gateway"]["ipv4_address"])
    assert settings.drain_announce_s == 0
    assert seconds(balancer["stop_grace_period"]) > seconds(compose()["services"]["gateway"]["stop_grace_period"])
    assert sorted(balancer["depends_on"]) == sorted(name for name in told["services"] if name.startswith("gateway"))
    (config,) = balancer["configs"]
    assert (DEPLOY / told["configs"][config["source"]]["file"]).is_file()


def test_gpus_and_observation_are_asked_for() -> None:
    services = compose()["services"]
    assert {name: service.get("profiles", []) for name, service in services.items()} == {
        "gateway": [], "vllm": ["gpu"], "prometheus": ["observe"], "grafana": ["observe"],
    }  # fmt: skip


def test_prometheus_asks_each_replica() -> None:
    accepted("promtool", "check", "config", "--syntax-only", PROMETHEUS_OF_REPLICAS)
    told, replicas = compose(REPLICAS), yaml.safe_load(PROMETHEUS_OF_REPLICAS.read_text())
    (config,) = told["services"]["prometheus"]["configs"]
    assert DEPLOY / told["configs"][config["source"]]["file"] == PROMETHEUS_OF_REPLICAS
    assert config["target"] in {one["target"] for one in compose()["services"]["prometheus"]["configs"]}
    (job,) = replicas["scrape_configs"]
    assert job.pop("static_configs") == [{"targets": ["gateway:8080", "gateway-2:8080", "gateway-3:8080"]}]
    alone = yaml.safe_load(PROMETHEUS.read_text())
    del alone["scrape_configs"][0]["static_configs"]
    assert replicas == alone


def test_prometheus_takes_its_configuration_and_asks_the_gateway(tmp_path: Path) -> None:
    accepted("promtool", "check", "config", "--syntax-only", PROMETHEUS)
    (tmp_path / "prometheus.yaml").write_text(PROMETHEUS.read_text().replace("credentials_file", "credential_file"))
    assert "credential_file" in refused("promtool", "check", "config", "--syntax-only", tmp_path / "prometheus.yaml")
    told, asked = compose(), yaml.safe_load(PROMETHEUS.read_text())
    (job,) = asked["scrape_configs"]
    mounted = {config["target"] for config in told["services"]["prometheus"]["configs"]}
    assert {f"/etc/prometheus/{file}" for file in asked["rule_files"]} < mounted
    assert job["static_configs"] == [{"targets": ["gateway:8080"]}]
    assert job["authorization"]["credentials_file"] == "/run/secrets/metrics_token"
    assert "metrics_token" in told["services"]["prometheus"]["secrets"]
