from __future__ import annotations

from pathlib import Path

import pytest
from pydantic import Field

from kigi.adapters.environment import EnvironmentSettings, LogLevel, SettingsInvalid, default_text, load_settings


class Example(EnvironmentSettings):
    name: str = Field(validation_alias="EXAMPLE_NAME", description="Name of the example.")
    workers: int = Field(default=8, ge=1, validation_alias="EXAMPLE_WORKERS", description="Objects at the same time.")
    folder: Path | None = Field(default=None, validation_alias="EXAMPLE_FOLDER", description="A folder.")
    half: int = Field(
        default_factory=lambda data: data["workers"] // 2,
        validation_alias="EXAMPLE_HALF",
        description="A number.",
        json_schema_extra={"default": "half of EXAMPLE_WORKERS"},
    )
    pause_s: float = Field(default=30.0, validation_alias="EXAMPLE_PAUSE", description="Seconds.")
    watch: bool = Field(default=True, validation_alias="EXAMPLE_WATCH", description="Whether to watch.")
    log_level: LogLevel = Field(default="INFO", validation_alias="EXAMPLE_LOG_LEVEL", description="A level.")


@pytest.fixture(autouse=True)
def _named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("EXAMPLE_NAME", "a")


def test_values_come_from_the_environment_and_else_are_defaults(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("EXAMPLE_WORKERS", "6")
    monkeypatch.setenv("EXAMPLE_LOG_LEVEL", "debug")
    found = load_settings(Example)
    assert (found.name, found.workers, found.half, found.folder, found.log_level) == ("a", 6, 3, None, "DEBUG")


def test_an_empty_variable_counts_as_unset(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("EXAMPLE_WORKERS", "")
    assert load_settings(Example).workers == 8


def test_variables_have_exactly_this_spelling(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("example_workers", "6")
    assert load_settings(Example).workers == 8


def test_tests_may_pass_fields_by_name(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("EXAMPLE_WORKERS", "6")
    assert Example(name="b", workers=3).workers == 3


def test_an_error_names_the_variable_its_value_and_the_remedy(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("EXAMPLE_WORKERS", "0")
    with pytest.raises(SettingsInvalid) as refused:
        load_settings(Example)
    assert str(refused.value) == (
        "EXAMPLE_WORKERS='0': input should be greater than or equal to 1; "
        "expected: Objects at the same time (default: 8)"
    )


def test_a_missing_variable_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("EXAMPLE_NAME")
    with pytest.raises(SettingsInvalid, match=r"^EXAMPLE_NAME: required, but not set; expected: Name of the example$"):
        load_settings(Example)


def test_every_wrong_variable_has_its_line(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("EXAMPLE_WORKERS", "many")
    monkeypatch.setenv("EXAMPLE_LOG_LEVEL", "loud")
    with pytest.raises(SettingsInvalid) as refused:
        load_settings(Example)
    assert [line.partition("=")[0] for line in str(refused.value).splitlines()] == [
        "EXAMPLE_WORKERS",
        "EXAMPLE_LOG_LEVEL",
    ]


@pytest.mark.parametrize(
    ("field", "text"),
    [
        ("name", ""),
        ("workers", "8"),
        ("folder", "unset"),
        ("half", "half of EXAMPLE_WORKERS"),
        ("watch", "true"),
        ("pause_s", "30"),
    ],
)
def test_a_default_is_the_text_that_would_set_it(field: str, text: str) -> None:
    assert default_text(Example, field) == text
