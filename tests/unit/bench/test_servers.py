"""The bench's storage: every byte that a server sends is counted, and the hub looks like one."""

import sys
import urllib.request
from pathlib import Path

sys.path.append(str(Path(__file__).resolve().parents[3] / "tests/bench"))

from kit.servers import COMMIT, OWNER, CountingProxy, counted, hub
from peftjob_api.spec import BaseModelSpec, StorageSpec
from peftjob_trainer.sharding.sources import HubSource, Read, open_source
from peftjob_trainer.storage import fetch_model
from safetensors.numpy import save


def test_a_proxy_counts_what_the_server_sends(tmp_path: Path) -> None:
    (tmp_path / "tiny").mkdir()
    (tmp_path / "tiny/file").write_bytes(bytes(1_000_000))
    with hub(tmp_path) as address, CountingProxy(address) as proxy:
        request = urllib.request.Request(f"{proxy.endpoint}/{OWNER}/tiny/resolve/{COMMIT}/file")
        request.add_header("Range", "bytes=10-500009")
        with urllib.request.urlopen(request) as answer:
            assert len(answer.read()) == 500_000
        assert 500_000 < proxy.bytes_sent < 501_000


def test_only_a_service_goes_through_a_proxy() -> None:
    with counted(None) as (storage, proxy):
        assert storage is proxy is None
    with counted({"s3": {"endpoint": "http://127.0.0.1:1", "region": "x"}}) as (storage, proxy):
        assert storage is not None
        assert proxy is not None
        assert storage["s3"] == {"endpoint": proxy.endpoint, "region": "x"}
        assert proxy.endpoint != "http://127.0.0.1:1"


def test_our_own_client_reads_ranges_of_the_hub(tmp_path: Path) -> None:
    import numpy

    folder = tmp_path / "hub/tiny"
    folder.mkdir(parents=True)
    values = numpy.arange(5000, dtype="float32")
    (folder / "model.safetensors").write_bytes(save({"w": values}))
    for name in ("config.json", "tokenizer.json"):
        (folder / name).write_text("{}")
    with hub(tmp_path / "hub") as address:
        uri, storage = f"hf://{OWNER}/tiny", {"huggingFace": {"endpoint": address}}
        spec = StorageSpec.model_validate(storage)
        fetched = fetch_model(BaseModelSpec.model_validate({"uri": uri}), spec, tmp_path / "fetched")
        source = open_source(fetched, uri, spec)
        assert isinstance(source, HubSource)
        start = source.weights.files["model.safetensors"].start
        found = bytearray(4000)
        source.read([Read("model.safetensors", start + 400, memoryview(found), "w")])
        source.close()
    assert numpy.frombuffer(found, "float32").tolist() == values[100:1100].tolist()
