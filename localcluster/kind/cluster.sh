#!/usr/bin/env bash
# The same cluster as `python -m localcluster`, but with kind, KubeVirt's release and `docker build` instead of programs
# built from source. Needs docker, kind and kubectl.
#
#   cluster.sh up      create the cluster, install KubeVirt, load kigi:dev, start an S3 server
#   cluster.sh image   build kigi:dev again and load it
#   cluster.sh env     shell lines with KUBECONFIG and the S3 settings
#   cluster.sh down    remove the cluster, the S3 server and their files
set -euo pipefail

here=$(cd "$(dirname "$0")" && pwd)
repository=$(cd "$here/../.." && pwd)
cluster=kigi
server=kigi-s3
kubevirt=${KUBEVIRT_VERSION:-v1.7.0}
versitygw=${VERSITYGW_IMAGE:-versity/versitygw:v1.8.0}
state=${XDG_STATE_HOME:-$HOME/.local/state}/kigi-kind
kubeconfig=$state/kubeconfig
access_key=kigi-publisher
secret_key=kigi-publisher-secret

kubectl_() { kubectl --kubeconfig "$kubeconfig" "$@"; }

load_image() {
    docker build --tag kigi:dev "$repository"
    kind load docker-image kigi:dev --name "$cluster"
}

up() {
    mkdir -p "$state/s3/kigi"
    if ! kind get clusters | grep -qx "$cluster"; then
        kind create cluster --config "$here/kind.yaml" --kubeconfig "$kubeconfig" --wait 5m
    fi
    if ! docker inspect "$server" >/dev/null 2>&1; then
        # On kind's network: pods and this machine reach it at the same address.
        docker run --detach --name "$server" --network kind --volume "$state/s3:/data" \
            --env ROOT_ACCESS_KEY="$access_key" --env ROOT_SECRET_KEY="$secret_key" \
            "$versitygw" --port :9000 posix --sidecar /tmp /data
    fi
    load_image
    local release=https://github.com/kubevirt/kubevirt/releases/download/$kubevirt
    kubectl_ apply --server-side -f "$release/kubevirt-operator.yaml"
    kubectl_ wait --for=condition=Established crd/kubevirts.kubevirt.io --timeout=60s
    kubectl_ apply --server-side -f "$here/kubevirt.yaml"
    kubectl_ wait -n kubevirt kubevirt/kubevirt --for=jsonpath='{.status.phase}'=Deployed --timeout=15m
}

environment() {
    local address
    address=$(docker inspect --format '{{.NetworkSettings.Networks.kind.IPAddress}}' "$server")
    echo "export KUBECONFIG=$kubeconfig"
    echo "export KIGI_S3_ENDPOINT=http://$address:9000"
    echo "export KIGI_S3_BUCKET=kigi"
    echo "export AWS_ACCESS_KEY_ID=$access_key"
    echo "export AWS_SECRET_ACCESS_KEY=$secret_key"
    echo "export AWS_REGION=us-east-1"
}

down() {
    kind delete cluster --name "$cluster" --kubeconfig "$kubeconfig"
    docker rm --force "$server" >/dev/null 2>&1 || true
    # Containers wrote to these directories as root.
    rm -rf "$state" || echo "not removed: delete $state and /var/lib/kigi-kind as root" >&2
}

case ${1:-} in
up) up ;;
image) load_image ;;
env) environment ;;
down) down ;;
*) sed -n '2,9s/^# \{0,1\}//p' "$0" >&2; exit 2 ;;
esac
