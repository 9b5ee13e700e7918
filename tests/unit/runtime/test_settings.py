"""The operator's settings, from its environment."""

from __future__ import annotations

import os
import socket

import pytest

from kigi.adapters.environment import SettingsInvalid, load_settings
from kigi.runtime.settings import Settings


@pytest.fixture(autouse=True)
def _no_variables(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in [name for name in os.environ if name.startswith(("KIGI_", "POD_")) or name == "KUBECONFIG"]:
        monkeypatch.delenv(name)


def test_without_variables_the_defaults_hold() -> None:
    settings = load_settings(Settings)
    assert (settings.namespace, settings.hook_image, settings.kubeconfig) == ("kigi-system", "", None)
    assert (settings.workers, settings.concurrency, settings.http_port) == (8, 32, 8080)
    assert (settings.request_timeout_s, settings.resync_s, settings.lease_s) == (30.0, 240.0, 30.0)
    assert settings.leader_election
    assert settings.identity.startswith(f"{socket.gethostname()}_")


@pytest.mark.parametrize(
    ("variable", "text", "field", "value"),
    [
        ("KIGI_HOOK_IMAGE", "registry.example/kigi:1", "hook_image", "registry.example/kigi:1"),
        ("POD_NAMESPACE", "lab", "namespace", "lab"),
        ("KIGI_LEADER_ELECTION", "false", "leader_election", False),
        ("KIGI_LEADER_ELECTION", "no", "leader_election", False),
        ("KIGI_LEADER_ELECTION", "1", "leader_election", True),
        ("KIGI_LEADER_ELECTION", "", "leader_election", True),
        ("KIGI_HTTP_HOST", "127.0.0.1", "http_host", "127.0.0.1"),
        ("KIGI_HTTP_PORT", "0", "http_port", 0),
        ("KIGI_WORKERS", "3", "workers", 3),
        ("KIGI_API_CONCURRENCY", "5", "concurrency", 5),
        ("KIGI_API_TIMEOUT_SECONDS", "2.5", "request_timeout_s", 2.5),
        ("KIGI_RESYNC_SECONDS", "60", "resync_s", 60.0),
        ("KIGI_LEASE_SECONDS", "15", "lease_s", 15.0),
        ("KUBECONFIG", "/etc/kigi/kubeconfig", "kubeconfig", "/etc/kigi/kubeconfig"),
        ("KUBECONFIG", "", "kubeconfig", None),
        ("KIGI_LOG_LEVEL", "debug", "log_level", "DEBUG"),
    ],
)
def test_a_variable_sets_its_field(
    monkeypatch: pytest.MonkeyPatch, variable: str, text: str, field: str, value: object
) -> None:
    monkeypatch.setenv(variable, text)
    assert getattr(load_settings(Settings), field) == value


@pytest.mark.parametrize(
    ("variable", "text"),
    [
        ("KIGI_LEADER_ELECTION", "perhaps"),
        ("KIGI_HTTP_PORT", "70000"),
        ("KIGI_WORKERS", "0"),
        ("KIGI_WORKERS", "many"),
        ("KIGI_API_CONCURRENCY", "-1"),
        ("KIGI_API_TIMEOUT_SECONDS", "0.5"),
        ("KIGI_RESYNC_SECONDS", "0"),
        ("KIGI_LEASE_SECONDS", "1"),
        ("KIGI_LOG_LEVEL", "loud"),
    ],
)
def test_a_wrong_variable_is_reported_by_its_name_and_value(
    monkeypatch: pytest.MonkeyPatch, variable: str, text: str
) -> None:
    monkeypatch.setenv(variable, text)
    with pytest.raises(SettingsInvalid, match=f"{variable}='{text}'"):
        load_settings(Settings)


def test_every_wrong_variable_is_reported(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("KIGI_WORKERS", "x")
    monkeypatch.setenv("KIGI_LEASE_SECONDS", "y")
    with pytest.raises(SettingsInvalid) as caught:
        load_settings(Settings)
    assert len(str(caught.value).splitlines()) == 2


def test_two_processes_of_one_pod_have_different_identities(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("POD_NAME", "kigi-operator-0")
    first, second = load_settings(Settings), load_settings(Settings)
    assert first.identity.startswith("kigi-operator-0_")
    assert first.identity != second.identity


def test_every_field_is_described_and_has_a_variable() -> None:
    for name, field in Settings.model_fields.items():
        assert field.description, name
        assert isinstance(field.validation_alias, str), name
