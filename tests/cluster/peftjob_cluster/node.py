"""A node: containerd, kubelet and kube-proxy in a network namespace and a mount namespace of its own.

The mount namespace is held by a process of its own and hides the few folders of the machine that these programs write
to whatever their settings. So mounts of pods and volumes are never seen outside, vanish with the node's last process,
and the machine's /run, /var/lib, /var/log and kernel settings stay as they are.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path

from peftjob_cluster import cgroups, template
from peftjob_cluster.components import CLUSTER_DNS_IP, CLUSTER_DOMAIN
from peftjob_cluster.daemons import Daemons, end_process
from peftjob_cluster.images import PAUSE
from peftjob_cluster.network import Node
from peftjob_cluster.paths import Layout
from peftjob_cluster.pki import Authority, Identity
from peftjob_cluster.shell import ClusterError, succeeds, wait_for

HIDDEN = ("/run", "/var/lib", "/var/log")

# Kubelet sets these to what it likes; it gets copies to write to.
KERNEL_SETTINGS = (
    "vm/overcommit_memory",
    "vm/panic_on_oom",
    "kernel/panic",
    "kernel/panic_on_oops",
    "kernel/keys/root_maxkeys",
    "kernel/keys/root_maxbytes",
)

HOLD = f"""\
set -e
for folder in {" ".join(HIDDEN)}; do mount -t tmpfs -o mode=755 peftjob "$folder"; done
mkdir -p /run/lock /run/settings
for name in {" ".join(KERNEL_SETTINGS)}; do
  [ -e "/proc/sys/$name" ] || continue
  copy=/run/settings/$(echo "$name" | tr / -)
  cat "/proc/sys/$name" >"$copy"
  mount --bind "$copy" "/proc/sys/$name"
