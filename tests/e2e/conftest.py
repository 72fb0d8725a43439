"""The real two-node cluster with the operator installed by Helm, and S3 with a base model and data.

pytest runs inside the cluster's network (`peftjob_cluster exec-ns`), with kubectl pointing at it.
"""

import sys
import uuid
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from peftjob_testkit.cluster import IN_CLUSTER_S3, Cluster, installed_operator, s3_server
from peftjob_testkit.kubectl import Kubectl, Object
from peftjob_testkit.objects import ObjectStore

ROOT = Path(__file__).resolve().parent.parent.parent
sys.path.insert(0, str(ROOT / "tests/demo"))


@pytest.fixture(scope="session")
def installed() -> Kubectl:
    """Install the operator as a user does; return kubectl in its namespace."""
    return installed_operator()


@pytest.fixture(scope="session")
def s3() -> tuple[ObjectStore, dict[str, str]]:
    """Return the cluster's S3 server with the buckets models, datasets and adapters, and its keys."""
    store, keys = s3_server()
    for bucket in ("models", "datasets", "adapters"):
        store.ensure_bucket(bucket)
    return store, keys


@pytest.fixture(scope="session")
def tiny_base(s3: tuple[ObjectStore, dict[str, str]], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Put a random two-layer BERT with a real tokenizer at s3://models/tiny; return its local folder."""
    import sentiment_data
    import torch
    from transformers import AutoTokenizer, BertConfig, BertModel

    folder = tmp_path_factory.mktemp("tiny")
    tokenizer = AutoTokenizer.from_pretrained(sentiment_data.base_model_folder())
    torch.manual_seed(0)
    config = BertConfig(
        vocab_size=len(tokenizer), hidden_size=64, num_hidden_layers=2, num_attention_heads=2, intermediate_size=128
    )
    BertModel(config).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    s3[0].upload(folder, "models", "tiny")
    return folder


@pytest.fixture(scope="session")
def sentiment(s3: tuple[ObjectStore, dict[str, str]], tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """Put the demo's base model and data where the sample expects them; return the two data files."""
    import sentiment_data

    train, test = sentiment_data.write_splits(tmp_path_factory.mktemp("sentiment"))
    s3[0].upload(sentiment_data.base_model_folder(), "models", "all-MiniLM-L6-v2")
    s3[0].upload(train, "datasets", "sentiment/train.csv")
    s3[0].upload(test, "datasets", "sentiment/test.csv")
    return train, test


@pytest.fixture(scope="module")
def cluster(
    installed: Kubectl, s3: tuple[ObjectStore, dict[str, str]], tiny_base: Path, sentiment: tuple[Path, Path]
) -> Iterator[Cluster]:
    """A namespace of its own for a test module, with the S3 keys in it; gone afterwards with all that it held."""
    store, keys = s3
    namespace = f"e2e-{uuid.uuid4().hex[:8]}"
    installed.run("create", "namespace", namespace)
    kubectl = Kubectl(namespace)
    kubectl.apply({"apiVersion": "v1", "kind": "Secret", "metadata": {"name": "s3-credentials"}, "stringData": keys})
    made = Cluster(kubectl, store, keys)
    yield made
    for name in made.names:
        kubectl.delete("peftjob", name)
    installed.run("delete", "namespace", namespace, "--wait=true", "--timeout=180s", timeout=200)


@pytest.fixture(scope="session")
def small_job() -> Callable[..., Object]:
    """Return a builder of PeftJobs that train the tiny base on the CPU."""

    def build(name: str, *, nodes: int = 1, **spec: Any) -> Object:
        """Return a PeftJob; `spec` replaces whole fields of the spec."""
        body: Object = {
            "baseModel": {"uri": "s3://models/tiny"},
            "task": {
                "type": "SequenceClassification",
                "sequenceClassification": {"labels": ["negative", "positive"]},
            },
            "dataset": {"train": "s3://datasets/sentiment/train.csv", "maxLength": 16},
            "training": {"maxSteps": 4, "batchSize": 16, "learningRate": 1e-3, "precision": "FP32", "logEverySteps": 1},
            "workers": {"nodes": nodes, "processesPerNode": 1},
            "sharding": "Full",  # what a large base would get
            "output": {"uri": f"s3://adapters/e2e/{name}-{uuid.uuid4().hex[:6]}"},
            "storage": {"s3": {"endpoint": IN_CLUSTER_S3, "secretName": "s3-credentials"}},
            "maxRestarts": 0,
        }
        body.update(spec)
        return {"apiVersion": "peftjob.io/v1alpha1", "kind": "PeftJob", "metadata": {"name": name}, "spec": body}

    return build
