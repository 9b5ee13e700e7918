"""A stolen node: its credentials try what Kubernetes and S3 have, and what they are allowed equals a written list.

The credentials are the token of the node's daemon, its token for peers, the S3 user of the daemons, the signed
requests of uploads in the NodeCaches of all nodes, and none at all. The cluster is a real API server with everything of
manifests/. The S3 server is real too, with a bucket whose policy is that of the example and one that is protected as
docs/security.md describes.

What must hold: each call is allowed exactly if tests/campaigns/stolen_allowed.yaml lists it, no other object changes,
and every layer is intact, in each bucket. The token is refused as soon as its pod is deleted.

    python -m tests.campaigns.stolen [--seed 1] [--calls 20000] [--json FILE]
"""

from __future__ import annotations

import argparse
import random
import tempfile
from collections.abc import Iterable
from dataclasses import dataclass, field
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any

import yaml

from localcluster.controlplane import ControlPlane
from localcluster.s3 import S3Server
from tests.campaigns import stolen_cluster, stolen_requests, stolen_s3
from tests.campaigns.ending import finish
from tests.campaigns.stolen_calls import OWN
from tests.campaigns.stolen_cluster import Outcome

LIST = Path(__file__).with_name("stolen_allowed.yaml")
MAY_CHANGE = (
    f"nodecaches.node.kigi.dev//{OWN}",
    f"leases.coordination.k8s.io/kigi-system/kigi-node-{OWN}",
    "leases.coordination.k8s.io/kube-system/apiserver-*",
    "events/default/good.*",
    "events.events.k8s.io/default/good.*",
)
"""Objects that the listed calls change, and what the API server itself renews."""


@dataclass(frozen=True, slots=True)
class Entry:
    """An entry of the written list."""

    who: str
    calls: tuple[str, ...]
    of: tuple[str, ...]
    reason: str
    harm: str = ""

    def allows(self, who: str, what: str, target: str) -> bool:
        """Whether the call is of this entry."""
        matches = any(fnmatchcase(what, each) for each in self.calls) and any(
            fnmatchcase(target, each) for each in self.of
        )
        return who == self.who and matches


def read_list(path: Path = LIST) -> list[Entry]:
    """The written list."""
    found = yaml.safe_load(path.read_text(encoding="utf-8"))
    return [
        Entry(each["who"], tuple(each["calls"]), tuple(each.get("of", ("*",))), each["reason"], each.get("harm", ""))
        for each in found
    ]


@dataclass
class Result:
    """Numbers and differences of a campaign."""

    seed: int
    calls: dict[str, int] = field(default_factory=dict)
    allowed: dict[str, int] = field(default_factory=dict)
    """Kinds of calls (what, target) that were allowed."""
    unlisted: list[str] = field(default_factory=list)
    """Allowed, and not listed."""
    refused: list[str] = field(default_factory=list)
    """Tried, listed, and refused."""
    unused: list[str] = field(default_factory=list)
    """Calls of the list that no attempt was of; only a whole run looks for them."""
    changed: list[str] = field(default_factory=list)
    """Objects of Kubernetes that changed and may not."""
    layers: dict[str, dict[str, int]] = field(default_factory=dict)
    """By phase and bucket: layers altered, and layers of which no version is left."""
    layers_stored: int = 0
    ends_with_pod: bool = False
    """The token is refused after its pod is deleted."""

    def compare(self, who: str, outcome: Outcome, entries: Iterable[Entry]) -> None:
        """Adds what one credential did."""
        mine = [entry for entry in entries if entry.who == who]
        self.calls[who] = self.calls.get(who, 0) + outcome.calls
        self.allowed[who] = self.allowed.get(who, 0) + len(outcome.allowed)
        for what, target in sorted(outcome.tried):
            is_listed = any(entry.allows(who, what, target) for entry in mine)
            is_allowed = (what, target) in outcome.allowed
            if is_allowed and not is_listed:
                self.unlisted.append(f"{who}: {what} {target}: {outcome.allowed[what, target]}")
            elif is_listed and not is_allowed:
                self.refused.append(f"{who}: {what} {target}")

    def holds(self) -> bool:
        """Whether all that must hold does."""
        damage = [number for found in self.layers.values() for number in found.values()]
        differences = (self.unlisted, self.refused, self.unused, self.changed)
        return self.ends_with_pod and not any(differences) and not any(damage)

    def summary(self) -> dict[str, Any]:
        """As JSON."""
        return {
            "campaign": "stolen",
            "seed": self.seed,
            "calls": self.calls,
            "callsTotal": sum(self.calls.values()),
            "allowed": self.allowed,
            "unlisted": self.unlisted,
            "listedButRefused": self.refused,
            "listedButNotTried": self.unused,
            "objectsChanged": self.changed,
            "tokenEndsWithPod": self.ends_with_pod,
            "layersStored": self.layers_stored,
            "layers": self.layers,
            "holds": self.holds(),
        }


