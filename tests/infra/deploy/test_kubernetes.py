"""The manifests for Kubernetes against its schemas, the code and each other; without a cluster, and without network."""

import json
import re
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import kubernetes_validate
import pytest
import yaml
from commands import help_of

FOLDER = Path(__file__).parents[3] / "infra/deploy/kubernetes"
PLACES = ("base", "gpu")
VERSION = "1.33"  # of Kubernetes: the oldest that its makers still mend
Manifest = dict[str, Any]


def load_manifests() -> list[Manifest]:
    paths = [FOLDER / place / name for place in PLACES for name in load_kustomization(place)["resources"]]
    files = [path for path in paths if path.suffix == ".yaml"]
    return [one for path in files for one in yaml.safe_load_all(path.read_text("utf-8"))]


def load_kustomization(place: str) -> Manifest:
    loaded: Manifest = yaml.safe_load((FOLDER / place / "kustomization.yaml").read_text("utf-8"))
    return loaded


MANIFESTS = load_manifests()
DEPLOYMENTS = {one["metadata"]["name"]: one for one in MANIFESTS if one["kind"] == "Deployment"}
POOLS = {place: json.loads((FOLDER / place / "pool.json").read_text("utf-8")) for place in PLACES}


def names_of(kind: str) -> set[str]:
    return {one["metadata"]["name"] for one in MANIFESTS if one["kind"] == kind}


def fill_job(place: str) -> Manifest:
    """The job that a worker would start for a run, as Prefect makes it of the work pool's template."""
    from prefect.utilities.templating import apply_values

    values = {"name": "run", "labels": {"a": "b"}, "env": {"PREFECT_API_URL": "http://prefect:4200/api"}}
    filled: Manifest = apply_values(POOLS[place]["job_configuration"], values)
    return filled


def list_pods() -> Iterator[tuple[str, Manifest]]:
    """(name, pod) of all that runs."""
    for name, deployment in DEPLOYMENTS.items():
        yield name, deployment["spec"]["template"]["spec"]
    for place in PLACES:
        yield f"job of {place}", fill_job(place)["job_manifest"]["spec"]["template"]["spec"]


def list_containers() -> Iterator[tuple[str, Manifest]]:
    for name, pod in list_pods():
        for container in [*pod.get("initContainers", []), *pod["containers"]]:
            yield f"{name}/{container['name']}", container


PODS = dict(list_pods())
CONTAINERS = dict(list_containers())


@pytest.mark.parametrize("manifest", MANIFESTS, ids=lambda one: f"{one['kind']}/{one['metadata']['name']}")
def test_a_manifest_is_what_kubernetes_takes(manifest: Manifest) -> None:
    kubernetes_validate.validate(manifest, VERSION, strict=True)


def test_the_schemas_refuse_what_is_none() -> None:
    wrong = json.loads(json.dumps(DEPLOYMENTS["mlflow"]))
    wrong["spec"]["template"]["spec"]["containers"][0]["imagee"] = "x"
    with pytest.raises(kubernetes_validate.ValidationError):
        kubernetes_validate.validate(wrong, VERSION, strict=True)


@pytest.mark.parametrize("place", PLACES)
def test_the_job_of_a_run_is_what_kubernetes_takes(place: str) -> None:
    job = fill_job(place)["job_manifest"]
    pod = job["spec"]["template"]["spec"]
    assert pod.pop("parallelism") == pod.pop("completions") == 1  # Prefect asks for them here, where they mean nothing
    assert pod["containers"][0]["name"] == "prefect-job"
    kubernetes_validate.validate(job, VERSION, strict=True)
    assert job["spec"]["backoffLimit"] == 0, "then a run on a node that is drained is scheduled again, and goes on"
    assert "nvidia.com/gpu" in pod["containers"][0]["resources"]["limits"] or place == "base"


@pytest.mark.parametrize("place", PLACES)
def test_whoever_reaches_the_api_chooses_no_command_and_no_image(place: str) -> None:
    pool = POOLS[place]
    assert set(pool["variables"]["properties"]) == {"name", "labels", "env"}
    assert set(re.findall(r"{{ (\w+) }}", json.dumps(pool))) == {"name", "labels", "env"}


