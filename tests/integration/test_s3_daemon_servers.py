"""A daemon that reads layers from servers and through proxies with a way of their own, before a real S3 server."""

from __future__ import annotations

import ssl
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from kigi.adapters.s3 import open_repository
from kigi.adapters.s3_probe import S3Probe
from kigi.api.repositories import Repositories, Repository
from kigi.domain.layers import Chain
from kigi.domain.repository_points import WRITE_KEY
from kigi.errors import AccessDenied, LayerNotInRepository, RepositoryMisconfigured, RepositoryUnreachable
from kigi_cache.captures.uploads import send_layer
from kigi_cache.sources import s3 as s3_module
from kigi_cache.sources.s3 import S3Source
from localcluster.s3 import S3Server
from tests.support.aws_environment import nowhere
from tests.support.layers import environment, make_chain, upload
from tests.support.picky_proxy import PickyProxy, Reply, Request, s3_error
from tests.support.private_authority import be_strict, certificate
from tests.support.uploads import layer_file, signed, writer_of


@pytest.fixture(autouse=True)
def _environment(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    nowhere(monkeypatch, tmp_path)
    monkeypatch.setattr(s3_module, "MAX_ATTEMPTS", 1)


@pytest.fixture
def chain(s3: S3Server, bucket: str, tmp_path: Path) -> Chain:
    """Layers of more than two ranges, in the bucket."""
    made = make_chain(tmp_path / "src", 2, 20 * 2**20)
    upload(s3, bucket, tmp_path / "src", made)
    return made


@contextmanager
def source(
    s3: S3Server, endpoint: str, bucket: str, ca_file: str | None = None, **variables: str
) -> Iterator[S3Source]:
    repository = Repository(endpoint=endpoint, bucket=bucket, ca_file=ca_file)
    made = S3Source(Repositories(repositories={"default": repository}), {**environment(s3), **variables}, connections=4)
    try:
        yield made
    finally:
        made.close()


def fetch(reader: S3Source, chain: Chain, folder: Path) -> None:
    """Reads all layers and compares them with the files."""
    for layer in chain:
        content = b"".join(bytes(piece) for piece in reader.read(layer, 0))
        (path,) = folder.glob(f"*{layer.digest.removeprefix('sha256:')}*")
        assert content == path.read_bytes()


# R1: a user without the right to list the bucket.


def test_a_missing_layer_is_not_reported_as_bad_credentials(
    s3: S3Server, bucket: str, chain: Chain, tmp_path: Path
) -> None:
    def rule(request: Request) -> Reply | None:
        return None if (s3.data / bucket / request.key).is_file() else s3_error(403, "AccessDenied")

    (missing,) = make_chain(tmp_path / "missing", 1, seed=5)
    with PickyProxy(s3.endpoint, rule) as proxy, source(s3, proxy.endpoint, bucket) as reader:
        fetch(reader, chain, tmp_path / "src")
        with pytest.raises(AccessDenied, match=r"or they lack ListBucket, and layer .* is not stored"):
            list(reader.read(missing, 0))
        (s3.data / bucket / WRITE_KEY).touch()
        with pytest.raises(LayerNotInRepository, match=f"has no layer {missing.digest}"):
            list(reader.read(missing, 0))


def test_credentials_that_read_nothing_are_reported(s3: S3Server, bucket: str, chain: Chain) -> None:
    (s3.data / bucket / WRITE_KEY).touch()
    with (
        PickyProxy(s3.endpoint, lambda request: s3_error(403, "AccessDenied")) as proxy,
        source(s3, proxy.endpoint, bucket) as reader,
        pytest.raises(AccessDenied),
    ):
        list(reader.read(chain[0], 0))


# R4: the region.


@pytest.mark.parametrize(
    "reply",
    [
        lambda: s3_error(400, "AuthorizationQueryParametersError", "<Region>us-east-1</Region>"),
        lambda: s3_error(301, "PermanentRedirect", **{"x-amz-bucket-region": "us-east-1"}),
        lambda: Reply(
            400, b"<Error><Code>AuthorizationHeaderMalformed</Code><Message>expecting 'us-east-1'</Message></Error>"
        ),
    ],
    ids=["400", "301", "message"],
)
def test_the_region_of_the_answer_is_used_by_all_connections(
    s3: S3Server, bucket: str, chain: Chain, tmp_path: Path, reply: Callable[[], Reply]
) -> None:
    def rule(request: Request) -> Reply | None:
        return None if request.region == "us-east-1" else reply()

    with PickyProxy(s3.endpoint, rule) as proxy, source(s3, proxy.endpoint, bucket, AWS_REGION="eu-west-1") as reader:
        fetch(reader, chain, tmp_path / "src")
        asked = [request.region for request in proxy.asked]
        assert asked[0] == "eu-west-1"
        assert asked.count("eu-west-1") <= 4, "each connection asks at most once"
        fetch(reader, chain, tmp_path / "src")
        assert "eu-west-1" not in [request.region for request in proxy.asked[len(asked) :]]


def test_the_real_server_names_its_region(s3: S3Server, bucket: str, chain: Chain, tmp_path: Path) -> None:
    with source(s3, s3.endpoint, bucket, AWS_REGION="eu-west-1") as reader:
        fetch(reader, chain, tmp_path / "src")


def test_a_region_that_is_not_named_is_an_error_for_a_person(s3: S3Server, bucket: str, chain: Chain) -> None:
    for reply in (
        s3_error(400, "AuthorizationHeaderMalformed"),
        s3_error(400, "AuthorizationHeaderMalformed", "<Region>eu-central-1</Region>"),
        s3_error(301, "PermanentRedirect", "<Endpoint>s3.eu-central-1.example</Endpoint>"),
    ):
        with (
            PickyProxy(s3.endpoint, lambda request, reply=reply: reply) as proxy,  # type: ignore[misc]
            source(s3, proxy.endpoint, bucket) as reader,
            pytest.raises(RepositoryMisconfigured, match=r"spec\.s3\.(region|endpoint)"),
        ):
            list(reader.read(chain[0], 0))
        assert len(proxy.asked) <= 2 * 4


# R7: proxies.


def behind(server: str) -> str:
    """The server under a name that only the proxy knows."""
    return server.replace("127.0.0.1", "s3.test.invalid")


def test_a_proxy_of_the_environment_is_used_for_https_and_http(
    s3: S3Server, bucket: str, chain: Chain, tmp_path: Path
) -> None:
    tls, ca_file = certificate(tmp_path, with_key_usage=True)
    with PickyProxy(s3.endpoint, tls=tls) as server, PickyProxy(s3.endpoint) as proxy:
        user = proxy.endpoint.replace("http://", "http://me:secret@")
        with source(s3, behind(server.endpoint), bucket, ca_file, HTTPS_PROXY=user) as reader:
            fetch(reader, chain, tmp_path / "src")
        at = behind(server.endpoint).removeprefix("https://")
        assert set(proxy.tunnels) == {(at, "Basic bWU6c2VjcmV0")}
        proxy.tunnels.clear()
        with source(s3, behind(s3.endpoint), bucket, http_proxy=user) as reader:
            fetch(reader, chain, tmp_path / "src")
        assert set(proxy.forwarded) == {(behind(s3.endpoint).removeprefix("http://"), "Basic bWU6c2VjcmV0")}
        assert proxy.tunnels == []
        with (
            source(s3, behind(server.endpoint), bucket, ca_file, HTTPS_PROXY=user, NO_PROXY=".test.invalid") as reader,
            pytest.raises(RepositoryUnreachable),
        ):
            list(reader.read(chain[0], 0))
        assert proxy.tunnels == [], "no name server knows the name"


@pytest.mark.parametrize(("status", "words"), [(407, "requires a user"), (403, r"refuses the connection \(403\)")])
def test_a_proxy_that_refuses_is_an_error_for_a_person(
    s3: S3Server, bucket: str, chain: Chain, status: int, words: str
) -> None:
    server = "https://s3.test.invalid:9"
    with PickyProxy(s3.endpoint, lambda request: Reply(407)) as proxy:
        for answered, kind, text in ((status, RepositoryMisconfigured, words), (502, RepositoryUnreachable, "502")):
            proxy.tunnel_status = answered
            with source(s3, server, bucket, HTTPS_PROXY=proxy.endpoint) as reader, pytest.raises(kind, match=text):
                list(reader.read(chain[0], 0))
        with (
            source(s3, behind(s3.endpoint), bucket, HTTP_PROXY=proxy.endpoint) as reader,
            pytest.raises(RepositoryMisconfigured, match="requires a user"),
        ):
            list(reader.read(chain[0], 0))


async def test_operator_publisher_and_command_line_use_the_proxy_too(
    s3: S3Server, bucket: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    tls, ca_file = certificate(tmp_path, with_key_usage=True)
    with PickyProxy(s3.endpoint, tls=tls) as server, PickyProxy(s3.endpoint) as proxy:
        writer = writer_of(s3, bucket).model_copy(update={"endpoint": behind(server.endpoint), "ca_file": ca_file})
        variables = {"HTTPS_PROXY": proxy.endpoint}
        probe = S3Probe(environment=variables)
        await probe.read(writer, Path(ca_file).read_text())
        assert len(proxy.tunnels) == 1
        monkeypatch.setenv("HTTPS_PROXY", proxy.endpoint)
        layer = layer_file(tmp_path, b"x" * 1000)
        request = signed(writer, layer.digest, layer.size_bytes)
        assert await send_layer(layer, request, ca_file, lambda count: None) is True
        assert len(proxy.tunnels) == 2
        async with open_repository(writer, variables) as store:
            assert await store.size_of(layer.digest) == 1000
        assert len(proxy.tunnels) == 3
        proxy.tunnel_status = 407
        words = "HTTPS_PROXY as http://USER:PASSWORD@HOST:PORT"
        with pytest.raises(RepositoryMisconfigured, match=words):
            await probe.read(writer, Path(ca_file).read_text())
        with pytest.raises(RepositoryMisconfigured, match=words):
            await send_layer(layer, request, ca_file, lambda count: None)
        async with open_repository(writer, variables) as store:
            with pytest.raises(RepositoryMisconfigured, match="HTTPS_PROXY"):
                await store.size_of(layer.digest)


# R8: private authorities.


@pytest.fixture(name="as_python_3_13")
def _as_python_3_13(monkeypatch: pytest.MonkeyPatch) -> None:
    be_strict(monkeypatch)


@pytest.mark.usefixtures("as_python_3_13")
async def test_an_authority_without_key_usage_is_accepted(
    s3: S3Server, bucket: str, chain: Chain, tmp_path: Path
) -> None:
    tls, ca_file = certificate(tmp_path, with_key_usage=False)
    with PickyProxy(s3.endpoint, tls=tls) as server:
        with pytest.raises(ssl.SSLCertVerificationError, match="key usage"):
            _handshake(server.endpoint, ssl.create_default_context(cafile=ca_file))
        with source(s3, server.endpoint, bucket, ca_file) as reader:
            fetch(reader, chain, tmp_path / "src")
        repository = Repository(endpoint=server.endpoint, bucket=bucket)
        await S3Probe(environment=environment(s3)).read(repository, Path(ca_file).read_text())


def _handshake(endpoint: str, context: ssl.SSLContext) -> None:
    import socket

    host, _, port = endpoint.removeprefix("https://").partition(":")
    with socket.create_connection((host, int(port)), timeout=10) as sock:
        context.wrap_socket(sock, server_hostname=host).close()


async def test_a_certificate_that_is_refused_is_an_error_in_openssls_words(
    s3: S3Server, bucket: str, chain: Chain, tmp_path: Path
) -> None:
    tls, _ = certificate(tmp_path, with_key_usage=True)
    words = r"certificate is refused: unable to get local issuer certificate; put the PEM .* into the key ca\.crt"
    with PickyProxy(s3.endpoint, tls=tls) as server:
        with source(s3, server.endpoint, bucket) as reader, pytest.raises(RepositoryMisconfigured, match=words):
            list(reader.read(chain[0], 0))
        with pytest.raises(RepositoryMisconfigured, match=words):
            await S3Probe(environment=environment(s3)).read(Repository(endpoint=server.endpoint, bucket=bucket), None)
        named = server.endpoint.replace("127.0.0.1", "localhost")
        with (
            source(s3, named, bucket, str(tmp_path / "ca.crt")) as reader,
            pytest.raises(RepositoryMisconfigured, match="use a name of the certificate as the endpoint"),
        ):
            list(reader.read(chain[0], 0))
