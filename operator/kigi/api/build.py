"""SystemBuild: a recipe that makes the images of a state. Its shape is fixed; a later version gives it its function."""

from __future__ import annotations

from typing import Annotated, ClassVar, Literal

from pydantic import Field, JsonValue

from kigi.api.base import (
    AGE_COLUMN,
    MAP_BY_NAME,
    MESSAGE_COLUMN,
    READY_COLUMN,
    STATE_COLUMN,
    Column,
    MachineName,
    Metadata,
    Model,
    ObjectName,
    ObjectRef,
    Rule,
    Status,
    TreeRef,
)
from kigi.api.machine_hardware import QuantityText
from kigi.domain import kinds

STEP_NAME = r"^[a-z]([-a-z0-9]*[a-z0-9])?$"
FILE_PATH = r"^/.*$"
ATOMIC: dict[str, JsonValue] = {"x-kubernetes-list-type": "atomic"}


Word = Annotated[str, Field(max_length=100)]


class RunStep(Model):
    """Runs a command in the guest."""

    command: list[Word] = Field(
        min_length=1,
        max_length=24,
        description="Program and its arguments; no shell interprets them. A longer script is a file of another step.",
        json_schema_extra=ATOMIC,
    )


class FilesStep(Model):
    """Writes the files of a ConfigMap."""

    config_map_ref: ObjectRef = Field(description="ConfigMap with the files, in the namespace of the build.")
    path: str = Field(max_length=200, pattern=FILE_PATH, description="Absolute path of their directory in the guest.")


class CloudInitStep(Model):
    """Gives cloud-init its user data."""

    secret_ref: ObjectRef = Field(description="Secret with the key userdata, in the namespace of the build.")


class BuildStep(Model):
    """One step; exactly one of run, files and cloudInit."""

    RULES: ClassVar[tuple[Rule, ...]] = (
        Rule(
            "[has(self.run), has(self.files), has(self.cloudInit)].filter(found, found).size() == 1",
            "run, files, cloudInit: a step has exactly one of them; split it, or add one",
        ),
    )

    name: str = Field(min_length=1, max_length=63, pattern=STEP_NAME, description="Name of the step, for messages.")
    run: RunStep | None = Field(default=None, description="Command to run in the guest; omitted: none.")
    files: FilesStep | None = Field(default=None, description="Files to write; omitted: none.")
    cloud_init: CloudInitStep | None = Field(default=None, description="Data for cloud-init; omitted: none.")


class BuildMachine(Model):
    """Steps of one machine."""

    name: MachineName = Field(description="Name of the machine in the state that the build starts from.")
    steps: list[BuildStep] = Field(
        min_length=1, max_length=20, description="Steps, in their order.", json_schema_extra=ATOMIC
    )


class BuildTarget(Model):
    """The state that the build makes and keeps up to date."""

    system_name: ObjectName = Field(max_length=63, description="Name of the SystemNode, in the namespace of the build.")
    content: Literal["Disks", "DisksAndMemory"] | None = Field(
        default=None,
        description="Disks, or DisksAndMemory. Omitted: Disks. Further values may be added; treat an unknown one as "
        "Disks and more.",
    )


class SystemBuildSpec(Model):
    """What to build. Mutable: a recipe is kept in Git, and an edit builds again."""

    from_ref: TreeRef = Field(description="State that the build starts from.")
    target: BuildTarget = Field(description="State that the build makes.")
    executor: Literal["Auto", "VirtualMachine", "Offline"] | None = Field(
        default=None,
        description="VirtualMachine: the steps run in a booted VM. Offline: they change the disk of a VM that is off. "
        "Omitted: Auto, which takes Offline where the steps allow it. Further values may be added; treat an "
        "unknown one as Auto.",
    )
    machines: list[BuildMachine] = Field(
        min_length=1,
        max_length=16,
        description="Machines that change; the others stay as in the state of fromRef.",
        json_schema_extra=MAP_BY_NAME,
    )
    concurrent_machines: int | None = Field(
        default=None, ge=1, le=16, description="Machines that are built at the same time. Omitted: 1."
    )
    write_limit: QuantityText | None = Field(
        default=None, description="Most bytes that one machine may write; at the limit it fails. Omitted: no limit."
    )
    active_deadline_seconds: int | None = Field(
        default=None, ge=1, le=2**31 - 1, description="Seconds after which a build fails. Omitted: no deadline."
    )
    history_limit: int | None = Field(
        default=None, ge=0, le=100, description="Number of earlier results that are kept. Omitted: 3."
    )


class BuildSteps(Model):
    """Numbers of steps."""

    total: int = Field(default=0, description="Number of steps of all machines.")
    cached: int = Field(default=0, description="Number of steps whose image existed.")
    done: int = Field(default=0, description="Number of steps that are done, with those whose image existed.")


class SystemBuildStatus(Status):
    """Progress and result."""

    system_name: str | None = Field(default=None, max_length=63, description="SystemNode that was made.")
    content_hash: str | None = Field(default=None, max_length=64, description="Hash of its resolved content.")
    steps: BuildSteps = Field(default_factory=BuildSteps, description="Numbers of steps.")
    moved_bytes: int = Field(default=0, description="Bytes that were moved to the node of the build.")


class SystemBuild(Model):
    """A recipe that makes the images of a state from another state. Reserved: the API server refuses it."""

    KIND: ClassVar[str] = kinds.BUILD
    PLURAL: ClassVar[str] = "systembuilds"
    SHORT: ClassVar[tuple[str, ...]] = ("kbuild",)
    RULES: ClassVar[tuple[Rule, ...]] = (
        Rule(
            "!has(self.spec)",
            "spec: SystemBuild is reserved for a later version of Kigi, which gives it its function; publish images "
            "with kigi publish",
            ".spec",
        ),
    )
    COLUMNS: ClassVar[tuple[Column, ...]] = (
        READY_COLUMN,
        STATE_COLUMN,
        Column("System", "string", ".status.systemName", "SystemNode that was made."),
        MESSAGE_COLUMN,
        AGE_COLUMN,
    )

    metadata: Metadata
    spec: SystemBuildSpec
    status: SystemBuildStatus = Field(default_factory=SystemBuildStatus)
