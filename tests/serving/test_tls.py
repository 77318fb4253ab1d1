"""The service with TLS: the page and a request through it, and no other client than one that knows
its authority."""

import datetime as dt
import ipaddress
import ssl
import subprocess
import sys
from pathlib import Path

import httpx2
import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

from fertiray.bench.chaos.service import Service, free_port
from fertiray.client import Client
from fertiray.errors import InputError


@pytest.fixture(scope="module")
def certificate(tmp_path_factory) -> tuple[Path, Path]:
    """A certificate for 127.0.0.1 that signs itself, and its key."""
    folder = tmp_path_factory.mktemp("tls")
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "clinic")])
    now = dt.datetime.now(dt.UTC)
    made = (
        x509.CertificateBuilder(name, name, key.public_key(), 7)
        .not_valid_before(now - dt.timedelta(hours=1))
        .not_valid_after(now + dt.timedelta(days=1))
        .add_extension(
            x509.SubjectAlternativeName([x509.IPAddress(ipaddress.ip_address("127.0.0.1"))]), False
        )
        .add_extension(x509.BasicConstraints(ca=True, path_length=None), True)
        .sign(key, hashes.SHA256())
    )
    cert, private = folder / "cert.pem", folder / "key.pem"
    cert.write_bytes(made.public_bytes(serialization.Encoding.PEM))
    private.write_bytes(
        key.private_bytes(
            serialization.Encoding.PEM,
            serialization.PrivateFormat.PKCS8,
            serialization.NoEncryption(),
        )
    )
    return cert, private


@pytest.mark.parametrize(
    "options",
    [
        pytest.param(["--local"], id="local"),
        pytest.param([], id="ray", marks=[pytest.mark.ray, pytest.mark.slow]),
    ],
)
def test_tls(options, certificate, zona_checkpoint, tmp_path):
    cert, key = certificate
    tls = ("--tls-cert", str(cert), "--tls-key", str(key))
    service = Service(tmp_path, zona_checkpoint, *options, *tls, ca=str(cert))
    service.start()
    try:
        assert service.url.startswith("https://127.0.0.1:")
        assert service.client.models()[0]["id"].startswith("zona@")
        known = ssl.create_default_context(cafile=str(cert))
        page = httpx2.get(f"{service.url}/", verify=known)
        assert page.status_code == 200
        assert "strict-transport-security" in page.headers
        with pytest.raises(InputError, match=r"certificate verify failed.*ca"):
            Client(service.url, service.token).models()
    finally:
        service.stop()


@pytest.mark.parametrize("half", ["--tls-cert", "--tls-key"])
def test_half_a_pair_is_refused(half, certificate, zona_checkpoint, tmp_path):
    service = Service(tmp_path, zona_checkpoint)  # makes the tokens
    done = subprocess.run(
        [
            *(sys.executable, "-m", "fertiray", "serve", "--local", "--checkpoint"),
            *(zona_checkpoint, half, str(certificate[0]), "--port", str(free_port())),
            *("--state", str(tmp_path / "state"), "--tokens", str(tmp_path / "tokens.json")),
        ],
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert done.returncode == 2
    assert "--tls-cert and --tls-key: give both, or neither" in done.stderr
    assert service.process is None
