"""A real control plane: etcd, kube-apiserver and, if asked for, controller manager and scheduler."""

from __future__ import annotations

import hashlib
import shutil
import ssl
import urllib.error
import urllib.request
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Literal, Self

from localcluster.bounded import KUBECTL_S, run
from localcluster.build import binary
from localcluster.certs import Authority, service_account_keys, write_kubeconfig
from localcluster.processes import Processes, StopFailed, free_port, is_listening, kept_port

Part = Literal["controller-manager", "scheduler"]
SERVICE_ADDRESS = "10.96.0.1"
_ISSUER = "https://kubernetes.default.svc.cluster.local"
_SERVER_NAMES = ("localhost", "kubernetes", "kubernetes.default", "kubernetes.default.svc")


@dataclass(frozen=True, slots=True)
class Options:
    """How the API server is reached and what it allows. The defaults are for tests: loopback, a free port."""

    address: str = "127.0.0.1"
    port: int = 0
    """0: a free one."""
    advertise_address: str | None = None
    hosts: tuple[str, ...] = ()
    """Further names and addresses of the server's certificate."""
    pods: bool = False
    """A kubelet will run pods: privileged ones too, aggregated APIs, logs and exec."""
    detached: bool = False
    """The processes outlive this one."""


class ControlPlane:
    """etcd and kube-apiserver below ``directory``; ready in some seconds. A context manager for tests.

    The same directory may be started again, also after a crash: data and certificates are kept there.
    """

    def __init__(self, directory: Path, parts: Sequence[Part] = (), options: Options | None = None) -> None:
        self.directory = directory
        self.parts = tuple(parts)
        self.options = options or Options()
        self.processes = Processes(directory, detached=self.options.detached)
        self.authority = Authority(directory / "pki")
        self.port = self.options.port or self._kept_port("kube-apiserver")
        self.server = f"https://{self._client_address()}:{self.port}"
        self.kubeconfig = self.user_kubeconfig("admin", ["system:masters"])

    def start(self) -> Self:
        """Start what does not run yet; returns when the API server is ready. Raises StartFailed."""
        try:
            self._start()
        except BaseException:
            if not self.options.detached:
                self.stop()
            raise
        return self

    def stop(self) -> None:
        """Stop all its processes; the data stays."""
        failures = []
        for name in ("kube-scheduler", "kube-controller-manager", "kube-apiserver", "etcd"):
            try:
                self.processes.stop(name)
            except StopFailed as error:
                failures.append(str(error))
        if failures:
            raise StopFailed("; ".join(failures))

    def delete(self) -> None:
        """Stop it and remove its directory."""
        self.stop()
        shutil.rmtree(self.directory, ignore_errors=True)

    def __enter__(self) -> Self:
        return self.start()

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self.delete()

    def user_kubeconfig(self, user: str, groups: Sequence[str] = ()) -> Path:
        """A kubeconfig for that user in exactly these groups, by a client certificate."""
        # Files by the whole identity: the same name with other groups is another user, and "ca" a user like any other.
        key = hashlib.sha256("\0".join([user, *sorted(groups)]).encode()).hexdigest()[:8]
        return self.authority.kubeconfig(f"user-{user.replace(':', '-')}-{key}", self.server, user, groups)

    def token_kubeconfig(self, namespace: str, account: str, *arguments: str) -> Path:
        """A kubeconfig with a new token of an existing service account, valid for an hour.

        ``arguments`` go to ``kubectl create token``: ``--bound-object-kind=Pod``, ``--bound-object-name=...`` bind it
        to a pod, and so to that pod's node.
        """
        token = self.kubectl("create", "token", account, f"--namespace={namespace}", *arguments).strip()
        key = hashlib.sha256(token.encode()).hexdigest()[:8]
        path = self.directory / "pki" / f"token-{namespace}-{account}-{key}.kubeconfig"
        return write_kubeconfig(path, self.server, self.authority.pair.certificate, {"token": token})

    def kubectl(self, *arguments: str, input_text: str | None = None) -> str:
        """What ``kubectl`` prints. Raises CalledProcessError with its stderr if it fails, TimedOut if it goes on."""
        command = [str(binary("kubectl")), f"--kubeconfig={self.kubeconfig}", *arguments]
        return run(command, timeout_s=KUBECTL_S, input_text=input_text).stdout

    def is_ready(self) -> bool:
        """The API server says that it is ready."""
        return self._get_ok("/readyz")

    def _start(self) -> None:
        if not self.processes.is_running("etcd"):
            self._start_etcd()
        if not self.processes.is_running("kube-apiserver"):
            self.processes.start("kube-apiserver", [binary("kube-apiserver"), *self._server_flags()])
        self.processes.wait_until("kube-apiserver", self.is_ready, timeout_s=120)
        for part in self.parts:
            name = f"kube-{part}"
            if not self.processes.is_running(name):
                self.processes.start(name, [binary(name), *self._part_flags(part)])

    def _start_etcd(self) -> None:
        # The same ports as before: an API server that outlived etcd goes on asking there.
        client, peer = self._kept_port("etcd"), self._kept_port("etcd-peer")
        self.processes.start(
            "etcd",
            [
                binary("etcd"),
                f"--data-dir={self.directory / 'etcd'}",
                "--unsafe-no-fsync",
                "--log-level=warn",
                "--quota-backend-bytes=4294967296",
                f"--listen-client-urls=http://127.0.0.1:{client}",
                f"--advertise-client-urls=http://127.0.0.1:{client}",
                f"--listen-peer-urls=http://127.0.0.1:{peer}",
                f"--initial-advertise-peer-urls=http://127.0.0.1:{peer}",
                f"--initial-cluster=default=http://127.0.0.1:{peer}",
                # Never --force-new-cluster over old data: it drops what raft had not yet marked as committed, which
                # after a kill is the last acknowledged write (lost in 8 of 12 kills; without the flag in none).
                "--initial-cluster-state=new",
            ],
        )
        self.processes.wait_until("etcd", lambda: is_listening("127.0.0.1", client))

    def _server_flags(self) -> list[str]:
        pki = self.directory / "pki"
        hosts = [*_SERVER_NAMES, "127.0.0.1", SERVICE_ADDRESS, *self.options.hosts]
        server = self.authority.issue("kube-apiserver", "kube-apiserver", hosts=hosts)
        tokens = service_account_keys(pki)
        etcd = self._kept_port("etcd")
        flags = [
            f"--etcd-servers=http://127.0.0.1:{etcd}",
            f"--bind-address={self.options.address}",
            f"--secure-port={self.port}",
            f"--advertise-address={self.options.advertise_address or '127.0.0.1'}",
            "--service-cluster-ip-range=10.96.0.0/16",
            f"--client-ca-file={self.authority.pair.certificate}",
            f"--tls-cert-file={server.certificate}",
            f"--tls-private-key-file={server.key}",
            f"--service-account-issuer={_ISSUER}",
            f"--service-account-key-file={tokens.certificate}",
            f"--service-account-signing-key-file={tokens.key}",
            "--authorization-mode=Node,RBAC",
            "--enable-admission-plugins=NodeRestriction",
            "--endpoint-reconciler-type=none",
            "--allow-privileged=true",
        ]
        if not self.options.pods:
            # No controller manager makes the service account of each namespace, which this plugin would wait for.
            return [*flags, "--disable-admission-plugins=ServiceAccount"]
        front = Authority(pki, "front-proxy-ca")
        proxy = front.issue("front-proxy-client", "front-proxy-client")
        kubelet = self.authority.issue("kubelet-client", "kube-apiserver-kubelet-client", ["system:masters"])
        return [
            *flags,
            "--enable-aggregator-routing=true",
            f"--requestheader-client-ca-file={front.pair.certificate}",
            "--requestheader-allowed-names=front-proxy-client",
            "--requestheader-extra-headers-prefix=X-Remote-Extra-",
            "--requestheader-group-headers=X-Remote-Group",
            "--requestheader-username-headers=X-Remote-User",
            f"--proxy-client-cert-file={proxy.certificate}",
            f"--proxy-client-key-file={proxy.key}",
            f"--kubelet-client-certificate={kubelet.certificate}",
            f"--kubelet-client-key={kubelet.key}",
            "--kubelet-preferred-address-types=InternalIP",
        ]

    def _part_flags(self, part: Part) -> list[str]:
        kubeconfig = self.user_kubeconfig(f"system:kube-{part}")
        port = f"--secure-port={free_port()}"
        if part == "scheduler":
            return [f"--kubeconfig={kubeconfig}", "--leader-elect=false", port]
        ca = self.authority.pair
        return [
            f"--kubeconfig={kubeconfig}",
            "--leader-elect=false",
            port,
            f"--service-account-private-key-file={service_account_keys(self.directory / 'pki').key}",
            f"--root-ca-file={ca.certificate}",
            f"--cluster-signing-cert-file={ca.certificate}",
            f"--cluster-signing-key-file={ca.key}",
            "--use-service-account-credentials=true",
            "--kube-api-qps=200",
            "--kube-api-burst=400",
        ]

    def _client_address(self) -> str:
        return "127.0.0.1" if self.options.address == "0.0.0.0" else self.options.address

    def _kept_port(self, name: str) -> int:
        """The port of this directory: whoever was told it finds the server again after a restart."""
        return kept_port(self.directory / f"{name}.port")

    def _get_ok(self, path: str) -> bool:
        context = ssl.create_default_context(cafile=str(self.authority.pair.certificate))
        admin = self.authority.issue("admin", "admin", ["system:masters"])
        context.load_cert_chain(admin.certificate, admin.key)
        try:
            with urllib.request.urlopen(self.server + path, timeout=5, context=context) as answer:
                return bool(answer.status == 200)
        except (urllib.error.URLError, OSError):
            return False
