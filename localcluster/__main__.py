"""``python -m localcluster``: the one entry point of the local cluster."""

import argparse
import json
import os
import shlex
import sys

from localcluster.build import PROGRAMS, BuildFailed, binary
from localcluster.builds import build_images, build_programs
from localcluster.cluster import Cluster, ClusterError
from localcluster.kubevirt import DEFAULT_RELEASE, RELEASES
from localcluster.processes import StartFailed
from localcluster.system import PackagesMissing
from localcluster.timeline import Timeline


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m localcluster", description="A real Kubernetes with KubeVirt on this machine."
    )
    verbs = parser.add_subparsers(dest="verb", required=True)
    up = verbs.add_parser("up", help="build missing programs and start all parts that are not running")
    up.add_argument("--without", action="append", default=[], choices=["kubevirt", "kigi"], help="leave out this part")
    up.add_argument("--nodes", type=int, default=1, help="number of nodes, each in its own namespaces (default 1)")
    up.add_argument(
        "--kubevirt",
        choices=RELEASES,
        help=f"release of KubeVirt (default: that of the running cluster, or {DEFAULT_RELEASE})",
    )
    verbs.add_parser("down", help="stop and remove everything; exit code 1 if something is left")
    verbs.add_parser("status", help="state of each part as JSON; exit code 1 if it is not healthy")
    verbs.add_parser("env", help="shell lines with KUBECONFIG and the S3 settings")
    build = verbs.add_parser("build", help="build programs and images into the cache without starting anything")
    build.add_argument("programs", nargs="*", help="programs to build; default: all programs and images of the cluster")
    build.add_argument("--kubevirt", choices=RELEASES, default=DEFAULT_RELEASE, help="release of KubeVirt to build")
    verbs.add_parser("image", help="build Kigi's image from the current source and load it on every node")
    for name in ("kubectl", "virtctl"):
        verbs.add_parser(name, help=f"{name} on this cluster", add_help=False)
    return parser


def main() -> int:
    """Run one verb; the exit status is 0 on success, 1 otherwise."""
    if len(sys.argv) > 1 and sys.argv[1] in ("kubectl", "virtctl"):
        cluster = Cluster()
        program = cluster.release.command("virtctl") if sys.argv[1] == "virtctl" else binary("kubectl")
        os.environ["KUBECONFIG"] = str(cluster.kubeconfig)
        os.execv(program, [sys.argv[1], *sys.argv[2:]])
    arguments = _parser().parse_args()
    try:
        return _run(arguments)
    except (BuildFailed, ClusterError, PackagesMissing, StartFailed, RuntimeError) as error:
        print(f"{arguments.verb} failed: {error}", file=sys.stderr)
        return 1


def _run(arguments: argparse.Namespace) -> int:
    cluster = Cluster()
    progress = Timeline()
    match arguments.verb:
        case "up":
            cluster.up(without=arguments.without, nodes=arguments.nodes, release=arguments.kubevirt)
            print("environment: eval $(python -m localcluster env)")
        case "down":
            left = cluster.down()
            print("\n".join(["still present:", *left]) if left else "the cluster is removed")
            return 1 if left else 0
        case "status":
            status = cluster.status()
            print(json.dumps(status, indent=2))
            return 0 if status["healthy"] else 1
        case "env":
            for name, value in cluster.environment().items():
                print(f"export {name}={shlex.quote(value)}")
        case "build" if arguments.programs:
            if unknown := sorted(set(arguments.programs) - set(PROGRAMS)):
                raise BuildFailed(f"unknown programs: {', '.join(unknown)}; known are {', '.join(PROGRAMS)}")
            for name in arguments.programs:
                progress(str(binary(name)))
        case "build":
            release = RELEASES[arguments.kubevirt]
            build_programs(release)
            progress("programs are built")
            for image in build_images(release):
                progress(f"{image.name}: {sum(layer.size_bytes for layer in image.layers) / 1e6:.0f} MB")
        case "image":
            cluster.load_kigi()
            progress("kigi:dev is on every node")
    return 0


if __name__ == "__main__":
    sys.exit(main())
