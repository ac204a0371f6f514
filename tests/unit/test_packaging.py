"""What is shipped beside the code: locks, image, Compose and Kubernetes files."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
import yaml

from sidecar import config
from sidecar.credentials.vault import generate_key

ROOT = Path(__file__).parents[2]
LOCKS = ["requirements.lock", "requirements-dev.lock", "requirements-build.lock"]


def _pins(name: str) -> dict[str, str]:
    return dict(re.findall(r"^([\w.-]+)==(\S+)", (ROOT / name).read_text(), re.MULTILINE))


@pytest.mark.parametrize("name", LOCKS)
def test_lock_has_a_hash_for_every_requirement_and_names_no_host(name):
    """Each line of a lock is a version with hashes; where files come from is the installer's business."""
    text = (ROOT / name).read_text()
    pinned = re.findall(r"^[\w.-]+==.*\\\n(?: +--hash=sha256:[0-9a-f]{64}(?: \\)?\n)+", text, re.MULTILINE)
    assert len(pinned) == len(_pins(name)) > 0
    assert "://" not in text


def test_locks_agree():
    """What runs in production is what the tests ran with."""
    dev = _pins("requirements-dev.lock")
    for name in ("requirements.lock", "requirements-build.lock"):
        assert _pins(name).items() <= dev.items()


def test_image_runs_as_a_number_without_secrets():
    """A numeric user lets Kubernetes check runAsNonRoot; a syntax line would fetch a frontend."""
    text = (ROOT / "Dockerfile").read_text()
    assert re.search(r"^USER 65532:65532$", text, re.MULTILINE)
    assert not text.startswith("# syntax")
    assert not re.search(r"^(ARG|ENV) .*(TOKEN|SECRET|PASSWORD|KEY)", text, re.MULTILINE)


COMPOSE = {"docker-compose.yml": ["sidecar"], "deploy/compose/replicas.yml": ["sidecar-1", "sidecar-2"]}


@pytest.mark.parametrize("name", COMPOSE)
def test_compose_configuration_is_accepted(name):
    """A Compose file gives its sidecars' configuration every variable that it asks for."""
    path = ROOT / name
    services = yaml.safe_load(path.read_text())["services"]
    for sidecar in COMPOSE[name]:
        [file] = [one.partition(":")[0] for one in services[sidecar]["volumes"] if ".yaml:" in one]
        assert config.load(path.parent / file, services[sidecar]["environment"]).routes


def test_kubernetes_configuration_is_accepted(tmp_path):
    """The pod's ConfigMap is a configuration that is accepted, with its secrets in files."""
    documents = list(yaml.safe_load_all((ROOT / "deploy" / "kubernetes" / "pod.yaml").read_text()))
    (text,) = [found["data"]["sidecar.yaml"] for found in documents if found["kind"] == "ConfigMap"]
    (tmp_path / "client-secret").write_text("client-secret-0123456789")
    (tmp_path / "store-key").write_text(generate_key())
    (tmp_path / "sidecar.yaml").write_text(
        text.replace("/run/secrets/sidecar", str(tmp_path)).replace("/var/lib/sidecar/data", str(tmp_path))
    )
    assert len(config.load(tmp_path / "sidecar.yaml", {}).routes) == 2


def test_pod_runs_the_sidecar_as_a_native_sidecar():
    """[LC-06] The sidecar starts before the application and stops after it, locked down."""
    documents = yaml.safe_load_all((ROOT / "deploy" / "kubernetes" / "pod.yaml").read_text())
    (pod,) = [found["spec"] for found in documents if found["kind"] == "Pod"]
    (sidecar,) = [found for found in pod["initContainers"] if found["name"] == "sidecar"]
    assert sidecar["restartPolicy"] == "Always"
    assert sidecar["securityContext"]["readOnlyRootFilesystem"]
    assert pod["securityContext"]["runAsNonRoot"]
