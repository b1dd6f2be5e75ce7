"""A Dask scheduler behind TLS, with certificates made here: used with the right ones, refused without."""

import datetime
import ipaddress
import os
import ssl
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import dask
import distributed  # noqa: F401 - its defaults come before what is set here
import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID
from distributed.comm.core import CommClosedError
from tornado.iostream import StreamClosedError

import infra.cluster.dask
from cnn.errors import ConfigError, ServerError
from infra.cluster.dask import open_cluster, run_chunks
from infra.cluster.spec import ClusterSpec
from infra.cluster.tls import check_certificates, explain_refusal

AUTHORITY = "distributed.comm.tls.ca-file"
SCRIPT = """
import sys
from distributed import LocalCluster
if __name__ == "__main__":
    with LocalCluster(n_workers=1, threads_per_worker=1, protocol="tls", host="127.0.0.1", dashboard_address=None,
                      scheduler_kwargs={"dashboard_address": "127.0.0.1:0"}) as cluster:
        print(cluster.scheduler_address, flush=True)
        sys.stdin.read()
"""


def make_identity(folder: Path, authority: str) -> dict[str, str]:
    """Dask's TLS settings for a new authority and one certificate for 127.0.0.1 under it, all below `folder`."""
    folder.mkdir()
    root, key = ec.generate_private_key(ec.SECP256R1()), ec.generate_private_key(ec.SECP256R1())
    issuer = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, authority)])
    subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "safelight test")])
    place = x509.SubjectAlternativeName([x509.IPAddress(ipaddress.ip_address("127.0.0.1"))])
    is_root = x509.BasicConstraints(ca=True, path_length=0)
    certificates = {
        "ca.pem": begin(issuer, issuer, root).add_extension(is_root, critical=True).sign(root, hashes.SHA256()),
        "cert.pem": begin(subject, issuer, key).add_extension(place, critical=False).sign(root, hashes.SHA256()),
    }
    for name, certificate in certificates.items():
        (folder / name).write_bytes(certificate.public_bytes(serialization.Encoding.PEM))
    form = serialization.PrivateFormat.PKCS8
    (folder / "key.pem").write_bytes(key.private_bytes(serialization.Encoding.PEM, form, serialization.NoEncryption()))
    settings = {"ca-file": "ca.pem"}
    for role in ("client", "scheduler", "worker"):
        settings |= {f"{role}.cert": "cert.pem", f"{role}.key": "key.pem"}
    return {f"distributed.comm.tls.{name}": str(folder / file) for name, file in settings.items()}


def begin(subject: x509.Name, issuer: x509.Name, key: ec.EllipticCurvePrivateKey) -> x509.CertificateBuilder:
    """A certificate for a key, good for a day either way."""
    now, day = datetime.datetime.now(datetime.UTC), datetime.timedelta(days=1)
    builder = x509.CertificateBuilder().subject_name(subject).issuer_name(issuer).public_key(key.public_key())
    return builder.serial_number(x509.random_serial_number()).not_valid_before(now - day).not_valid_after(now + day)


