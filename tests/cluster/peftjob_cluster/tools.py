"""The ``tools`` verb: Debian's packages for the nodes, and the programs built from the Go module proxy.

Every program's version is pinned by a ``go.mod`` and ``go.sum`` under ``tests/cluster/go``; a stamp beside each binary
says what it was built from, so that the second call is instant.
"""

from __future__ import annotations

import hashlib
import os
import shutil
import subprocess
import tempfile
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from peftjob_cluster.paths import Layout
from peftjob_cluster.shell import ClusterError, run, say

ALTERNATIVE = "Without these, run against a cluster you have: make demo KUBECONTEXT=<an existing cluster>"
KUBERNETES_VERSION = "v1.34.4"


@dataclass(frozen=True)
class Program:
    """One binary: its name, the module folder that pins it, and its package."""

    name: str
    module: str
    package: str
    for_nodes: bool = False  # not needed by an API server without nodes


PROGRAMS = (
    Program("etcd", "kubernetes", "go.etcd.io/etcd/server/v3"),
    Program("kube-apiserver", "kubernetes", "k8s.io/kubernetes/cmd/kube-apiserver"),
    Program("kube-controller-manager", "kubernetes", "k8s.io/kubernetes/cmd/kube-controller-manager"),
    Program("kube-scheduler", "kubernetes", "k8s.io/kubernetes/cmd/kube-scheduler"),
    Program("kubectl", "kubernetes", "k8s.io/kubernetes/cmd/kubectl"),
    Program("kubelet", "kubernetes", "k8s.io/kubernetes/cmd/kubelet", for_nodes=True),
    Program("kube-proxy", "kubernetes", "k8s.io/kubernetes/cmd/kube-proxy", for_nodes=True),
    Program("versitygw", "versitygw", "github.com/versity/versitygw/cmd/versitygw"),
    Program("kwok", "kwok", "sigs.k8s.io/kwok/cmd/kwok"),
    Program("helm", "helm", "helm.sh/helm/v3/cmd/helm"),
    Program("kubeconform", "kubeconform", "github.com/yannh/kubeconform/cmd/kubeconform"),
    Program("pause", "pause", "peftjob.io/tests/cluster/pause", for_nodes=True),
    Program("coredns", "coredns", "github.com/coredns/coredns", for_nodes=True),
)

# What the nodes and the image builds call, and the Debian package that has it.
SYSTEM_COMMANDS = {
    "containerd": "containerd",
    "ctr": "containerd",
    "runc": "runc",
    "/usr/lib/cni/bridge": "containernetworking-plugins",
    "buildah": "buildah",
    "debootstrap": "debootstrap",
    "iptables": "iptables",
    "ip": "iproute2",
    "conntrack": "conntrack",
    "socat": "socat",
    "nsenter": "util-linux",
    "openssl": "openssl",
}


def tools(layout: Layout, *, only_apiserver: bool) -> None:
    """Install and build what is missing."""
    if not only_apiserver:
        install_packages()
    build([program for program in PROGRAMS if not (only_apiserver and program.for_nodes)], layout.bin)


def missing_packages() -> list[str]:
    """Return the Debian packages of which a command is not on this machine."""
    path = f"{os.environ.get('PATH', '')}:/usr/sbin:/sbin"
    return sorted({package for command, package in SYSTEM_COMMANDS.items() if not shutil.which(command, path=path)})


def install_packages() -> None:
    """Install the missing packages, or say which they are where that is not ours to do."""
    missing = missing_packages()
    if not missing:
        return
    if os.geteuid() != 0 or not shutil.which("apt-get"):
        raise ClusterError(
            f"Missing on this machine: {', '.join(missing)} (Debian's package names).\n"
            f"Install them, or run this as root on Debian: apt-get install {' '.join(missing)}\n{ALTERNATIVE}"
        )
    say(f"installing {' '.join(missing)}")
    environment = {**os.environ, "DEBIAN_FRONTEND": "noninteractive"}
    run(["apt-get", "update", "-qq"], env=environment)
    run(["apt-get", "install", "-y", "-qq", "--no-install-recommends", *missing], env=environment)


def build(programs: Iterable[Program], bin_: Path) -> None:
    """Build the programs whose stamp does not match their module's files."""
    stale: dict[str, list[Program]] = {}
    for program in programs:
        stamp = stamp_of(bin_, program.name)
        fresh = (bin_ / program.name).exists() and stamp.exists() and stamp.read_text() == fingerprint(program)
        if not fresh:
            stale.setdefault(program.module, []).append(program)
    if stale and not shutil.which("go"):
        raise ClusterError(f"Go 1.24 or newer is needed to build {', '.join(stale)}: https://go.dev/dl\n{ALTERNATIVE}")
    for module, members in stale.items():
        say(f"building {', '.join(program.name for program in members)} (the first time takes minutes)")
        build_module(module, members, bin_)


def build_module(module: str, programs: list[Program], bin_: Path) -> None:
    """Build some programs of one module in one go, and put them in place when all are there."""
    bin_.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=bin_) as folder:
        build = ["go", "build", "-mod=readonly", "-trimpath", f"-ldflags={linker_flags(module)}"]
        try:
            subprocess.run(
                [*niceness(), *build, "-o", f"{folder}/", *(program.package for program in programs)],
                cwd=module_folder(module),
                env={**os.environ, "CGO_ENABLED": "0"},
                stdin=subprocess.DEVNULL,
                check=True,
            )
        except subprocess.CalledProcessError as error:
            raise ClusterError(f"building {module} failed; its messages are above") from error
        for program in programs:
            (Path(folder) / go_name(program.package)).replace(bin_ / program.name)
            stamp = stamp_of(bin_, program.name)
            stamp.parent.mkdir(exist_ok=True)
            stamp.write_text(fingerprint(program))


def module_folder(module: str) -> Path:
    """Return the folder of a module's go.mod."""
    return Path(__file__).resolve().parent.parent / "go" / module


def stamp_of(bin_: Path, name: str) -> Path:
    """Return the file that says what a binary was built from."""
    return bin_ / ".stamps" / name


def fingerprint(program: Program) -> str:
    """Return a hash of all that decides what the binary will be."""
    folder = module_folder(program.module)
    digest = hashlib.sha256()
    for part in ((folder / "go.mod").read_bytes(), (folder / "go.sum").read_bytes()):
        digest.update(part)
    digest.update(f"{program.package} {linker_flags(program.module)}".encode())
    return digest.hexdigest()


def linker_flags(module: str) -> str:
    """Return linker flags; without its version the API server calls itself v0.0.0 and clients complain."""
    if module != "kubernetes":
        return "-s -w"
    major, minor, _ = KUBERNETES_VERSION.removeprefix("v").split(".")
    version = {"gitVersion": KUBERNETES_VERSION, "gitMajor": major, "gitMinor": minor}
    variables = " ".join(
        f"-X {package}.{key}={value}"
        for package in ("k8s.io/component-base/version", "k8s.io/client-go/pkg/version")
        for key, value in version.items()
    )
    return f"-s -w {variables}"


def go_name(package: str) -> str:
    """Return the name that ``go build`` gives a package's binary: its last element that is no major version."""
    parts = package.split("/")
    last = parts[-1]
    return parts[-2] if last[:1] == "v" and last[1:].isdigit() else last


def niceness() -> list[str]:
    """Let a person's other work on this machine go first."""
    return ["nice", "-n", "5"] if shutil.which("nice") else []
