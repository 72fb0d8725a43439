"""Runs one node's part of a PeftJob, or a whole PeftJob on this machine.

    python -m peftjob_trainer.launch             # in a worker pod: the operator has set the environment
    python -m peftjob_trainer.launch job.yaml    # here: no cluster, no root, file:// or s3:// in and out

It looks at the output first, so that a finished job is reported and a foreign one refused before anything is loaded;
then it starts a rank for each device and fetches the inputs once for all of them. It imports no torch: what can be
told early is told within seconds. The last word is the one-line cause in the pod's termination message; tracebacks
are in the log.
"""

import hashlib
import logging
import os
import shutil
import signal
import socket
import sys
import tempfile
import threading
import time
import traceback
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from peftjob_api import (
    AdapterInfo,
    ExitCode,
    JobIdentity,
    ManifestError,
    Reason,
    RunConfig,
    TerminationMessage,
    WorkerStatus,
    most_specific,
    read_peftjob,
)
from peftjob_api.constants import (
    ENV_ATTEMPT,
    ENV_CPU_LIMIT,
    ENV_GANG,
    ENV_MASTER_ADDR,
    ENV_NODE_RANK,
    ENV_RUN_CONFIG,
    ENV_TERMINATION_PATH,
    RENDEZVOUS_PORT,
    RUN_CONFIG_PATH,
    STATUS_PORT,
    WORK_DIR,
)

from .claim import check_output
from .data.files import fetch_split
from .exits import TrainerError
from .failures import explain
from .handoff import ADAPTER_FOLDER, Go, end_process, in_log, last_word, log_to_stdout, read_outcome
from .publish import find_published
from .ranks import POLL_SECONDS, Layout, Ranks, environment, pick, shell_code, signal_name, threads_per_rank
from .storage import fetch_adapter, fetch_model, open_store

log = logging.getLogger("peftjob_trainer.launch")  # also when it is __main__

LOCAL_ADDRESS = "127.0.0.1"
_OOM_EVENTS = Path("/sys/fs/cgroup/memory.events")


@dataclass(frozen=True)
class Assignment:
    """What this launcher is to do."""

    run: RunConfig
    attempt: int
    gang: str
    layout: Layout
    is_local: bool
    """Whether there is no cluster, and this machine runs all ranks."""

    @property
    def is_first(self) -> bool:
        """Whether rank 0 is here."""
        return self.layout.first == 0


def from_environment(environ: Mapping[str, str]) -> Assignment:
    """Return what the operator assigned to this pod.

    Raises:
        TrainerError: `INVALID_CONFIG`.
    """
    path = Path(environ.get(ENV_RUN_CONFIG, RUN_CONFIG_PATH))
    try:
        run = RunConfig.model_validate_json(path.read_text(encoding="utf-8"))
        node = int(environ.get(ENV_NODE_RANK, "0"))
        attempt = int(environ[ENV_ATTEMPT])
        master = environ[ENV_MASTER_ADDR]
        gang = environ[ENV_GANG]
    except FileNotFoundError as error:
        raise TrainerError(
            Reason.INVALID_CONFIG,
            f"there is no {path}: in a worker pod the operator puts it there; elsewhere, name a PeftJob's file: "
            f"python -m peftjob_trainer.launch job.yaml",
        ) from error
    except KeyError as error:
        raise TrainerError(Reason.INVALID_CONFIG, f"{error.args[0]} is not set, which the operator sets") from error
    except ValueError as error:
        raise TrainerError(
            Reason.INVALID_CONFIG, f"{path} or the environment was written by another version of the operator: {error}"
        ) from error
    count = run.spec.workers.ranks_per_node
    layout = Layout(node * count, count, run.spec.workers.world_size, (master, RENDEZVOUS_PORT))
    return Assignment(run, attempt, gang, layout, is_local=False)


