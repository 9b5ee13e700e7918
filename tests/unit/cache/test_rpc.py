"""The generated modules correspond to the .proto files, for every version of the compiler."""

from __future__ import annotations

from pathlib import Path

import pytest
from google.protobuf.descriptor_pb2 import FileDescriptorProto, FileDescriptorSet
from grpc_tools import protoc

from kigi_cache.rpc import csi_pb2, registration_pb2

SOURCES = Path(__file__).parents[3] / "node-cache-daemon"


@pytest.mark.parametrize("module", [csi_pb2, registration_pb2], ids=lambda module: module.__name__)
def test_generated_code_is_current(module: object, tmp_path: Path) -> None:
    committed = FileDescriptorProto()
    module.DESCRIPTOR.CopyToProto(committed)  # type: ignore[attr-defined]
    out = tmp_path / "set"
    google = Path(protoc.__file__).parent / "_proto"
    assert protoc.main(["", f"-I{SOURCES}", f"-I{google}", f"--descriptor_set_out={out}", committed.name]) == 0
    made = FileDescriptorSet.FromString(out.read_bytes()).file[0]
    made.ClearField("source_code_info")
    for descriptor in (made, committed):  # names in JSON are filled in by one of the two only
        for message in _messages(descriptor):
            for field in message.field:
                field.ClearField("json_name")
    assert made == committed


def _messages(descriptor):  # type: ignore[no-untyped-def]
    waiting = list(descriptor.message_type)
    while waiting:
        message = waiting.pop()
        waiting.extend(message.nested_type)
        yield message
