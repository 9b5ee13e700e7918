"""A real control plane: etcd, kube-apiserver and, on request, controller manager and scheduler."""

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
    """Address and features of the API server. The defaults suit tests: loopback and a free port."""

    address: str = "127.0.0.1"
    port: int = 0
    """0: choose a free port."""
    advertise_address: str | None = None
    hosts: tuple[str, ...] = ()
    """Additional names and addresses in the server's certificate."""
    pods: bool = False
    """Enable everything that pods need: privileged containers, aggregated APIs, logs and exec."""
    detached: bool = False
    """The processes keep running after this process ends."""


class ControlPlane:
    """etcd and kube-apiserver with their files in ``directory``; ready in seconds. A context manager for tests.

    A later start on the same directory continues with its data, ports and certificates, also after a crash.
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
        """Start the processes that are not running and wait until the API server is ready. Raises StartFailed."""
        try:
            self._start()
        except BaseException:
            if not self.options.detached:
                self.stop()
            raise
        return self

    def stop(self) -> None:
        """Stop all processes and keep the data. Raises StopFailed if one of them does not end."""
        failures = []
        for name in ("kube-scheduler", "kube-controller-manager", "kube-apiserver", "etcd"):
            try:
                self.processes.stop(name)
            except StopFailed as error:
                failures.append(str(error))
        if failures:
            raise StopFailed("; ".join(failures))

    def delete(self) -> None:
        """Stop all processes and remove the directory."""
        self.stop()
        shutil.rmtree(self.directory, ignore_errors=True)

    def __enter__(self) -> Self:
        return self.start()

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self.delete()

    def user_kubeconfig(self, user: str, groups: Sequence[str] = ()) -> Path:
        """A kubeconfig with a client certificate of this user in exactly these groups."""
        # The file name contains the groups: the same name with other groups is another user. The prefix "user-" keeps a
        # user named "ca" apart from the authority's files.
        key = hashlib.sha256("\0".join([user, *sorted(groups)]).encode()).hexdigest()[:8]
        return self.authority.kubeconfig(f"user-{user.replace(':', '-')}-{key}", self.server, user, groups)

    def token_kubeconfig(self, namespace: str, account: str, *arguments: str) -> Path:
        """A kubeconfig with a new token of an existing service account, valid for an hour.

        ``arguments`` are passed to ``kubectl create token``. For example, ``--bound-object-kind=Pod`` and
        ``--bound-object-name=NAME`` bind the token to a pod and to that pod's node.
        """
        token = self.kubectl("create", "token", account, f"--namespace={namespace}", *arguments).strip()
        key = hashlib.sha256(token.encode()).hexdigest()[:8]
        path = self.directory / "pki" / f"token-{namespace}-{account}-{key}.kubeconfig"
        return write_kubeconfig(path, self.server, self.authority.pair.certificate, {"token": token})

    def kubectl(self, *arguments: str, input_text: str | None = None) -> str:
        """Standard output of ``kubectl``. Raises CalledProcessError with its stderr, or TimedOut."""
        command = [str(binary("kubectl")), f"--kubeconfig={self.kubeconfig}", *arguments]
        return run(command, timeout_s=KUBECTL_S, input_text=input_text).stdout

    @property
    def etcd_url(self) -> str:
        """Address of etcd, with its metrics."""
        return f"http://127.0.0.1:{self._kept_port('etcd')}"

    def is_ready(self) -> bool:
        """Whether ``/readyz`` of the API server answers 200."""
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
        # The ports stay the same, because an API server that survived etcd reconnects to them.
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
            # This plugin waits for each namespace's service account, which only the controller manager creates.
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
        """The port recorded in this directory: clients find the server there after a restart."""
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
