"""What rank 0 tells while it works: `GET /status` and `/metrics` for the operator and Prometheus, lines for the log.

Used by `session` and `train`. All ranks hold one, so that the loop reads the same everywhere; only rank 0's talks.
"""

import json
import logging
import threading
import time
from collections.abc import Iterable
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any, Literal

from peftjob_api import CheckpointInfo, DataInfo, PlanInfo, ResolvedInfo, WaitingInfo, WorkerStatus
from peftjob_api.constants import METRICS_PATH, STATUS_PATH
from prometheus_client import CollectorRegistry, generate_latest
from prometheus_client.exposition import CONTENT_TYPE_LATEST
from prometheus_client.metrics_core import GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from .history import EvalRecord
from .report import duration
from .steps import StepRecord
from .watchdog import Pulse

log = logging.getLogger(__name__)

Phase = Literal["Starting", "Loading", "Training", "Evaluating", "Publishing", "Done"]
_GAUGES = {
    "step": "Finished optimiser steps.",
    "total_steps": "Optimiser steps to do.",
    "epoch": "Passes over the training data.",
    "loss": "Loss per supervised token or row of the last step.",
    "learning_rate": "Learning rate of the last step.",
    "tokens_per_second": "Tokens per second over all ranks.",
    "skipped_steps": "Steps that were not taken, since loss or gradient was not finite.",
    "eta_seconds": "Seconds until training ends.",
}


class Progress:
    """The state of the run, and who is told of it when it changes."""

    def __init__(self, attempt: int = 1, *, talks: bool = False, log_format: str = "Text", log_every: int = 1) -> None:
        self._talks = talks
        self._json = log_format == "JSON"
        self._log_every = log_every
        self._status = WorkerStatus(attempt=attempt)
        self.pulse = Pulse()
        """For the watchdog."""
        self._lock = threading.Lock()
        self._training_since: float | None = None
        self._first_step = 0

    @property
    def status(self) -> WorkerStatus:
        """The state now; a new object after each change, so threads may read it."""
        return self._status

    @property
    def last(self) -> WorkerStatus:
        """The state at the end, when nothing waits any more."""
        return self._status.model_copy(update={"waiting": None})

    def phase(self, phase: Phase) -> None:
        """Enter a phase."""
        self._set(phase=phase)
        self.pulse.phase = phase
        self.pulse.beat()

    def beat(self) -> None:
        """Tell the watchdog that the main thread got on."""
        self.pulse.beat()

    def plan(self, plan: PlanInfo) -> None:
        """Tell how the base lies on the ranks."""
        self._set(plan=plan)

    def resolved(self, resolved: ResolvedInfo) -> None:
        """Tell by what is trained."""
        self._set(resolved=resolved)
        log.info("training by: %s", ", ".join(f"{name} {value}" for name, value in resolved.to_wire().items()))

    def checkpoint(self, info: CheckpointInfo) -> None:
        """Tell of a checkpoint that was written, or gone on from."""
        self._set(checkpoint=info)

    def waiting(self, info: WaitingInfo | None) -> None:
        """Tell what waits for the output's store, or that nothing does any more."""
        before = self._status.waiting
        self._set(waiting=info)
        if info is None:
            if before is not None and before.since is not None:
                log.info("the output's store is back after %s", duration(time.time() - before.since))
        elif before is None or before.message != info.message:
            log.warning("%s", waiting_line(info))

    def data(self, data: DataInfo) -> None:
        """Tell what the data came to."""
        self._set(data=data)

    def skipped(self, steps: int) -> None:
        """Tell how many steps were skipped so far."""
        self._set(skipped_steps=steps or None)

    def step(self, record: StepRecord, total_steps: int) -> None:
        """Tell of a finished step."""
        self.pulse.step = record.step
        self.pulse.paces.append(record.seconds)
        self.pulse.beat()
        now = time.monotonic()
        eta = None
        if self._training_since is None:
            # The first step is slower than all others; the time is taken from its end.
            self._training_since, self._first_step = now, record.step
        elif record.step > self._first_step:
            pace = (now - self._training_since) / (record.step - self._first_step)
            eta = pace * (total_steps - record.step)
        self._set(
            step=record.step,
            total_steps=total_steps,
            epoch=record.epoch,
            loss=record.loss if record.is_taken else None,
            learning_rate=record.learning_rate,
            tokens_per_second=record.tokens_per_second,
            eta_seconds=0.0 if record.step == total_steps else eta,
        )
        if record.step % self._log_every == 0 or record.step in (1, total_steps):
            self._say(progress_line(self._status))

    def evaluation(self, record: EvalRecord) -> None:
        """Tell of an evaluation."""
        self._set(metrics=record.metrics)
        shown = "  ".join(f"{name} {value:.4f}" for name, value in record.metrics.items())
        self._say(f"step {record.step}  {record.split}: {shown}")

    def _set(self, **fields: Any) -> None:
        with self._lock:  # checkpoints are told of by a thread of their own
            self._status = self._status.model_copy(update={**fields, "updated_at": time.time()})

    def _say(self, line: str) -> None:
        if not self._talks:
            return
        if self._json:
            print(status_json(self._status), flush=True)
        else:
            log.info("%s", line)


