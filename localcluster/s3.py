"""A real S3 server for the repository of layers: versitygw over a directory.

``tests/integration/test_localcluster.py`` shows these properties of versitygw v1.8.0: PutObject and
CompleteMultipartUpload honour ``If-None-Match: *`` (412 when the key exists), ranged GET answers 206,
ListMultipartUploads and ListParts serve resumed uploads, and a bucket policy can permit a second user to read only.
"""

from __future__ import annotations

import http.client
import json
import shutil
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any, Protocol, Self, cast

from botocore.config import Config
from botocore.exceptions import ClientError
from botocore.session import get_session

from localcluster.bounded import QUICK_S, run
from localcluster.build import binary
from localcluster.processes import Processes, is_listening, kept_port


@dataclass(frozen=True, slots=True)
class Credentials:
    """An S3 access key and its secret."""

    access_key: str
    secret_key: str


ROOT = Credentials("kigi-publisher", "kigi-publisher-secret")
READER = Credentials("kigi-reader", "kigi-reader-secret")
"""User that ``S3Server.grant_reading`` creates: it can only read, and only buckets granted to it."""
_REGION = "us-east-1"


class _Client(Protocol):
    def put_bucket_policy(self, *, Bucket: str, Policy: str) -> Any: ...

    def close(self) -> None: ...


class S3Server:
    """versitygw with its files in ``directory``; buckets are folders of ``directory/data``. A context manager."""

    def __init__(
        self,
        directory: Path,
        address: str = "127.0.0.1",
        port: int = 0,
        *,
        detached: bool = False,
        versions: bool = False,
    ) -> None:
        """``versions``: buckets may have versioning and object lock."""
        directory.mkdir(parents=True, exist_ok=True)
        self.directory = directory
        self.address = address
        self._versions = directory / "versions" if versions else None
        self.port = port or kept_port(directory / "versitygw.port", address)
        self.processes = Processes(directory, detached=detached)
        self.credentials = ROOT

    @property
    def endpoint(self) -> str:
        """URL of the server."""
        return f"http://{self.address}:{self.port}"

    @property
    def data(self) -> Path:
        """Folder with one folder per bucket, which has the objects as files."""
        return self.directory / "data"

    def start(self) -> Self:
        """Start the server and wait until it listens. Raises StartFailed."""
        for folder in (self.data, self.directory / "iam", self.directory / "meta"):
            folder.mkdir(exist_ok=True)
        versions: list[str | Path] = []
        if self._versions is not None:
            self._versions.mkdir(exist_ok=True)
            versions = [f"--versioning-dir={self._versions}"]
        if not self.processes.is_running("versitygw"):
            command: list[str | Path] = [
                binary("versitygw"),
                f"--port={self.address}:{self.port}",
                f"--access={ROOT.access_key}",
                f"--secret={ROOT.secret_key}",
                f"--iam-dir={self.directory / 'iam'}",
                "--quiet",
                "posix",
                f"--sidecar={self.directory / 'meta'}",
                *versions,
                str(self.data),
            ]
            self.processes.start("versitygw", command)
        self.processes.wait_until("versitygw", lambda: is_listening(self.address, self.port))
        return self

    def stop(self) -> None:
        """Stop the server and keep the buckets."""
        self.processes.stop("versitygw")

    def delete(self) -> None:
        """Stop the server and remove its directory."""
        self.stop()
        shutil.rmtree(self.directory, ignore_errors=True)

    def __enter__(self) -> Self:
        return self.start()

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self.delete()

    def create_bucket(self, name: str) -> str:
        """Create a bucket (a folder, in versitygw's posix backend) and return its name.

        The name needs 3 to 63 characters: the server answers InvalidBucketName to requests for shorter names.
        """
        (self.data / name).mkdir(parents=True, exist_ok=True)
        return name

    def grant_reading(self, bucket: str) -> Credentials:
        """Permit READER, the daemons' user, to list and read ``bucket``; returns its credentials. Idempotent.

        Replaces the bucket's policy. Needs a running server. Raises RuntimeError with the server's error.
        """
        self.create_user(READER)
        client = self._client()
        principal = {"AWS": [READER.access_key]}
        of_bucket = {"Action": "s3:ListBucket", "Resource": f"arn:aws:s3:::{bucket}"}
        of_objects = {"Action": "s3:GetObject", "Resource": f"arn:aws:s3:::{bucket}/*"}
        statements = [{"Effect": "Allow", "Principal": principal, **each} for each in (of_bucket, of_objects)]
        try:
            client.put_bucket_policy(
                Bucket=bucket, Policy=json.dumps({"Version": "2012-10-17", "Statement": statements})
            )
        except ClientError as error:
            raise RuntimeError(f"policy of bucket {bucket}: {error}") from error
        finally:
            client.close()
        return READER

    def create_user(self, user: Credentials) -> None:
        """Create a user without rights. Idempotent. Raises RuntimeError with the server's error."""
        created = [f"--access={user.access_key}", f"--secret={user.secret_key}", "--role=user"]
        server = [f"--access={ROOT.access_key}", f"--secret={ROOT.secret_key}", f"--endpoint-url={self.endpoint}"]
        command = [str(binary("versitygw")), "admin", *server, "create-user", *created]
        done = run(command, timeout_s=QUICK_S, check=False)
        if done.returncode and "XAdminUserExists" not in done.stderr:
            raise RuntimeError(f"versitygw admin create-user {user.access_key}: {done.stderr.strip()}")

    def _client(self) -> _Client:
        # botocore's stubs have no type for the client of a service; the protocol has the methods used here.
        client: object = get_session().create_client(
            "s3",
            region_name=_REGION,
            endpoint_url=self.endpoint,
            aws_access_key_id=ROOT.access_key,
            aws_secret_access_key=ROOT.secret_key,
            config=Config(s3={"addressing_style": "path"}),
        )
        return cast(_Client, client)

    def is_healthy(self) -> bool:
        """Whether the server answers an HTTP request."""
        connection = http.client.HTTPConnection(self.address, self.port, timeout=2)
        try:
            connection.request("GET", "/")
            return connection.getresponse().status in (200, 403)
        except OSError:
            return False
        finally:
            connection.close()
