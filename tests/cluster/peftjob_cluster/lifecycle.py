"""The verbs ``up`` and ``down``: a two-node Kubernetes from nothing, mended where it broke, and gone without a trace.

A cluster is whole once ``up`` has written the file ``made``; one that was killed before, or that was made by another
version of this code, is thrown away and made anew. A whole one is mended: programs that ended are started again,
cables plugged in, and images that changed since are brought to the nodes.
"""

from __future__ import annotations

import fcntl
import hashlib
import json
import os
import shutil
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from peftjob_cluster import components, network, residue, services, template
from peftjob_cluster.buildah import Buildah
from peftjob_cluster.control_plane import takes_pods
from peftjob_cluster.daemons import Daemons
from peftjob_cluster.images import PAUSE, S3
from peftjob_cluster.kube import Api
from peftjob_cluster.network import CONTROL_PLANE, CONTROL_PLANE_IP, NODES
from peftjob_cluster.node import HIDDEN, NodeHost, proxy_command, proxy_config
from peftjob_cluster.paths import STATE_VARIABLE, Layout
from peftjob_cluster.pki import Authority, Identity
from peftjob_cluster.shell import ClusterError, say
from peftjob_cluster.tools import ALTERNATIVE, missing_packages

AT = components.Endpoints(CONTROL_PLANE_IP)
ETCD, API_SERVER, PROXY = "etcd", "kube-apiserver", "kube-proxy-cp"
CONTROL_PLANE_PROGRAMS = (ETCD, API_SERVER, "kube-controller-manager", "kube-scheduler", "coredns", PROXY)
LONGEST_ROOT = 60  # sockets below it have names of 40 characters more, and the kernel takes 107 in all


@contextmanager
def locked(layout: Layout) -> Iterator[None]:
    """Let one command at a time change the cluster."""
    layout.root.mkdir(parents=True, exist_ok=True)
    with (layout.root / "lock").open("w") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            say("waiting for another command that changes this cluster")
            fcntl.flock(lock, fcntl.LOCK_EX)
        yield


def require_machine(layout: Layout) -> None:
    """Raise, with the other way to go, where this machine or this place cannot hold the cluster."""
    if os.geteuid() != 0:
        raise ClusterError(f"The embedded cluster needs root: it makes network namespaces and mounts.\n{ALTERNATIVE}")
    if not shutil.which("apt-get") or not Path("/etc/debian_version").exists():
        raise ClusterError(f"The embedded cluster needs Debian and its packages.\n{ALTERNATIVE}")
    hidden = [folder for folder in HIDDEN if layout.root.is_relative_to(folder)]
    if hidden or len(str(layout.root)) > LONGEST_ROOT:
        raise ClusterError(
            f"{layout.root} cannot hold the cluster: its path must have at most {LONGEST_ROOT} characters and not be "
            f"under {', '.join(HIDDEN)}. Set {STATE_VARIABLE} to another folder."
        )


def require_parts(layout: Layout) -> None:
    """Raise where a verb that comes before ``up`` was not run."""
    if missing_packages() or not all((layout.bin / name).exists() for name in ("kubelet", "coredns", "pause")):
        raise ClusterError("programs are missing: run the verb 'tools' first (make cluster-up runs all in order)")
    if not {PAUSE, S3} <= template.Store(layout.template).images().keys():
        raise ClusterError("images are missing: run the verb 'images' first (make cluster-up runs all in order)")


def up(layout: Layout) -> None:
    """Make the cluster, or mend it; returns when both nodes are Ready and DNS and S3 answer."""
    require_machine(layout)
    with locked(layout):
        require_parts(layout)
        started = time.monotonic()
        if is_whole(layout):
            try:
                mended = mend(layout)
            except (ClusterError, OSError, ValueError) as error:
                say(f"the cluster that is there cannot be mended, so it is made anew: {error}")
            else:
                say(f"the cluster is up{': ' + ', '.join(mended) if mended else ''}")
                return
        residue.remove(layout)
        make(layout)
        say(f"both nodes are Ready and S3 answers after {time.monotonic() - started:.1f} s")


def down(layout: Layout, *, everything: bool) -> None:
    """Take the cluster away; with ``everything`` also its images and logs, but not the programs built from source."""
    if os.geteuid() != 0:
        raise ClusterError("only root can take the cluster away")
    with locked(layout):
        residue.remove(layout)
        (layout.root / "kubectl").unlink(missing_ok=True)
        if everything:
            if shutil.which("buildah"):
                Buildah(layout).clear()
            for folder in (layout.images, layout.template, layout.root / "nodes", layout.log):
                shutil.rmtree(folder, ignore_errors=True)