@pytest.mark.parametrize("place", PLACES)
def test_each_file_has_a_place(place: str) -> None:
    kustomization = load_kustomization(place)
    generated = [each.partition("=")[2] for one in kustomization["configMapGenerator"] for each in one["files"]]
    named = {*kustomization["resources"], *generated, "kustomization.yaml"} - {"../base"}
    assert named == {path.name for path in (FOLDER / place).iterdir()} - {"secrets.env.example"}


@pytest.mark.parametrize("name", PODS)
def test_a_pod_is_nobody_and_ends_in_time(name: str) -> None:
    pod = PODS[name]
    assert pod["securityContext"]["runAsNonRoot"] is True
    assert pod["securityContext"]["runAsUser"] == 10001
    assert pod["securityContext"]["seccompProfile"] == {"type": "RuntimeDefault"}
    assert pod["terminationGracePeriodSeconds"] >= 30
    assert pod["automountServiceAccountToken"] is (pod["serviceAccountName"] == "worker"), (
        "workers alone ask the cluster"
    )
    assert pod["serviceAccountName"] in names_of("ServiceAccount")


@pytest.mark.parametrize("name", CONTAINERS)
def test_a_container_can_change_nothing_and_has_limits(name: str) -> None:
    container = CONTAINERS[name]
    context = container["securityContext"]
    assert context["readOnlyRootFilesystem"] is True
    assert context["allowPrivilegeEscalation"] is False
    assert context["capabilities"] == {"drop": ["ALL"]}
    assert container["resources"]["limits"]["memory"]
    assert {"/tmp", "/state"} <= {mount["mountPath"] for mount in container["volumeMounts"]}


def test_servers_and_workers_are_asked_for_their_health() -> None:
    for name, deployment in DEPLOYMENTS.items():
        (container,) = deployment["spec"]["template"]["spec"]["containers"]
        assert {"startupProbe", "livenessProbe"} <= container.keys(), name
        (port, *_) = [port["containerPort"] for port in container["ports"]]
        asked = container["livenessProbe"]
        assert (asked.get("httpGet") or asked["tcpSocket"])["port"] == port, name


def test_what_is_named_is_there() -> None:
    example = (FOLDER / "base/secrets.env.example").read_text("utf-8")
    keys = set(re.findall(r"^(\w+)=", example, re.MULTILINE))
    settings = next(one["data"] for one in MANIFESTS if one["metadata"]["name"] == "safelight" and "data" in one)
    used = set()
    for container in CONTAINERS.values():
        for source in (one.get("valueFrom", {}) for one in container.get("env", [])):
            if secret := source.get("secretKeyRef"):
                assert secret["name"] == "safelight"
                used.add(secret["key"])
            elif reference := source.get("configMapKeyRef"):
                assert reference["key"] in settings
        for source in container.get("envFrom", []):
            assert source["configMapRef"]["name"] in names_of("ConfigMap")
    assert used == keys


def test_volumes_are_there() -> None:
    generated = {one["name"] for place in PLACES for one in load_kustomization(place)["configMapGenerator"]}
    for name, pod in PODS.items():
        volumes = {one["name"]: one for one in pod["volumes"]}
        mounted = {
            mount["name"]
            for one in [*pod.get("initContainers", []), *pod["containers"]]
            for mount in one["volumeMounts"]
        }
        assert mounted == set(volumes), name
        for volume in volumes.values():
            if claim := volume.get("persistentVolumeClaim"):
                assert claim["claimName"] in names_of("PersistentVolumeClaim")
            if reference := volume.get("configMap"):
                assert reference["name"] in generated


def test_services_and_policies_mean_pods_that_there_are() -> None:
    labels = [one["spec"]["template"]["metadata"]["labels"] for one in DEPLOYMENTS.values()]
    labels += [fill_job(place)["job_manifest"]["spec"]["template"]["metadata"]["labels"] for place in PLACES]
    known = {tuple(pair) for each in labels for pair in each.items()}
    for manifest in MANIFESTS:
        if manifest["kind"] == "Service":
            assert set(manifest["spec"]["selector"].items()) <= known
            assert manifest["metadata"]["name"] in DEPLOYMENTS
        elif manifest["kind"] in ("NetworkPolicy", "PodDisruptionBudget"):
            found = re.findall(r"'matchLabels': ({.*?})", str(manifest["spec"]))
            assert {tuple(pair) for one in found for pair in yaml.safe_load(one).items()} <= known


