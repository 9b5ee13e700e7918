"""Access to the API server for the asynchronous client: the pod's service account, or a kubeconfig file."""

from __future__ import annotations

import os

from kubernetes.aio import config as kube_config
from kubernetes.aio.client import Configuration
from yaml import YAMLError

from kigi.adapters.kubernetes.endpoint import is_pod
from kigi.adapters.kubernetes.pod_access import load_pod_configuration
from kigi.adapters.kubernetes.proxies import SOCKS, proxy_of, shown
from kigi.errors import SpecInvalid


async def load_configuration(kubeconfig: str | None = None, context: str | None = None) -> Configuration:
    """Access of this pod, or of ``kubeconfig`` (else $KUBECONFIG, else ~/.kube/config) outside of a cluster.

    ``context`` None: the kubeconfig's current one. Raises SpecInvalid for a kubeconfig or proxy that cannot be used.
    """
    configuration = Configuration()
    if kubeconfig is None and context is None and is_pod(os.environ):
        load_pod_configuration(configuration)
        return _with_proxy(configuration)
    path = os.path.expanduser(kubeconfig or os.environ.get("KUBECONFIG") or "~/.kube/config")
    try:
        await kube_config.load_kube_config(  # type: ignore[no-untyped-call]
            config_file=path, context=context, client_configuration=configuration, persist_config=False
        )
    except (kube_config.ConfigException, YAMLError, OSError, TypeError, AttributeError) as exc:
        cause = " ".join(str(exc).split())
        raise SpecInvalid(f"KUBECONFIG {path}: {cause}; correct it, or unset it in a pod") from exc
    return _with_proxy(configuration)


def _with_proxy(configuration: Configuration) -> Configuration:
    """Adds the proxy of the environment, if the kubeconfig names none."""
    found = proxy_of(configuration.host, configuration.proxy or None, os.environ)
    if found is not None and found.scheme in SOCKS:
        raise SpecInvalid(
            f"proxy {shown(found)}: operator and daemon reach the API server through HTTP proxies only; correct "
            "proxy-url of the kubeconfig, or HTTPS_PROXY"
        )
    configuration.proxy = found.geturl() if found is not None else None
    return configuration
