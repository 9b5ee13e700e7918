#!/bin/sh
# Builds Kigi's image inside a Debian trixie root. Both `Dockerfile` and `localcluster` run it, the latter in a chroot
# without a container runtime, so that both make the same image.
#
#   install.sh dependencies SOURCE   Debian packages and the locked Python packages of all programs (slow, changes rarely)
#   install.sh operator SOURCE       the same for the operator and the command line; likewise daemon and hook
#   install.sh kigi SOURCE           Kigi (seconds)
set -eu

step=$1
source=$2
venv=/opt/kigi

case $step in
dependencies | operator | daemon | hook)
    lock=$source/image/$step.lock
    packages="ca-certificates python3 python3-venv"
    case $step in
    dependencies) lock=$source/requirements.lock packages="$packages mount qemu-utils util-linux" ;;
    daemon) packages="$packages qemu-utils" ;; # creates and checks overlays
    esac
    apt-get update -q
    # shellcheck disable=SC2086
    apt-get install -q -y --no-install-recommends $packages
    # The operator's user: libraries need a name for its number.
    useradd --uid 65532 --user-group --no-create-home --home-dir /nonexistent --shell /usr/sbin/nologin kigi
    python3 -m venv "$venv"
    for file in "$lock" "$source/image/build.lock"; do
        "$venv/bin/pip" install --quiet --no-cache-dir --no-deps --require-hashes --only-binary :all: -r "$file"
    done
    apt-get clean
    rm -rf /var/lib/apt/lists/*
    ;;
kigi)
    # The build writes into its source folder, so it gets a copy.
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