done
exec "$1"
"""

CONTAINERD_CONFIG = """\
version = 2
root = "@ROOT@"
state = "@LIFE@/state"
[grpc]
address = "@LIFE@/containerd.sock"
[plugins."io.containerd.grpc.v1.cri"]
sandbox_image = "@PAUSE@"
disable_cgroup = true
disable_apparmor = true
restrict_oom_score_adj = true
netns_mounts_under_state_dir = true
stream_server_address = "127.0.0.1"
[plugins."io.containerd.grpc.v1.cri".cni]
bin_dir = "/usr/lib/cni"
conf_dir = "@LIFE@/cni"
[plugins."io.containerd.grpc.v1.cri".containerd.runtimes.runc]
runtime_type = "io.containerd.runc.v2"
[plugins."io.containerd.grpc.v1.cri".containerd.runtimes.runc.options]
SystemdCgroup = false
"""


@dataclass(frozen=True)
class NodeHost:
    """One node of one cluster: its folders and its programs."""

    layout: Layout
    node: Node

    @property
    def name(self) -> str:
        """The node's name."""
        return self.node.name

    @property
    def life(self) -> Path:
        """The folder of this life of the node; its image store is elsewhere and outlives it."""
        return self.layout.run / self.name

    @property
    def socket(self) -> Path:
        """Where its containerd listens."""
        return self.life / "containerd.sock"

    @property
    def programs(self) -> list[str]:
        """The names of its programs, in the order in which they start."""
        return [f"{kind}-{self.name}" for kind in ("mounts", "containerd", "kubelet", "kube-proxy")]

    def prepare(self, authority: Authority, server: str) -> None:
        """Write the node's settings and certificates."""
        for folder in ("state", "cni", "pods", "kubelet", "plugins"):
            (self.life / folder).mkdir(parents=True, exist_ok=True)
        user = authority.issue(
            self.name,
            f"system:node:{self.name}",
            ["system:nodes"],
            hosts=[self.name],
            ips=[self.node.ip],
        )
        authority.kubeconfig(self.life / "kubeconfig", server, user)
        (self.life / "cni" / "10-pods.conflist").write_text(json.dumps(self._pod_network(), indent=1))
        (self.life / "resolv.conf").write_text(f"nameserver {CLUSTER_DNS_IP}\n")
        (self.life / "kubelet.json").write_text(json.dumps(self._kubelet_config(authority, user), indent=1))
        config = CONTAINERD_CONFIG
        store = self.layout.node(self.name) / "root"
        for key, value in (("@ROOT@", store), ("@LIFE@", self.life), ("@PAUSE@", PAUSE)):
            config = config.replace(key, str(value))
        (self.life / "containerd.toml").write_text(config)

    def start_runtime(self) -> None:
        """Clone the images and start containerd."""
        template.Store(self.layout.template).clone_to(template.Store(self.layout.node(self.name)))
        daemons = Daemons(self.layout)
        private = ["unshare", "--mount", "--propagation", "private"]
        hold = [*private, "sh", "-c", HOLD, "sh", str(self.layout.bin / "pause")]
        mounts, containerd, *_ = self.programs
        daemons.start(mounts, hold, host=self.name, groups=cgroups.create(self.layout))
        daemons.wait(f"the mount namespace of {self.name}", self._held, 10)
        self._start(containerd, ["containerd", "--config", self.life / "containerd.toml"])

    def start_agents(self, proxy_config: Path) -> None:
        """Start kubelet and kube-proxy, once the API server serves."""
        *_, kubelet, proxy = self.programs
        Daemons(self.layout).wait(f"containerd of {self.name}", self.runtime_serves, 30)
        config = [f"--config={self.life}/kubelet.json", f"--kubeconfig={self.life}/kubeconfig"]
        folders = [f"--root-dir={self.life}/kubelet", f"--cert-dir={self.life}/kubelet/pki"]
        who = [f"--hostname-override={self.name}", f"--node-ip={self.node.ip}"]
        self._start(kubelet, [self.layout.bin / "kubelet", *config, *folders, *who])
        self._start(proxy, proxy_command(self.layout.bin, proxy_config, self.name))

    def runtime_serves(self) -> bool:
        """Tell whether containerd answers."""
        return self.socket.exists() and succeeds(["ctr", "-a", self.socket, "version"], timeout=5)

    def is_whole(self) -> bool:
        """Tell whether the node can be mended: not without the process that holds its mount namespace."""
        return Daemons(self.layout).pid(self.programs[0]) is not None

    def mend(self) -> list[str]:
        """Start again what has ended; returns the names."""
        daemons = Daemons(self.layout)
        ended = [name for name in self.programs if daemons.pid(name) is None]
        for name in ended:
            daemons.restart(name, mounts_of=self._holder(), groups=cgroups.create(self.layout))
            if name == self.programs[1]:
                wait_for(f"containerd of {self.name}", self.runtime_serves, limit=30)
        return ended

    def sync_images(self) -> list[str]:
        """Bring images that are new in the template into the running node; returns their tags."""
        own, origin = template.Store(self.layout.node(self.name), self.socket), template.Store(self.layout.template)
        if own.lineage() != origin.lineage():
            raise ClusterError("all images were made anew")
        return own.follow(origin)

    def kill_kubelet(self) -> None:
        """Kill kubelet, at once; containers run on."""
        end_process(Daemons(self.layout).pid(f"kubelet-{self.name}"), patience=0)

    def _start(self, program: str, argv: list[str | Path]) -> None:
        Daemons(self.layout).start(
            program, argv, host=self.name, mounts_of=self._holder(), groups=cgroups.create(self.layout)
        )

    def _holder(self) -> int:
        pid = Daemons(self.layout).pid(self.programs[0])
        if pid is None:
            raise ClusterError(f"the mount namespace of {self.name} is gone")
        return pid

    def _held(self) -> bool:
        return Path(f"/proc/{self._holder()}/exe").resolve().name == "pause"

    def _pod_network(self) -> dict[str, object]:
        addresses = {
            "type": "host-local",
            "dataDir": f"{self.life}/addresses",
            "ranges": [[{"subnet": self.node.pods}]],
            "routes": [{"dst": "0.0.0.0/0"}],
        }
        bridge = {"type": "bridge", "bridge": "pods", "isGateway": True, "hairpinMode": True, "ipam": addresses}
        return {"cniVersion": "0.4.0", "name": "pods", "plugins": [bridge]}

    def _kubelet_config(self, authority: Authority, serving: Identity) -> dict[str, object]:
        return {
            "apiVersion": "kubelet.config.k8s.io/v1beta1",
            "kind": "KubeletConfiguration",
            "authentication": {
                "anonymous": {"enabled": False},
                "webhook": {"enabled": False},
                "x509": {"clientCAFile": str(authority.certificate)},
            },
            "authorization": {"mode": "AlwaysAllow"},
            "tlsCertFile": str(serving.certificate),
            "tlsPrivateKeyFile": str(serving.key),
            "containerRuntimeEndpoint": f"unix://{self.socket}",
            "cgroupDriver": "cgroupfs",
            "cgroupsPerQOS": False,
            # Without a control group of its own, a pod with a limit that is looked at twice makes this kubelet panic.
            "featureGates": {"InPlacePodVerticalScaling": False},
            "enforceNodeAllocatable": [],
            "failCgroupV1": False,
            "failSwapOn": False,
            "localStorageCapacityIsolation": False,
            "podLogsDir": str(self.life / "pods"),
            "volumePluginDir": str(self.life / "plugins"),
            "clusterDNS": [CLUSTER_DNS_IP],
            "clusterDomain": CLUSTER_DOMAIN,
            "resolvConf": str(self.life / "resolv.conf"),
            "maxPods": 110,
            "serializeImagePulls": False,
            "imageGCHighThresholdPercent": 100,
            "evictionHard": {"nodefs.available": "1%", "imagefs.available": "1%", "memory.available": "100Mi"},
            "nodeStatusUpdateFrequency": "5s",
            "nodeLeaseDurationSeconds": 20,
            "syncFrequency": "20s",
            "registerNode": True,
        }


def proxy_command(bin_: Path, config: Path, node: str) -> list[str | Path]:
    """Return kube-proxy's command line."""
    return [bin_ / "kube-proxy", f"--config={config}", f"--hostname-override={node}"]


def proxy_config(kubeconfig: Path) -> dict[str, object]:
    """Return kube-proxy's settings; all its traffic is masqueraded, so that a pod reaches itself by a Service too."""
    return {
        "apiVersion": "kubeproxy.config.k8s.io/v1alpha1",
        "kind": "KubeProxyConfiguration",
        "clientConnection": {"kubeconfig": str(kubeconfig)},
        "mode": "iptables",
        "iptables": {"masqueradeAll": True, "minSyncPeriod": "100ms"},
        "conntrack": {"maxPerCore": 0, "min": 0, "tcpEstablishedTimeout": "0s", "tcpCloseWaitTimeout": "0s"},
        "healthzBindAddress": "127.0.0.1:10256",
        "metricsBindAddress": "127.0.0.1:10249",
    }
