"""A pod's service account files, and a simulated API server that accepts one token and has one certificate."""

from __future__ import annotations

import datetime
import ipaddress
import ssl
from collections.abc import Awaitable, Callable
from pathlib import Path

import pytest
from aiohttp import web
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID
from kubernetes.aio.config import incluster_config

Answer = Callable[[web.Request], Awaitable[web.StreamResponse]]


class Authority:
    """A CA with one server certificate for 127.0.0.1."""

    def __init__(self, name: str) -> None:
        key, server_key = ec.generate_private_key(ec.SECP256R1()), ec.generate_private_key(ec.SECP256R1())
        subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])
        address = x509.SubjectAlternativeName([x509.IPAddress(ipaddress.ip_address("127.0.0.1"))])
        ca_id = x509.SubjectKeyIdentifier.from_public_key(key.public_key())
        usage = x509.KeyUsage(True, False, False, False, False, True, True, False, False)
        ca = (
            _builder(subject, subject, key)
            .add_extension(x509.BasicConstraints(True, None), critical=True)
            .add_extension(usage, critical=True)
            .add_extension(ca_id, critical=False)
            .sign(key, hashes.SHA256())
        )
        common = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "server")])
        server = (
            _builder(common, subject, server_key)
            .add_extension(address, critical=False)
            .add_extension(x509.AuthorityKeyIdentifier.from_issuer_subject_key_identifier(ca_id), critical=False)
            .sign(key, hashes.SHA256())
        )
        self.ca_pem = ca.public_bytes(serialization.Encoding.PEM)
        self._server_pem = server.public_bytes(serialization.Encoding.PEM) + server_key.private_bytes(
            serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
        )

    def context(self, directory: Path) -> ssl.SSLContext:
        """SSL context of a server with this authority's certificate."""
        path = directory / "server.pem"
        path.write_bytes(self._server_pem)
        context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
        context.load_cert_chain(path)
        return context


def _builder(subject: x509.Name, issuer: x509.Name, key: ec.EllipticCurvePrivateKey) -> x509.CertificateBuilder:
    now = datetime.datetime.now(datetime.UTC)
    builder = x509.CertificateBuilder(subject_name=subject, issuer_name=issuer, public_key=key.public_key())
    builder = builder.serial_number(x509.random_serial_number())
    return builder.not_valid_before(now - datetime.timedelta(hours=1)).not_valid_after(now + datetime.timedelta(days=1))


class PodApi:
    """The server, and the files with which a pod connects to it."""

    def __init__(self, directory: Path, answer: Answer) -> None:
        self.directory, self._answer = directory, answer
        self.token = "first"
        """Token that the server accepts."""
        self.refusals = 0
        self.runner: web.AppRunner | None = None
        self.port = 0
        directory.mkdir(exist_ok=True)
        self.write_token("first")

    def write_token(self, text: str) -> None:
        """Write the token into the pod's file, like the kubelet."""
        (self.directory / "token").write_text(text)

    def trust(self, authority: Authority) -> None:
        """Write the CA into the pod's file, like the kubelet after a change of kube-root-ca.crt."""
        (self.directory / "ca.crt").write_bytes(authority.ca_pem)

    async def serve(self, authority: Authority) -> None:
        """Restart the server on the same port with that authority's certificate."""
        await self.close()

        async def handle(request: web.Request) -> web.StreamResponse:
            if request.headers.get("Authorization", "").split(" ")[-1] != self.token:
                self.refusals += 1
                return web.json_response({"kind": "Status", "message": "Unauthorized", "code": 401}, status=401)
            return await self._answer(request)

        app = web.Application()
        app.router.add_route("*", "/{path:.*}", handle)
        self.runner = web.AppRunner(app, access_log=None, shutdown_timeout=0.1)
        await self.runner.setup()
        site = web.TCPSite(
            self.runner, "127.0.0.1", self.port, ssl_context=authority.context(self.directory), reuse_address=True
        )
        await site.start()
        self.port = self.runner.addresses[0][1]

    async def close(self) -> None:
        """Ends the server."""
        if self.runner is not None:
            await self.runner.cleanup()

    def enter(self, monkeypatch: pytest.MonkeyPatch) -> None:
        """Set environment and files so that this process seems to run in a pod of this server's cluster."""
        monkeypatch.setattr(incluster_config, "SERVICE_TOKEN_FILENAME", str(self.directory / "token"))
        monkeypatch.setattr(incluster_config, "SERVICE_CERT_FILENAME", str(self.directory / "ca.crt"))
        monkeypatch.setenv("KUBERNETES_SERVICE_HOST", "127.0.0.1")
        monkeypatch.setenv("KUBERNETES_SERVICE_PORT", str(self.port))
        monkeypatch.delenv("KUBECONFIG", raising=False)
        for name in ("HTTPS_PROXY", "https_proxy", "ALL_PROXY", "all_proxy"):
            monkeypatch.delenv(name, raising=False)
