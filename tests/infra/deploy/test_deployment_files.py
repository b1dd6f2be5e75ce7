"""The files for Docker against the code and the installed versions: what they name exists, without a Docker engine."""

import inspect
import json
import re
import subprocess
from fnmatch import fnmatch
from importlib import metadata
from pathlib import Path
from typing import Any

import pytest
import yaml
from commands import help_of

from infra.server.local_server import CALM

ROOT = Path(__file__).parents[3]
ROOMS = ("cnn", "infra", "tasks", "flows")


def load_yaml(name: str) -> dict[str, Any]:
    loaded: dict[str, Any] = yaml.safe_load((ROOT / name).read_text("utf-8"))
    return loaded


COMPOSE = load_yaml("infra/deploy/compose.yaml")
SERVICES: dict[str, dict[str, Any]] = COMPOSE["services"]
OWN = {name: service for name, service in SERVICES.items() if str(service["image"]).startswith("safelight")}


def split_command(command: list[str]) -> tuple[tuple[str, ...], list[str]]:
    """(program and subcommands, long options) of a command line."""
    words = [word for word in command if re.fullmatch(r"[a-z][a-z-]*", word)]
    subcommands = {"mlflow": 3 if words[1] == "db" else 2, "dask": 2, "prefect": 4 if "database" in words else 3}
    return tuple(words[: subcommands[words[0]]]), [word for word in command if word.startswith("--")]


# ---------------------------------------------------------------------------------------------------- compose.yaml


def test_only_loopback_ports_are_published() -> None:
    ports = [port for service in SERVICES.values() for port in service.get("ports", [])]
    assert ports
    assert all(re.fullmatch(r"127\.0\.0\.1:\d+:\d+", port) for port in ports)


def test_no_secret_is_written_down() -> None:
    lines = (ROOT / "infra/deploy/compose.yaml").read_text("utf-8").splitlines()
    for line in lines:
        if re.search(r"^\s*\w*(PASSWORD|SECRET|AUTH_STRING)\w*:", line):
            assert re.search(r": (safelight:)?\$\{\w+:\?", line), line
    assert not re.search(r"^\w*(PASSWORD|KEY)=\S", (ROOT / "infra/deploy/env.example").read_text("utf-8"), re.MULTILINE)


def test_env_example_names_each_variable_of_the_compose_file() -> None:
    used = set(re.findall(r"(?<!\$)\$\{(\w+)", (ROOT / "infra/deploy/compose.yaml").read_text("utf-8")))
    named = set(re.findall(r"^(\w+)=", (ROOT / "infra/deploy/env.example").read_text("utf-8"), re.MULTILINE))
    assert used == named


def test_the_env_file_stays_out_of_git_and_of_the_image() -> None:
    assert ".env" in (ROOT / ".gitignore").read_text("utf-8").split()
    assert "*" in (ROOT / ".dockerignore").read_text("utf-8").split()
    assert not re.search(r"^!.*env", (ROOT / ".dockerignore").read_text("utf-8"), re.MULTILINE)


def test_services_wait_for_services_that_can_answer() -> None:
    for name, service in SERVICES.items():
        for other, how in service.get("depends_on", {}).items():
            if how["condition"] == "service_healthy":
                assert "healthcheck" in SERVICES[other], f"{name} waits for {other}, which has no healthcheck"
            else:
                assert how["condition"] == "service_completed_successfully"
                assert SERVICES[other]["restart"] == "on-failure", f"{other} would start over and over"


def test_volumes_are_declared_and_files_are_there() -> None:
    for service in SERVICES.values():
        for volume in service.get("volumes", []):
            source = re.sub(r"\$\{\w+:-(.*?)\}", r"\1", volume).split(":")[0]
            if source == "./photos":  # the user's
                continue
            assert (
                (ROOT / "infra/deploy" / source).is_file() if source.startswith(".") else source in COMPOSE["volumes"]
            )


