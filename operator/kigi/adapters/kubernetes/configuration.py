"""Access to the API server for the asynchronous client: the pod's service account, or a kubeconfig file."""

from __future__ import annotations

import os
from urllib.parse import urlsplit
from urllib.request import getproxies, proxy_bypass

from kubernetes.aio import config as kube_config
from kubernetes.aio.client import Configuration

from kigi.adapters.kubernetes.endpoint import is_pod
from kigi.adapters.kubernetes.pod_access import load_pod_configuration


async def load_configuration(kubeconfig: str | None = None, context: str | None = None) -> Configuration:
    """Access of this pod, or of ``kubeconfig`` (else $KUBECONFIG, else ~/.kube/config) outside of a cluster.

    ``context`` None: the kubeconfig's current one.
    """
    configuration = Configuration()
    if kubeconfig is None and context is None and is_pod(os.environ):
        load_pod_configuration(configuration)
        return _with_proxy(configuration)
    path = os.path.expanduser(kubeconfig or os.environ.get("KUBECONFIG") or "~/.kube/config")
    await kube_config.load_kube_config(  # type: ignore[no-untyped-call]
        config_file=path, context=context, client_configuration=configuration, persist_config=False
    )
    return _with_proxy(configuration)


def _with_proxy(configuration: Configuration) -> Configuration:
    """Adds the proxy of the environment, if the kubeconfig names none."""
    server = urlsplit(configuration.host)
    if not configuration.proxy and not proxy_bypass(server.hostname or ""):
        configuration.proxy = getproxies().get(server.scheme)
    return configuration
