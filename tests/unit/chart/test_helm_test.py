"""The script of `helm test`, run against real HTTP and TLS servers: it passes on a sound install and on no other."""

import json
import ssl
import subprocess
import threading
from collections.abc import Iterator
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
from peftjob_testkit.chart import CHART

TOKEN = "token-of-the-test-account"
SOUND = {"resources": [{"name": "peftjobs"}, {"name": "peftjobs/status"}]}


@dataclass
class Answers:
    """What the servers say, by path; (status, body)."""

    by_path: dict[str, tuple[int, str]] = field(default_factory=dict)
    authorization: list[str | None] = field(default_factory=list)


def serve(answers: Answers, context: ssl.SSLContext | None = None) -> ThreadingHTTPServer:
    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            status, body = answers.by_path.get(self.path, (404, "{}"))
            if self.path.startswith("/apis/"):
                answers.authorization.append(self.headers.get("Authorization"))
            self.send_response(status)
            self.end_headers()
            self.wfile.write(body.encode())

        def log_message(self, format: str, *args: Any) -> None:
            """Keep the test's output clean."""

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    if context:
        server.socket = context.wrap_socket(server.socket, server_side=True)
    threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True).start()
    return server


def certificate(folder: Path, name: str) -> None:
    """Write a self-signed certificate of 127.0.0.1, `ca.crt`, and its key."""
    command = (
        "openssl req -x509 -newkey ec -pkeyopt ec_paramgen_curve:prime256v1 -nodes -days 1 -keyout key -out ca.crt"
    )
    extra = ["-subj", f"/CN={name}", "-addext", "subjectAltName=IP:127.0.0.1"]
    subprocess.run([*command.split(), *extra], cwd=folder, check=True, capture_output=True)


@pytest.fixture
def answers() -> Answers:
    return Answers(
        {
            "/healthz": (200, "ok"),
            "/metrics": (200, "peftjob_operator_reconciles_total 1\n"),
            "/apis/peftjob.io/v1alpha1": (200, json.dumps(SOUND)),
        }
    )


@pytest.fixture
def script(answers: Answers, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[ModuleType]:
    """The script as the pod runs it, its account's folder and its servers being local."""
    certificate(tmp_path, "kubernetes")
    (tmp_path / "token").write_text(TOKEN)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(tmp_path / "ca.crt", tmp_path / "key")
    operator, api_server = serve(answers), serve(answers, context)
    monkeypatch.setenv("OPERATOR_URL_HEALTH", f"http://127.0.0.1:{operator.server_port}/healthz")
    monkeypatch.setenv("OPERATOR_URL_METRICS", f"http://127.0.0.1:{operator.server_port}/metrics")
    monkeypatch.setenv("KUBERNETES_SERVICE_HOST", "127.0.0.1")
    monkeypatch.setenv("KUBERNETES_SERVICE_PORT", str(api_server.server_port))
    module = ModuleType("helm_test")
    exec(compile((CHART / "files/helm_test.py").read_text(), "helm_test.py", "exec"), module.__dict__)
    module.ACCOUNT, module.ATTEMPTS, module.PAUSE_S = tmp_path, 2, 0  # type: ignore[attr-defined]
    yield module
    for server in (operator, api_server):
        server.shutdown()
        server.server_close()


def test_a_sound_install_passes(script: ModuleType, answers: Answers, capsys: pytest.CaptureFixture[str]) -> None:
    assert script.main() == 0
    assert capsys.readouterr().out.split("\n")[:3] == ["ok healthy", "ok counts", "ok peftjobs_served"]
    assert answers.authorization == [f"Bearer {TOKEN}"]


@pytest.mark.parametrize(
    ("path", "answer", "want"),
    [
        pytest.param("/healthz", (500, ""), "FAILED healthy: HTTPError", id="the operator is stuck"),
        pytest.param("/metrics", (200, "python_info 1\n"), "FAILED counts: AssertionError", id="no metric of ours"),
        pytest.param("/apis/peftjob.io/v1alpha1", (404, "{}"), "FAILED peftjobs_served: HTTPError", id="no CRD"),
        pytest.param(
            "/apis/peftjob.io/v1alpha1",
            (200, '{"resources": [{"name": "peftjobs"}]}'),
            "FAILED peftjobs_served: AssertionError: the API server serves only ['peftjobs']",
            id="a CRD without status",
        ),
    ],
)
def test_an_unsound_install_fails_by_name(
    path: str,
    answer: tuple[int, str],
    want: str,
    script: ModuleType,
    answers: Answers,
    capsys: pytest.CaptureFixture[str],
) -> None:
    answers.by_path[path] = answer
    assert script.main() == 1
    assert want in capsys.readouterr().out


def test_an_api_server_that_is_not_the_clusters_is_not_believed(
    script: ModuleType, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    certificate(tmp_path, "another")
    assert script.main() == 1
    assert "CERTIFICATE_VERIFY_FAILED" in capsys.readouterr().out
