"""A real S3 server, versitygw over a directory, for the repository of layers.

Seen with versitygw v1.8.0: PutObject and CompleteMultipartUpload honour ``If-None-Match: *`` (412 when the key
exists), ranged GET answers 206, ListMultipartUploads and ListParts serve resumed uploads, and a bucket policy lets a
second user read and not write. ``tests/integration/test_localcluster.py`` shows each.
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
"""Of the user that ``S3Server.grant_reading`` makes: reads the buckets granted to it, and nothing else."""
_REGION = "us-east-1"


class _Client(Protocol):
    def put_bucket_policy(self, *, Bucket: str, Policy: str) -> Any: ...

    def close(self) -> None: ...


class S3Server:
    """versitygw below ``directory``; buckets are the folders of ``directory/data``. A context manager for tests."""

    def __init__(self, directory: Path, address: str = "127.0.0.1", port: int = 0, *, detached: bool = False) -> None:
        directory.mkdir(parents=True, exist_ok=True)
        self.directory = directory
        self.address = address
        self.port = port or kept_port(directory / "versitygw.port", address)
        self.processes = Processes(directory, detached=detached)
        self.credentials = ROOT

    @property
    def endpoint(self) -> str:
        """URL of the server."""
        return f"http://{self.address}:{self.port}"

    @property
    def data(self) -> Path:
        """Folder with one folder per bucket, the objects as files in it."""
        return self.directory / "data"

    def start(self) -> Self:
        """Start it; returns when it listens. Raises StartFailed."""
        for folder in (self.data, self.directory / "iam", self.directory / "meta"):
            folder.mkdir(exist_ok=True)
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
                str(self.data),
            ]
            self.processes.start("versitygw", command)
        self.processes.wait_until("versitygw", lambda: is_listening(self.address, self.port))
        return self

    def stop(self) -> None:
        """Stop it; the buckets stay."""
        self.processes.stop("versitygw")

    def delete(self) -> None:
        """Stop it and remove its directory."""
        self.stop()
        shutil.rmtree(self.directory, ignore_errors=True)

    def __enter__(self) -> Self:
        return self.start()

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self.delete()

    def create_bucket(self, name: str) -> str:
        """Make a bucket (a folder, as the posix backend has it) and give its name back.

        3 to 63 characters: the server answers requests for shorter names with InvalidBucketName.
        """
        (self.data / name).mkdir(parents=True, exist_ok=True)
        return name

    def grant_reading(self, bucket: str) -> Credentials:
        """Let READER read and list ``bucket`` and nothing else of it; for daemons. May be called again.

        Replaces the bucket's policy. The server must run. Raises RuntimeError with what the server said.
        """
        self._create_user(READER)
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

    def _create_user(self, user: Credentials) -> None:
        who = [f"--access={user.access_key}", f"--secret={user.secret_key}", "--role=user"]
        server = [f"--access={ROOT.access_key}", f"--secret={ROOT.secret_key}", f"--endpoint-url={self.endpoint}"]
        command = [str(binary("versitygw")), "admin", *server, "create-user", *who]
        done = run(command, timeout_s=QUICK_S, check=False)
        if done.returncode and "XAdminUserExists" not in done.stderr:
            raise RuntimeError(f"versitygw admin create-user {user.access_key}: {done.stderr.strip()}")

    def _client(self) -> _Client:
        # botocore's stubs know no client by its service's name; this one is what the name says.
        made: object = get_session().create_client(
            "s3",
            region_name=_REGION,
            endpoint_url=self.endpoint,
            aws_access_key_id=ROOT.access_key,
            aws_secret_access_key=ROOT.secret_key,
            config=Config(s3={"addressing_style": "path"}),
        )
        return cast(_Client, made)

    def is_healthy(self) -> bool:
        """It answers HTTP."""
        connection = http.client.HTTPConnection(self.address, self.port, timeout=2)
        try:
            connection.request("GET", "/")
            return connection.getresponse().status in (200, 403)
        except OSError:
            return False
        finally:
            connection.close()
