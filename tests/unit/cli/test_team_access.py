"""A team's account: what its manifests have, and what its kubeconfig does not."""

from __future__ import annotations

import stat
from pathlib import Path

import pytest
import yaml

from kigi.adapters.kubernetes.endpoint import Endpoint
from kigi.cli.exit_codes import OptionInvalid
from kigi.cli.team_access import build_account, build_binding, build_kubeconfig, build_role, parse_lifetime
from kigi.cli.verbs.access import write_private
from kigi.errors import Waiting

EXAMPLE = Path(__file__).parents[3] / "manifests/examples/team.yaml"
BODY = {"spec": {"name": "7"}, "status": {"machines": [{"name": name} for name in ("mail1", "dns1", "desk1")]}}


def account() -> dict[str, dict[str, object]]:
    found = build_account("default", "office", "7", "mia", "2026-01-01T00:00:00Z")
    found["metadata"]["uid"] = "u"
    return found


def test_the_role_permits_what_the_example_of_a_team_permits() -> None:
    def rights(rules: list[dict[str, list[str]]]) -> set[tuple[str, str, str, str]]:
        return {
            (group, resource, verb, name)
            for rule in rules
            for group in rule["apiGroups"]
            for resource in rule["resources"]
            for verb in rule["verbs"]
            for name in rule.get("resourceNames") or ("",)
        }

    example = next(item for item in yaml.safe_load_all(EXAMPLE.read_text()) if item["kind"] == "Role")
    more = {("kigi.dev", "systemresets", "create", "")}
    assert rights(build_role(account(), "office", BODY)["rules"]) == rights(example["rules"]) | more


def test_an_instance_without_machines_gets_no_role_for_all() -> None:
    """An empty list of names would be a right for every object."""
    with pytest.raises(Waiting, match="instance 7 of office has no machines yet"):
        build_role(account(), "office", {"spec": {"name": "7"}})


def test_all_objects_have_one_name_and_go_with_the_account() -> None:
    made = account()
    parts = [build_role(made, "office", BODY), build_binding(made)]
    assert {part["metadata"]["name"] for part in (made, *parts)} == {"kigi-access-office-7"}
    assert [part["metadata"]["ownerReferences"][0]["uid"] for part in parts] == ["u", "u"]


def test_a_kubeconfig_has_the_teams_token_and_nothing_of_the_callers() -> None:
    caller = Endpoint(
        "https://api", ca=b"CA", token="mine", password=("mia", "secret"), certificate=(b"c", b"k"), proxy="http://p:1"
    )
    text = yaml.safe_dump(build_kubeconfig(caller, "lab", "kigi-access-office-7", "theirs"))
    assert "theirs" in text
    assert not [word for word in ("mine", "secret", "mia", "http://p:1") if word in text]
    assert yaml.safe_load(text)["clusters"][0]["cluster"] == {
        "server": "https://api",
        "certificate-authority-data": "Q0E=",
    }


@pytest.mark.parametrize(("text", "seconds"), [("10m", 600), ("8h", 28_800), ("30d", 2_592_000)])
def test_a_lifetime_is_a_number_with_a_unit(text: str, seconds: int) -> None:
    assert parse_lifetime(text) == seconds


@pytest.mark.parametrize("text", ["", "8", "9m", "31d", "-1h", "1.5h", "8H", "\u0668h", "1h "])
def test_another_lifetime_is_refused(text: str) -> None:
    with pytest.raises(OptionInvalid, match="write 30m, 8h or 2d"):
        parse_lifetime(text)


def test_a_file_that_others_could_read_is_replaced(tmp_path: Path) -> None:
    file = tmp_path / "team"
    file.write_text("old")
    file.chmod(0o644)
    (tmp_path / "elsewhere").write_text("kept")
    write_private(file, "new")
    assert (file.read_text(), stat.S_IMODE(file.stat().st_mode)) == ("new", 0o600)
    file.unlink()
    file.symlink_to(tmp_path / "elsewhere")
    write_private(file, "new")
    assert (tmp_path / "elsewhere").read_text() == "kept", "a link is not followed"