def test_images_are_pinned_by_digest_and_freely_licensed() -> None:
    foreign = {service["image"] for service in SERVICES.values()} - {"safelight", "safelight:gpu"}
    assert {image.partition(":")[0] for image in foreign} == {
        "postgres",
        "chrislusf/seaweedfs",
    }  # PostgreSQL, Apache-2.0
    assert all(re.search(r":\d+\.\d+[\w.-]*@sha256:[0-9a-f]{64}$", image) for image in foreign)


@pytest.mark.parametrize("name", SERVICES)
def test_no_service_can_change_its_programs_gain_rights_or_fill_the_machine(name: str) -> None:
    service = SERVICES[name]
    assert service["read_only"] is True
    assert service["cap_drop"] == ["ALL"]
    assert service["security_opt"] == ["no-new-privileges:true"]
    assert "cap_add" not in service
    assert "privileged" not in service
    assert service["mem_limit"]
    assert service["pids_limit"]
    assert set(service["logging"]["options"]) == {"max-size", "max-file"}
    memory = dict((*place.split(":"), "")[:2] for place in service.get("tmpfs", []))
    places = [*memory, *(volume.split(":")[1] for volume in service.get("volumes", []))]
    assert memory.get("/state") in (None, "uid=10001,gid=10001"), "a tmpfs belongs to root, unless it says to whom"
    assert "/tmp" in places, "nothing temporary could be written"
    if name in OWN:
        assert "/state" in places, "SAFELIGHT_HOME and PREFECT_HOME lie there"


def test_servers_and_workers_say_how_their_health_is_asked_for_and_have_time_to_end() -> None:
    lasting = {name for name, service in SERVICES.items() if service["restart"] == "unless-stopped"}
    assert lasting == {name for name, service in SERVICES.items() if "healthcheck" in service}
    for name in ("worker", "gpu-worker"):
        assert "--with-healthcheck" in SERVICES[name]["command"]
        assert ":8080/health" in SERVICES[name]["healthcheck"]["test"][-1]
    for name in ("worker", "gpu-worker", "dask-worker", "postgres", "s3"):
        assert SERVICES[name]["stop_grace_period"] == "60s", "Docker kills after ten seconds otherwise"


def test_only_those_that_keep_records_reach_the_databases() -> None:
    reach = {name for name, service in SERVICES.items() if "databases" in service.get("networks", [])}
    assert reach == {"postgres", "prefect", "mlflow", "upgrade-prefect", "upgrade-mlflow"}
    assert COMPOSE["networks"]["databases"]["internal"] is True


def test_who_holds_a_place_survives_a_restart_of_the_server() -> None:
    from importlib import import_module

    environment = SERVICES["prefect"]["environment"]
    module = import_module(environment["PREFECT_SERVER_CONCURRENCY_LEASE_STORAGE"])
    assert module.ConcurrencyLeaseStorage
    kept = "PREFECT_SERVER_EVENTS_EXPIRED_BUCKET_BUFFER"
    assert environment[kept] == CALM[kept]
    assert "prefect:/state" in SERVICES["prefect"]["volumes"]


def s3_users(tmp_path: Path) -> dict[str, dict[str, Any]]:
    """name -> what the S3 store is told of a user, when its secrets are these."""
    script = SERVICES["s3"]["command"][0].replace("$$", "$").replace("/tmp/", f"{tmp_path}/")
    secrets = {"S3_ADMIN_SECRET_KEY": "aaa", "S3_SECRET_KEY": "fff", "MLFLOW_S3_SECRET_KEY": "mmm", "PATH": "/bin"}
    subprocess.run(["sh", "-ec", script.partition("exec weed")[0]], check=True, env=secrets)
    assert (tmp_path / "s3.json").stat().st_mode & 0o077 == 0
    return {user["name"]: user for user in json.loads((tmp_path / "s3.json").read_text())["identities"]}


