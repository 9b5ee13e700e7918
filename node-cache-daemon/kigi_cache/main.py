"""Console script ``kigi-cache``: the daemon of one node."""

from __future__ import annotations

import asyncio
import functools
import sys

from kigi.adapters.environment import SettingsInvalid, load_settings
from kigi.adapters.json_logs import log_to_stderr
from kigi.errors import SpecInvalid
from kigi_cache.background import run_until_signalled
from kigi_cache.clock import Clock
from kigi_cache.daemon import Daemon
from kigi_cache.node.kube import KubeApi
from kigi_cache.root_lock import CacheInUse
from kigi_cache.settings import DaemonSettings


async def run(settings: DaemonSettings) -> None:
    """Run the daemon until it is cancelled. Exit code 1 and a sentence for a wrong kubeconfig or repository."""
    api = KubeApi(settings.node_name, namespace=settings.pod_namespace)
    try:
        await api.open(settings.kubeconfig)
        daemon = Daemon(settings, api, Clock())
    except SpecInvalid as exc:
        await api.close()
        sys.exit(f"kigi-cache: {exc}")
    try:
        try:
            await daemon.prepare()
            await daemon.run()
        except CacheInUse as exc:
            sys.exit(f"kigi-cache: {exc}")
        finally:
            await daemon.close()
    finally:
        await api.close()


def main() -> None:
    """Read the environment and run until SIGTERM. Exit code 1 and a text on standard error for invalid settings."""
    try:
        settings = load_settings(DaemonSettings)
    except SettingsInvalid as exc:
        sys.exit(f"kigi-cache: {exc}")
    log_to_stderr(settings.log_level)
    asyncio.run(run_until_signalled(functools.partial(run, settings)))


if __name__ == "__main__":
    main()
