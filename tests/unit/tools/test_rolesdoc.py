"""The matrix of permissions: the rule that its cells follow, and the rights that must not change unnoticed."""

from __future__ import annotations

from pathlib import Path

from tools.rolesdoc import OTHER, OWN, USERS, Action, Role, actions, allows, render_permissions, roles

ROOT = Path(__file__).parents[3]


def role(name: str) -> Role:
    return next(role for role in roles() if role.title == name)


def test_the_page_is_the_one_of_the_repository() -> None:
    assert (ROOT / "docs/reference/permissions.md").read_text() == render_permissions()


def test_every_role_for_users_has_a_column() -> None:
    names = {line.split()[-1] for line in USERS.read_text().splitlines() if line.startswith("  name: ")}
    assert names == {role.title for role in roles()}


def test_rows_differ() -> None:
    assert len({action.text for action in actions()}) == len({action[1:] for action in actions()}) == len(actions())


def test_a_right_holds_for_its_name_verb_and_place_alone() -> None:
    rule = {"apiGroups": ["g"], "resources": ["r/s"], "verbs": ["v"], "resourceNames": ["n"]}
    right = Action("", "v", "g", "r", "s", "n")
    assert allows(Role("", (rule,)), right)
    for change in ({"verb": "w"}, {"group": "h"}, {"resource": "q"}, {"subresource": ""}, {"name": "m"}, {"name": ""}):
        assert not allows(Role("", (rule,)), right._replace(**change))
    assert not allows(Role("", (rule,)), right._replace(is_cluster=True))
    assert allows(Role("", (rule,), is_cluster=True), right)


def test_a_trainee_has_one_instance_and_nothing_of_others() -> None:
    allowed = [action for action in actions() if allows(role("kigi-trainee"), action)]
    assert {action.verb for action in allowed} == {"get", "reset", "create"}
    assert not [action for action in allowed if action.name.startswith(OTHER)]
    assert all(action.name.startswith(OWN) or action.text == "create systemresets" for action in allowed)


def test_an_instructor_changes_no_tree_no_right_and_no_limit() -> None:
    allowed = {action.text for action in actions() if allows(role("kigi-instructor"), action)}
    assert {f"{verb} the instance of team 8" for verb in ("get", "reset", "switch", "capture")} <= allowed
    assert not {text for text in allowed if text.startswith(("create", "patch", "delete"))} - {
        "create systemresets", "delete systemresets", "create systemcaptures", "delete systemcaptures",
        "patch systemdeployments", "patch systeminstances",
    }  # fmt: skip
