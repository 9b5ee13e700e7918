from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import pytest

from kigi.adapters.environment import SettingsInvalid, load_settings
from kigi_cache.settings import DaemonSettings, ListenAddress, Portion, PublisherSettings

Read = Callable[..., DaemonSettings]


@pytest.fixture
def read(monkeypatch: pytest.MonkeyPatch) -> Read:
    """Settings of the daemon in an environment with these variables alone."""

    def read_with(**env: str) -> DaemonSettings:
        for name in os.environ:
            monkeypatch.delenv(name)
        for name, value in {"NODE_NAME": "node-a", **env}.items():
            monkeypatch.setenv(name, value)
        return load_settings(DaemonSettings)

    return read_with


def test_a_pod_needs_only_the_name_of_its_node(read: Read) -> None:
    settings = read()
    assert settings.node_name == "node-a"
    assert settings.root == Path("/var/lib/kigi")
    assert (settings.budget, settings.min_free) == (Portion(None, 70), Portion(percent=12))
    assert settings.csi_endpoint == "/var/lib/kubelet/plugins/disk.kigi.dev/csi.sock"
    assert (settings.http_address, settings.registration_dir) == (ListenAddress("", 9780), None)
    assert (settings.scrub_interval_s, settings.scrub_bytes_per_s) == (24 * 3600.0, 50 * 2**20)
    assert settings.peer_address.port == 0


def test_a_budget_is_bytes_or_a_quantity_or_a_percentage(read: Read) -> None:
    assert read(KIGI_BUDGET_BYTES="1000").budget.of(10**6) == 1000
    assert read(KIGI_BUDGET_BYTES="200Gi").budget.of(0) == 200 * 2**30
    assert read(KIGI_BUDGET_PERCENT="25%").budget.of(1000) == 250
    assert read(KIGI_BUDGET_PERCENT="25").budget.of(1000) == 250
    assert read(KIGI_BUDGET_BYTES="7", KIGI_BUDGET_PERCENT="25").budget.of(1000) == 7


def test_free_space_is_a_size_or_a_percentage(read: Read) -> None:
    assert read(KIGI_MIN_FREE="20%").min_free.of(1000) == 200
    assert read(KIGI_MIN_FREE="20Gi").min_free.of(1000) == 20 * 2**30
    assert read(KIGI_MIN_FREE="0").min_free.of(1000) == 0


def test_prefetches_use_half_of_the_connections_unless_set(read: Read) -> None:
    assert read(KIGI_CONNECTIONS="16").prefetches == 8
    assert read(KIGI_CONNECTIONS="1").prefetches == 1
    assert read(KIGI_CONNECTIONS="16", KIGI_PREFETCHES="3").prefetches == 3


def test_a_limit_of_none_counts_as_one(read: Read) -> None:
    settings = read(KIGI_CONNECTIONS="0", KIGI_PREFETCHES="0")
    assert (settings.connections, settings.prefetches) == (1, 1)


@pytest.mark.parametrize(
    ("text", "address"),
    [
        (":80", ("", 80)),
        ("127.0.0.1:0", ("127.0.0.1", 0)),
        ("[::1]:9", ("::1", 9)),
        ("[::]:9", ("::", 9)),
        ("7", ("", 7)),
    ],
)
def test_an_address_needs_no_host(read: Read, text: str, address: tuple[str, int]) -> None:
    found = read(KIGI_HTTP_ADDR=text).http_address
    assert (found.host, found.port) == address
    assert str(found) == (text if ":" in text else f":{text}")


def test_one_setting_moves_everything_of_the_kubelet(read: Read) -> None:
    settings = read(KIGI_KUBELET_ROOT="/var/lib/k0s/kubelet")
    assert settings.csi_socket == settings.csi_endpoint == "/var/lib/k0s/kubelet/plugins/disk.kigi.dev/csi.sock"
    assert settings.registration_dir == "/var/lib/k0s/kubelet/plugins_registry"
    moved = read(KIGI_KUBELET_ROOT="/k", KIGI_CSI_SOCKET="/csi/csi.sock", KIGI_REGISTRATION_DIR="/registration")
    assert (moved.csi_socket, moved.csi_endpoint, moved.registration_dir) == ("/csi/csi.sock",) * 2 + ("/registration",)


