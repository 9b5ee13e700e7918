"""What the publisher of captures may try on layers, and what root of the node can do to them.

Each is a shell command. For the publisher: ``$V`` is the copy's directory, ``$C`` its ``chain``, ``$F`` a layer in it,
``$L`` the layer's name, and ``$S`` the publisher's own directory ``out``. For root of the node: ``$F`` is the layer.
``$P`` is Python.
"""

from __future__ import annotations

from tests.support.volume_attacks import Attack

_MAP = "$P -c 'import mmap,sys; f=open(sys.argv[1],\"r+b\"); mmap.mmap(f.fileno(),0)[0]=0' $F"
PUBLISHER_ATTACKS = [
    Attack("result is a link to a layer", "ln -s $F $S/result.json"),
    Attack("result is a relative link to a layer", "ln -s ../chain/$L $S/result.json"),
    Attack("result is a second name of a layer", "ln $F $S/result.json"),
    Attack("result is a pipe", "mkfifo $S/result.json"),
    Attack("result is a folder with links", "mkdir $S/result.json && ln -s $F $S/result.json/x"),
    Attack("own folder has links with names of layers", "ln -s $F $S/$L; ln -s ../chain $S/chain"),
    Attack("own folder has a second name of a layer", "ln $F $S/$L"),
    Attack("own folder is 1,900 levels deep", "D=$S/$(printf 'd/%.0s' $(seq 1900)); mkdir -p $D && ln -s $F $D/x"),
    Attack("own folder is moved away", "mv $S $V/other; ln -s chain $V/out"),
    Attack("chain is moved away", "mv $C $V/other; ln -s out $V/chain"),
    Attack("copy is written", "printf x >> $V/copy.qcow2; chmod 666 $V/copy.qcow2 && printf x >> $V/copy.qcow2"),
    Attack("order is replaced", "printf '{}' > $V/order.json; rm -f $V/order.json"),
    Attack("heartbeat is a link to a layer", "H=$V/../.publisher; rm -f $H; ln -s $F $H; touch $H"),
    Attack("new copy among the daemon's", "mkdir -p $V/../.new/c2/chain $V/../c2/out; ln -s $F $V/../c2/order.json"),
    Attack("own user namespace", "unshare -Urm sh -c 'mount --bind $S $C; chmod 666 $F; printf x >> $F'"),
    Attack("own user namespace, remount", "unshare -Urm sh -c 'mount -o remount,rw,bind $V/..; printf x >> $F'"),
    Attack("by the process's descriptors", "exec 3<$F; printf x >> /proc/self/fd/3; chmod 666 /proc/self/fd/3"),
    Attack("map the layer", _MAP),
    Attack("access list", "setfacl -m u:65532:rw $F; printf x >> $F"),
    Attack("attribute", "chattr -i $F; setfattr -n user.x -v y $F"),
]
_SWAPS = """
import os, shutil, sys
os.chdir(sys.argv[1])
for _ in range(2000):
    os.makedirs("d/e"); open("d/e/f", "w").close(); os.rename("d", "x")
    os.symlink("../chain", "d"); os.unlink("d"); shutil.rmtree("x")
    os.symlink(sys.argv[2], "result.json"); os.unlink("result.json")
"""
RACE = Attack("links come and go while the daemon deletes", f"$P -c '{_SWAPS}' $S $F")
"""Runs while the daemon reads and deletes."""

NODE_WRITES = [
    Attack("overwrite", "printf EVIL | dd of=$F bs=1 seek=70000 conv=notrunc status=none"),
    Attack("overwrite, time restored", "touch -r $F t; printf EVIL | dd of=$F bs=1 seek=7 conv=notrunc; touch -r t $F"),
    Attack("append", "printf x >> $F"),
    Attack(
        "append and cut", "cp -a $F c; printf x >> $F; truncate -r c $F; printf E | dd of=$F seek=9 bs=1 conv=notrunc"
    ),
    Attack("truncate", ": > $F"),
    Attack("punch a hole", "fallocate -p -o 0 -l 4096 $F"),
    Attack("replace", "cp $F c; printf EVIL | dd of=c bs=1 seek=7 conv=notrunc; mv c $F"),
    Attack(
        "replace, time and mode restored",
        "cp -a $F c; printf E | dd of=c bs=1 seek=7 conv=notrunc; touch -r $F c; mv c $F",
    ),
    Attack("map", _MAP),
    Attack("mode and append", "chmod 666 $F; printf x >> $F; chmod 444 $F"),
    Attack("remove", "rm $F"),
]
PLACES = {
    "the store": "{root}/layers/{layer}",
    "a volume's link": "{root}/volumes/{handle}/chain/{layer}",
    "a copy's link": "{root}/captures/c1/chain/{layer}",
}