def from_file(path: Path) -> Assignment:
    """Return the assignment of all of a PeftJob to this machine.

    The uid is a hash of what is asked for: the same file again finds its finished adapter, a changed one does not take
    the old one's result for its own.

    Raises:
        TrainerError: `INVALID_CONFIG`: there is no such file, or it holds no valid PeftJob.
    """
    try:
        job = read_peftjob(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise TrainerError(Reason.INVALID_CONFIG, f"{path}: {error.strerror}") from error
    except UnicodeDecodeError as error:
        raise TrainerError(Reason.INVALID_CONFIG, f"{path}: no text in UTF-8") from error
    except ManifestError as error:
        lines = [f"{path}: {line}" for line in str(error).splitlines()]
        raise TrainerError(Reason.INVALID_CONFIG, "\n".join(lines)) from error
    name, namespace = job.metadata.name, job.metadata.namespace
    nameless = RunConfig.of(JobIdentity(namespace=namespace, name=name, uid=""), job.spec)
    uid = "local-" + hashlib.sha256(nameless.to_json().encode()).hexdigest()[:32]
    run = RunConfig.of(JobIdentity(namespace=namespace, name=name, uid=uid), job.spec)
    world = run.spec.workers.world_size
    with socket.socket() as probe:
        probe.bind((LOCAL_ADDRESS, 0))
        port = probe.getsockname()[1]
    gang = f"{socket.gethostname()}-{os.getpid()}-{time.time_ns()}"
    return Assignment(run, 1, gang, Layout(0, world, world, (LOCAL_ADDRESS, port)), is_local=True)


def check_accelerators(assignment: Assignment, devices: Path = Path("/dev")) -> None:
    """Raise when this machine has no accelerator for a job that asks for some: seconds earlier than PyTorch could.

    Raises:
        TrainerError: `INVALID_CONFIG`.
    """
    workers = assignment.run.spec.workers
    drivers = ("nvidiactl", "dxg", "kfd")
    if not assignment.is_local or not workers.accelerators or any((devices / name).exists() for name in drivers):
        return
    raise TrainerError(
        Reason.INVALID_CONFIG,
        f"this machine has no GPU that is ready to use, and the job asks for {workers.accelerators} on each of "
        f"{workers.nodes} node(s): to train on the CPU, set spec.workers.processesPerNode (such as 1) instead of "
        f"gpusPerNode",
    )


def fetch(run: RunConfig, work: Path) -> Path:
    """Bring model and data to this node; return the model's folder."""
    spec = run.spec
    for name in ("train", "validation", "test"):  # first, for they are small and often wrong
        fetch_split(spec, name, spec.storage, work / name)
    if spec.method.init_from is not None:
        fetch_adapter(spec.method.init_from, spec.storage, work / ADAPTER_FOLDER, "spec.method.initFrom")
    return fetch_model(spec.base_model, spec.storage, work / "model")


class Fetching:
    """`fetch` in a thread, so that signals and dying ranks are seen meanwhile."""

    def __init__(self, run: RunConfig, work: Path) -> None:
        self.model: Path | None = None
        self.error: Exception | None = None
        threading.Thread(target=self._work, args=(run, work), daemon=True).start()

    def _work(self, run: RunConfig, work: Path) -> None:
        try:
            self.model = fetch(run, work)
        except Exception as error:
            self.error = error


class Signals:
    """SIGTERM and SIGINT, as they come."""

    def __init__(self) -> None:
        self.count = 0
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, self._came)

    def _came(self, *_: object) -> None:
        self.count += 1


def run_ranks(assignment: Assignment, work: Path, signals: Signals) -> TerminationMessage:
    """Fetch, run the ranks of this node to their end, and return why they ended.

    Raises:
        TrainerError: Inputs cannot be fetched.
    """
    run, layout = assignment.run, assignment.layout
    on_cpu = not run.spec.workers.accelerators
    threads = threads_per_rank(os.environ.get(ENV_CPU_LIMIT), layout.count)
    base = {"GLOO_SOCKET_IFNAME": "lo", **os.environ} if assignment.is_local else dict(os.environ)
    out_of_memory = oom_kills()
    ranks = Ranks.start(layout, {r: environment(layout, r, threads, on_cpu=on_cpu, base=base) for r in layout.ranks})
    try:
        fetching = Fetching(run, work)
        told = seen = 0
        while not ranks.poll():
            if fetching.error is not None:
                raise fetching.error
            if not told and fetching.model is not None:
                port = None if assignment.is_local else STATUS_PORT
                ranks.hand_over(
                    Go(run, assignment.attempt, assignment.gang, work, fetching.model, port, assignment.is_local)
                )
                told = 1
            if signals.count > seen:
                seen = signals.count
                if seen > 2:
                    ranks.kill()
                else:
                    ranks.stop()
            time.sleep(POLL_SECONDS)
    finally:
        ranks.kill()
    return conclude(assignment, ranks.codes(), work, killed_for_memory=oom_kills() > out_of_memory)


