"""Parts that all kinds share: model settings, metadata, references, conditions, CEL rules and printer columns."""

from __future__ import annotations

from datetime import datetime
from typing import Annotated, Any, Literal, NamedTuple

from pydantic import BaseModel, ConfigDict, Field, JsonValue, ValidationInfo, field_validator
from pydantic.alias_generators import to_camel

from kigi.domain.layers import DIGEST_PATTERN
from kigi.domain.tree_names import name_in

DNS_LABEL = r"^[a-z0-9]([-a-z0-9]*[a-z0-9])?$"
DNS_SUBDOMAIN = r"^[a-z0-9]([-a-z0-9]*[a-z0-9])?(\.[a-z0-9]([-a-z0-9]*[a-z0-9])?)*$"
CONDITION_TYPE = (
    r"^([a-z0-9]([-a-z0-9]*[a-z0-9])?(\.[a-z0-9]([-a-z0-9]*[a-z0-9])?)*/)?(([A-Za-z0-9][-A-Za-z0-9_.]*)?[A-Za-z0-9])$"
)
CONDITION_REASON = r"^[A-Za-z]([A-Za-z0-9_,:]*[A-Za-z0-9_])?$"
MACHINE_NAME = r"^[a-z]([-a-z0-9]*[a-z0-9])?$"

MAX_CONDITIONS = 16
MAX_SPEC_BYTES = 700 * 2**10
"""Longest spec of a SystemNode as JSON, whose limits together allow more. The operator refuses a longer one: with
kubectl's annotation and the status, the object must stay below etcd's 1.5 MiB."""

DigestText = Annotated[str, Field(max_length=71, pattern=DIGEST_PATTERN)]
ObjectName = Annotated[str, Field(min_length=1, max_length=253, pattern=DNS_SUBDOMAIN)]
NamespaceName = Annotated[str, Field(min_length=1, max_length=63, pattern=DNS_LABEL)]
MachineName = Annotated[str, Field(min_length=1, max_length=20, pattern=MACHINE_NAME)]
UserName = Annotated[str, Field(min_length=1, max_length=512)]


class Rule(NamedTuple):
    """One CEL rule of ``x-kubernetes-validations``; ``path`` is its optional fieldPath."""

    rule: str
    message: str
    path: str | None = None
    optional_old_self: bool = False


def planned(field: str, *, parent: str = "self") -> Rule:
    """Rule that refuses a field, by its JSON name, whose schema is fixed; its function comes later."""
    return Rule(
        f"!has({parent}.{field})",
        f"{field}: reserved for a later version of Kigi, which gives it its function; delete it",
        f".{field}",
    )


class Column(NamedTuple):
    """A printer column of ``kubectl get``; ``priority`` 0 is always shown, 1 only with ``-o wide``."""

    name: str
    type: Literal["string", "integer", "date"]
    json_path: str
    description: str
    priority: int = 0


READY_COLUMN = Column(
    "Ready", "string", '.status.conditions[?(@.type=="Ready")].status', "True if the object is as desired."
)
STATE_COLUMN = Column(
    "State", "string", '.status.conditions[?(@.type=="Ready")].reason', "Reason why it is ready or not, as one word."
)
MESSAGE_COLUMN = Column(
    "Message", "string", '.status.conditions[?(@.type=="Ready")].message', "Explanation of the state.", 1
)
AGE_COLUMN = Column("Age", "date", ".metadata.creationTimestamp", "Time since the object was created.")

MAP_BY_NAME: dict[str, JsonValue] = {"x-kubernetes-list-type": "map", "x-kubernetes-list-map-keys": ["name"]}
"""Schema of a list with the key ``name``, so that server-side apply merges its items."""


class Model(BaseModel):
    """Immutable; camelCase in JSON, snake_case in Python; unknown fields are ignored, as the API server prunes them."""

    model_config = ConfigDict(
        frozen=True, extra="ignore", alias_generator=to_camel, populate_by_name=True, defer_build=True
    )

    def to_api(self) -> dict[str, Any]:
        """JSON value for the API server: camelCase, without fields that are None."""
        return self.model_dump(mode="json", by_alias=True, exclude_none=True)


class ObjectRef(Model):
    """Reference to an object of the same namespace, or to a cluster-scoped one; fields of this type end in ``_ref``."""

    name: ObjectName = Field(description="Name of the object.")


class RepositoryRef(Model):
    """Reference to a repository of layers; fields of this type end in ``_ref``."""

    name: str = Field(min_length=1, max_length=63, pattern=DNS_LABEL, description="Name of the repository.")


MAX_TREE_NAME = 317
"""Characters of ``namespace/name``."""


class TreeRef(Model):
    """Reference to an object of a tree, which may be in another namespace; fields of this type end in ``_ref``.

    With the validation context ``{"namespace": NAME}``, the namespace of the referring object counts as omitted.
    """

    namespace: NamespaceName | None = Field(
        default=None, description="Namespace of the object, which needs a TreeGrant there; omitted: this namespace."
    )
    name: ObjectName = Field(description="Name of the object.")

    @field_validator("namespace")
    @classmethod
    def _omit_own(cls, namespace: str | None, info: ValidationInfo) -> str | None:
        return None if info.context is not None and info.context["namespace"] == namespace else namespace

    @property
    def tree_name(self) -> str:
        """Name of the object in the namespace of the referring object; see ``domain.tree_names``."""
        return name_in("", self.namespace, self.name)


class NameRef(Model):
    """Reference to an object of the same namespace."""

    name: ObjectName = Field(description="Name of the object, in the same namespace.")


class Condition(Model):
    """One condition, exactly as Kubernetes defines it (metav1.Condition)."""

    type: str = Field(
        description="Name of the condition, CamelCase; further types may be added.",
        max_length=316,
        pattern=CONDITION_TYPE,
    )
    status: Literal["True", "False", "Unknown"] = Field(description="True, False or Unknown.")
    observed_generation: int = Field(default=0, ge=0, description="metadata.generation that the condition is about.")
    last_transition_time: datetime = Field(description="Time of the last change of status, RFC 3339.")
    reason: str = Field(
        description="Reason as one CamelCase word; further values may be added.",
        min_length=1,
        max_length=1024,
        pattern=CONDITION_REASON,
    )
    message: str = Field(description="Explanation with object, field, number and remedy.", max_length=32768)


class Status(Model):
    """Fields of every kind's status."""

    observed_generation: int = Field(
        default=-1, description="metadata.generation that the status is about; -1: none yet."
    )
    conditions: list[Condition] = Field(
        default_factory=list,
        max_length=MAX_CONDITIONS,
        description="Ready, Reconciling, Stalled and conditions of the kind.",
        json_schema_extra={"x-kubernetes-list-type": "map", "x-kubernetes-list-map-keys": ["type"]},
    )


class Metadata(Model):
    """Fields of ObjectMeta that Kigi reads."""

    name: str
    namespace: str | None = None
    uid: str = ""
    generation: int = 0
    resource_version: str = ""
    labels: dict[str, str] = Field(default_factory=dict)
    annotations: dict[str, str] = Field(default_factory=dict)
    finalizers: list[str] = Field(default_factory=list)
    deletion_timestamp: datetime | None = None
    creation_timestamp: datetime | None = None
