"""The chart: what Helm renders of it, held against Kubernetes' own schemas and against the gateway."""

import json
import re
from pathlib import Path
from typing import Any

import pytest
import yaml

from mcp_gateway import __version__
from mcp_gateway.core.config import load_settings
from tests.cases import each
from tests.deploy.programs import DEPLOY, ROOT, accepted, refused
from tests.test_pages import parse

pytestmark = pytest.mark.slow
CHART = DEPLOY / "helm" / "mcp-gateway"
RENDER = Path(__file__).parent / "render.py"
OPERATORS_OWN = ("ServiceMonitor", "PrometheusRule")
"""Kinds that Kubernetes does not know by itself."""
WATCHED: dict[str, Any] = {
    "secrets": {"existing": "gateway-secrets", "variables": {"GATEWAY_METRICS_TOKEN": "metrics_token"}},
    "metrics": {
        "serviceMonitor": {"enabled": True},
        "rules": {"enabled": True, "labels": {"release": "prometheus"}},
        "dashboard": {"enabled": True},
    },
}
ALL: dict[str, Any] = WATCHED | {
    "image": {"repository": "registry.example.com/mcp-gateway", "digest": "sha256:" + "0" * 64},
    "imagePullSecrets": [{"name": "registry"}],
    "env": [{"name": "GATEWAY_VLLM_URLS", "value": "http://vllm:8000"}],
    "envFrom": [{"configMapRef": {"name": "more"}}],
    "networkPolicy": {
        "enabled": True,
        "from": [{"namespaceSelector": {}}],
        "egress": [{"to": [{"ipBlock": {"cidr": "10.0.0.0/8"}}]}],
    },
    "persistence": {"size": "1Ti", "storageClass": "fast", "accessMode": "ReadWriteOncePod"},
    "nodeSelector": {"disk": "fast"},
    "tolerations": [{"key": "gateway", "operator": "Exists"}],
    "affinity": {"nodeAffinity": {}},
    "priorityClassName": "high",
    "podLabels": {"team": "models"},
    "podAnnotations": {"note": "yes"},
    "extraVolumes": [{"name": "countries", "configMap": {"name": "countries"}}],
    "extraVolumeMounts": [{"name": "countries", "mountPath": "/var/lib/GeoIP"}],
    "service": {"type": "LoadBalancer", "port": 8080, "annotations": {"note": "yes"}},
}
REPLICAS: dict[str, Any] = {
    "replicas": 3,
    "persistence": {"size": "1Gi"},
    "secrets": {
        "existing": "gateway-secrets",
        "variables": {"GATEWAY_DATABASE_URL": "database_url", "GATEWAY_VALKEY_URL": "valkey_url"},
    },
}
LEAST: dict[str, Any] = {
    "podDisruptionBudget": {"enabled": False},
    "spreadOver": [],
    "checkConfig": False,
    "restartOnConfigChange": False,
}


def asked(values: dict[str, Any]) -> dict[str, str]:
    told: dict[str, Any] = json.loads(accepted("python", RENDER, CHART, given=json.dumps(values)))
    assert told["lint"]["errors"] == []
    manifests: dict[str, str] = told["manifests"]
    return manifests


def rendered(**values: Any) -> list[Any]:
    texts = [text for name, text in asked(values).items() if not name.endswith("NOTES.txt")]
    return [document for text in texts for document in yaml.safe_load_all(text) if document is not None]


def one(documents: list[Any], kind: str, name: str = "gw-mcp-gateway") -> Any:
    (found,) = [each for each in documents if (each["kind"], each["metadata"]["name"]) == (kind, name)]
    return found


def refusal(**values: Any) -> str:
    return refused("python", RENDER, CHART, given=json.dumps(values))


@pytest.fixture(scope="module")
def plain() -> list[Any]:
    return rendered()


@pytest.fixture(scope="module")
def full() -> list[Any]:
    return rendered(**ALL)


def pods(documents: list[Any]) -> list[Any]:
    return [
        each if each["kind"] == "Pod" else each["spec"]["template"] for each in documents if "containers" in str(each)
    ]


def test_kubernetes_takes_what_is_rendered(plain: list[Any], full: list[Any], tmp_path: Path) -> None:
    """Of the oldest version that the chart names, and of the newest whose schemas are there."""
    oldest = yaml.safe_load((CHART / "Chart.yaml").read_text())["kubeVersion"].removeprefix(">=").removesuffix("-0")
    for number, documents in enumerate([plain, full, rendered(**LEAST), rendered(paused=True), rendered(**REPLICAS)]):
        known = [document for document in documents if document["kind"] not in OPERATORS_OWN]
        file = tmp_path / f"{number}.yaml"
        file.write_text(yaml.safe_dump_all(known))
        for version in ([], ["-k", oldest]):
            accepted("kubernetes-validate", "--strict", *version, file)