@pytest.fixture(scope="module")
def identity(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    return make_identity(tmp_path_factory.mktemp("tls") / "ours", "ours")


@pytest.fixture(scope="module")
def scheduler(identity: dict[str, str], tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """The address of a scheduler with one worker that speaks TLS alone."""
    script = tmp_path_factory.mktemp("scheduler") / "script.py"
    script.write_text(SCRIPT)
    settings = identity | {"distributed.comm.require-encryption": "true"}
    given = {f"DASK_{name.upper().replace('-', '_').replace('.', '__')}": value for name, value in settings.items()}
    with subprocess.Popen(
        [sys.executable, str(script)],
        env=os.environ | given | {"PYTHONPATH": os.pathsep.join(sys.path)},
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    ) as process:
        assert process.stdin is not None
        assert process.stdout is not None
        yield process.stdout.readline().strip()
        process.stdin.close()  # the script ends its workers, then itself
        process.wait(60)


def test_chunks_run_over_tls(scheduler: str, identity: dict[str, str]) -> None:
    assert scheduler.startswith("tls://127.0.0.1:")
    results: list[str] = []
    with dask.config.set(identity), open_cluster(ClusterSpec(address=scheduler)) as cluster:
        run_chunks(cluster, str, range(5), results.append)
        assert cluster.client is not None
        assert all(worker.startswith("tls://") for worker in cluster.client.scheduler_info(n_workers=-1)["workers"])
    assert sorted(results) == ["0", "1", "2", "3", "4"]


def test_a_stranger_with_an_authority_of_its_own_is_refused(
    scheduler: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(infra.cluster.dask, "CONNECT_SECONDS", 2)
    theirs = make_identity(tmp_path / "theirs", "theirs")
    message = r"shows a certificate that this command does not trust \(.*certificate.*\)"
    with (
        dask.config.set(theirs),
        pytest.raises(ServerError, match=message),
        open_cluster(ClusterSpec(address=scheduler)),
    ):
        pass


def test_plain_tcp_does_not_reach_a_tls_scheduler(scheduler: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(infra.cluster.dask, "CONNECT_SECONDS", 2)
    plain = ClusterSpec(address=scheduler.replace("tls://", "tcp://"))
    with pytest.raises(ServerError, match=r"ends the connection at once; .* write tls://"), open_cluster(plain):
        pass


def test_a_certificate_that_the_scheduler_does_not_trust_is_named(
    scheduler: str, identity: dict[str, str], tmp_path: Path
) -> None:
    theirs = make_identity(tmp_path / "theirs", "theirs") | {AUTHORITY: identity[AUTHORITY]}
    with (
        dask.config.set(theirs),
        pytest.raises(ServerError, match="it does not trust the certificate of this command"),
        open_cluster(ClusterSpec(address=scheduler)),
    ):
        pass


@pytest.mark.parametrize(
    ("cause", "told"),
    [
        (StreamClosedError(), "ends the connection at once"),
        (BrokenPipeError(), "ends the connection at once"),
        (ConnectionResetError(), "ends the connection at once"),
        (ssl.SSLError("tlsv1 alert unknown ca"), "ends the connection at once"),
        (StreamClosedError(ssl.SSLError("tlsv1 alert unknown ca")), "ends the connection at once"),
        (StreamClosedError(ConnectionRefusedError()), "no Dask scheduler answers"),
        (TimeoutError(), "no Dask scheduler answers"),
    ],
    ids=repr,
)
def test_one_that_hangs_up_is_no_silent_one(cause: Exception, told: str) -> None:
    """Which sign of a refused certificate is seen first is a matter of chance."""
    closed = CommClosedError("in <TLS>")
    closed.__cause__ = cause
    assert told in str(explain_refusal("tls://there:1", closed, 30))


def test_without_certificates_a_line_says_what_to_set() -> None:
    message = r"no certificate is set .* DASK_DISTRIBUTED__COMM__TLS__CA_FILE and DASK_\w+__CLIENT__CERT to the files"
    with pytest.raises(ConfigError, match=message), open_cluster(ClusterSpec(address="tls://127.0.0.1:1")):
        pass


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"client.key": "absent.pem"}, r"CLIENT__KEY: there is no file .*absent\.pem"),
        ({"client.key": "other.pem"}, r"cannot be used \(.*KEY_VALUES_MISMATCH.*other\.pem"),
        ({"ca-file": "note.txt"}, r"cannot be used \(.*note\.txt"),
    ],
)
def test_a_certificate_that_cannot_be_used_is_named(
    identity: dict[str, str], tmp_path: Path, changed: dict[str, str], message: str
) -> None:
    other = make_identity(tmp_path / "theirs", "theirs")
    (tmp_path / "other.pem").write_bytes(Path(other["distributed.comm.tls.client.key"]).read_bytes())
    (tmp_path / "note.txt").write_text("none")
    given = identity | {f"distributed.comm.tls.{name}": str(tmp_path / file) for name, file in changed.items()}
    with dask.config.set(given), pytest.raises(ConfigError, match=message):
        check_certificates("tls://127.0.0.1:1")
