# SPDX-License-Identifier: Apache-2.0
"""The files for containers: valid by the published schemas, and of one mind with the rest."""

from __future__ import annotations

import json
import re
import subprocess
from importlib import metadata
from pathlib import Path
from typing import Any

import jsonschema
import kubernetes_validate
import pytest
import yaml
from rights import KEEPS

from lab.packages import unpacked
from trapstream_vtap.cli import main
from trapstream_vtap.settings.file import parse
from trapstream_vtap.settings.settings import keys

ROOT = Path(__file__).parent.parent
DEPLOY = ROOT / "deploy"
COMPOSE = DEPLOY / "docker-compose.yml"
MANIFESTS = DEPLOY / "kubernetes" / "vtap-stream.yaml"
NEEDED = {*(name.upper() for name in KEEPS), "SETUID", "SETGID", "SETPCAP"}
"""Capabilities: what the keeper keeps, and what it takes to give up the rest."""


def compose() -> dict[str, Any]:
    """The file for Compose."""
    return dict(yaml.safe_load(COMPOSE.read_text()))


def manifests() -> dict[str, Any]:
    """The manifests for Kubernetes, by kind."""
    return {each["kind"]: each for each in yaml.safe_load_all(MANIFESTS.read_text())}


def container() -> dict[str, Any]:
    """The DaemonSet's only container."""
    (only,) = manifests()["DaemonSet"]["spec"]["template"]["spec"]["containers"]
    return dict(only)


def test_compose_schema() -> None:
    """It is valid by the schema that Compose itself brings."""
    (schema,) = unpacked("docker-compose").rglob("compose_spec.json")
    validator = jsonschema.Draft201909Validator(json.loads(schema.read_text()))
    validator.validate(compose())
    broken = compose()
    broken["services"]["grafana"]["capdrop"] = ["ALL"]
    assert not validator.is_valid(broken)


def test_compose_is_pinned() -> None:
    """Every image has a version."""
    for name, service in compose()["services"].items():
        assert re.search(r":v?\d+\.\d+\.\d+$", service["image"]), name


def test_version() -> None:
    """The image of this version is meant."""
    image = f"vtap-stream:{metadata.version('trapstream-vtap')}"
    assert compose()["services"]["vtap-stream"]["image"] == container()["image"] == image


def test_compose_holds_no_secrets() -> None:
    """What is secret, and what only the person knows, must be given, or Compose does not start."""
    wanted = re.findall(r"\$\{(\w+):\?[^}]+\}", COMPOSE.read_text())
    assert len(wanted) == COMPOSE.read_text().count("$")
    example = (DEPLOY / "env.example").read_text()
    assert re.findall(r"^(\w+)=$", example, re.MULTILINE) == wanted
    for service in compose()["services"].values():
        for name, value in service.get("environment", {}).items():
            assert not re.search("PASSWORD|TOKEN|SECRET", name) or value.startswith("${"), name


def test_compose_listens_on_loopback() -> None:
    """No service of the host's network is told to listen elsewhere."""
    services = compose()["services"]
    assert all(service["network_mode"] == "host" for service in services.values())
    said = COMPOSE.read_text() + (DEPLOY / "telegraf-input.conf").read_text()
    addresses = re.findall(r"([^/\s\"'=]*):(\d{4})\b", said)
    assert {host for host, _ in addresses} == {"127.0.0.1"}
    assert {int(port) for _, port in addresses} == {8080, 8081, 8086, 8088, 8094, 9090}
    assert services["grafana"]["environment"]["GF_SERVER_HTTP_ADDR"] == "127.0.0.1"
    assert "--web.listen-address=127.0.0.1:9090" in services["prometheus"]["command"]


def test_files_that_are_mounted() -> None:
    """They are there."""
    for service in compose()["services"].values():
        for volume in service.get("volumes", ()):
            source = volume.partition(":")[0]
            path = (DEPLOY / source).resolve()
            assert source in compose()["volumes"] or path.exists(), source


def test_options() -> None:
    """The command knows the options that it is given."""
    known = {name for option in main.params for name in option.opts}
    given = compose()["services"]["vtap-stream"]["command"] + container()["args"]
    names = {argument.partition("=")[0] for argument in given if argument.startswith("-")}
    assert names <= known
    config = parse(manifests()["ConfigMap"]["data"]["vtap-stream.json"], keys())
    assert {f"--{name.replace('_', '-')}" for name, _ in config.options} <= known


def test_prometheus() -> None:
    """Prometheus takes its configuration."""
    promtool = unpacked("prometheus") / "usr" / "bin" / "promtool"
    command = (str(promtool), "check", "config", "--syntax-only", str(DEPLOY / "prometheus.yml"))
    done = subprocess.run(command, check=False, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


def test_kubernetes_schemas() -> None:
    """Every manifest is valid by Kubernetes' own schemas, unknown members are not."""
    for manifest in manifests().values():
        kubernetes_validate.validate(manifest, "1.37", strict=True)
    broken = manifests()["DaemonSet"]
    broken["spec"]["template"]["spec"]["hostNetworks"] = True
    with pytest.raises(kubernetes_validate.ValidationError):
        kubernetes_validate.validate(broken, "1.37", strict=True)


def test_kubernetes_parts_fit() -> None:
    """Namespace, labels, account, volumes and ports are those that the other parts mean."""
    found = manifests()
    monitor = yaml.safe_load((DEPLOY / "kubernetes" / "podmonitor.yaml").read_text())
    pod = found["DaemonSet"]["spec"]["template"]
    namespace = found["Namespace"]["metadata"]["name"]
    parts = [found[kind] for kind in ("ServiceAccount", "ConfigMap", "DaemonSet")]
    assert {part["metadata"]["namespace"] for part in (*parts, monitor)} == {namespace}
    assert monitor["spec"]["selector"] == found["DaemonSet"]["spec"]["selector"]
    assert monitor["spec"]["selector"]["matchLabels"].items() <= pod["metadata"]["labels"].items()
    assert pod["spec"]["serviceAccountName"] == found["ServiceAccount"]["metadata"]["name"]
    assert not pod["spec"]["automountServiceAccountToken"]
    assert not found["ServiceAccount"]["automountServiceAccountToken"]
    ports = {port["name"] for port in container()["ports"]}
    assert {end["port"] for end in monitor["spec"]["podMetricsEndpoints"]} <= ports
    volumes = {volume["name"] for volume in pod["spec"]["volumes"]}
    assert {mount["name"] for mount in container()["volumeMounts"]} == volumes


def test_kubernetes_probes() -> None:
    """They ask where the configuration says that health is answered."""
    config = parse(manifests()["ConfigMap"]["data"]["vtap-stream.json"], keys())
    health = dict(config.options)["health"]
    for kind, path in (("livenessProbe", "/healthz"), ("readinessProbe", "/readyz")):
        asked = container()[kind]["httpGet"]
        assert f"{asked['host']}:{asked['port']}" == health
        assert asked["path"] == path


def test_rights() -> None:
    """Containers have the capabilities that are needed, and no more."""
    service, context = compose()["services"]["vtap-stream"], container()["securityContext"]
    for given in (service["cap_add"], context["capabilities"]["add"]):
        assert sorted(given) == sorted(NEEDED)
    assert service["cap_drop"] == context["capabilities"]["drop"] == ["ALL"]
    assert context["readOnlyRootFilesystem"]
    assert not context["allowPrivilegeEscalation"]
