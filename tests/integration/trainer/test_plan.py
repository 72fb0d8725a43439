"""The plan of a job whose base lies on S3: the config and the headers are read, and no weights."""

import json
import os
import subprocess
import sys
from pathlib import Path

import boto3
from peftjob_cluster.s3 import S3Server

ROOT = Path(__file__).resolve().parents[3]
sys.path.append(str(ROOT / "tests/numerics"))

import tiny  # noqa: E402 (after the path)


def test_from_s3(s3: S3Server, credentials: None, tmp_path: Path) -> None:
    tiny.write_llama(tmp_path / "llama", layers=2)
    client = boto3.client("s3", **s3.boto3())
    for file in (tmp_path / "llama").iterdir():
        client.upload_file(str(file), "models", f"planned/llama/{file.name}")
    body = tiny.job(tmp_path, model="llama", train="nowhere.jsonl", kind="CausalLM")
    body["spec"] |= {"baseModel": {"uri": "s3://models/planned/llama"}, "storage": {"s3": {"endpoint": s3.endpoint}}}
    (tmp_path / "job.yaml").write_text(json.dumps(body))
    path = os.pathsep.join(str(ROOT / part) for part in ("crds", "trainer"))
    done = subprocess.run(
        [sys.executable, "-m", "peftjob_trainer.plan", str(tmp_path / "job.yaml")],
        env={**os.environ, "PYTHONPATH": path, "OMP_NUM_THREADS": "1", "DS_ACCELERATOR": "cpu"},
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert "s3://models/planned/llama: 0.00 B frozen parameters in float32" in done.stdout
    assert "sharding Full takes Full (2 ranks)" in done.stdout
