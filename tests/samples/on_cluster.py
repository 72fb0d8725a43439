"""`make samples`: runs samples on the embedded two-node cluster and compares each with its base and a baseline.

Usage: python -m samples.on_cluster [--four-fields] [NAME ...]; without names, every sample that has a job in
crds/samples.

Each file of crds/samples is applied as it stands, or with nothing set that has a default; base and data lie in the
cluster's S3 where it says. The adapter is downloaded from where the PeftJob's status says, and measured in this process
as by `run`. The last line counts the samples that were met; the exit code is 1 if one was missed.
"""

import argparse
import base64
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from .bases import base_folder
from .kit import Sample
from .outcome import Job, Outcome, four_fields, job_of, measured, parsed, told
from .recipes import RECIPES
from .uses import SAMPLES, runnable

if TYPE_CHECKING:
    from peftjob_testkit.kubectl import Kubectl
    from peftjob_testkit.objects import ObjectStore

ROOT = Path(__file__).resolve().parents[2]
NAMESPACE = "samples"
TIMEOUT = 3600
"""Seconds for one job."""
IMAGES = {"operator.image": "localhost/peftjob-operator", "trainer.image": "localhost/peftjob-trainer"}


def split_uri(uri: str) -> tuple[str, str]:
    """Return bucket and key of an s3:// uri."""
    bucket, _, key = uri.removeprefix("s3://").partition("/")
    return bucket, key


def uploads(job: Job, folder: Path, base: Path) -> list[tuple[Path, str]]:
    """Return what a job reads: a file or folder of this machine, and the uri where the job looks for it."""
    spec = job["spec"]
    files = [
        (folder / Path(uri).name, uri)
        for uri in spec["dataset"].values()
        if isinstance(uri, str) and uri.startswith("s3://")
    ]
    return [(base, spec["baseModel"]["uri"]), *files]


def on_embedded(names: list[str], arguments: list[str]) -> int:
    """Pretrain the bases, bring the embedded cluster up, and run this module inside its network.

    Returns:
        The exit code of the first that failed, or 0.
    """
    for name in {SAMPLES[name].base for name in names or runnable()} & RECIPES.keys():
        print(f"base {name}: {base_folder(name)}", flush=True)
    paths = [ROOT / "tests", ROOT / "tests/cluster", ROOT / "crds"]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(map(str, paths))}
    cluster = [sys.executable, "-m", "peftjob_cluster"]
    inside = ["exec-ns", "--", sys.executable, "-m", "samples.on_cluster", "--inside", *arguments]
    for verb in (["tools"], ["images"], ["up"], inside):
        if code := subprocess.run([*cluster, *verb], env=environment).returncode:
            return code
    return 0


def prepared() -> "tuple[Kubectl, ObjectStore]":
    """Install the operator; return kubectl in a namespace with the keys of the cluster's S3, and that."""
    from peftjob_cluster.paths import Layout
    from peftjob_testkit.kubectl import Kubectl, helm_install
    from peftjob_testkit.objects import ObjectStore

    values = {f"{image}.{key}": value for image, name in IMAGES.items() for key, value in _image(name).items()}
    helm_install([str(Layout.default().bin / "helm")], ROOT / "charts/peftjob-operator", "peftjob-system", values)
    s3, kubectl = Kubectl("s3"), Kubectl(NAMESPACE)
    service, secret = s3.get("service", "s3"), s3.get("secret", "s3-credentials")
    assert service is not None, "the embedded cluster brings it"
    assert secret is not None, "the embedded cluster brings it"
    keys = {key: base64.b64decode(value).decode() for key, value in secret["data"].items()}
    endpoint = f"http://{service['spec']['clusterIP']}:7070"
    store = ObjectStore(endpoint, keys["AWS_ACCESS_KEY_ID"], keys["AWS_SECRET_ACCESS_KEY"])
    for bucket in ("models", "datasets", "adapters"):
        store.ensure_bucket(bucket)
    if s3.get("namespace", NAMESPACE) is None:
        s3.run("create", "namespace", NAMESPACE)
    kubectl.apply({"apiVersion": "v1", "kind": "Secret", "metadata": {"name": "s3-credentials"}, "stringData": keys})
    return kubectl, store


def _image(repository: str) -> dict[str, str]:
    return {"repository": repository, "tag": "dev"}


def run(kubectl: "Kubectl", store: "ObjectStore", job: Job, folder: Path, base: Path) -> Path:
    """Run a job on the cluster, in place of an earlier one of its name; return the folder of its adapter.

    Raises:
        RuntimeError: The job failed; the message says why.
        TimeoutError: It did not end.
    """
    from peftjob_testkit.kubectl import condition

    name = job["metadata"]["name"]
    kubectl.delete("peftjob", name, wait=True)
    bucket, prefix = split_uri(job["spec"]["output"]["uri"])
    for key in store.keys(bucket, f"{prefix}/"):
        store.client.delete_object(Bucket=bucket, Key=key)
    for path, uri in uploads(job, folder, base):
        store.upload(path, *split_uri(uri))
    kubectl.run("create", "-f", "-", stdin=json.dumps(job))
    found = kubectl.wait_state(name, "Succeeded", "Failed", timeout=TIMEOUT)
    if found["status"]["state"] == "Failed":
        raise RuntimeError(f"{name}: {condition(found, 'Failed').get('message')}")
    nodes = sorted(pod["spec"]["nodeName"] for pod in kubectl.list("pods", f"peftjob.io/job-name={name}"))
    print(f"{name}: trained on {', '.join(nodes)}; {found['status']['resolved']}", file=sys.stderr, flush=True)
    store.download(*split_uri(found["status"]["adapter"]["uri"]), folder / "adapter")
    return folder / "adapter"


def main(arguments: list[str]) -> int:
    """Run what is asked for; return the exit code."""
    parser = argparse.ArgumentParser(prog="python -m samples.on_cluster", description=__doc__)
    parser.add_argument("--inside", action="store_true", help=argparse.SUPPRESS)
    parser.add_argument("--four-fields", action="store_true", help="leave all to its default but what a job needs")
    args = parsed(parser, arguments)
    if not args.inside:
        return on_embedded(args.names, arguments)
    kubectl, store = prepared()

    def outcome_of(sample: Sample) -> Outcome:
        def on_the_cluster(job: Job, folder: Path, base: Path) -> Path:
            return run(kubectl, store, job, folder, base)

        job = job_of(sample)
        return measured(sample, four_fields(job) if args.four_fields else job, on_the_cluster)

    return told(args.names, outcome_of)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
