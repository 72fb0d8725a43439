"""`python -m faults --plans N`: seeded plans of faults; prints tables and, as the last line, `bars met: M of N`."""

import argparse
import os
import signal
import sys
import time
import traceback
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from pathlib import Path

from .carry_out import LabHand
from .cluster_hand import FAULTS, ClusterHand
from .drive import Driver, Ground, Hand, Outcome, run_undisturbed
from .lab import Lab
from .machines import enter_own_network
from .plans import SAVED_EVERY, Fault, Moment, Plan, draw
from .report import Row, all_bars, bars, faults_table, last_line, plan_line
from .timed import DOCS, group, hits_all, timed_plans, times_table, with_table
from .two_nodes import TwoNodes

SPARE_MACHINES = 3


def main() -> int:
    """Run; return 0 if every bar is met."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--plans", type=int, default=200, help="in the lab")
    parser.add_argument("--seed", type=int, default=1, help="of the first plan; the others follow")
    parser.add_argument("--only", type=int, nargs="*", help="seeds to run in the lab, instead of a row of them")
    parser.add_argument("--at-once", type=int, default=6)
    parser.add_argument("--times", type=int, default=0, help="how often each fault is timed in the lab")
    parser.add_argument("--cluster-plans", type=int, default=0, help="on the two-node cluster, which must be up")
    parser.add_argument("--cluster-times", type=int, default=0, help="how often each fault is timed there")
    parser.add_argument("--timed", nargs="*", default=(), help="faults to time, such as KILL_RANK; all unless given")
    parser.add_argument("--docs", action="store_true", help="write what was timed there into docs/failure-modes.md")
    parser.add_argument("--logs", type=Path, help="folder for the logs of plans that went wrong")
    given = parser.parse_args()
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    rows: list[Row] = []
    faults = [Fault[name] for name in given.timed]
    plans = [draw(seed) for seed in given.only or range(given.seed, given.seed + given.plans)]
    if plans or given.times:
        enter_own_network()
        with Lab(2 * given.at_once + SPARE_MACHINES) as lab:
            timed = timed_plans(given.times, faults)
            rows += carry_out("lab", lab, LabHand(lab), plans, timed, given.at_once, given.logs)
    if given.cluster_plans or given.cluster_times:
        seeds = range(given.seed, given.seed + given.cluster_plans)
        plans = [draw(seed, FAULTS, (Moment.STEP, Moment.START)) for seed in seeds]
        with TwoNodes() as cluster:
            hand = ClusterHand(cluster)
            timed = timed_plans(given.cluster_times, faults)
            rows += carry_out("cluster", cluster, hand, plans, timed, 1, given.logs, docs=given.docs)
    print(all_bars(rows))
    print(last_line(rows))
    return 0 if all(row.met for row in rows if row.met is not None) else 1


def carry_out(
    where: str,
    ground: Ground,
    hand: Hand,
    plans: Sequence[Plan],
    timed: Sequence[Plan],
    at_once: int,
    logs: Path | None,
    *,
    docs: bool = False,
) -> list[Row]:
    """Carry plans out, several at once, print each as it ends, and tables; return the bars.

    Timed faults of what all jobs share come last, one after the other.
    """
    began = time.monotonic()
    shapes = sorted({plan.shape for plan in (*plans, *timed)}, key=str)
    pool = ThreadPoolExecutor(at_once)
    undisturbed = [Plan(-1 - number, shape, (), 0) for number, shape in enumerate(shapes)]
    measures = dict(zip(shapes, pool.map(lambda plan: run_undisturbed(ground, hand, plan), undisturbed), strict=True))
    print(f"{where}: {len(shapes)} undisturbed runs after {time.monotonic() - began:.0f} s", flush=True)
    outcomes: list[Outcome] = []
    try:
        for batch in ([*plans, *(p for p in timed if not hits_all(p))], *([p] for p in timed if hits_all(p))):
            running = {pool.submit(Driver(ground, hand, p).run, measures[p.shape]): p for p in batch}
            for future in as_completed(running):
                try:
                    outcome = future.result()
                except Exception as error:
                    outcome = Outcome(running[future], [f"{type(error).__name__}: {error}"])
                outcomes.append(outcome)
                print(plan_line(outcome), flush=True)
                if outcome.wrong and logs is not None:
                    logs.mkdir(parents=True, exist_ok=True)
                    (logs / f"{where}-{outcome.plan.name}.log").write_text(outcome.logs)
    finally:
        pool.shutdown(wait=False, cancel_futures=True)
    print(f"{where}: {len(outcomes)} plans in {time.monotonic() - began:.0f} s\n")
    own = [outcome for outcome in outcomes if outcome.plan in plans]
    rows: list[Row] = []
    if own:
        print(faults_table(own))
        rows += bars(where, own)
    if timed:
        others = [outcome for outcome in outcomes if outcome.plan in timed]
        found = group(others)
        print(f"{where}: from a fault to the first new step\n{times_table(found)}")
        for times in found:
            rows += times.bars(where, SAVED_EVERY * ground.jobs.stretch)
        if docs:
            DOCS.write_text(with_table(DOCS.read_text(), found))
    return rows


if __name__ == "__main__":
    code = 1
    try:
        code = main()
    except SystemExit as end:
        code = int(end.code or 0)
    except Exception:
        traceback.print_exc()
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code)  # drivers of plans that were given up may still wait
