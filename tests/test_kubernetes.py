"""The Kubernetes manifests: valid by Kubernetes' own schemas, closed, limited, and with commands that can be parsed."""

import shutil
import subprocess
from pathlib import Path

import pytest
import yaml

pytest.importorskip("torch")

from lamina.broker.settings import convert, read_toml
from lamina.coordinator.settings import FederationSettings
from lamina.edge_agent.cli import options_of
from scripts.documents.commands_page import lamina_parsers
from tests.conftest import missing

ROOT = Path(__file__).parent.parent / "kubernetes"
FILES = sorted(path for path in ROOT.rglob("*.yaml") if path.name != "kustomization.yaml")
DOCUMENTS = [document for path in FILES for document in yaml.safe_load_all(path.read_text())]
PODS = [
    (document["metadata"]["name"], document["spec"]["template"]["spec"])
    for document in DOCUMENTS
    if "template" in document.get("spec", {})
]
CONTAINERS = [
    pytest.param(container, id=f"{name}-{container['name']}")
    for name, pod in PODS
    for container in (*pod.get("initContainers", ()), *pod["containers"])
]


def name_of(document: dict) -> str:
    return f"{document['kind']} {document['metadata']['name']}"


@pytest.mark.parametrize("document", DOCUMENTS, ids=name_of)
def test_a_manifest_keeps_to_the_schema(document: dict) -> None:
    validate = pytest.importorskip("kubernetes_validate").validate
    assert validate(document, "1.32", strict=True)


@pytest.mark.parametrize("overlay", ["base", "fleet"])
def test_kustomize_names_every_file_and_no_other(overlay: str) -> None:
    said = yaml.safe_load((ROOT / overlay / "kustomization.yaml").read_text())
    there = {path.name for path in (ROOT / overlay).glob("*.yaml")} - {"kustomization.yaml"}
    assert {name for name in said["resources"] if name != "../base"} == there
    files = [file for generator in said.get("configMapGenerator", ()) for file in generator["files"]]
    assert all((ROOT / overlay / file).exists() for file in files)


def test_kustomize_builds_it() -> None:
    kubectl = shutil.which("kubectl")
    if kubectl is None:
        pytest.skip("kubectl isn't installed")
    built = subprocess.run([kubectl, "kustomize", str(ROOT / "fleet")], capture_output=True, text=True, check=False)
    if built.returncode:
        missing(f"kubectl kustomize: {built.stderr[-300:]}")
    found = [name_of(document) for document in yaml.safe_load_all(built.stdout)]
    assert len(found) == len(DOCUMENTS) + 1  # and the map of settings


@pytest.mark.parametrize("container", CONTAINERS)
def test_a_container_has_limits_and_may_do_little(container: dict) -> None:
    assert {"cpu", "memory"} <= set(container["resources"]["limits"])
    assert container["securityContext"] == {
        "allowPrivilegeEscalation": False,
        "readOnlyRootFilesystem": True,
        "capabilities": {"drop": ["ALL"]},
    }


@pytest.mark.parametrize(("name", "pod"), PODS, ids=[name for name, _ in PODS])
def test_a_pod_is_nobody_and_has_no_account(name: str, pod: dict) -> None:
    assert pod["automountServiceAccountToken"] is False
    assert pod["securityContext"]["runAsNonRoot"] is True
    assert pod["securityContext"]["seccompProfile"] == {"type": "RuntimeDefault"}


def test_its_commands_can_be_parsed() -> None:
    parsers, seen = lamina_parsers(), set()
    for name, pod in PODS:
        [container] = pod["containers"]
        if container["image"] == "lamina-coordinator":
            command, *words = container["args"]
            parsers[command].parse_args(words)
            seen.add(command)
        elif container["image"] == "lamina-edge":
            assert options_of(container["args"]).federation == "cluster"
            seen.add(name)
    assert seen == {"run", "aggregator", "strong", "moderate", "weak"}


def test_its_settings_are_valid_and_have_as_many_aggregators() -> None:
    settings = convert(read_toml(ROOT / "base" / "federation.toml"), FederationSettings, "federation.toml")
    assert settings.aggregation.aggregators == sum("aggregator" in name for name, _ in PODS)
    replicas = {
        document["metadata"]["name"]: document["spec"].get("replicas") for document in DOCUMENTS if "spec" in document
    }
    assert settings.cohorts.min_devices == sum(replicas[tier] for tier in ("strong", "moderate", "weak"))
    assert settings.broker.host in replicas
