"""The repository that a verb's options name, and the local folder of layers."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from kigi.adapters.kubernetes.resources import NAMESPACE, REPOSITORY, Resource
from kigi.cli.cluster import Access, list_objects, open_cluster
from kigi.cli.exit_codes import OptionInvalid
from kigi.errors import Forbidden, NoDefaultRepository, RepositoryUnknown, SpecInvalid

if TYPE_CHECKING:
    from kigi.adapters.kubernetes.session import KubeSession
    from kigi.api.layer_repository import LayerRepositorySpec
    from kigi.api.repositories import Repository

OTHER_WAY = "or set KIGI_S3_ENDPOINT and KIGI_S3_BUCKET"


class Chosen(NamedTuple):
    """A repository, and the LayerRepository that it is; None: its server is one of options or environment."""

    settings: Repository
    spec: LayerRepositorySpec | None


@dataclass(frozen=True, slots=True)
class RepositoryChoice:
    """The server of ``--endpoint``, else ``--repository``, else KIGI_S3_ENDPOINT, else the namespace's default."""

    name: str | None = None
    """Name of a LayerRepository; None: the default of the namespace."""
    endpoint: str | None = None
    bucket: str | None = None

    def load(self, access: Access) -> Repository:
        """The settings of ``chosen``."""
        return self.chosen(access).settings

    def chosen(self, access: Access) -> Chosen:
        """The chosen repository. Credentials and further authorities come from the environment (AWS_*).

        Raises OptionInvalid, SpecInvalid, RepositoryUnknown, NoDefaultRepository, or Forbidden with the missing right.
        """
        return self.of_image(access, None) if self.name is None else self._find(access, self.name, self.endpoint)

    def of_image(self, access: Access, name: str | None) -> Chosen:
        """The repository that an image names; a server of option or environment replaces any. Raises as ``chosen``."""
        return self._find(access, name or self.name, self.endpoint or os.environ.get("KIGI_S3_ENDPOINT"))

    def _find(self, access: Access, name: str | None, endpoint: str | None) -> Chosen:
        from kigi.api.repositories import VARIABLES, environment_repository, repository_of, repository_of_spec

        options = {"endpoint": self.endpoint, "bucket": self.bucket}
        names = {**VARIABLES, **{field: f"--{field}" for field, value in options.items() if value}}
        try:
            if endpoint:
                bucket, limit = os.environ.get("KIGI_S3_BUCKET"), os.environ.get("KIGI_S3_MAX_PUT_BYTES")
                return Chosen(environment_repository(endpoint, self.bucket or bucket, limit, names), None)
        except SpecInvalid as exc:
            raise OptionInvalid(str(exc)) from exc
        spec = _read(access, name)
        found = repository_of_spec(spec)
        try:
            return Chosen(
                repository_of({**found.to_api(), "bucket": self.bucket}, names) if self.bucket else found, spec
            )
        except SpecInvalid as exc:
            raise OptionInvalid(str(exc)) from exc


def _read(access: Access, name: str | None) -> LayerRepositorySpec:
    with open_cluster(access) as kube:
        if name is None:
            return _default(kube, access.default_namespace())
        try:
            body = kube.get(REPOSITORY, None, name)
        except Forbidden as exc:
            raise Forbidden(_missing_right(REPOSITORY, name)) from exc
    if body is None:
        raise RepositoryUnknown(f"there is no LayerRepository {name}; name another one with --repository, {OTHER_WAY}")
    return _spec(body)


def _default(kube: KubeSession, namespace: str) -> LayerRepositorySpec:
    from kigi.planning.repositories import resolve_repository

    try:
        specs = {body["metadata"]["name"]: _spec(body) for body in list_objects(kube, REPOSITORY, None)}
    except Forbidden as exc:
        raise Forbidden(f"{exc}; or name one with --repository, {OTHER_WAY}") from exc
    try:
        body = kube.get(NAMESPACE, None, namespace)
    except Forbidden as exc:
        raise Forbidden(_missing_right(NAMESPACE, namespace)) from exc
    labels = ((body or {}).get("metadata") or {}).get("labels") or {}
    try:
        return specs[resolve_repository(specs, namespace, labels, None, "--repository")]
    except NoDefaultRepository as exc:
        raise NoDefaultRepository(f"{exc}; {OTHER_WAY}") from exc


def _spec(body: Mapping[str, Any]) -> LayerRepositorySpec:
    from pydantic import ValidationError

    from kigi.api.layer_repository import LayerRepositorySpec
    from kigi.api.problems import problems

    try:
        return LayerRepositorySpec.model_validate(body["spec"])
    except ValidationError as exc:
        raise SpecInvalid(
            f"LayerRepository {body['metadata']['name']}: spec.{'; spec.'.join(problems(exc, LayerRepositorySpec))}"
        ) from exc


def _missing_right(resource: Resource, name: str) -> str:
    kind = f"{resource.plural}.{resource.group}" if resource.group else resource.plural
    return f"you need the right to get {kind} {name}; ask for it, name a repository with --repository, {OTHER_WAY}"


def default_layers_dir() -> Path:
    """Folder of layers in the user's cache: ``$KIGI_CACHE``, or ``kigi`` below ``$XDG_CACHE_HOME`` or ``~/.cache``."""
    cache = os.environ.get("KIGI_CACHE") or Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "kigi"
    return Path(cache) / "published"