def conclude(
    assignment: Assignment, codes: dict[int, int], work: Path, *, killed_for_memory: bool = False
) -> TerminationMessage:
    """Return the last word on ranks that ended with some codes: that of the rank that knows the cause."""
    accelerated = bool(assignment.run.spec.workers.accelerators)
    # NCCL's watchdog aborts the process when a peer is gone.
    codes = {r: int(ExitCode.LOST_PEER) if accelerated and c == -signal.SIGABRT else c for r, c in codes.items()}
    code = most_specific(list(codes.values()))
    first = read_outcome(work, 0) if assignment.is_first else None
    status = first.status if first else None
    if code == ExitCode.DONE:
        if first is not None:
            return first
        return TerminationMessage(reason=Reason.FINISHED, message="all ranks of this node are done", exit_code=0)
    named = pick(codes, code)
    outcome = next((found for rank in named if (found := read_outcome(work, rank)) is not None), None)
    if outcome is not None and outcome.exit_code == code:
        return outcome.model_copy(update={"status": status})
    if code == ExitCode.INTERRUPTED:
        reason, message = Reason.INTERRUPTED, "told to stop (SIGTERM) before a step was finished"
    elif code == ExitCode.LOST_PEER:
        reason, message = Reason.LOST_PEER, "lost the connection to another rank, which tells the cause"
    elif code == -signal.SIGKILL and killed_for_memory:
        code = int(ExitCode.BAD_CONFIG)
        reason, message = (
            Reason.OUT_OF_MEMORY,
            f"the kernel killed rank {named[0]} for memory: give the pods a larger memory limit in "
            f"spec.workers.podTemplate, use more workers.nodes, or lower spec.training.microBatchSize",
        )
    else:
        how = f"was killed by {signal_name(code)}" if code < 0 else f"ended with exit code {code}"
        reason, message = Reason.INTERNAL_ERROR, f"rank {named[0]} {how}: the log has its last lines"
    return TerminationMessage(
        reason=reason, message=message, exit_code=shell_code(code), rank=named[0] if named else None, status=status
    )


def oom_kills() -> int:
    """Return how many processes of this cgroup the kernel has killed for memory so far."""
    try:
        fields = dict(line.split() for line in _OOM_EVENTS.read_text().splitlines())
    except (OSError, ValueError):
        return 0
    return int(fields.get("oom_kill", 0))


def already_published(assignment: Assignment) -> AdapterInfo | None:
    """Look at the output before anything is loaded: return this PeftJob's finished adapter, if it is there.

    Raises:
        TrainerError: The output belongs to somebody else, or cannot be reached.
    """
    output, identity = assignment.run.spec.output.uri, assignment.run.job
    store = open_store(output, assignment.run.spec.storage)
    found = find_published(store, output, identity)
    if found is None and assignment.is_first:
        check_output(store, identity, assignment.attempt, assignment.gang)
    return found


def work_on(assignment: Assignment, signals: Signals) -> TerminationMessage:
    """Do this node's part; return the last word."""
    check_accelerators(assignment)
    found = already_published(assignment)
    if found is not None:
        message = f"the adapter of this job lies at {found.uri} already: nothing was trained"
        if assignment.is_local:
            message += "; to train again, empty that folder or set another spec.output.uri"
        return TerminationMessage(
            reason=Reason.ADAPTER_PUBLISHED,
            message=message,
            exit_code=0,
            adapter=found,
            status=WorkerStatus(phase="Done", attempt=assignment.attempt, updated_at=time.time()),
        )
    work = Path(tempfile.mkdtemp(prefix="peftjob-", dir=None if assignment.is_local else WORK_DIR))
    try:
        return run_ranks(assignment, work, signals)
    finally:
        shutil.rmtree(work, ignore_errors=True)


def main(arguments: list[str]) -> int:
    """Run; return the exit code."""
    log_to_stdout("launch")
    if len(arguments) > 1 or any(a.startswith("-") for a in arguments):
        print(__doc__, file=sys.stderr)
        return int(ExitCode.DONE if {"-h", "--help"} & set(arguments) else ExitCode.BAD_CONFIG)
    signals = Signals()
    try:
        assignment = from_file(Path(arguments[0])) if arguments else from_environment(os.environ)
        last = work_on(assignment, signals)
    except Exception as error:
        failure = explain(error)
        if failure is not error:
            traceback.print_exc()
        last = last_word(failure)
    tell(last)
    return last.exit_code


def tell(last: TerminationMessage) -> None:
    """Say the last word: to whoever reads the log, and to the operator."""
    if last.exit_code == ExitCode.DONE:
        log.info("%s", in_log(last.message))
    else:
        for line in last.message.splitlines():
            print(f"{last.reason}: {line}", file=sys.stderr, flush=True)
    path = os.environ.get(ENV_TERMINATION_PATH)
    if path:
        try:
            Path(path).write_text(last.to_json(), encoding="utf-8")
        except OSError as error:
            print(f"{path}: {error}", file=sys.stderr)


if __name__ == "__main__":
    end_process(main(sys.argv[1:]))
