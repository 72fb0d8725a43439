"""`make demo`: from `kubectl apply` to an adapter in S3, with what happens and how long it takes.

Without `--context` it brings up the embedded two-node cluster (root, Debian) and goes on inside its network; with
`--context` it uses a cluster of yours, whose nodes can pull the images IMAGES-operator, -trainer and -s3.
"""

import argparse
import base64
import json
import os
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent.parent
PYTHON = ROOT / ".venv/bin/python"
SAMPLE = ROOT / "crds/samples/sentiment.yaml"
NAMESPACE = "demo"
JOB = "sentiment"
STARTED = time.monotonic()


def say(text: str) -> None:
    """Print a step, with the time since the start."""
    print(f"[{time.monotonic() - STARTED:6.1f} s] {text}", flush=True)


def cluster(*args: str) -> list[str]:
    """Return the command line of a verb of the embedded cluster."""
    return [sys.executable, "-m", "peftjob_cluster", *args]


def embedded() -> int:
    """Bring the embedded cluster up, then run the demo itself inside its network."""
    env = {**os.environ, "PYTHONPATH": str(ROOT / "tests/cluster")}
    for verb, what in (
        ("tools", "Kubernetes, etcd, S3 server: built from source once"),
        ("images", "images of operator and trainer"),
        ("up", "a two-node Kubernetes in network namespaces of this machine"),
    ):
        say(what)
        if code := subprocess.run(cluster(verb), env=env).returncode:
            return code
    inside = [str(PYTHON), __file__, "--inside", "--started", str(time.monotonic() - STARTED)]
    return subprocess.run(cluster("exec-ns", "--", *inside), env=env).returncode


@contextmanager
def s3_endpoint(kubectl: "Kubectl") -> Iterator[str]:
    """Forward a free local port to the cluster's S3 service while the context lasts."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    command = [*kubectl.command, "--namespace", "s3", "port-forward", "service/s3", f"{port}:7070"]
    with subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL) as process:
        try:
            wait_for("the S3 server to answer", lambda: listening(port) or None, 60)
            yield f"http://127.0.0.1:{port}"
        finally:
            process.terminate()


def listening(port: int) -> bool:
    """Say whether something on this machine listens on a port."""
    with socket.socket() as client:
        client.settimeout(1)
        return client.connect_ex(("127.0.0.1", port)) == 0


def credentials(kubectl: "Kubectl") -> dict[str, str]:
    """Return the keys of the demo's S3 server."""
    secret = kubectl.get("secret", "s3-credentials")
    assert secret is not None, "it was made with the S3 server"
    return {key: base64.b64decode(value).decode() for key, value in secret["data"].items()}


def follow(kubectl: "Kubectl", timeout: float) -> dict:
    """Print the PeftJob's progress until it has ended; return it."""
    last = ""
    deadline = time.monotonic() + timeout
    while time.monotonic() < deadline:
        job = kubectl.job(JOB)
        status = job.get("status", {})
        progress = status.get("progress", {})
        parts = [status.get("state", "Pending")]
        parts += [
            f"{name} {progress[key]}"
            for name, key in (("step", "display"), ("loss", "loss"), ("eta", "eta"))
            if key in progress
        ]
        waiting = condition(job, "WorkersReady")
        if waiting.get("status") == "False" and waiting.get("message"):
            parts.append(waiting["message"])
        line = "  ".join(parts)
        if line != last:
            say(f"  {line}")
            last = line
        if status.get("state") in ("Succeeded", "Failed"):
            return job
        time.sleep(1)
    raise SystemExit(kubectl.explain(JOB))


