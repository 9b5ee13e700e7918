"""The trees of all namespaces, and the references between them.

Each namespace has its own ``Trees``, built when asked for. What a namespace resolved with the help of another one is
forgotten when that one changes.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping

from kigi.domain.grants import Grant, permitted
from kigi.domain.images import Image
from kigi.domain.layers import DEFAULT_REPOSITORY
from kigi.domain.systems import System
from kigi.domain.tree_names import TreeNode
from kigi.domain.trees import Trees
from kigi.errors import SpecInvalid

Nodes = tuple[Mapping[str, Image | SpecInvalid], Mapping[str, System | SpecInvalid]]
"""Images and states of one namespace, by name."""


class Forest:
    """``nodes_of``, ``grants_of`` and ``labels_of`` give the contents of a namespace; None: it has no labels known.
    ``repository_of`` gives the repository of an image, by namespace, name and the repository that it names.

    A namespace whose contents change must be given to ``forget``.
    """

    def __init__(
        self,
        nodes_of: Callable[[str], Nodes],
        grants_of: Callable[[str], Iterable[Grant]],
        labels_of: Callable[[str], Mapping[str, str] | None],
        repository_of: Callable[[str, str, str | None], str] = lambda namespace, image, name: (
            name or DEFAULT_REPOSITORY
        ),
    ) -> None:
        self._repository_of = repository_of
        self._nodes_of, self._grants_of, self._labels_of = nodes_of, grants_of, labels_of
        self._trees: dict[str, Trees] = {}
        self._used: dict[str, set[str]] = {}
        """By namespace: the other namespaces that its trees asked for."""
        self._users: dict[str, set[str]] = defaultdict(set)
        """The reverse of ``_used``."""
        self._answers: dict[str, dict[tuple[str, TreeNode], bool]] = defaultdict(dict)
        """By namespace of the node: what ``permits`` answered last."""

    def trees(self, namespace: str) -> Trees:
        """The trees of a namespace."""
        if namespace not in self._trees:
            images, systems = self._nodes_of(namespace)
            trees = Trees(images, systems, namespace, self)
            if trees.is_empty() and namespace not in self._users and self._labels_of(namespace) is None:
                return trees  # not stored: nothing would remove the entry of a deleted namespace
            self._trees[namespace] = trees
        return self._trees[namespace]

    def neighbour(self, home: str, namespace: str) -> Trees:
        """The trees of ``namespace``, which those of ``home`` then depend on."""
        if home != namespace:
            self._used.setdefault(home, set()).add(namespace)
            self._users[namespace].add(home)
        return self.trees(namespace)

    def permits(self, home: str, node: TreeNode, *, asks: bool = True) -> bool:
        """Whether objects of ``home`` may use the node: it is their own, or a grant covers it and it exists.

        ``asks``: something of ``home`` refers to the node, and wants to know when the answer changes.
        """
        if home == node.namespace:
            return True
        trees = self.neighbour(home, node.namespace) if asks else self.trees(node.namespace)
        grants, labels = self._grants_of(node.namespace), self._labels_of(home)
        answer = trees.has(node.kind, node.name) and permitted(grants, labels, trees, (node.kind, node.name))
        if asks:
            self._answers[node.namespace][home, node] = answer
        return answer

    def repository_of(self, namespace: str, image: str, requested: str | None) -> str:
        """See Neighbours. The repositories belong to what ``forget`` must be called for."""
        return self._repository_of(namespace, image, requested)

    def changed_answers(self, *, about: str | None = None, of: str | None = None) -> list[tuple[str, TreeNode]]:
        """Questions (home, node) that ``permits`` answers otherwise now: about a namespace's nodes, or of its objects.

        O(questions about the namespace), or O(all questions).
        """
        asked = self._answers.values() if about is None else (self._answers.get(about, {}),)
        old = [(question, answer) for each in asked for question, answer in each.items() if of in (None, question[0])]
        return [question for question, answer in old if self.permits(*question) != answer]

    def is_empty(self) -> bool:
        """Whether nothing is known of any namespace."""
        return not (self._trees or self._used or self._users or self._answers)

    def drop_question(self, home: str, node: TreeNode) -> None:
        """Nothing of ``home`` refers to the node any more: forgets the answer, and what ``home`` has resolved."""
        self.forget(home)
        answers = self._answers.get(node.namespace)
        if answers is not None:
            answers.pop((home, node), None)
            if not answers:
                del self._answers[node.namespace]

    def forget(self, namespace: str) -> None:
        """Drops what is known of a namespace, and of all that resolved something with its help."""
        waiting = [namespace]
        while waiting:
            name = waiting.pop()
            self._trees.pop(name, None)
            waiting.extend(self._users.pop(name, ()))
            for other in self._used.pop(name, ()):
                self._users[other].discard(name)
                if not self._users[other]:
                    del self._users[other]
                    if other in self._trees and self._trees[other].is_empty():
                        del self._trees[other]  # it may be a namespace that does not exist