def version() -> str:
    """Return a hash of this code, which decides what a cluster is."""
    digest = hashlib.sha256()
    for file in sorted(Path(__file__).parent.glob("*.py")):
        digest.update(file.read_bytes())
    return digest.hexdigest()


def is_whole(layout: Layout) -> bool:
    """Tell whether a cluster is there that this very code made to the end."""
    made = layout.run / "made"
    return made.exists() and made.read_text() == version() and network.is_whole(layout)


def make(layout: Layout) -> None:
    """Make the cluster where nothing of one is."""
    shutil.rmtree(layout.log, ignore_errors=True)
    for folder in (layout.log, layout.run):
        folder.mkdir(parents=True)
    network.create(layout)
    network.join(layout, CONTROL_PLANE)
    authority = Authority(layout.pki)
    authority.create()
    daemons = Daemons(layout)
    hosts = [NodeHost(layout, node) for node in NODES]
    for host in hosts:
        host.prepare(authority, AT.api_url)
    with ThreadPoolExecutor() as pool:
        runtimes = [pool.submit(host.start_runtime) for host in hosts]
        api = start_api_server(layout, authority)
        start_controllers(layout, authority)
        for runtime in runtimes:
            runtime.result()
    proxy = layout.run / "kube-proxy.json"
    proxy.write_text(json.dumps(proxy_config(user_kubeconfig(authority, "system:kube-proxy")), indent=1))
    for host in hosts:
        host.start_agents(proxy)
    write_kubectl(layout)
    wait_until_healthy(layout, api)
    daemons.start(PROXY, proxy_command(layout.bin, proxy, services.S3_NODE), host=CONTROL_PLANE)
    daemons.wait("DNS and S3", services.s3_answers, 60)
    (layout.run / "made").write_text(version())


def start_api_server(layout: Layout, authority: Authority) -> Api:
    """Start etcd and the API server, and wait until it serves; its audit log is on."""
    daemons = Daemons(layout)
    daemons.start(ETCD, components.etcd(layout.bin, layout.run / "etcd", AT), host=CONTROL_PLANE)
    hosts, ips = [*components.API_HOSTS, "localhost"], [AT.host, "127.0.0.1", components.API_SERVICE_IP]
    serving = authority.issue("apiserver", "kube-apiserver", hosts=hosts, ips=ips)
    admin = authority.issue("admin", "admin", [components.ADMINISTRATORS])
    authority.kubeconfig(layout.kubeconfig, AT.api_url, admin)
    policy = layout.run / "audit-policy.yaml"
    policy.write_text(components.AUDIT_POLICY)
    audit_log = layout.log / "audit.log"
    command = components.apiserver(
        layout.bin, AT, authority, serving, admin, audit_log=audit_log, audit_policy=policy, nodes=True
    )
    daemons.start(API_SERVER, command, host=CONTROL_PLANE)
    api = administrator(layout)
    daemons.wait("the API server", api.ready, 60)
    return api


def start_controllers(layout: Layout, authority: Authority) -> None:
    """Start what works through the API server: controller manager, scheduler, DNS."""
    daemons = Daemons(layout)
    manager = user_kubeconfig(authority, "system:kube-controller-manager")
    fast = ["--node-monitor-period=2s"]
    commands: dict[str, list[Any]] = {
        "kube-controller-manager": components.controller_manager(layout.bin, manager, authority, extra=fast),
        "kube-scheduler": components.scheduler(layout.bin, user_kubeconfig(authority, "system:kube-scheduler")),
        "coredns": services.coredns_command(layout, user_kubeconfig(authority, services.DNS_USER)),
    }
    for name, command in commands.items():
        daemons.start(name, command, host=CONTROL_PLANE)


def user_kubeconfig(authority: Authority, user: str) -> Path:
    """Return a kubeconfig for a user of the control plane."""
    file = user.replace(":", "-")
    return authority.kubeconfig(authority.folder / f"{file}.kubeconfig", AT.api_url, authority.issue(file, user))


def administrator(layout: Layout) -> Api:
    """Return the API server as the administrator sees it; only from inside the control plane's namespace."""
    identity = Identity(layout.pki / "admin.crt", layout.pki / "admin.key")
    return Api(AT.api_url, layout.pki / "ca.crt", identity)


