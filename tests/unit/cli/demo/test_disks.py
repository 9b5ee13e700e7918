import shutil
import subprocess
from pathlib import Path

import pytest

from kigi.cli.demo import disks, exercise, program
from kigi.cli.demo.costs import Ledger
from kigi.cli.demo.disks import DISK_BYTES, FILLERS, TEXT, DemoLayer, make_layers
from kigi.cli.demo.steps import chain_of
from kigi.domain.layers import layer_file_name
from kigi.domain.qcow2 import check_layer
from kigi.publishing.layer_folder import read_head
from kigi.publishing.layer_writer import CLUSTER, is_canonical

SOURCE = Path(program.__file__).with_name("guest.S")


@pytest.fixture(scope="module")
def layers(tmp_path_factory: pytest.TempPathFactory) -> dict[str, DemoLayer]:
    return make_layers(tmp_path_factory.mktemp("layers"), "run1")


def test_each_image_has_a_layer_that_a_node_accepts(layers: dict[str, DemoLayer]):
    assert len(layers) == 34
    for made in layers.values():
        check_layer(
            read_head(made.path),
            digest=made.layer.digest,
            parent=made.layer.parent,
            virtual_size_bytes=DISK_BYTES,
            size_bytes=made.layer.size_bytes,
        )
        assert is_canonical(made.path, DISK_BYTES)


def test_runs_share_no_layer_and_equal_runs_all(layers: dict[str, DemoLayer], tmp_path: Path):
    digests = {made.layer.digest for made in layers.values()}
    assert len(digests) == 34
    again = {made.layer.digest for made in make_layers(tmp_path, "run1").values()}
    assert again == digests
    assert not {made.layer.digest for made in make_layers(tmp_path, "run2").values()} & digests


def test_a_chain_is_the_disk_of_its_machine(layers: dict[str, DemoLayer], tmp_path: Path):
    chain = chain_of("mail1-infected", layers)
    assert chain == ["base", "server-base", "mail", "mail1", "mail1-infected"]
    for name in chain:
        shutil.copy(layers[name].path, tmp_path / layer_file_name(layers[name].layer.digest))
    top = tmp_path / layer_file_name(layers[chain[-1]].layer.digest)
    subprocess.run(["qemu-img", "check", "-q", str(top)], check=True)
    subprocess.run(["qemu-img", "convert", "-O", "raw", str(top), str(tmp_path / "disk.raw")], check=True)
    disk = (tmp_path / "disk.raw").read_bytes()
    assert disk[:512] == program.SECTOR
    assert disk[TEXT * CLUSTER :].startswith(b"machine=mail1 state=infected\0")
    flat = tmp_path / "flat.qcow2"
    subprocess.run(["qemu-img", "convert", "-O", "qcow2", str(top), str(flat)], check=True)
    assert abs(flat.stat().st_size - layers["mail1-infected"].flat_bytes) <= 2 * CLUSTER


def test_fillers_do_not_overlap():
    used = [index for filler in FILLERS.values() for index in filler]
    assert len(used) == len(set(used))
    assert min(used) > disks.COUNTER
    assert max(used) * CLUSTER < DISK_BYTES


def test_the_first_deployment_moves_38_mb(layers: dict[str, DemoLayer]):
    ledger = Ledger(
        {name: chain_of(name, layers) for name in layers},
        {name: made.layer.size_bytes for name, made in layers.items()},
        {name: made.flat_bytes for name, made in layers.items()},
    )

    def book(state: str, node: str = "n") -> tuple[int, int, int]:
        return ledger.book([(node, image) for image in exercise.resolved_images(state).values()])

    minimum, full, image_cache = book("infected")
    assert round(minimum / 1e6, 1) == 37.7
    assert full == image_cache > 5 * minimum
    minimum, full, image_cache = book("cleaned")
    assert full > image_cache > 30 * minimum > 0
    assert book("cleaned")[0] == book("cleaned")[2] == 0
    assert book("cleaned", "other node")[0] > 38e6


@pytest.mark.skipif(shutil.which("as") is None or shutil.which("ld") is None, reason="needs binutils")
def test_the_program_is_that_of_its_source(tmp_path: Path):
    subprocess.run(["as", "--32", "-o", tmp_path / "guest.o", SOURCE], check=True)
    link = ["ld", "-m", "elf_i386", "-Ttext", "0x7c00", "--oformat", "binary", "-e", "0"]
    subprocess.run([*link, "-o", tmp_path / "guest.bin", tmp_path / "guest.o"], check=True)
    assert (tmp_path / "guest.bin").read_bytes() == program.CODE
    assert len(program.CODE) <= 446, "the partition table's place stays free"
    assert program.SECTOR[510:] == b"\x55\xaa"
