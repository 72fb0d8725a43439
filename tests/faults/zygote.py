"""Forks worker processes from one that has imported the trainer already, so that a start costs a second and not ten.

    python -m faults.zygote     # one JSON line in for each launcher to start, lines out for starts and ends

It stays single-threaded and computes nothing: what is forked is what a fresh import would be. Used by `kubelet`.
"""

import json
import os
import selectors
import signal
import sys
from importlib import import_module
from typing import Any

# Libraries that the trainer imports only when it comes to use them.
_LATE = (
    "matplotlib.figure",
    "matplotlib.backends.backend_svg",
    "peft.tuners.lora",
    "pyarrow.json",
    "transformers.models.llama.modeling_llama",
    "transformers.models.auto.modeling_auto",
    "transformers.models.auto.tokenization_auto",
    "transformers.integrations.deepspeed",
)


def main() -> None:
    """Import, then fork until standard input ends, which takes all launchers along."""
    import_module("peftjob_trainer.session")
    for name in _LATE:
        import_module(name)
    from faults import pod

    assert len(os.listdir("/proc/self/task")) == 1, "a fork would leave threads behind"
    woken, wake = os.pipe()
    os.set_blocking(wake, False)
    signal.signal(signal.SIGCHLD, lambda *_: None)
    signal.set_wakeup_fd(wake, warn_on_full_buffer=False)
    selector = selectors.DefaultSelector()
    selector.register(0, selectors.EVENT_READ)
    selector.register(woken, selectors.EVENT_READ)
    _say({"ready": os.getpid()})
    buffered = b""
    while True:
        for key, _ in selector.select():
            if key.fd == woken:
                os.read(woken, 4096)
                _reap()
                continue
            data = os.read(0, 65536)
            if not data:
                return
            *lines, buffered = (buffered + data).split(b"\n")
            for line in lines:
                _fork(json.loads(line), pod.run, (woken, wake))


def _fork(order: dict[str, Any], run: Any, pipes: tuple[int, int]) -> None:
    pid = os.fork()
    if pid:
        _say({"started": order["uid"], "pid": pid})
        return
    try:
        signal.set_wakeup_fd(-1)
        signal.signal(signal.SIGCHLD, signal.SIG_DFL)
        for fd in pipes:
            os.close(fd)
        run(order)
    finally:
        os._exit(70)  # `run` does not return


def _reap() -> None:
    while True:
        try:
            pid, status = os.waitpid(-1, os.WNOHANG)
        except ChildProcessError:
            return
        if pid == 0:
            return
        _say({"ended": pid, "code": os.waitstatus_to_exitcode(status)})


def _say(word: dict[str, Any]) -> None:
    sys.stdout.write(json.dumps(word) + "\n")
    sys.stdout.flush()


if __name__ == "__main__":
    main()