def test_keys_of_the_s3_store_open_what_their_owners_need(tmp_path: Path) -> None:
    users = s3_users(tmp_path)
    actions = {name: set(user["actions"]) for name, user in users.items()}
    assert {"Read:photos", "List:photos"} == {one for one in actions["flows"] if one.endswith(":photos")}
    assert {one.partition(":")[2] for one in actions["flows"]} == {"photos", "safelight"}
    assert {one.partition(":")[2] for one in actions["mlflow"]} == {"mlflow"}
    secrets = {name: user["credentials"][0]["secretKey"] for name, user in users.items()}
    assert secrets == {"admin": "aaa", "flows": "fff", "mlflow": "mmm"}
    for name, service in OWN.items():
        key = service.get("environment", {}).get("AWS_ACCESS_KEY_ID")
        assert key == {"buckets": "admin", "mlflow": "mlflow"}.get(name, key and "flows"), name
    made = re.search(r"for name in (\(.+\)):", SERVICES["buckets"]["command"][2])
    assert made is not None
    assert {one.partition(":")[2] for name in ("flows", "mlflow") for one in actions[name]} == set(eval(made[1]))  # noqa: S307


def test_safelights_own_service_deploys_into_the_s3_store() -> None:
    words = SERVICES["deploy"]["entrypoint"]
    assert words[:2] == ["safelight", "deploy"]
    text = help_of("safelight", "deploy")
    assert [word for word in words if word.startswith("--") and word not in text] == []


@pytest.mark.long
@pytest.mark.parametrize(
    "name",
    [
        name
        for name, service in OWN.items()
        if service["command"][0] not in ("sh", "python") and "entrypoint" not in service
    ],
)
def test_a_servers_command_exists_in_the_locked_version(name: str) -> None:
    subcommand, options = split_command(OWN[name]["command"])
    text = help_of(*subcommand)
    assert [option for option in options if option not in text] == []


@pytest.mark.parametrize("name", [name for name, service in OWN.items() if service["command"][0] == "python"])
def test_an_inline_script_is_python(name: str) -> None:
    compile(OWN[name]["command"][2], name, "exec")


def test_inline_shell_parses() -> None:
    for name in ("s3", "certificate"):
        script = SERVICES[name]["command"][-1].replace("$$", "$")
        subprocess.run(["sh", "-n"], input=script, text=True, check=True, capture_output=True)


def test_the_certificate_that_the_dask_services_show_is_made(tmp_path: Path) -> None:
    from distributed.security import Security

    script = SERVICES["certificate"]["command"][-1].replace("/tls/", f"{tmp_path}/")
    subprocess.run(["sh", "-ec", script], check=True, capture_output=True)
    certificate, key = str(tmp_path / "dask.pem"), str(tmp_path / "dask.key")
    security: Any = Security(  # type: ignore[no-untyped-call]
        require_encryption=True, tls_ca_file=certificate, tls_scheduler_cert=certificate, tls_scheduler_key=key
    )
    assert security.get_listen_args("scheduler")["ssl_context"]
    assert (tmp_path / "dask.key").stat().st_mode & 0o077 == 0


def names_read_by_the_code() -> set[str]:
    """Environment variables and Dask settings that the product's sources name."""
    text = "\n".join(path.read_text("utf-8") for room in ROOMS for path in (ROOT / room).rglob("*.py"))
    settings = {f"DASK_{name.upper().replace('-', '_')}" for name in re.findall(r'"(scheduler-address)"', text)}
    return set(re.findall(r"\b[A-Z][A-Z0-9]+(?:_[A-Z0-9]+)+\b", text)) | settings


