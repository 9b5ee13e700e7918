"""Certificates of a private authority, as people make them with OpenSSL, and the strictness of Python 3.13."""

from __future__ import annotations

import ipaddress
import ssl
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID


def certificate(folder: Path, *, with_key_usage: bool) -> tuple[ssl.SSLContext, str]:
    """A server's context and the file of its authority; without key usage, as ``openssl req -x509`` makes it."""
    now, authority_key, key = (
        datetime.now(UTC),
        ec.generate_private_key(ec.SECP256R1()),
        ec.generate_private_key(ec.SECP256R1()),
    )
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "private authority")])
    usage = x509.KeyUsage(False, False, False, False, False, True, True, False, False)

    def build(subject: x509.Name, public: ec.EllipticCurvePublicKey) -> x509.CertificateBuilder:
        return (
            x509.CertificateBuilder()
            .subject_name(subject)
            .issuer_name(name)
            .public_key(public)
            .serial_number(x509.random_serial_number())
            .not_valid_before(now - timedelta(days=1))
            .not_valid_after(now + timedelta(days=1))
            .add_extension(x509.AuthorityKeyIdentifier.from_issuer_public_key(authority_key.public_key()), False)
            .add_extension(x509.SubjectKeyIdentifier.from_public_key(public), False)
        )

    root = build(name, authority_key.public_key()).add_extension(x509.BasicConstraints(True, None), True)
    if with_key_usage:
        root = root.add_extension(usage, True)
    authority = root.sign(authority_key, hashes.SHA256())
    names = [x509.IPAddress(ipaddress.ip_address("127.0.0.1")), x509.DNSName("s3.test.invalid")]
    address = x509.SubjectAlternativeName(names)
    server = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "s3")])
    signed = build(server, key.public_key()).add_extension(address, False).sign(authority_key, hashes.SHA256())
    pem, private = serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8
    (folder / "ca.crt").write_bytes(authority.public_bytes(pem))
    text = key.private_bytes(pem, private, serialization.NoEncryption()) + signed.public_bytes(pem)
    (folder / "server.pem").write_bytes(text)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(folder / "server.pem")
    return context, str(folder / "ca.crt")


def be_strict(monkeypatch: pytest.MonkeyPatch) -> None:
    """Contexts of the standard library are strict, as those of Python 3.13 and later."""
    create = ssl.create_default_context

    def strict(*parts: object, **more: object) -> ssl.SSLContext:
        context = create(*parts, **more)  # type: ignore[arg-type]
        context.verify_flags |= ssl.VERIFY_X509_STRICT
        return context

    monkeypatch.setattr(ssl, "create_default_context", strict)
