from scenario import tree
from scenario.tree import INFECTED, MACHINES, REPAIRED, image_levels, resolved_images, system_states


def ancestors(name: str) -> list[str]:
    by_name = {level.name: level for level in image_levels()}
    chain = [name]
    while (parent := by_name[chain[-1]].parent) is not None:
        chain.append(parent)
    return chain


def test_there_are_ten_machines_in_the_published_roles():
    roles = [machine.role for machine in MACHINES]
    assert {role: roles.count(role) for role in roles} == {
        "mail": 2,
        "dns": 2,
        "proxy": 1,
        "fileserver": 1,
        "desktop": 4,
    }
    assert len({machine.address for machine in MACHINES}) == len({machine.name for machine in MACHINES}) == 10


def test_every_level_occurs_once_and_after_its_parent():
    seen: set[str] = set()
    for level in image_levels():
        assert level.name not in seen
        assert level.parent is None or level.parent in seen
        seen.add(level.name)


def test_the_image_tree_goes_from_base_to_state():
    assert ancestors("mail1-restored") == [
        "mail1-restored",
        "mail1-cleaned",
        "mail1-infected",
        "mail1",
        "mail",
        "server-base",
        "base",
    ]
    assert ancestors("desktop4") == ["desktop4", "desktop", "desktop-base", "base"]


def test_a_state_has_only_the_machines_that_it_changes():
    named = {state.name: set(state.images) for state in system_states()}
    assert named == {
        "infected": {machine.name for machine in MACHINES},
        "cleaned": set(INFECTED),
        "restored": set(REPAIRED),
    }
    assert {state.name: state.parent for state in system_states()} == {
        "infected": None,
        "cleaned": "infected",
        "restored": "cleaned",
    }


def test_only_changed_machines_get_another_image():
    restored = resolved_images("restored")
    assert len(restored) == 10
    assert restored["mail2"] == "mail2"
    assert restored["dns1"] == "dns1-restored"
    assert restored["desktop1"] == "desktop1-cleaned"


def test_cleaned_removes_all_files_of_the_marker():
    marker = set(tree.read_files("infected"))
    by_name = {level.name: level for level in image_levels()}
    assert marker
    for machine in INFECTED:
        assert marker <= set(by_name[f"{machine}-infected"].files)
        assert marker <= set(by_name[f"{machine}-cleaned"].removed)


def test_every_folder_below_levels_belongs_to_a_level():
    used = {level.name for level in image_levels()} | {state.name for state in system_states()}
    assert {folder.name for folder in tree.LEVELS_DIR.iterdir()} <= used


def test_every_level_of_a_state_has_a_file_with_the_state():
    for level in image_levels():
        if level.kind == "state":
            assert level.files["/etc/kigi/state"].text.decode().strip() == level.state


def test_restored_has_the_files_of_the_role():
    levels = {level.name: level for level in image_levels()}
    for machine, path in (("mail1", "/etc/postfix/main.cf"), ("proxy1", "/etc/squid/blocked")):
        role = levels[machine].parent
        assert role is not None
        assert levels[f"{machine}-restored"].files[path] == levels[role].files[path]
        assert levels[f"{machine}-infected"].files[path] != levels[role].files[path]