def test_kubernetes_refuses_what_it_does_not_know(plain: list[Any], tmp_path: Path) -> None:
    pod = one(plain, "StatefulSet")
    pod = pod | {"spec": pod["spec"] | {"replica": 1}}
    (tmp_path / "odd.yaml").write_text(yaml.safe_dump(pod))
    assert "replica" in refused("kubernetes-validate", "--strict", tmp_path / "odd.yaml")


def test_what_may_be_left_out_is_left_out(plain: list[Any], full: list[Any]) -> None:
    def kinds(documents: list[Any]) -> list[str]:
        return sorted(document["kind"] for document in documents)

    always = ["ConfigMap", "Pod", "Service", "Service", "ServiceAccount", "StatefulSet"]
    checked = ["ConfigMap", "Job"]
    assert kinds(rendered(**LEAST)) == always
    assert kinds(plain) == sorted([*always, *checked, "PodDisruptionBudget"])
    more = ["ConfigMap", "NetworkPolicy", "PodDisruptionBudget", "PrometheusRule", "ServiceMonitor"]
    assert kinds(full) == sorted([*always, *checked, *more])


@each("missing", ["GATEWAY_DATABASE_URL", "GATEWAY_VALKEY_URL"])
def test_replicas_without_what_they_share_are_refused_in_words(missing: str) -> None:
    """Whether it is a key of the Secret or a variable of the pod that names it."""
    of_the_secret = REPLICAS["secrets"]["variables"]
    there = {name: key for name, key in of_the_secret.items() if name != missing}
    values = REPLICAS | {"secrets": REPLICAS["secrets"] | {"variables": there}}
    assert f"replicas above 1 need secrets.variables.{missing}" in refusal(**values)
    for name in (missing, f"{missing}_FILE"):
        assert one(rendered(**values, env=[{"name": name, "value": "x"}]), "StatefulSet")["spec"]["replicas"] == 3
    assert one(rendered(**values | {"replicas": 1}), "StatefulSet")["spec"]["replicas"] == 1
    assert one(rendered(**values | {"replicas": 0}), "StatefulSet")["spec"]["replicas"] == 0


def test_replicas_are_apart_and_each_finds_its_volume_again() -> None:
    """All begin at once, on several nodes as far as there are, and end one after the other."""
    documents = rendered(**REPLICAS)
    replicas = one(documents, "StatefulSet")["spec"]
    assert (replicas["replicas"], replicas["podManagementPolicy"]) == (3, "Parallel")
    assert replicas["minReadySeconds"] > 0
    assert one(documents, "PodDisruptionBudget")["spec"]["maxUnavailable"] == 1
    spread = replicas["template"]["spec"]["topologySpreadConstraints"]
    assert [each["topologyKey"] for each in spread] == ["kubernetes.io/hostname", "topology.kubernetes.io/zone"]
    for each_one in spread:
        assert each_one["labelSelector"] == replicas["selector"]
        assert each_one["whenUnsatisfiable"] == "ScheduleAnyway"
    (claim,) = replicas["volumeClaimTemplates"]
    (container,) = replicas["template"]["spec"]["containers"]
    mounts = {mount["name"]: mount["mountPath"] for mount in container["volumeMounts"]}
    environ = {variable["name"]: variable["value"] for variable in container["env"]}
    assert claim["spec"]["resources"]["requests"] == {"storage": "1Gi"}
    assert mounts[claim["metadata"]["name"]] == environ["GATEWAY_DATA_DIR"]
    assert container["args"] == ["serve"], "one process a pod"
    assert "topologySpreadConstraints" not in one(rendered(**LEAST), "StatefulSet")["spec"]["template"]["spec"]


def test_replicas_take_their_secrets_from_files(tmp_path: Path) -> None:
    (container,) = one(rendered(**REPLICAS), "StatefulSet")["spec"]["template"]["spec"]["containers"]
    mounts = {mount["name"]: mount["mountPath"] for mount in container["volumeMounts"]}
    urls = {"database_url": "postgresql://gateway:secret@db/gateway", "valkey_url": "valkey://:secret@valkey:6379/0"}
    for name, url in urls.items():
        (tmp_path / name).write_text(f"{url}\n")
    environ = {each["name"]: each["value"].replace(mounts["secrets"], str(tmp_path)) for each in container["env"]}
    assert not any("secret@" in value for value in environ.values())
    settings = load_settings(None, environ)
    assert settings.database_url is not None
    assert settings.valkey_url is not None
    assert settings.database_url.get_secret_value() == urls["database_url"]
    assert settings.valkey_url.get_secret_value() == urls["valkey_url"]


