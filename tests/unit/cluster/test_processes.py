"""Records of processes, and what tells ours from others'."""

import os
from pathlib import Path

import pytest
from peftjob_cluster import cgroups, residue
from peftjob_cluster.daemons import MARKER, Daemons, end_process, marked, start_time
from peftjob_cluster.paths import Layout

OWN_STAT = Path("/proc/self/stat")


@pytest.fixture
def layout(tmp_path: Path) -> Layout:
    return Layout(tmp_path)


def record(layout: Layout, name: str, stat: str) -> None:
    folder = layout.run / "processes"
    folder.mkdir(parents=True, exist_ok=True)
    (folder / f"{name}.json").write_text("{}")
    (folder / f"{name}.pid").write_text(stat)


@pytest.mark.parametrize("name", ["etcd", "a b", "a) S 1 (b", "(((", ") "])
def test_a_process_is_known_by_its_number_and_start_whatever_its_name(name: str) -> None:
    fields = ["S", *(str(number) for number in range(4, 30))]
    assert start_time(f"4711 ({name}) {' '.join(fields)}") == (4711, 22)


def test_a_recycled_process_id_is_not_ours(layout: Layout) -> None:
    stat = OWN_STAT.read_text()
    record(layout, "same", stat)
    pid, started = start_time(stat)
    record(layout, "recycled", stat.replace(f" {started} ", f" {started - 1} "))
    record(layout, "torn", stat[:7])
    daemons = Daemons(layout)
    assert daemons.pid("same") == pid == os.getpid()
    assert daemons.pid("recycled") is None
    assert daemons.pid("torn") is None
    assert daemons.pid("never started") is None
    assert daemons.names() == ["recycled", "same", "torn"]


def test_ending_what_is_gone_already_is_no_error() -> None:
    end_process(None)
    end_process(2**22 + 1)


def test_the_marker_names_one_cluster(layout: Layout) -> None:
    def environ(environment: dict[str, str]) -> bytes:
        return b"\0".join(f"{key}={value}".encode() for key, value in environment.items()) + b"\0"

    own = environ(marked({"PATH": "/bin"}, layout))
    other = environ(marked({"PATH": "/bin"}, Layout(layout.root / "other")))
    assert residue.has_marker(own, layout)
    assert not residue.has_marker(other, layout)
    assert not residue.has_marker(environ({f"X{MARKER}": str(layout.root)}), layout)
    assert not residue.has_marker(b"", layout)


def test_only_mounts_below_the_folder_are_ours_and_the_innermost_comes_first() -> None:
    mountinfo = "\n".join(
        f"{number} 1 0:{number} / {point} rw shared:1 - tmpfs tmpfs rw"
        for number, point in enumerate(["/", "/a", "/a/b\\040c", "/a/b\\040c/d", "/ab", "/x/a/b"])
    )
    assert residue.mounts_under(Path("/a"), mountinfo) == [Path("/a/b c/d"), Path("/a/b c")]


def test_what_would_start_others_is_killed_first() -> None:
    found = {1: "/pause", 2: "containerd --config x", 3: "python", 4: "/bin/kubelet --config=x"}
    assert list(residue.order(found)) == [4, 2, 1, 3]


V1_MOUNTS = """\
proc /proc proc rw 0 0
cgroup /sys/fs/cgroup/cpu,cpuacct cgroup rw,relatime,cpu,cpuacct 0 0
cgroup /sys/fs/cgroup/memory cgroup rw,relatime,memory 0 0
cgroup /sys/fs/cgroup/systemd cgroup rw,relatime,name=systemd 0 0
cgroup2 /sys/fs/cgroup/unified cgroup2 rw,relatime 0 0
"""


def test_own_groups_in_separate_and_in_unified_hierarchies() -> None:
    memberships = "4:cpu,cpuacct:/\n3:memory:/job/7\n2:pids:/\n1:name=systemd:/s\n0::/u\n"
    assert cgroups.own_groups(memberships, V1_MOUNTS) == [
        Path("/sys/fs/cgroup/cpu,cpuacct"),
        Path("/sys/fs/cgroup/memory/job/7"),
        Path("/sys/fs/cgroup/systemd/s"),
        Path("/sys/fs/cgroup/unified/u"),
    ]
    unified = "cgroup2 /sys/fs/cgroup cgroup2 rw 0 0\n"
    assert cgroups.own_groups("0::/user.slice/x", unified) == [Path("/sys/fs/cgroup/user.slice/x")]


def test_two_state_folders_share_no_names(layout: Layout) -> None:
    other = Layout(layout.root / "other")
    assert cgroups.name_of(layout) != cgroups.name_of(other)
    assert {layout.namespace(host) for host in ("cp", "n1")}.isdisjoint({other.namespace(h) for h in ("cp", "n1")})