def run(seed: int, calls: int, folder: Path) -> Result:
    """One campaign with about ``calls`` calls, or all that there are."""
    result, entries = Result(seed), read_list()
    tried: dict[str, set[tuple[str, str]]] = {}
    is_whole = _kubernetes(result, entries, calls // 2, folder, tried)
    is_whole &= _s3(result, entries, calls // 2, folder, tried)
    if is_whole:
        result.unused = [
            f"{entry.who}: {pattern}"
            for entry in entries
            for pattern in entry.calls
            if not any(fnmatchcase(what, pattern) for what, _ in tried.get(entry.who, ()))
        ]
    return result


def _kubernetes(
    result: Result, entries: list[Entry], count: int, folder: Path, tried: dict[str, set[tuple[str, str]]]
) -> bool:
    with ControlPlane(folder / "plane") as plane:
        cluster = stolen_cluster.prepare(plane)
        chosen = stolen_cluster.choose(cluster, result.seed, count)
        before = cluster.versions()
        for who, token in cluster.tokens.items():
            outcome = stolen_cluster.steal(cluster, token, chosen if who == "daemon" else chosen[: count // 10])
            tried[who] = outcome.tried
            result.compare(who, outcome, entries)
        after = cluster.versions()
        differing = {key for key in before.keys() | after.keys() if before.get(key) != after.get(key)}
        result.changed = sorted(key for key in differing if not any(fnmatchcase(key, each) for each in MAY_CHANGE))
        result.ends_with_pod = stolen_cluster.delete_pod(cluster)
        return len(chosen) == sum(map(len, cluster.calls()))


def _s3(result: Result, entries: list[Entry], count: int, folder: Path, tried: dict[str, set[tuple[str, str]]]) -> bool:
    is_whole = True
    share = count // (3 * 3)
    with S3Server(folder / "s3", versions=True) as server:
        buckets = stolen_s3.prepare(server)
        result.layers_stored = sum(map(len, buckets.keys.values()))
        for who in ("anonymous", "reader"):
            for bucket in (*stolen_s3.SETUPS, stolen_s3.OTHER):
                found = stolen_s3.attempts(buckets, bucket, result.seed)
                chosen = found if len(found) <= share else random.Random(result.seed).sample(found, share)
                is_whole &= len(chosen) == len(found)
                outcome = stolen_s3.steal(buckets, who, bucket, chosen)
                tried.setdefault(who, set()).update(outcome.tried)
                result.compare(who, outcome, entries)
            _count_damage(result, buckets, who)
        for bucket in stolen_s3.SETUPS:
            outcome, is_all = stolen_requests.steal(buckets, bucket, result.seed, share)
            is_whole &= is_all
            tried.setdefault("request", set()).update(outcome.tried)
            result.compare("request", outcome, entries)
        _count_damage(result, buckets, "request")
        # Nothing that a request has stored is public.
        outcome = stolen_s3.steal(buckets, "anonymous", stolen_s3.SETUPS[0], [*_reads(buckets)])
        result.compare("anonymous", outcome, entries)
    return is_whole


def _count_damage(result: Result, buckets: stolen_s3.Buckets, who: str) -> None:
    for bucket in buckets.keys:
        altered, lost = buckets.damage(bucket)
        result.layers[f"{who}, {bucket}"] = {"altered": altered, "lost": lost}


def _reads(buckets: stolen_s3.Buckets) -> Iterable[stolen_s3.Attempt]:
    for page in buckets.root.get_paginator("list_objects_v2").paginate(Bucket=stolen_s3.SETUPS[0]):
        for item in page["Contents"]:
            yield "GetObject", "any object", {"Bucket": stolen_s3.SETUPS[0], "Key": item["Key"]}


def main() -> None:
    """Runs one campaign; exit code 1 if something does not hold."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--calls", type=int, default=20_000, help="at most; by default all")
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="kigi-campaign-") as folder:
        result = run(options.seed, options.calls, Path(folder))
    finish(result.summary(), result.holds(), options.json)


if __name__ == "__main__":
    main()
