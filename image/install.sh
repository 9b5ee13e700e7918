#!/bin/sh
# Builds Kigi's image inside a Debian trixie root. `Dockerfile` runs it, and `localcluster` runs it in a chroot where
# there is no container runtime: one recipe, the same image.
#
#   install.sh dependencies SOURCE   Debian packages and the locked Python packages (slow, changes rarely)
#   install.sh kigi SOURCE           Kigi itself (seconds)
set -eu

step=$1
source=$2
venv=/opt/kigi

case $step in
dependencies)
    apt-get update -q
    # qemu-utils makes and checks overlays; util-linux and mount hold the bind mounts of the CSI plugin.
    apt-get install -q -y --no-install-recommends \
        ca-certificates mount python3 python3-venv qemu-utils util-linux
    # The operator's user: libraries ask for the name that belongs to the number.
    useradd --uid 65532 --user-group --no-create-home --home-dir /nonexistent --shell /usr/sbin/nologin kigi
    python3 -m venv "$venv"
    "$venv/bin/pip" install --quiet --no-cache-dir --require-hashes --only-binary :all: -r "$source/requirements.lock"
    apt-get clean
    rm -rf /var/lib/apt/lists/*
    ;;
kigi)
    # The build writes into its source folder: work on a copy.
    work=$(mktemp -d)
    cp -r "$source/." "$work"
    "$venv/bin/pip" install --quiet --no-cache-dir --no-deps --no-build-isolation --no-index "$work"
    rm -rf "$work"
    for command in kigi kigi-operator kigi-cache kigi-disk-hook; do
        if [ -e "$venv/bin/$command" ]; then ln -sf "$venv/bin/$command" "/usr/local/bin/$command"; fi
    done
    ;;
*)
    echo "unknown step $step" >&2
    exit 2
    ;;
esac
