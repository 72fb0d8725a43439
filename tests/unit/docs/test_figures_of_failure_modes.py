"""docs/failure-modes.md says no time and no count by heart: each is a constant of the code, or the suite's."""

import itertools
import re
from pathlib import Path

from faults.plans import SAVED_EVERY
from faults.timed import BEGIN, END
from faults.two_nodes import STRETCH
from peftjob_api.constants import ENV_HANG_SECONDS
from peftjob_operator import decide, handlers, restart, settings, versions, workqueue
from peftjob_trainer import divergence, watchdog
from peftjob_trainer.checkpoints import keeper
from peftjob_trainer.storage import patience

PAGE = Path(__file__).resolve().parents[3] / "docs/failure-modes.md"
KUBERNETES_GRACE_SECONDS, KUBERNETES_UNREACHABLE_SECONDS = 30, 50
"""A pod's `terminationGracePeriodSeconds`, and `--node-monitor-grace-period`, unless somebody sets them."""
WORDS = {3: "three", 10: "ten"}


def said() -> str:
    """Return what the page says by itself, in one line: neither names of tests nor the table that is measured."""
    before, _, rest = PAGE.read_text().partition(BEGIN)
    text = before + rest.partition(END)[2]
    return " ".join(re.sub(r"\[[^]]*\]\([^)]*tests/[^)]*\)", "", text).split())


def pause(number: int) -> str:
    return f"{restart.pause(number, 0.5):g} s"


def figures() -> list[str]:
    """Return every figure with the words around it."""
    a_minute = {60: "a minute"}
    silent = watchdog._SILENT_READS
    known, pace = watchdog._KNOWN, watchdog._UNKNOWN_PACE * watchdog.HANG_SECONDS / 60
    least, most = (restart.pause(2, jitter) / restart.pause(2, 0.5) for jitter in (0, 1))
    assert (1 - least, most - 1) == (0.25, 0.25), "a quarter more or less"
    assert restart.stretch(100 * 77) == 77, "a hundredth"
    backoffs = list(itertools.islice(handlers._Forever(), 9))
    lasting, waits = patience.LASTING.seconds / 3600, a_minute[int(patience.LASTING.longest)]
    in_a_row, disruptions = WORDS[divergence.MOST_IN_A_ROW], WORDS[settings.MAX_DISRUPTIONS_WITHOUT_PROGRESS]
    stop, resync = f"{keeper.STOP_SECONDS:g} s", a_minute[int(settings.RESYNC_SECONDS)]
    lost = a_minute[int(KUBERNETES_GRACE_SECONDS + settings.LOST_AFTER_SECONDS)]
    longest = workqueue.LONGEST_BACKOFF
    return [
        f"is a hundredth of its steps, and at least {restart._LEAST_STRETCH}, beyond",
        f"{disruptions} in a row end the job",
        f"about {pause(2)}, {pause(3)}, {pause(4)} and so on (a quarter more or less, by chance), at most "
        f"{restart._LONGEST_PAUSE / 60:g} minutes",
        f"were NaN or infinite in {in_a_row} steps in a row",
        f"**{in_a_row.capitalize()} in a row** are no bad example",
        f"or {in_a_row} steps in a row are skipped again",
        f"a finished adapter waited for {lasting:g} hours",
        f"as far as {stop} suffice",
        f"from a rank's process for {silent} s, from the time",
        f"For the first one {watchdog._FIRST_READS} s are allowed",
        f"for {watchdog._TIMES_MEDIAN} times the median of the last {watchdog._PACES} steps, and at least "
        f"{watchdog.HANG_SECONDS:g} s; for {pace:g} minutes in the first {WORDS[known]} steps",
        f"Set `{ENV_HANG_SECONDS}` in the environment of `workers.podTemplate` to another number than "
        f"{watchdog.HANG_SECONDS:g} to stretch all of these times alike ({silent} s is a quarter of it)",
        f"made again by the client for {patience.BRIEF.seconds:g} s",
        f"is tried again after pauses that grow to {waits}, each time",
        f"there is one about {waits} after the store is back",
        f"every call is made again, after pauses that grow to {waits}, for {lasting:g} hours",
        f"saved if the store is back within {stop}",
        f"looks again every {settings.WAIT_SECONDS:g} s",
        f"it tries again after {decide.GIVEN_BACK_SECONDS:g} to {2 * decide.GIVEN_BACK_SECONDS:g} s",
        f"{settings.NODE_TOLERATION_SECONDS} s after the cluster calls it unreachable (by default that takes about "
        f"{KUBERNETES_UNREACHABLE_SECONDS} s)",
        f"when it has not done so {lost} later",
        f"| {disruptions} disruptions in a row",
        f"at most {max(backoffs):g} s apart; each PeftJob after {workqueue.FIRST_BACKOFF:g} s, doubled up to "
        f"{longest:g} s",
        f"| at most {longest:g} s after it answers again",
        f"are read anew every {resync.removeprefix('a ')}, and always",
        f"another one is made | at most {resync}",
        f"| {versions.CHECK_SECONDS:g} s, and until the operator's pod runs again",
        f"take up to {restart.LONGEST_PAUSE_SECONDS / 60:g} minutes longer",
        f"and for each attempt | at most {resync}",
        f"their grace period is {KUBERNETES_GRACE_SECONDS} s",
        f"that save every {SAVED_EVERY * STRETCH} steps",
    ]


FIGURE = re.compile(
    r"\b\d[\d.]*\s(?:s|seconds|minutes|hours|times|steps)\b|\b(?:a|every) minute\b|\ba (?:quarter|hundredth)\b"
    r"|\b(?:[Tt]hree|ten)(?: steps| disruptions)? in a row\b|\bfirst three steps\b"
)


def test_every_figure_is_a_constant_of_the_code() -> None:
    text = said()
    assert [phrase for phrase in figures() if phrase not in text] == []
    known = [range(text.index(phrase), text.index(phrase) + len(phrase)) for phrase in figures()]
    loose = [found for found in FIGURE.finditer(text) if not any(found.start() in span for span in known)]
    assert [
        text[max(0, f.start() - 40) : f.end() + 20] for f in loose if "failed 3 times" not in text[f.start() - 9 :]
    ] == []
    assert len(FIGURE.findall(text)) > 40