def is_read_by_a_library(name: str) -> bool:
    """Whether Prefect, MLflow, Dask, boto3 or Python know an environment variable."""
    if name.startswith("PREFECT_"):
        from prefect.settings.legacy import _get_settings_fields
        from prefect.settings.models.root import Settings

        return name in _get_settings_fields(Settings)
    if name.startswith("MLFLOW_"):
        folder = Path(str(metadata.distribution("mlflow").locate_file("mlflow")))  # its import takes 5 s, and warns
        sources = ("environment_variables.py", "cli/__init__.py", "utils/cli_args.py")
        return any(f'"{name}"' in (folder / source).read_text("utf-8") for source in sources)
    if name.startswith("DASK_"):
        import dask.config
        import distributed  # noqa: F401 - brings its defaults

        missing = object()
        key = name.removeprefix("DASK_").lower().replace("__", ".")
        return dask.config.get(key, missing) is not missing
    if name.startswith("AWS_"):
        from botocore import configprovider, credentials

        text = "".join(map(inspect.getsource, (configprovider, credentials)))
        return f"'{name}'" in text or f'"{name}"' in text
    return name in {"PATH", "PYTHONUNBUFFERED", "DO_NOT_TRACK", "HOME", "NO_ALBUMENTATIONS_UPDATE"}


def environment_names() -> set[str]:
    composed = {name for service in OWN.values() for name in service.get("environment", {})}
    dockerfile = (ROOT / "infra/deploy/Dockerfile").read_text("utf-8").rpartition("\nFROM ")[2]
    return composed | set(re.findall(r"(?:^ENV|^   ) ([A-Z_]+)=", dockerfile, re.MULTILINE))


@pytest.mark.parametrize("name", sorted(environment_names()))
def test_an_environment_variable_is_read_by_somebody(name: str) -> None:
    assert name in names_read_by_the_code() or is_read_by_a_library(name)


def test_a_made_up_variable_is_read_by_nobody() -> None:
    made_up = ["PREFECT_API_ULR", "MLFLOW_TRACKING_ADDRESS", "DASK_DISTRIBUTED__COMM__TLS__CERT", "AWS_ENDPOINT"]
    assert [name for name in made_up if name in names_read_by_the_code() or is_read_by_a_library(name)] == []


# ---------------------------------------------------------------------------------------------- Dockerfile, Makefile


def instructions() -> list[tuple[str, str]]:
    """(instruction, rest) of the Dockerfile, continued lines joined."""
    text = re.sub(r"\\\n", " ", (ROOT / "infra/deploy/Dockerfile").read_text("utf-8"))
    lines = [line for line in text.splitlines() if line.strip() and not line.startswith("#")]
    return [(line.split(None, 1)[0], line.split(None, 1)[1]) for line in lines]


def test_what_the_image_copies_is_there_and_not_ignored() -> None:
    allowed = re.findall(r"^!(\S+)", (ROOT / ".dockerignore").read_text("utf-8"), re.MULTILINE)
    for instruction, rest in instructions():
        if instruction == "COPY" and "--from" not in rest:
            for source in rest.split()[:-1]:
                path = source.replace("${LOCK}", "infra/install/requirements-cpu.lock")
                assert (ROOT / path).exists(), path
                matching = [rule for rule in allowed if fnmatch(path, rule) or rule.startswith(f"{path}/")]
                assert matching, f".dockerignore keeps {path} out"


def test_the_image_runs_as_a_plain_user_on_a_pinned_base() -> None:
    final = [rest for instruction, rest in instructions() if instruction == "USER"]
    assert final == ["10001"], "a number, so that Kubernetes sees that it is not root"
    assert "--uid 10001" in (ROOT / "infra/deploy/Dockerfile").read_text("utf-8")
    bases = [rest for instruction, rest in instructions() if instruction == "ARG"]
    assert re.fullmatch(r"PYTHON=3\.12\.\d+-slim-bookworm@sha256:[0-9a-f]{64}", bases[0])


def test_every_package_of_the_image_comes_by_hash() -> None:
    for instruction, rest in instructions():
        if instruction == "RUN":
            for command in re.findall(r"pip install[^&]*", rest):
                assert "--require-hashes" in command or "--offline --no-deps" in command


def test_each_lock_that_is_built_from_exists() -> None:
    locks = {build["args"]["LOCK"] for service in SERVICES.values() if (build := service.get("build"))}
    assert locks == {"infra/install/requirements-cpu.lock", "infra/install/requirements-gpu.lock"}
    assert all((ROOT / lock).is_file() for lock in locks)