def main_job(kubectl: "Kubectl", helm: list[str], images: str, tag: str) -> int:
    """Install, upload, apply, follow, and measure what came out."""
    import s3_server
    import sentiment_data
    from peftjob_testkit.objects import ObjectStore

    say("helm install: the operator")
    helm_install(
        helm,
        ROOT / "charts/peftjob-operator",
        "peftjob-system",
        {
            "operator.image.repository": f"{images}-operator",
            "operator.image.tag": tag,
            "trainer.image.repository": f"{images}-trainer",
            "trainer.image.tag": tag,
        },
    )
    if s3_server.ensure(kubectl, f"{images}-s3:{tag}"):
        say("an S3 server in the namespace s3: its data goes with its pod")
    keys = credentials(Kubectl("s3", kubectl.command))
    with s3_endpoint(kubectl) as endpoint, tempfile.TemporaryDirectory() as folder:
        work = Path(folder)
        store = ObjectStore(endpoint, keys["AWS_ACCESS_KEY_ID"], keys["AWS_SECRET_ACCESS_KEY"])
        for bucket in ("models", "datasets", "adapters"):
            store.ensure_bucket(bucket)
        base = sentiment_data.base_model_folder()
        train, test = sentiment_data.write_splits(work)
        size = store.upload(base, "models", "all-MiniLM-L6-v2")
        size += store.upload(train, "datasets", "sentiment/train.csv") + store.upload(
            test, "datasets", "sentiment/test.csv"
        )
        say(
            f"uploaded the base model, {sentiment_data.TRAIN_ROWS} labelled words to train on and "
            f"{sentiment_data.TEST_ROWS} held out: {size / 1e6:.0f} MB"
        )
        if kubectl.get("namespace", NAMESPACE) is None:
            kubectl.run("create", "namespace", NAMESPACE)
        kubectl.apply(
            {"apiVersion": "v1", "kind": "Secret", "metadata": {"name": "s3-credentials"}, "stringData": keys}
        )
        if kubectl.get("peftjob", JOB) is not None:
            say("a PeftJob of an earlier run is there: deleted, with its adapter")
            kubectl.delete("peftjob", JOB, wait=True)
            for key in store.keys("adapters", f"{JOB}/"):
                store.client.delete_object(Bucket="adapters", Key=key)
        say(f"kubectl apply -f {SAMPLE.relative_to(ROOT)}")
        kubectl.run("apply", "-f", str(SAMPLE))
        job = follow(kubectl, timeout=900)
        status = job["status"]
        if status["state"] != "Succeeded":
            print(condition(job, "Failed").get("message"), file=sys.stderr)
            return 1
        adapter = status["adapter"]
        say(f"published {adapter['uri']}: {adapter['sizeBytes'] / 1e6:.1f} MB, sha256 {adapter['sha256'][:16]}…")
        pods = kubectl.list("pods", f"peftjob.io/job-name={JOB}")
        say("trained by " + ", ".join(f"{p['metadata']['name']} on {p['spec']['nodeName']}" for p in pods))
        plan = status["plan"]
        say(
            f"each of {plan['ranks']} ranks held {plan['baseBytesPerRank'] / 1e6:.1f} MB of the frozen base "
            f"({plan['baseParameters'] / 1e6:.1f} M parameters) and trained {plan['trainableParameters'] / 1e6:.2f} M"
        )
        results = ROOT / ".cluster/demo" if (ROOT / ".cluster").exists() else Path(tempfile.mkdtemp())
        store.download("adapters", f"{JOB}/", results / "adapter")
        say("a separate process loads it with plain transformers and peft:")
        measured = measure(results / "adapter", base, train, test, adapter["sha256"])
    print(f"""
Report with the curves:  {results / "adapter/report.html"}
Look around:             {kubectl_hint(kubectl)} get pj -n {NAMESPACE} -o wide
                         {kubectl_hint(kubectl)} describe pj {JOB} -n {NAMESPACE}
                         {kubectl_hint(kubectl)} logs -n {NAMESPACE} -l peftjob.io/job-name={JOB}
Tear down:               {"make demo-down" if embedded_cluster(kubectl) else tear_down(kubectl)}""")
    return measured


def measure(adapter: Path, base: Path, train: Path, test: Path, sha256: str) -> int:
    """Run evaluate.py in a process of its own; return 1 unless the adapter beats both baselines."""
    command = [
        str(PYTHON),
        str(ROOT / "tests/demo/evaluate.py"),
        "--adapter",
        str(adapter),
        "--base",
        str(base),
        "--train",
        str(train),
        "--test",
        str(test),
        "--manifest-sha256",
        sha256,
    ]
    done = subprocess.run([*command, "--json"], stdout=subprocess.PIPE, text=True)
    if done.returncode:
        return done.returncode
    result = json.loads(done.stdout)
    own = json.loads((adapter / "metrics.json").read_text())["test"]["accuracy"]
    rows = (
        ("(a) always the most frequent label", "majority"),
        ("(b) logistic regression on character n-grams", "ngrams"),
        ("(c) the adapter", "adapter"),
    )
    print(f"\nAccuracy on held-out words ({result['files']} files, each as manifest.json says):")
    for title, key in rows:
        print(f"  {title:46} {result[key]:.3f}")
    print(f"  {'    as metrics.json says':46} {own:.3f}")
    better = result["adapter"] > max(result["majority"], result["ngrams"])
    if not better or abs(own - result["adapter"]) > 5e-4:
        print("the adapter does not beat both, or differs from metrics.json", file=sys.stderr)
        return 1
    return 0


def embedded_cluster(kubectl: "Kubectl") -> bool:
    """Say whether this is the embedded cluster, whose kubectl runs inside its network."""
    return kubectl.command == ("kubectl",)


def tear_down(kubectl: "Kubectl") -> str:
    """Return what to type to take everything of the demo out of a cluster of yours."""
    context = kubectl.command[-1]
    return (
        f"helm uninstall --kube-context {context} --namespace peftjob-system peftjob-operator\n"
        f"                         {kubectl_hint(kubectl)} delete namespace {NAMESPACE} s3 peftjob-system"
    )


def kubectl_hint(kubectl: "Kubectl") -> str:
    """Return what to type for kubectl."""
    return ".cluster/kubectl" if embedded_cluster(kubectl) else " ".join(kubectl.command)


def main() -> int:
    """Parse the arguments and run."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--context", help="a kubectl context of yours, instead of the embedded cluster")
    parser.add_argument("--images", default="localhost/peftjob", help="prefix of the images' names")
    parser.add_argument("--tag", default="dev", help="tag of the images")
    parser.add_argument("--inside", action="store_true", help=argparse.SUPPRESS)
    parser.add_argument("--started", type=float, default=0.0, help=argparse.SUPPRESS)
    args = parser.parse_args()
    if not args.context and not args.inside:
        return embedded()
    global STARTED
    STARTED -= args.started
    command = ("kubectl", "--context", args.context) if args.context else ("kubectl",)
    helm = ["helm", "--kube-context", args.context] if args.context else [str(ROOT / ".cluster/bin/helm")]
    return main_job(Kubectl(NAMESPACE, command), helm, args.images, args.tag)


if __name__ == "__main__":
    sys.path[:0] = [str(ROOT / "tests"), str(ROOT / "tests/demo"), str(ROOT / "tests/cluster")]
    from peftjob_testkit.kubectl import Kubectl, condition, helm_install
    from peftjob_testkit.waiting import wait_for

    sys.exit(main())
