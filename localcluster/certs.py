"""Certificates and kubeconfigs of a control plane, issued by a local certificate authority."""

from __future__ import annotations

import base64
import ipaddress
import json
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

_VALIDITY = timedelta(days=365)


@dataclass(frozen=True, slots=True)
class Pair:
    """Paths of a certificate (or public key) and of its private key."""

    certificate: Path
    key: Path


class Authority:
    """A certificate authority with its files in ``directory``; created on first use, loaded afterwards."""

    def __init__(self, directory: Path, name: str = "ca") -> None:
        directory.mkdir(parents=True, exist_ok=True)
        self.directory = directory
        self.pair = Pair(directory / f"{name}.crt", directory / f"{name}.key")
        if not self.pair.certificate.exists():
            self._create(name)
        self._certificate = x509.load_pem_x509_certificate(self.pair.certificate.read_bytes())
        key = serialization.load_pem_private_key(self.pair.key.read_bytes(), None)
        assert isinstance(key, ec.EllipticCurvePrivateKey)
        self._key = key

    def issue(self, name: str, common_name: str, organizations: Sequence[str] = (), hosts: Sequence[str] = ()) -> Pair:
        """Certificate for a client and, with ``hosts`` (names or addresses), a server; issued once per ``name``."""
        pair = Pair(self.directory / f"{name}.crt", self.directory / f"{name}.key")
        if pair.certificate.exists():
            return pair
        key = ec.generate_private_key(ec.SECP256R1())
        attributes = [x509.NameAttribute(NameOID.COMMON_NAME, common_name)]
        attributes += [x509.NameAttribute(NameOID.ORGANIZATION_NAME, text) for text in organizations]
        usages = [ExtendedKeyUsageOID.CLIENT_AUTH, ExtendedKeyUsageOID.SERVER_AUTH]
        builder = _builder(x509.Name(attributes), self._certificate.subject, key.public_key())
        builder = builder.add_extension(x509.ExtendedKeyUsage(usages), critical=False)
        # Python 3.13 and OpenSSL's strict mode refuse a certificate without the identifier of its authority's key.
        issuer = x509.AuthorityKeyIdentifier.from_issuer_public_key(self._key.public_key())
        builder = builder.add_extension(issuer, critical=False)
        if hosts:
            names = x509.SubjectAlternativeName([_general_name(host) for host in hosts])
            builder = builder.add_extension(names, critical=False)
        _write_key(pair.key, key)
        pair.certificate.write_bytes(_pem(builder.sign(self._key, hashes.SHA256())))
        return pair

    def kubeconfig(self, name: str, server: str, common_name: str, organizations: Sequence[str] = ()) -> Path:
        """A kubeconfig with a client certificate; rewritten at each call, as the server's port may have changed."""
        pair = self.issue(name, common_name, organizations)
        user = {
            "client-certificate-data": _base64(pair.certificate.read_bytes()),
            "client-key-data": _base64(pair.key.read_bytes()),
        }
        return write_kubeconfig(self.directory / f"{name}.kubeconfig", server, self.pair.certificate, user)

    def _create(self, name: str) -> None:
        key = ec.generate_private_key(ec.SECP256R1())
        subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, f"kigi-local-{name}")])
        usage = x509.KeyUsage(
            digital_signature=True,
            content_commitment=False,
            key_encipherment=True,
            data_encipherment=False,
            key_agreement=False,
            key_cert_sign=True,
            crl_sign=True,
            encipher_only=False,
            decipher_only=False,
        )
        builder = _builder(subject, subject, key.public_key())
        builder = builder.add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
        builder = builder.add_extension(usage, critical=True)
        identifier = x509.SubjectKeyIdentifier.from_public_key(key.public_key())
        builder = builder.add_extension(identifier, critical=False)
        _write_key(self.pair.key, key)
        self.pair.certificate.write_bytes(_pem(builder.sign(key, hashes.SHA256())))


def service_account_keys(directory: Path) -> Pair:
    """RSA keys of service account tokens: ``certificate`` (public) verifies them, ``key`` signs them."""
    pair = Pair(directory / "service-account.pub", directory / "service-account.key")
    if not pair.certificate.exists():
        key = rsa.generate_private_key(65537, 2048)
        _write_key(pair.key, key)
        public = serialization.PublicFormat.SubjectPublicKeyInfo
        pair.certificate.write_bytes(key.public_key().public_bytes(serialization.Encoding.PEM, public))
    return pair


def write_kubeconfig(path: Path, server: str, authority: Path, user: dict[str, str]) -> Path:
    """Write a kubeconfig with one cluster and one user; ``user`` has the fields of a kubeconfig's user."""
    cluster = {"server": server, "certificate-authority-data": _base64(authority.read_bytes())}
    config = {
        "apiVersion": "v1",
        "kind": "Config",
        "current-context": "kigi",
        "clusters": [{"name": "kigi", "cluster": cluster}],
        "users": [{"name": "kigi", "user": user}],
        "contexts": [{"name": "kigi", "context": {"cluster": "kigi", "user": "kigi"}}],
    }
    path.touch(mode=0o600)
    path.write_text(json.dumps(config))
    return path


def _builder(subject: x509.Name, issuer: x509.Name, key: ec.EllipticCurvePublicKey) -> x509.CertificateBuilder:
    now = datetime.now(UTC)
    builder = x509.CertificateBuilder().subject_name(subject).issuer_name(issuer).public_key(key)
    builder = builder.serial_number(x509.random_serial_number())
    return builder.not_valid_before(now - timedelta(hours=1)).not_valid_after(now + _VALIDITY)


def _general_name(host: str) -> x509.GeneralName:
    try:
        return x509.IPAddress(ipaddress.ip_address(host))
    except ValueError:
        return x509.DNSName(host)


def _write_key(path: Path, key: ec.EllipticCurvePrivateKey | rsa.RSAPrivateKey) -> None:
    none = serialization.NoEncryption()
    data = key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, none)
    path.touch(mode=0o600)
    path.write_bytes(data)


def _pem(certificate: x509.Certificate) -> bytes:
    return certificate.public_bytes(serialization.Encoding.PEM)


def _base64(data: bytes) -> str:
    return base64.b64encode(data).decode()
