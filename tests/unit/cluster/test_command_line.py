"""The command line, and the settings that it makes: all that can be seen without root."""

import os
import struct
from pathlib import Path

import pytest
from peftjob_cluster import __main__ as command_line
from peftjob_cluster import components, lifecycle, network, node, services
from peftjob_cluster.paths import Layout
from peftjob_cluster.pki import Authority, Identity, subject
from peftjob_cluster.shell import ClusterError


@pytest.fixture
def called(monkeypatch: pytest.MonkeyPatch) -> list[list[str]]:
    """Record what would be run in the cluster's network."""
    calls: list[list[str]] = []

    def execute(layout: Layout, command: list[str]) -> int:
        calls.append(command)
        return 3

    monkeypatch.setattr(command_line, "execute", execute)
    return calls


@pytest.mark.parametrize(
    ("arguments", "command"),
    [
        (["exec-ns", "--", "helm", "list", "-A"], ["helm", "list", "-A"]),
        (["exec-ns", "--", "kubectl", "exec", "p", "--", "ls", "--all"], ["kubectl", "exec", "p", "--", "ls", "--all"]),
        (["exec-ns", "true"], ["true"]),
        (["kubectl", "-n", "s3", "get", "pods", "--help"], ["kubectl", "-n", "s3", "get", "pods", "--help"]),
        (["kubectl", "exec", "p", "--", "ls", "-l"], ["kubectl", "exec", "p", "--", "ls", "-l"]),
    ],
)
def test_commands_are_passed_on_as_they_are(called: list[list[str]], arguments: list[str], command: list[str]) -> None:
    assert command_line.main(arguments) == 3
    assert called == [command]


@pytest.mark.parametrize(
    "arguments",
    [
        [],
        ["upp"],
        ["up", "--now"],
        ["node", "kill"],
        ["node", "kill", "n3"],
        ["exec-ns", "--"],
        ["tools", "--only", "x"],
    ],
)
def test_a_wrong_command_line_is_refused(arguments: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as stopped:
        command_line.main(arguments)
    assert stopped.value.code == 2
    assert "usage:" in capsys.readouterr().err


def test_help_names_every_verb(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as stopped:
        command_line.main(["--help"])
    assert stopped.value.code == 0
    text = capsys.readouterr().out
    for verb in ("tools", "images", "up", "down", "check-clean", "exec-ns", "node", "kubectl"):
        assert verb in text


@pytest.mark.parametrize("verb", ["tools", "up", "images"])
def test_without_root_the_other_way_is_named(verb: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("PEFTJOB_CLUSTER_DIR", str(tmp_path))
    monkeypatch.setattr(os, "geteuid", lambda: 1000)
    with pytest.raises(ClusterError, match="make demo KUBECONTEXT="):
        command_line.main([verb])
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("root", ["/var/lib/x", "/run/x", "/srv/" + "x" * 60])
def test_a_folder_that_cannot_hold_the_cluster_is_refused(root: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "geteuid", lambda: 0)
    monkeypatch.setattr("shutil.which", lambda name: name)
    monkeypatch.setattr(Path, "exists", lambda path: True)
    with pytest.raises(ClusterError, match="PEFTJOB_CLUSTER_DIR"):
        lifecycle.require_machine(Layout(Path(root)))


def test_check_clean_fails_when_something_is_left(capsys: pytest.CaptureFixture[str]) -> None:
    assert command_line.report([]) == 0
    assert command_line.report(["process 7: etcd"]) == 1
    assert "process 7: etcd" in capsys.readouterr().err


def test_only_an_api_server_with_nodes_tells_where_it_is(tmp_path: Path) -> None:
    def flags(nodes: bool) -> list[str]:
        identity = Identity(tmp_path / "a.crt", tmp_path / "a.key")
        at = components.Endpoints("10.0.0.1")
        policy = {"audit_log": tmp_path / "audit.log", "audit_policy": tmp_path / "policy"}
        return components.apiserver(tmp_path, at, Authority(tmp_path), identity, identity, nodes=nodes, **policy)

    assert "--endpoint-reconciler-type=none" in flags(nodes=False)
    assert "--endpoint-reconciler-type=none" not in flags(nodes=True)
    assert f"--audit-log-path={tmp_path / 'audit.log'}" in flags(nodes=True)


def test_a_lost_node_is_noticed_in_half_a_minute(tmp_path: Path) -> None:
    flags = components.controller_manager(tmp_path, tmp_path / "kubeconfig", Authority(tmp_path))
    assert "--node-monitor-grace-period=24s" in flags


def test_nodes_share_no_addresses() -> None:
    nodes = [node.NodeHost(Layout(Path("/srv/x")), one) for one in network.NODES]
    assert [host.name for host in nodes] == ["n1", "n2"]
    assert len({host.node.ip for host in nodes} | {host.node.pods for host in nodes}) == 4
    assert len({host.socket for host in nodes}) == 2
    assert set(nodes[0].programs).isdisjoint(nodes[1].programs)


def test_user_names_keep_their_groups_in_certificates() -> None:
    assert subject("system:node:n1", ["system:nodes"]) == "/O=system:nodes/CN=system:node:n1"
    assert subject("a/b+c", []) == r"/CN=a\/b\+c"


def test_the_s3_server_keeps_attributes_in_a_folder_only_where_it_has_to(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def arguments(xattrs: bool) -> list[str]:
        monkeypatch.setattr("peftjob_cluster.s3.has_xattrs", lambda folder: xattrs)
        deployment = services.s3_objects({"data": tmp_path, "sidecar": tmp_path})[-1][1]
        return list(deployment["spec"]["template"]["spec"]["containers"][0]["args"])

    assert arguments(xattrs=True)[-2:] == ["posix", "/data"]
    assert arguments(xattrs=False)[-4:] == ["posix", "--sidecar", "/sidecar", "/data"]


def test_dns_questions_and_answers() -> None:
    query = services.dns_query(7, "s3.s3.svc")
    assert query[:12] == struct.pack(">HHHHHH", 7, 0x0100, 1, 0, 0, 0)
    assert query[12:] == b"\x02s3\x02s3\x03svc\0\0\1\0\1"
    body = query[12:] + b"\xc0\x0c\0\1\0\1\0\0\0\1\0\4\x0a\x60\x01\x02"
    assert services.dns_address(struct.pack(">HHHHHH", 7, 0x8180, 1, 1, 0, 0) + body) == "10.96.1.2"
    assert services.dns_address(struct.pack(">HHHHHH", 7, 0x8183, 1, 0, 0, 0) + query[12:]) is None
