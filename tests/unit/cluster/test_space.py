"""What a full disk would break is refused before it is begun."""

import shutil
from pathlib import Path
from types import SimpleNamespace

import pytest
from peftjob_cluster import images
from peftjob_cluster.paths import Layout, repository
from peftjob_cluster.shell import ClusterError


def with_free(monkeypatch: pytest.MonkeyPatch, free: int) -> None:
    """Let every disk have so many bytes free."""
    monkeypatch.setattr(shutil, "disk_usage", lambda _: SimpleNamespace(free=free))


def test_libraries_are_not_built_on_a_disk_that_they_would_fill(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    layout = Layout(tmp_path / "not made yet")
    with_free(monkeypatch, images.BUILD_SPACE - 1)
    with pytest.raises(ClusterError, match=r"takes 25 GB of disk, and .* has 25.0 GB free.*set PEFTJOB_CLUSTER_DIR"):
        images.images(layout)
    with_free(monkeypatch, images.BUILD_SPACE)
    images.require_space(layout)


def test_what_is_built_needs_no_more_space(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    layout = Layout(tmp_path)
    with_free(monkeypatch, 0)
    for image in images.OURS:
        with pytest.raises(ClusterError):
            images.require_space(layout)
        images.write_stamp(layout, images.libraries_of(image), images.libraries_digest(repository(), image))
    images.require_space(layout)
