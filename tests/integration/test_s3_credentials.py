"""Temporary credentials: of variables, a profile, a Secret, and a web identity that a security token service exchanges.

The S3 server is a real one; the server before it accepts only the newest session token, as an S3 server does.
"""

from __future__ import annotations

import hashlib
import random
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from urllib.parse import parse_qs, parse_qsl, urlencode, urlsplit

import pytest
from botocore.auth import S3SigV4Auth
from botocore.awsrequest import AWSRequest
from botocore.credentials import Credentials

from kigi.adapters.credentials import EnvironmentKeys
from kigi.adapters.s3 import open_repository
from kigi.adapters.s3_probe import S3Probe
from kigi.api.repositories import Repositories, Repository
from kigi.domain.layers import Chain, digest_of_hex, object_key
from kigi.errors import AccessDenied, RepositoryUnreachable, SpecInvalid
from kigi_cache.captures.uploads import send_layer
from kigi_cache.sources.s3 import S3Source
from localcluster.s3 import ROOT, S3Server
from tests.support.answering import AnsweringServer
from tests.support.aws_environment import nowhere
from tests.support.layers import make_chain, upload
from tests.support.picky_proxy import PickyProxy, Reply, Request, Rule, s3_error
from tests.support.uploads import layer_file, signed

TOKEN = "a/token+with=signs"


