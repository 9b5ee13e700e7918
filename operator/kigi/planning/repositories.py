"""Which LayerRepository an object of a namespace uses."""

from __future__ import annotations

from collections.abc import Mapping

from kigi.api.layer_repository import LayerRepositorySpec
from kigi.errors import NoDefaultRepository, RepositoryNotPermitted


def resolve_repository(
    repositories: Mapping[str, LayerRepositorySpec],
    namespace: str,
    labels: Mapping[str, str],
    requested: str | None,
    what: str,
) -> str:
    """Name of the repository: the requested one, or the default of the namespace, which has these labels.

    A default for selected namespaces precedes one for all. ``what`` names the field in errors, which show no repository
    that the object does not name. Raises RepositoryNotPermitted or NoDefaultRepository.
    """
    if requested is not None:
        spec = repositories.get(requested)
        if spec is None or not spec.namespace_selector.matches(labels):
            raise RepositoryNotPermitted(
                f"{what}: namespace {namespace} has no LayerRepository {requested!r}; an administrator can create it, "
                "or let its namespaceSelector select this namespace"
            )
        return requested
    permitted = {name: spec for name, spec in repositories.items() if spec.namespace_selector.matches(labels)}
    for default_for in ("SelectedNamespaces", "AllNamespaces"):
        found = sorted(name for name, spec in permitted.items() if spec.default_for == default_for)
        if len(found) == 1:
            return found[0]
        if found:
            raise NoDefaultRepository(
                f"{what} is not set, and {len(found)} LayerRepositories are the default of namespace {namespace}; set "
                "it, or an administrator can leave one of them"
            )
    raise NoDefaultRepository(
        f"{what} is not set, and namespace {namespace} has no default LayerRepository; set it, or an administrator can "
        "set spec.defaultFor of one that selects this namespace"
    )
