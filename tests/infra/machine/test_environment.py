"""What is recorded of a machine and its software, against files of a kernel and a clone made by hand."""

import subprocess
from pathlib import Path

from cnn.digest import hash_file
from infra.machine.environment import ROOT, describe_machine, describe_software


def test_a_machine_is_named_by_its_processor_and_its_gpus(tmp_path: Path) -> None:
    processors, gpus = tmp_path / "cpuinfo", tmp_path / "gpus"
    processors.write_text("processor\t: 0\nmodel name\t: Some CPU @ 3 GHz\nprocessor\t: 1\nmodel name\t: Other\n")
    (gpus / "0000:01").mkdir(parents=True)
    (gpus / "0000:01" / "information").write_text("Model: \t\t NVIDIA H100\nIRQ: 1\n")
    here = describe_machine(processors, gpus)
    assert (here.processor, here.gpus) == ("Some CPU @ 3 GHz", ("NVIDIA H100",))
    assert here.cores >= 1
    bare = describe_machine(tmp_path / "none", tmp_path / "none")
    assert bare.processor
    assert bare.gpus == ()
    assert here.is_like(here.model_copy(update={"cores": 99, "system": "elsewhere"}))
    assert not here.is_like(bare)


def test_software_is_the_packages_the_lock_file_and_the_commit(tmp_path: Path) -> None:
    lock = tmp_path / "infra" / "install" / "requirements-cpu.lock"
    lock.parent.mkdir(parents=True)
    lock.write_text("numpy==1\n")
    found = describe_software(tmp_path)
    assert found.packages["numpy"]
    assert (found.lock, found.lock_digest, found.commit) == ("requirements-cpu.lock", hash_file(lock), "")
    author = ("-c", "user.name=a", "-c", "user.email=a@b")
    for words in (("init", "-q"), ("add", "-A"), (*author, "commit", "-qm", "first")):
        subprocess.run(["git", "-C", str(tmp_path), *words], check=True)
    clean = describe_software(tmp_path)
    assert len(clean.commit) == 40
    assert not clean.commit_changed
    lock.write_text("numpy==2\n")
    assert describe_software(tmp_path).commit_changed
    assert describe_software(tmp_path / "infra").lock == ""


def test_the_lock_file_of_this_installation_is_found() -> None:
    assert describe_software(ROOT).lock_digest == hash_file(ROOT / "infra" / "install" / "requirements-cpu.lock")


def test_differences_name_both_versions() -> None:
    then = describe_software(ROOT).model_copy(update={"packages": {"a": "1", "b": "2"}, "python": "3.10"})
    now = then.model_copy(update={"packages": {"a": "1", "b": "3", "c": "4"}})
    assert then.list_differences(now) == ["b 3 (then 2)", "c 4 (then not installed)"]
    assert then.list_differences(then) == []
