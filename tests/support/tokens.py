"""ServiceAccount tokens as an API server signs them, and everything that is wrong with others."""

from __future__ import annotations

import json
from typing import Any

import jwt
from cryptography.hazmat.primitives.asymmetric import ec

ISSUER = "https://kubernetes.default.svc"
ACCOUNT = "system:serviceaccount:kigi-system:kigi-node-cache"
AUDIENCE = "kigi-peer"


class Issuer:
    """Signs tokens with one key, and publishes it."""

    def __init__(self, name: str = "k1", issuer: str = ISSUER) -> None:
        self.name, self.issuer = name, issuer
        self.key = ec.generate_private_key(ec.SECP256R1())

    def token(self, pod: str = "a", *, header: dict[str, Any] | None = None, **changes: Any) -> str:
        """A daemon's token; ``changes`` replace claims, and None removes one."""
        claims = {
            "iss": self.issuer,
            "sub": ACCOUNT,
            "aud": [AUDIENCE],
            "iat": 0,
            "exp": 2**33,
            "kubernetes.io": {"namespace": "kigi-system", "pod": {"name": pod, "uid": f"uid-{pod}"}},
            **changes,
        }
        claims = {name: value for name, value in claims.items() if value is not None}
        return jwt.encode(claims, self.key, "ES256", headers={"kid": self.name, **(header or {})})

    @property
    def keys(self) -> dict[str, Any]:
        """Its JSON Web Key Set."""
        public = json.loads(jwt.algorithms.ECAlgorithm.to_jwk(self.key.public_key()))
        return {"keys": [{**public, "kid": self.name, "alg": "ES256", "use": "sig"}]}


def forgeries(real: Issuer) -> dict[str, str]:
    """Tokens that must cost the API server nothing."""
    stranger = Issuer(real.name, real.issuer)
    head, body, signature = real.token().split(".")
    return {
        "garbage": "x" * 100,
        "dots": ".." * 8,
        "not-base64": "a.b.c",
        "unsigned": jwt.encode(jwt.decode(real.token(), options={"verify_signature": False}), None, "none"),
        "no-signature": f"{head}.{body}.",
        "cut": real.token()[:-4],
        "another-key": stranger.token(),
        "another-key-name": stranger.token(header={"kid": "k9"}),
        "symmetric": jwt.encode({"iss": ISSUER, "sub": ACCOUNT, "aud": [AUDIENCE], "exp": 2**33}, "x" * 32, "HS256"),
        "another-account": real.token(sub="system:serviceaccount:tenant:kigi-node-cache"),
        "another-audience": real.token(aud=["https://kubernetes.default.svc"]),
        "audience-in-text": real.token(aud=f"x {AUDIENCE}"),
        "no-audience": real.token(aud=None),
        "another-issuer": real.token(iss="https://elsewhere"),
        "expired": real.token(exp=1),
        "no-expiry": real.token(exp=None),
        "expiry-in-words": real.token(exp="never"),
        "body-of-another": f"{head}.{stranger.token('b').split('.')[1]}.{signature}",
    }
