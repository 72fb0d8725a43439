"""Carries strikes out on the two-node cluster: kubelets and containers killed, cables pulled."""

import signal
from typing import Final

from peftjob_cluster import lifecycle, network
from peftjob_cluster.network import NODES

from .carry_out import End, chosen, processes_of, send_signals, suspend, take_away
from .plans import Fault, Plan, Strike
from .processes import send
from .two_nodes import LOST, PodWorker, TwoNodes

FAULTS: Final = (
    Fault.KILL_RANK,
    Fault.KILL_LAUNCHER,
    Fault.KILL_POD,
    Fault.DELETE_POD,
    Fault.DRAIN,
    Fault.PAUSE_RANK,
    Fault.SUSPEND,
    Fault.NODE_DIES,
    Fault.NODE_VANISHES,
    Fault.CUT_NETWORK,
    Fault.S3_AWAY,
    Fault.KILL_OPERATOR,
    Fault.PAUSE_API,
)
"""What can be carried out here."""


class ClusterHand:
    """Strikes at jobs of the two-node cluster, one at a time."""

    def __init__(self, ground: TwoNodes) -> None:
        self._ground = ground

    def strike(self, plan: Plan, strike: Strike) -> End | None:
        """Hit a job; see `Hand`."""
        match strike.fault:
            case Fault.SUSPEND:
                return suspend(self._ground.jobs, plan)
            case Fault.DELETE_POD | Fault.DRAIN:
                take_away(self._ground.jobs, plan, strike)
                return None
            case Fault.KILL_OPERATOR:
                for pid in self._ground.operator_processes():
                    send(pid, signal.SIGKILL)
                return None
            case Fault.S3_AWAY:
                self._ground.cut_off_s3(away=True)
                return lambda: self._ground.cut_off_s3(away=False)
            case Fault.PAUSE_API:
                self._ground.pause_api(paused=True)
                return lambda: self._ground.pause_api(paused=False)
        workers = self._ground.running(plan.name)
        if strike.fault in (Fault.NODE_DIES, Fault.NODE_VANISHES, Fault.CUT_NETWORK):
            workers = [worker for worker in workers if worker.where == LOST]
        return self._hit(chosen(workers, strike), strike)

    def _hit(self, worker: PodWorker, strike: Strike) -> End | None:
        launcher, *ranks = processes_of(worker)
        match strike.fault:
            case Fault.KILL_RANK | Fault.KILL_LAUNCHER | Fault.KILL_POD | Fault.PAUSE_RANK:
                return send_signals(launcher, ranks, strike)
            case Fault.CUT_NETWORK:
                node = next(node for node in NODES if node.name == worker.where)
                network.set_link(self._ground.layout, node, up=False)
                return lambda: self._ground.restore(worker.where)
            case Fault.NODE_DIES | Fault.NODE_VANISHES:
                return self._lose((launcher, *ranks), worker.where, dies=strike.fault is Fault.NODE_DIES)
        return None

    def _lose(self, pids: tuple[int, ...], node: str, *, dies: bool) -> End:
        """Kill a node's kubelet and pull its cable; what runs there is killed as well, or frozen until it is back."""
        lifecycle.kill_node(self._ground.layout, node)
        for pid in pids:
            send(pid, signal.SIGKILL if dies else signal.SIGSTOP)

        def come_back() -> None:
            for pid in pids:
                send(pid, signal.SIGCONT)
            self._ground.restore(node)

        return come_back
