"""The page ``docs/reference/configuration.md``: every environment variable, from the settings of each program."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from kigi.adapters.environment import EnvironmentSettings, default_text
from kigi.runtime.settings import Settings
from kigi_cache.settings import DaemonSettings, PublisherSettings


@dataclass(frozen=True, slots=True)
class Row:
    """One variable or field. ``default``: as it would be written; empty if it is required."""

    name: str
    default: str
    meaning: str


@dataclass(frozen=True, slots=True)
class Section:
    """One table of the page, with a sentence above it."""

    title: str
    text: str
    rows: Sequence[Row]
    head: str = "Variable"


HEADER = """\
<!-- Made by 'make docs' from the settings classes; do not edit. -->
# Configuration

Every environment variable of Kigi's programs, as the programs read them. Operator, daemon and publisher count
an empty variable as unset. They do not start with a wrong one: they print the variable, its value, what is expected,
and the default.
"""
SOURCES = (
    Row(
        "KIGI_S3_ENDPOINT",
        "unset",
        "URL of an S3 server, such as https://s3.example. The command line uses it in place of every "
        "LayerRepository; for daemon and publisher it is the repository `default`.",
    ),
    Row("KIGI_S3_BUCKET", "kigi", "Bucket of that server. Read only if KIGI_S3_ENDPOINT is set."),
    Row("AWS_ACCESS_KEY_ID", "unset", "Access key of the command line, and of the repository `default`."),
    Row("AWS_SECRET_ACCESS_KEY", "unset", "Secret key of the command line, and of the repository `default`."),
    Row(
        "KIGI_S3_MAX_PUT_BYTES",
        "5Gi",
        "Largest upload in one request of that server or of a proxy before it, as 50Mi; larger layers go in parts.",
    ),
    Row(
        "AWS_SESSION_TOKEN",
        "unset",
        "Token of temporary keys, beside AWS_ACCESS_KEY_ID; AWS_SECURITY_TOKEN is its old name.",
    ),
    Row("AWS_SECURITY_TOKEN", "unset", "Old name of AWS_SESSION_TOKEN."),
    Row("AWS_PROFILE", "default", "Profile of ~/.aws with the credentials, if AWS_ACCESS_KEY_ID is unset."),
    Row("AWS_DEFAULT_PROFILE", "unset", "As AWS_PROFILE, which wins."),
    Row("AWS_SHARED_CREDENTIALS_FILE", "~/.aws/credentials", "Path of the file with the profiles' credentials."),
    Row("AWS_ROLE_ARN", "unset", "Role that a web identity takes."),
    Row("AWS_WEB_IDENTITY_TOKEN_FILE", "unset", "Path of the web identity's token, as AWS's clusters mount it."),
    Row("AWS_CONTAINER_CREDENTIALS_RELATIVE_URI", "unset", "As the next one, as a path, which Amazon ECS sets."),
    Row("AWS_CONTAINER_CREDENTIALS_FULL_URI", "unset", "Where a container's agent gives out credentials."),
    Row("AWS_REGION", "unset", "Region to sign for if the LayerRepository names none; else the server's answer."),
    Row("AWS_DEFAULT_REGION", "unset", "The same, if AWS_REGION is unset."),
    Row("AWS_CA_BUNDLE", "unset", "Path of a PEM file with the authorities of an https endpoint, for `kigi`."),
)
COMMAND_LINE = (
    Row("KUBECONFIG", "~/.kube/config", "Paths of kubeconfigs, separated by colons; --kubeconfig overrides them."),
    Row(
        "KIGI_NAMESPACE",
        "that of the operator's account",
        "Kigi's namespace, with the Leases of the daemons and the Secrets of the repositories.",
    ),
    Row("KIGI_CACHE", "XDG_CACHE_HOME/kigi", "Directory of what is cached; kigi publish keeps layers in published/."),
    Row("XDG_CACHE_HOME", "~/.cache", "The user's cache directory."),
)
NETWORK = (
    Row(
        "KUBERNETES_SERVICE_HOST",
        "unset",
        "Host of the API server; the kubelet sets it in each pod. Read only without KUBECONFIG.",
    ),
    Row("KUBERNETES_SERVICE_PORT", "443", "Port of the API server; the kubelet sets it in each pod."),
    Row(
        "HTTPS_PROXY", "unset", "HTTP proxy for an API server with an https URL, unless the kubeconfig has a proxy-url."
    ),
    Row("HTTP_PROXY", "unset", "HTTP proxy for an API server with an http URL, unless the kubeconfig has a proxy-url."),
    Row("NO_PROXY", "unset", "Hosts that are reached without a proxy, separated by commas."),
)


def settings_rows(kind: type[EnvironmentSettings]) -> tuple[Row, ...]:
    """One row for each variable of a program. Raises ValueError for a field without variable or description."""
    rows = []
    for name, field in kind.model_fields.items():
        if not isinstance(field.validation_alias, str) or not field.description:
            raise ValueError(f"{kind.__name__}.{name}: needs a validation_alias and a description")
        rows.append(Row(field.validation_alias, default_text(kind, name), field.description))
    return tuple(rows)


def sections() -> tuple[Section, ...]:
    """All tables of the page, in their order."""
    repositories = "Used by the command line, and by daemon and publisher where no LayerRepository exists."
    return (
        Section(
            "Operator",
            "`kigi-operator`, set in [deployment.yaml](../../manifests/operator/deployment.yaml).",
            settings_rows(Settings),
        ),
        Section(
            "Node cache daemon",
            "`kigi-cache`, set in [daemonset.yaml](../../manifests/daemon/daemonset.yaml).",
            settings_rows(DaemonSettings),
        ),
        Section(
            "Capture publisher",
            "`kigi-capture-publisher`, the second container of the same pod.",
            settings_rows(PublisherSettings),
        ),
        Section("Repository", repositories, SOURCES),
        Section("Command line", "`kigi`. Options override variables; see `kigi VERB --help`.", COMMAND_LINE),
        Section("API server", "How all programs reach it.", NETWORK),
    )


def render_configuration() -> str:
    """The whole page."""
    return "\n".join([HEADER, *(_render(section) for section in sections())])


def render_table(head: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """A Markdown table; pipes in cells are escaped."""
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join("| " + " | ".join(cell.replace("|", "\\|") for cell in line) + " |" for line in lines)


def _render(section: Section) -> str:
    rows = [(f"`{row.name}`", _default(row.default), row.meaning) for row in section.rows]
    return f"## {section.title}\n\n{section.text}\n\n{render_table((section.head, 'Default', 'Meaning'), rows)}\n"


def _default(text: str) -> str:
    """A value in code style; words as they are."""
    return "required" if not text else text if text == "unset" or " " in text else f"`{text}`"
