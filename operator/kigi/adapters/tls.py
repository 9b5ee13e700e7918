"""TLS settings for servers with a private authority, and what a refused certificate means."""

from __future__ import annotations

import ssl

from kigi.errors import RepositoryMisconfigured


def tls_context(*, ca_file: str | None = None, ca_data: str | None = None) -> ssl.SSLContext:
    """Verifies with these authorities (PEM), or with the system's. Raises OSError and ssl.SSLError for bad PEM.

    Python 3.13 turns on OpenSSL's strict mode, which refuses an authority without the extension keyUsage, such as one
    that ``openssl req -x509`` makes. Other programs on the same machine accept it, and its key vouches for the server
    all the same: the mode is off here.
    """
    context = ssl.create_default_context(cafile=ca_file, cadata=ca_data)
    return lenient(context)


def lenient(context: ssl.SSLContext) -> ssl.SSLContext:
    """The context, without the strict mode of Python 3.13 and later."""
    context.verify_flags &= ~ssl.VERIFY_X509_STRICT
    return context


def verification_error(exc: BaseException | None) -> ssl.SSLCertVerificationError | None:
    """The refused certificate behind an error of a library, if it is that."""
    seen: set[int] = set()
    while exc is not None and id(exc) not in seen:
        seen.add(id(exc))
        # aiohttp's error is a subclass of OpenSSL's, without its words.
        named = getattr(exc, "certificate_error", None) or getattr(exc, "os_error", None)
        if named is None and isinstance(exc, ssl.SSLCertVerificationError):
            return exc
        kwargs = getattr(exc, "kwargs", None)
        if named is None and isinstance(kwargs, dict):
            named = kwargs.get("error")
        exc = named if isinstance(named, BaseException) else exc.__cause__ or exc.__context__
    return None


def refused_certificate(where: str, exc: ssl.SSLCertVerificationError) -> RepositoryMisconfigured:
    """The error for a server whose certificate OpenSSL refuses; it has OpenSSL's words."""
    words = exc.verify_message or exc.reason or str(exc)
    lowered = words.lower()
    if "mismatch" in lowered:
        remedy = "use a name of the certificate as the endpoint, or give the server another certificate"
    elif "expired" in lowered or "not yet valid" in lowered:
        remedy = "renew it, or correct this machine's clock"
    else:
        remedy = (
            "put the PEM of the authority that issued it into the key ca.crt of spec.s3.caBundleRef, or, beside "
            "KIGI_S3_ENDPOINT, into the file that AWS_CA_BUNDLE names"
        )
    return RepositoryMisconfigured(f"{where}: the server's certificate is refused: {words.rstrip('.')}; {remedy}")
