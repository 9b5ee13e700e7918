from __future__ import annotations

from typing import Any

import pytest

from kigi.adapters.kubernetes.api_errors import translate
from kigi.adapters.kubernetes.resources import CLAIM, MACHINE, NODE, VOLUME
from kigi.errors import Conflict, Forbidden, KigiError, SpecInvalid, Unreachable, Waiting


@pytest.mark.parametrize(
    ("status", "answer", "error"),
    [
        (409, {"message": "object has been modified"}, Conflict),
        (422, {"message": "invalid", "details": {"causes": [{"field": "spec.x"}]}}, SpecInvalid),
        (422, {"message": "the server rejected our request"}, Conflict),
        (400, {"message": "bad"}, SpecInvalid),
        (403, {"message": 'admission webhook "w" denied the request: no'}, SpecInvalid),
        (403, {"message": "exceeded quota: q"}, Waiting),
        (403, {"message": "unable to create: namespace is being terminated"}, Waiting),
        (403, {"message": 'User "u" cannot patch resource "nodes"'}, Forbidden),
        (401, {"message": "Unauthorized"}, Unreachable),
        (429, {"message": "slow down"}, Unreachable),
        (500, {"message": "etcd"}, Unreachable),
        (503, {}, Unreachable),
    ],
)
def test_an_answer_becomes_the_error_that_says_what_to_do(
    status: int, answer: dict[str, Any], error: type[KigiError]
) -> None:
    found = translate(status, answer, "PATCH /api/v1/x")
    assert type(found) is error
    assert "PATCH /api/v1/x" in str(found)
    assert answer.get("message", "503") in str(found)


@pytest.mark.parametrize(
    ("path", "expected"),
    [
        (CLAIM.path("ns", "c"), "/api/v1/namespaces/ns/persistentvolumeclaims/c"),
        (CLAIM.path(), "/api/v1/persistentvolumeclaims"),
        (VOLUME.path(None, "v"), "/api/v1/persistentvolumes/v"),
        (NODE.path("ignored", "n", "status"), "/api/v1/nodes/n/status"),
        (MACHINE.path("ns", "m"), "/apis/kubevirt.io/v1/namespaces/ns/virtualmachines/m"),
    ],
)
def test_paths(path: str, expected: str) -> None:
    assert path == expected