def test_addresses_of_the_pod_have_both_families_in_their_order(read: Read) -> None:
    assert read(POD_IPS="fd00:0::7,10.0.0.7").pod_ips == ("fd00::7", "10.0.0.7")
    assert read().pod_ips == ("127.0.0.1",)


@pytest.mark.parametrize("length", [64, 253])
def test_a_node_whose_name_is_no_label_is_refused_with_the_reason(read: Read, length: int) -> None:
    assert read(NODE_NAME="n" * 63).node_name == "n" * 63
    with pytest.raises(SettingsInvalid, match=rf"NODE_NAME='n+': kubeVirt runs no VMs .*\(this name: {length}\); join"):
        read(NODE_NAME="n" * length)


def test_peers_are_separated_by_commas(read: Read) -> None:
    peers = read(KIGI_PEERS="a=10.0.0.1:9781,b=[fd00::2]:9781,").peers
    assert peers == {"10.0.0.1:9781": "a", "[fd00::2]:9781": "b"}
    assert read().peers == {}


@pytest.mark.parametrize("text", ["10.0.0.1:9781", "=10.0.0.1:9781", "a=10.0.0.1", "a=:9781", "a=10.0.0.1:x", "a="])
def test_a_peer_needs_its_node_and_its_address(read: Read, text: str) -> None:
    with pytest.raises(SettingsInvalid, match=r"KIGI_PEERS.*is not NODE=HOST:PORT, such as node-b=10.0.0.2:9781"):
        read(KIGI_PEERS=text)


@pytest.mark.parametrize(
    ("variable", "text"),
    [
        ("NODE_NAME", ""),
        ("KIGI_BUDGET_BYTES", "much"),
        ("KIGI_BUDGET_PERCENT", "0"),
        ("KIGI_BUDGET_PERCENT", "101"),
        ("KIGI_BUDGET_PERCENT", "half"),
        ("KIGI_HTTP_ADDR", "9780x"),
        ("KIGI_HTTP_ADDR", ":65536"),
        ("KIGI_PEER_ADDR", "host"),
        ("KIGI_HTTP_ADDR", "::1:9780"),
        ("KIGI_KUBELET_ROOT", "/" + "k" * 90),
        ("POD_IPS", "node-a"),
        ("POD_IPS", ","),
        ("KIGI_MAX_VOLUMES", "-1"),
        ("KIGI_CONNECTIONS", "many"),
        ("KIGI_MIN_FREE", "100%"),
        ("KIGI_MIN_FREE", "some"),
        ("KIGI_MIN_FREE", "x%"),
        ("KIGI_SCRUB_HOURS", "-1"),
        ("KIGI_SCRUB_BYTES_PER_S", "fast"),
        ("KIGI_LOG_LEVEL", "loud"),
    ],
)
def test_a_wrong_value_is_named_with_what_is_expected(read: Read, variable: str, text: str) -> None:
    with pytest.raises(SettingsInvalid) as refused:
        read(**{variable: text})
    (line,) = str(refused.value).splitlines()
    assert line.startswith(f"{variable}={text!r}: " if text else f"{variable}: required")
    assert "; expected: " in line


def test_the_publisher_needs_nothing_and_shares_the_daemons_directory(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("NODE_NAME", raising=False)
    monkeypatch.setenv("KIGI_CACHE_ROOT", "/srv/kigi")
    monkeypatch.setenv("KIGI_REPOSITORIES", "/etc/kigi/repositories")
    settings = load_settings(PublisherSettings)
    assert (settings.root, settings.log_level) == (Path("/srv/kigi"), "INFO")
    assert settings.repositories == Path("/etc/kigi/repositories")