@pytest.fixture(autouse=True)
def _environment(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    nowhere(monkeypatch, tmp_path)


class TokenServer:
    """Exchanges web identities for the S3 server's user with a new token each, valid for an hour of ``now``."""

    def __init__(self) -> None:
        self.now = datetime(2026, 1, 1, tzinfo=UTC)
        self.issued = 0
        self.status = 200
        self.server = AnsweringServer(self._reply)

    @property
    def token(self) -> str:
        """The newest."""
        return f"token-{self.issued}"

    def clock(self) -> datetime:
        return self.now

    def _reply(self, method: str, path: str) -> tuple[int, bytes]:
        if self.status != 200:
            return self.status, b"<ErrorResponse><Error><Code>AccessDenied</Code></Error></ErrorResponse>"
        self.issued += 1
        until = (self.now + timedelta(hours=1)).strftime("%Y-%m-%dT%H:%M:%SZ")
        keys = f"<AccessKeyId>{ROOT.access_key}</AccessKeyId><SecretAccessKey>{ROOT.secret_key}</SecretAccessKey>"
        text = (
            '<AssumeRoleWithWebIdentityResponse xmlns="https://sts.amazonaws.com/doc/2011-06-15/">'
            f"<AssumeRoleWithWebIdentityResult><Credentials>{keys}<SessionToken>{self.token}</SessionToken>"
            f"<Expiration>{until}</Expiration></Credentials></AssumeRoleWithWebIdentityResult>"
            "</AssumeRoleWithWebIdentityResponse>"
        )
        return 200, text.encode()


@pytest.fixture
def sts(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[TokenServer]:
    """With the variables that a cluster gives to a pod."""
    (tmp_path / "identity").write_text("a-signed-identity")
    made = TokenServer()
    monkeypatch.setenv("AWS_ROLE_ARN", "arn:aws:iam::123456789012:role/kigi")
    monkeypatch.setenv("AWS_WEB_IDENTITY_TOKEN_FILE", str(tmp_path / "identity"))
    monkeypatch.setenv("AWS_ENDPOINT_URL_STS", made.server.url)
    with made.server:
        yield made


def only_with(newest: Callable[[], str]) -> Rule:
    """A server that accepts only requests with the newest token, which their signature covers.

    The real server knows no tokens: it gets the request without, signed again for its user.
    """

    def rule(request: Request) -> Reply | None:
        signed_names = request.headers.get("authorization", "").partition("SignedHeaders=")[2]
        is_covered = "X-Amz-Security-Token" in request.path or "x-amz-security-token" in signed_names
        if request.token != newest() or not is_covered:
            return s3_error(403, "InvalidToken")
        parts = urlsplit(request.path)
        query = urlencode([pair for pair in parse_qsl(parts.query, True) if not pair[0].startswith("X-Amz-")])
        request.path = f"{parts.path}?{query}" if query else parts.path
        left = ("authorization", "x-amz-date", "x-amz-security-token")
        headers = {name: text for name, text in request.headers.items() if name not in left}
        again = AWSRequest(request.method, f"http://{headers['host']}{request.path}", headers, request.body)
        S3SigV4Auth(Credentials(ROOT.access_key, ROOT.secret_key), "s3", "us-east-1").add_auth(again)
        request.headers = {name.lower(): text for name, text in again.headers.items()}
        return None

    return rule


@pytest.fixture
def chain(s3: S3Server, bucket: str, tmp_path: Path) -> Chain:
    made = make_chain(tmp_path / "src", 1, 2**20)
    upload(s3, bucket, tmp_path / "src", made)
    return made


def read(source: S3Source, chain: Chain) -> int:
    return sum(len(piece) for layer in chain for piece in source.read(layer, 0))


VARIABLES = {"AWS_ACCESS_KEY_ID": ROOT.access_key, "AWS_SECRET_ACCESS_KEY": ROOT.secret_key, "AWS_SESSION_TOKEN": TOKEN}
PROFILE = (
    f"[team]\naws_access_key_id = {ROOT.access_key}\naws_secret_access_key = {ROOT.secret_key}\n"
    f"aws_session_token = {TOKEN}\n"
)


@pytest.mark.parametrize("way", ["variables", "profile", "profile beside empty variables", "settings"])
async def test_a_token_is_sent_by_every_program(
    s3: S3Server, bucket: str, chain: Chain, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, way: str
) -> None:
    variables: dict[str, str] = {}
    settings: dict[str, str] = {}
    if way == "variables":
        variables = VARIABLES
    elif way == "settings":
        settings = {"accessKeyId": ROOT.access_key, "secretAccessKey": ROOT.secret_key, "sessionToken": TOKEN}
    else:
        (tmp_path / "credentials").write_text(PROFILE)
        variables = {"AWS_PROFILE": "team"}
        if way != "profile":
            variables |= dict.fromkeys(VARIABLES, "")
    for name, text in variables.items():
        monkeypatch.setenv(name, text)
    with PickyProxy(s3.endpoint, only_with(lambda: TOKEN)) as proxy:
        repository = Repository.model_validate({"endpoint": proxy.endpoint, "bucket": bucket, **settings})
        source = S3Source(Repositories(repositories={"default": repository}), variables)
        assert read(source, chain) == sum(layer.size_bytes for layer in chain)
        source.close()
        await S3Probe(environment=variables).read(repository, None)
        async with open_repository(repository, variables) as store:
            assert await store.size_of(chain[0].digest) == chain[0].size_bytes
        assert len(proxy.asked) >= 3


async def test_a_signed_upload_has_the_token(s3: S3Server, bucket: str, tmp_path: Path) -> None:
    layer = layer_file(tmp_path, random.Random(3).randbytes(10_000))
    with PickyProxy(s3.endpoint, only_with(lambda: TOKEN)) as proxy:
        writer = Repository(
            endpoint=proxy.endpoint,
            bucket=bucket,
            access_key_id=ROOT.access_key,
            secret_access_key=ROOT.secret_key,
            session_token=TOKEN,
        )
        request = signed(writer, layer.digest, layer.size_bytes)
        assert await send_layer(layer, request, None, lambda count: None) is True
        old = signed(writer.model_copy(update={"session_token": "old"}), layer.digest, layer.size_bytes)
        with pytest.raises(AccessDenied, match="InvalidToken; renew the key sessionToken"):
            await send_layer(layer, old, None, lambda count: None)
    assert (s3.data / bucket / object_key(layer.digest)).is_file()


def test_the_daemon_renews_a_web_identity_before_it_ends(
    s3: S3Server, bucket: str, chain: Chain, sts: TokenServer
) -> None:
    keys = EnvironmentKeys(sts.clock)
    with PickyProxy(s3.endpoint, only_with(lambda: sts.token)) as proxy:
        repository = Repository(endpoint=proxy.endpoint, bucket=bucket)
        source = S3Source(Repositories(repositories={"default": repository}), {}, keys=keys)
        for minutes, issued in ((0, 1), (10, 1), (40, 2), (20, 2), (30, 3)):
            sts.now += timedelta(minutes=minutes)
            read(source, chain)
            assert sts.issued == issued, "15 minutes before its end"
        sts.now += timedelta(minutes=47)
        sts.status = 503
        read(source, chain)  # the service does not answer, and the token is still valid
        sts.now += timedelta(minutes=5)
        with pytest.raises(RepositoryUnreachable):
            read(source, chain)
        sts.status = 200
        read(source, chain)
        source.close()
    (asked, *_) = sts.server.asked
    sent = parse_qs(asked[3].decode())
    assert sent["Action"] == ["AssumeRoleWithWebIdentity"]
    assert sent["WebIdentityToken"] == ["a-signed-identity"]


async def test_command_line_and_operator_use_a_web_identity(
    s3: S3Server, bucket: str, tmp_path: Path, sts: TokenServer
) -> None:
    path = tmp_path / "layer"
    path.write_bytes(random.Random(4).randbytes(50_000))
    digest = digest_of_hex(hashlib.sha256(path.read_bytes()).hexdigest())
    sts.now = datetime.now(UTC)
    with PickyProxy(s3.endpoint, only_with(lambda: sts.token)) as proxy:
        repository = Repository(endpoint=proxy.endpoint, bucket=bucket)
        async with open_repository(repository, {}) as store:
            assert await store.publish(path, digest) is True
        await S3Probe(environment={}, keys=EnvironmentKeys()).read(repository, None)
    assert sts.issued == 2


def test_a_role_that_does_not_trust_the_identity_is_an_error_for_a_person(sts: TokenServer, tmp_path: Path) -> None:
    sts.status = 403
    with pytest.raises(AccessDenied, match="correct AWS_ROLE_ARN, or the role's trust"):
        EnvironmentKeys().get()
    sts.status = 200
    (tmp_path / "identity").unlink()
    with pytest.raises(SpecInvalid, match="AWS_WEB_IDENTITY_TOKEN_FILE must name a readable file"):
        EnvironmentKeys().get()


async def test_what_is_missing_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    repository = Repository(endpoint="http://127.0.0.1:9", bucket="kigi")
    for variables in ({}, {"AWS_PROFILE": "absent"}):
        for name, text in variables.items():
            monkeypatch.setenv(name, text)
        with pytest.raises(SpecInvalid, match="AWS_ACCESS_KEY_ID"):
            EnvironmentKeys().get()
        with pytest.raises(SpecInvalid, match="AWS_ACCESS_KEY_ID"):
            async with open_repository(repository, variables):
                pass