def wait_until_healthy(layout: Layout, api: Api) -> None:
    """Apply the Services, and wait until every node is Ready."""
    daemons = Daemons(layout)

    def applied() -> bool:
        services.apply(api, layout)
        return True

    def nodes_ready() -> bool:
        nodes = api.get("/api/v1/nodes")["items"]
        return len(nodes) == len(NODES) and all(takes_pods(node) for node in nodes)

    daemons.wait("the cluster's own Services", applied, 30)
    daemons.wait("both nodes to be Ready", nodes_ready, 90)


def mend(layout: Layout) -> list[str]:
    """Bring a whole cluster back to health; returns what had to be done, for a person to read."""
    network.join(layout, CONTROL_PLANE)
    daemons = Daemons(layout)
    api = administrator(layout)
    hosts = [NodeHost(layout, node) for node in NODES]
    for host in hosts:
        if not host.is_whole():
            raise ClusterError(f"{host.name} has lost its mount namespace")
    done = [f"started {name}" for name in CONTROL_PLANE_PROGRAMS if daemons.pid(name) is None]
    for line in done:
        daemons.restart(line.removeprefix("started "))
    new: set[str] = set()
    for host in hosts:
        if not network.link_is_up(layout, host.node):
            network.set_link(layout, host.node, up=True)
            done.append(f"plugged {host.name} in")
        done += [f"started {name}" for name in host.mend()]
        new.update(host.sync_images())
    daemons.wait("the API server", api.ready, 60)
    done += [f"brought {tag} to the nodes" for tag in sorted(new)]
    wait_until_healthy(layout, api)
    done += [f"replaced {pod}" for pod in replace_pods(api, new)]
    daemons.wait("DNS and S3", services.s3_answers, 60)
    return done


def replace_pods(api: Api, images: set[str]) -> list[str]:
    """Delete the pods of Deployments that run an earlier build of an image; a Job's pods are left to their Job."""
    deleted = []
    for pod in api.get("/api/v1/pods")["items"] if images else []:
        meta = pod["metadata"]
        owners = {owner["kind"] for owner in meta.get("ownerReferences", [])}
        if "ReplicaSet" in owners and images & {container["image"] for container in pod["spec"]["containers"]}:
            api.request("DELETE", f"/api/v1/namespaces/{meta['namespace']}/pods/{meta['name']}")
            deleted.append(meta["name"])
    return deleted


def kill_node(layout: Layout, name: str) -> None:
    """Pull a node's cable and kill its kubelet, as when its machine is cut off; its containers run on."""
    host = node_host(layout, name)
    network.set_link(layout, host.node, up=False)
    host.kill_kubelet()


def restore_node(layout: Layout, name: str) -> None:
    """Plug a node's cable in and start its kubelet again; the API server then says which pods it may keep."""
    host = node_host(layout, name)
    network.set_link(layout, host.node, up=True)
    host.mend()


def node_host(layout: Layout, name: str) -> NodeHost:
    """Return a node by its name."""
    if not is_whole(layout):
        raise ClusterError("the cluster is not up: run the verb 'up' first")
    return next(NodeHost(layout, node) for node in NODES if node.name == name)


def inside(layout: Layout, command: list[str]) -> tuple[list[str], dict[str, str]]:
    """Return the command line and environment that run a command in the control plane's network."""
    if network.CONTROL_PLANE not in {name.rpartition("-")[2] for name in network.existing(layout)}:
        raise ClusterError("the cluster is not up: run the verb 'up' first")
    path = f"{layout.bin}:{os.environ.get('PATH', os.defpath)}"
    kept = {key: value for key, value in os.environ.items() if not key.lower().endswith("_proxy")}
    environment = {**kept, "KUBECONFIG": str(layout.kubeconfig), "PATH": path}
    return [*network.enter(layout, CONTROL_PLANE), "--", *command], environment


def write_kubectl(layout: Layout) -> None:
    """Write a kubectl for people: it works from anywhere, as root."""
    file = layout.root / "kubectl"
    enter = " ".join(network.enter(layout, CONTROL_PLANE))
    file.write_text(f'#!/bin/sh\nexec {enter} -- "{layout.bin}/kubectl" --kubeconfig "{layout.kubeconfig}" "$@"\n')
    file.chmod(0o755)
