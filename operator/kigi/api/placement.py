"""Rules for placing VMs on nodes: selector, tolerations and strategy."""

from __future__ import annotations

from typing import Annotated, ClassVar, Literal

from pydantic import Field

from kigi.api.base import Model, Rule
from kigi.api.selectors import LABEL_KEY, LabelValue

KubernetesWord = Annotated[str, Field(min_length=1, max_length=63, pattern=r"^[A-Z][A-Za-z]*$")]
"""A word of a list that Kubernetes may extend, so that a closed enum would refuse what a newer cluster accepts."""


class Toleration(Model):
    """A toleration, as in a pod's spec."""

    RULES: ClassVar[tuple[Rule, ...]] = (
        Rule(
            "has(self.key) || (has(self.operator) && self.operator == 'Exists')",
            "operator: a toleration without key tolerates every taint and needs operator Exists",
            ".operator",
        ),
        Rule(
            "!has(self.value) || self.value == '' || !has(self.operator) || self.operator != 'Exists'",
            "value: operator Exists has no value; delete value, or use operator Equal",
            ".value",
        ),
        Rule(
            "!has(self.tolerationSeconds) || (has(self.effect) && self.effect == 'NoExecute')",
            "tolerationSeconds: only effect NoExecute has it; set that effect, or delete tolerationSeconds",
            ".tolerationSeconds",
        ),
    )

    key: str | None = Field(
        default=None, max_length=317, pattern=LABEL_KEY, description="Taint key; omitted: all keys."
    )
    operator: KubernetesWord | None = Field(
        default=None,
        description="Exists, or Equal (default): whether the value matters. Kubernetes may add further values; Kigi "
        "places nothing by one that it does not know.",
    )
    value: LabelValue | None = Field(
        default=None, description="Taint value; omitted: the empty value, or with Exists any."
    )
    effect: KubernetesWord | None = Field(
        default=None,
        description="Effect to tolerate: NoSchedule, PreferNoSchedule or NoExecute; omitted: all. Kubernetes may add "
        "further values.",
    )
    toleration_seconds: int | None = Field(
        default=None, description="Seconds for which NoExecute is tolerated; omitted: for ever."
    )


SELECTOR_RULE = Rule(
    f"!has(self.nodeSelector) || self.nodeSelector.all(k, k.size() <= 317 && k.matches('{LABEL_KEY}'))",
    "nodeSelector: a key is not a valid label key; write it as on the node, such as topology.kubernetes.io/zone",
    ".nodeSelector",
)


class Placement(Model):
    """Rules for placing instances on nodes."""

    RULES: ClassVar[tuple[Rule, ...]] = (SELECTOR_RULE,)

    strategy: Literal["CacheAware", "Spread", "Pack"] | None = Field(
        default=None,
        description="CacheAware (default): fewest bytes to move. Spread: evenly over nodes. Pack: on as few nodes "
        "as possible. Unknown: as CacheAware; further values may be added.",
    )
    node_selector: dict[str, LabelValue] = Field(
        default_factory=dict, description="Labels that a node must have.", json_schema_extra={"maxProperties": 32}
    )
    tolerations: list[Toleration] = Field(
        default_factory=list,
        max_length=32,
        description="Taints that the VMs tolerate.",
        json_schema_extra={"x-kubernetes-list-type": "atomic"},
    )