def progress_line(status: WorkerStatus) -> str:
    """Return the state for people, such as `step 10/48  loss 0.6931  lr 1.2e-03  812 tokens/s  eta 12.0s`."""
    parts = [f"step {status.step}/{status.total_steps}"]
    if status.loss is not None:
        parts.append(f"loss {status.loss:.4f}")
    if status.learning_rate is not None:
        parts.append(f"lr {status.learning_rate:.2e}")
    if status.tokens_per_second is not None:
        parts.append(f"{status.tokens_per_second:,.0f} tokens/s")
    if status.eta_seconds is not None:
        parts.append(f"eta {duration(status.eta_seconds)}")
    return "  ".join(parts)


def waiting_line(info: WaitingInfo) -> str:
    """Return what is waited for, for people."""
    who = "checkpoints wait, and training goes on" if info.what == "Checkpoints" else "the finished adapter waits"
    return f"{who}: {info.message}"


def status_json(status: WorkerStatus) -> str:
    """Return the state as one line of JSON; what is not finite is left out, as a reader would."""
    checked = WorkerStatus.model_validate(status.model_dump())
    return json.dumps(checked.to_wire(), separators=(",", ":"), allow_nan=False)


class _Gauges(Collector):
    """The state as Prometheus' gauges."""

    def __init__(self, progress: Progress) -> None:
        self._progress = progress

    def collect(self) -> Iterable[Metric]:
        """Return one gauge for each number that is known."""
        status = self._progress.status
        for name, text in _GAUGES.items():
            value = getattr(status, name)
            if value is not None:
                yield GaugeMetricFamily(f"peftjob_{name}", text, value=value)
        if status.metrics:
            family = GaugeMetricFamily("peftjob_evaluation", "Metrics of the last evaluation.", labels=["metric"])
            for metric, value in status.metrics.items():
                family.add_metric([metric], value)
            yield family


def serve(progress: Progress, port: int) -> ThreadingHTTPServer:
    """Answer `GET /status` and `GET /metrics` from a thread, on all interfaces; port 0 takes any free one."""
    registry = CollectorRegistry(auto_describe=False)
    registry.register(_Gauges(progress))

    class Handler(BaseHTTPRequestHandler):
        timeout = 10  # of a client that says nothing

        def do_GET(self) -> None:
            """Answer."""
            if self.path == STATUS_PATH:
                self._answer(status_json(progress.status).encode(), "application/json")
            elif self.path == METRICS_PATH:
                self._answer(generate_latest(registry), CONTENT_TYPE_LATEST)
            else:
                self.send_error(404, f"there are {STATUS_PATH} and {METRICS_PATH}")

        def _answer(self, body: bytes, kind: str) -> None:
            self.send_response(200)
            self.send_header("Content-Type", kind)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, format: str, *args: Any) -> None:
            """Keep requests out of the log: one comes every few seconds."""

    server = ThreadingHTTPServer(("", port), Handler)
    server.daemon_threads = True
    threading.Thread(target=server.serve_forever, name="status", daemon=True).start()
    return server