def test_nobody_reaches_a_pod_that_no_policy_names() -> None:
    policies = {one["metadata"]["name"]: one["spec"] for one in MANIFESTS if one["kind"] == "NetworkPolicy"}
    assert policies["default"]["podSelector"] == {}
    assert set(policies["default"]["policyTypes"]) == {"Ingress", "Egress"}
    assert "ingress" not in policies["default"]
    served = {"prefect", "mlflow", "dask-scheduler", "dask-worker"}
    assert set(policies) == {"default", *served}
    for name in served:
        (rule,) = policies[name]["ingress"]
        (container,) = DEPLOYMENTS[name]["spec"]["template"]["spec"]["containers"]
        assert {one["port"] for one in rule["ports"]} == {one["containerPort"] for one in container["ports"]}


@pytest.mark.long
@pytest.mark.parametrize("name", [name for name in CONTAINERS if "args" in CONTAINERS[name] and "/pool" not in name])
def test_a_command_exists_in_the_locked_version(name: str) -> None:
    words = CONTAINERS[name]["args"]
    depth = 2 if words[0] in ("dask", "mlflow") else 3
    text = help_of(*words[:depth])
    assert [word for word in words if word.startswith("--") and word not in text] == []


def test_the_workers_image_has_the_version_that_is_locked() -> None:
    from importlib.metadata import version

    images = {one["image"] for one in CONTAINERS.values()}
    assert images == {"safelight", "SAFELIGHT_IMAGE", f"prefecthq/prefect:{version('prefect')}-python3.12-kubernetes"}


@pytest.mark.parametrize("name", ["worker", "gpu-worker"])
def test_the_work_pool_gets_the_image_of_the_settings(name: str, tmp_path: Path) -> None:
    script = CONTAINERS[f"{name}/pool"]["args"][0]
    template = FOLDER / ("gpu" if name == "gpu-worker" else "base") / "pool.json"
    script = script.replace("/tmp/", f"{tmp_path}/").replace("/template/template.json", str(template), 1)
    (tmp_path / "prefect").write_text('#!/bin/sh\necho "$@" >> "$CALLS"\nexit "$KNOWN"\n')
    (tmp_path / "prefect").chmod(0o755)
    for known in ("0", "1"):
        names = {"PATH": f"{tmp_path}:/usr/bin:/bin", "CALLS": str(tmp_path / f"calls{known}"), "KNOWN": known}
        images = {"JOB_IMAGE": "there/cpu:1", "GPU_JOB_IMAGE": "there/gpu:1"}
        subprocess.run(["sh", "-ec", script], env=names | images, check=known == "0")
        verb = (tmp_path / f"calls{known}").read_text().splitlines()[-1]
        assert ("work-pool update" if known == "0" else "work-pool create") in verb
    made = json.loads((tmp_path / "template.json").read_text())
    image = made["job_configuration"]["job_manifest"]["spec"]["template"]["spec"]["containers"][0]["image"]
    assert image == ("there/gpu:1" if name == "gpu-worker" else "there/cpu:1")


@pytest.mark.skipif(
    shutil.which("kubectl") is None,
    reason="no kubectl, which renders the manifests: https://kubernetes.io/docs/tasks/tools/",
)
@pytest.mark.parametrize("place", PLACES)
def test_kustomize_renders_it(place: str) -> None:
    done = subprocess.run(["kubectl", "kustomize", str(FOLDER / place)], capture_output=True, text=True, check=True)
    rendered = list(yaml.safe_load_all(done.stdout))
    for manifest in rendered:
        kubernetes_validate.validate(manifest, VERSION, strict=True)
        assert manifest["metadata"]["labels"]["app.kubernetes.io/part-of"] == "safelight"
        assert manifest["kind"] == "Namespace" or manifest["metadata"]["namespace"] == "safelight"
    images = re.findall(r"^ *(?:- )?image: (\S+)$", done.stdout, re.MULTILINE)
    assert {image for image in images if "prefecthq" not in image} == {"registry.example.com/safelight:0.1.0"}
    assert len(rendered) > 15
