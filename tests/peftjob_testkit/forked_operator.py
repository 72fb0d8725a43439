"""The operator as a real process that starts in a moment: forked from one that has imported it already.

For tests that kill it hundreds of times, each behind a proxy of its own and for a namespace of its own.
"""

import ctypes
import json
import logging
import multiprocessing
import os
import signal
import urllib.error
import urllib.request
from multiprocessing.context import ForkServerContext, ForkServerProcess
from pathlib import Path

from peftjob_cluster.children import free_ports
from peftjob_operator import settings

from .waiting import wait_for

_PR_SET_PDEATHSIG = 1


def forkserver() -> ForkServerContext:
    """Return what starts such processes."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["peftjob_operator.__main__", __name__])
    return context


def kubeconfig(path: Path, port: int) -> Path:
    """Write a kubeconfig for a proxy, which knows the user itself."""
    config = {
        "apiVersion": "v1",
        "kind": "Config",
        "clusters": [{"name": "proxy", "cluster": {"server": f"http://127.0.0.1:{port}"}}],
        "users": [{"name": "user", "user": {}}],
        "contexts": [{"name": "proxy", "context": {"cluster": "proxy", "user": "user"}}],
        "current-context": "proxy",
    }
    path.write_text(json.dumps(config))
    return path


class ForkedOperator:
    """One operator; it can be killed, and started again."""

    def __init__(self, context: ForkServerContext, config: Path, namespace: str) -> None:
        self.log = config.with_suffix(".log")
        self._context = context
        self._namespace = namespace
        self._config = config
        self._process: ForkServerProcess | None = None
        self._health = 0

    def start(self) -> None:
        """Start it; its loop turns a moment later."""
        self._health, metrics = free_ports(2)
        environment = {
            "KUBECONFIG": str(self._config),
            settings.ENV_TRAINER_IMAGE: "image",
            settings.ENV_WATCH_NAMESPACES: self._namespace,
            settings.ENV_HEALTH_PORT: str(self._health),
            settings.ENV_METRICS_PORT: str(metrics),
        }
        self._process = self._context.Process(target=_run, args=(environment, str(self.log)), daemon=True)
        self._process.start()

    def wait(self) -> None:
        """Wait until its loop turns."""

        def turns() -> bool:
            try:
                with urllib.request.urlopen(f"http://127.0.0.1:{self._health}/healthz", timeout=1) as answer:
                    return bool(answer.status == 200)
            except (urllib.error.URLError, OSError):
                return False

        wait_for("the operator", turns, 60, 0.05, self.log.read_text)

    @property
    def pid(self) -> int:
        """Its process id."""
        assert self._process is not None
        assert self._process.pid is not None
        return self._process.pid

    @property
    def is_alive(self) -> bool:
        """Whether it runs."""
        return self._process is not None and self._process.is_alive()

    def kill(self) -> None:
        """Kill it, as a node's failure would; what it was about to hear it never hears."""
        os.kill(self.pid, signal.SIGKILL)

    def stop(self) -> None:
        """Kill it if it runs, and wait for its end."""
        if self._process is not None:
            self._process.kill()
            self._process.join()
            self._process.close()
            self._process = None


def _run(environment: dict[str, str], log: str) -> None:
    ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
    file = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    for stream in (1, 2):
        os.dup2(file, stream)
    for name in [name for name in os.environ if name.lower().endswith("_proxy")]:
        del os.environ[name]
    os.environ.update(environment)
    logging.getLogger().handlers.clear()
    from kubernetes.aio.config import kube_config
    from peftjob_operator.__main__ import main

    kube_config.KUBE_CONFIG_DEFAULT_LOCATION = environment["KUBECONFIG"]  # read when it was imported, in the parent
    main()