@each(
    ("values", "told"),
    [
        ({"replica": 1}, "replica"),
        ({"replicas": -1}, "replicas"),
        ({"persistence": {"size": "much"}}, "size"),
        ({"persistence": {"accessMode": "ReadWriteMany"}}, "accessMode"),
        ({"image": {"repository": "x", "digest": "sha256:1"}}, "digest"),
        ({"config": {"port": 80}}, "config"),
        ({"secrets": {"variables": {"GATEWAY_METRICS_TOKEN": "a"}}}, "secrets.variables needs secrets.existing"),
        ({"metrics": {"serviceMonitor": {"enabled": True}}}, "needs secrets.variables.GATEWAY_METRICS_TOKEN"),
        ({"env": [{"name": "GATEWAY_PORT", "value": "80"}]}, "env has GATEWAY_PORT, which the chart sets"),
        ({"env": [{"name": "A", "text": "b"}]}, "text"),
    ],
)
def test_values_that_do_not_fit_are_refused_in_words(values: dict[str, Any], told: str) -> None:
    assert told in refusal(**values)


def test_every_value_is_in_the_schema() -> None:
    """One that is not would be refused; and none is there that no values file shows."""

    def names(schema: dict[str, Any], values: dict[str, Any], path: str = "") -> None:
        inner = schema.get("properties", {})
        if schema.get("additionalProperties") is False:
            assert inner.keys() - {"global"} == values.keys(), path
        for name, value in values.items():
            if isinstance(value, dict) and name in inner:
                names(inner[name], value, f"{path}.{name}")

    names(json.loads((CHART / "values.schema.json").read_text()), yaml.safe_load((CHART / "values.yaml").read_text()))


def test_every_pod_may_do_as_little_as_it_can(plain: list[Any], full: list[Any]) -> None:
    found = [*pods(plain), *pods(full)]
    assert len(found) == 6
    for pod in found:
        assert pod["spec"]["automountServiceAccountToken"] is pod["spec"]["enableServiceLinks"] is False
        security = pod["spec"]["securityContext"]
        assert (security["runAsNonRoot"], security["runAsUser"]) == (True, 10001)
        assert security["seccompProfile"] == {"type": "RuntimeDefault"}
        (container,) = pod["spec"]["containers"]
        assert container["securityContext"] == {
            "allowPrivilegeEscalation": False,
            "readOnlyRootFilesystem": True,
            "runAsNonRoot": True,
            "capabilities": {"drop": ["ALL"]},
        }
        assert container["resources"]["limits"].keys() == {"memory"}


def test_readiness_is_apart_from_liveness(plain: list[Any]) -> None:
    (container,) = one(plain, "StatefulSet")["spec"]["template"]["spec"]["containers"]
    asked_at = {name: container[f"{name}Probe"]["httpGet"]["path"] for name in ("startup", "liveness", "readiness")}
    assert asked_at == {"startup": "/livez", "liveness": "/livez", "readiness": "/readyz"}
    assert container["ports"] == [{"name": "http", "containerPort": 8080}]


def test_an_end_may_take_as_long_as_its_parts() -> None:
    drain = {"preStopSeconds": 7, "announceSeconds": 4, "timeoutSeconds": 300}
    pod = one(rendered(drain=drain), "StatefulSet")["spec"]["template"]["spec"]
    (container,) = pod["containers"]
    assert container["lifecycle"]["preStop"] == {"sleep": {"seconds": 7}}
    environ = {variable["name"]: variable["value"] for variable in container["env"]}
    settings = load_settings(None, environ)
    assert (settings.drain_announce_s, settings.drain_timeout_s) == (4, 300)
    assert pod["terminationGracePeriodSeconds"] >= sum(drain.values()) + 10


def test_the_gateway_takes_the_environment_and_the_configuration(full: list[Any], tmp_path: Path) -> None:
    (tmp_path / "metrics_token").write_text("for-prometheus\n")
    (tmp_path / "gateway.toml").write_text(one(full, "ConfigMap")["data"]["gateway.toml"])
    (container,) = one(full, "StatefulSet")["spec"]["template"]["spec"]["containers"]
    mounts = {mount["name"]: mount["mountPath"] for mount in container["volumeMounts"]}
    environ = {
        variable["name"]: variable["value"].replace(mounts["secrets"], str(tmp_path)) for variable in container["env"]
    }
    settings = load_settings(tmp_path / "gateway.toml", environ)
    assert settings.metrics_token is not None
    assert settings.metrics_token.get_secret_value() == "for-prometheus"
    assert (settings.host, settings.port, settings.log_format) == ("0.0.0.0", 8080, "json")
    assert (str(settings.data_dir), settings.vllm_urls) == (mounts["data"], ("http://vllm:8000",))
    assert mounts["config"] == "/etc/mcp-gateway", "where the image has its working folder"


def test_pods_run_commands_that_there_are(plain: list[Any]) -> None:
    for pod in pods(plain):
        (container,) = pod["spec"]["containers"]
        parse(" ".join(container["args"]))


def test_a_configuration_is_looked_at_as_it_will_be_served(full: list[Any]) -> None:
    check = one(full, "Job", "gw-mcp-gateway-check")
    assert check["metadata"]["annotations"]["helm.sh/hook"] == "pre-install,pre-upgrade"
    (container,) = check["spec"]["template"]["spec"]["containers"]
    (served,) = one(full, "StatefulSet")["spec"]["template"]["spec"]["containers"]
    assert (container["args"], container["env"], container["image"]) == (
        ["config", "check"],
        served["env"],
        served["image"],
    )
    (config, *_) = check["spec"]["template"]["spec"]["volumes"]
    checked = one(full, "ConfigMap", config["configMap"]["name"])
    assert checked["data"] == one(full, "ConfigMap")["data"]


def test_a_pod_that_is_paused_waits_with_its_volume() -> None:
    (container,) = one(rendered(paused=True), "StatefulSet")["spec"]["template"]["spec"]["containers"]
    assert container["command"] == ["sleep", "infinity"]
    assert not {"args", "livenessProbe", "startupProbe", "lifecycle"} & container.keys()
    assert "data" in {mount["name"] for mount in container["volumeMounts"]}


def test_a_changed_configuration_restarts_the_pod_unless_told_otherwise() -> None:
    def annotations(**values: Any) -> Any:
        return one(rendered(**values), "StatefulSet")["spec"]["template"]["metadata"]["annotations"]

    assert annotations(config="port = 1") != annotations(config="port = 2")
    assert annotations(config="port = 1", restartOnConfigChange=False) is None


def test_services_and_budgets_find_the_gateway_s_pod_and_no_other(full: list[Any]) -> None:
    labels = one(full, "StatefulSet")["spec"]["template"]["metadata"]["labels"].items()
    others = [pod["metadata"]["labels"].items() for pod in pods(full) if pod["metadata"]["labels"].items() != labels]
    assert len(others) == 2
    selectors = [
        one(full, "Service")["spec"]["selector"],
        one(full, "Service", "gw-mcp-gateway-pods")["spec"]["selector"],
        one(full, "PodDisruptionBudget")["spec"]["selector"]["matchLabels"],
        one(full, "NetworkPolicy")["spec"]["podSelector"]["matchLabels"],
        one(full, "StatefulSet")["spec"]["selector"]["matchLabels"],
    ]
    for selector in selectors:
        assert selector.items() <= labels
        assert not any(selector.items() <= other for other in others)


def test_alerts_and_dashboard_are_those_of_the_project(full: list[Any]) -> None:
    assert one(full, "PrometheusRule")["spec"] == yaml.safe_load((DEPLOY / "prometheus" / "alerts.yaml").read_text())
    (text,) = one(full, "ConfigMap", "gw-mcp-gateway-dashboard")["data"].values()
    assert json.loads(text) == json.loads((DEPLOY / "grafana" / "dashboard.json").read_text())
    monitor = one(full, "ServiceMonitor")["spec"]
    watched, names = one(full, "Service"), one(full, "Service", "gw-mcp-gateway-pods")
    selector = monitor["selector"]["matchLabels"].items()
    assert selector <= watched["metadata"]["labels"].items()
    assert not selector <= names["metadata"]["labels"].items()
    (endpoint,) = monitor["endpoints"]
    (job,) = endpoint["relabelings"]
    assert job == {"targetLabel": "job", "replacement": "mcp-gateway/tests/gw-mcp-gateway"}, "a job is one gateway"
    assert endpoint["authorization"]["credentials"] == {"name": "gateway-secrets", "key": "metrics_token"}


def test_the_values_that_the_page_shows_are_taken() -> None:
    page = (ROOT / "docs" / "deploy.md").read_text()
    shown = re.findall(r"cat >values.yaml <<'END'\n(.*?)\nEND\n", page, re.DOTALL)
    replicas = [one(rendered(**yaml.safe_load(values)), "StatefulSet")["spec"] for values in shown]
    assert [each_one["replicas"] for each_one in replicas] == [1, 3]
    for each_one in replicas:
        (container,) = each_one["template"]["spec"]["containers"]
        names = {variable["name"] for variable in container["env"]}
        assert {"GATEWAY_METRICS_TOKEN_FILE", "GATEWAY_OPERATOR_TOKEN_FILE"} < names


def test_the_version_is_the_gateway_s() -> None:
    told = yaml.safe_load((CHART / "Chart.yaml").read_text())
    assert told["appVersion"] == __version__
