"""The corpus through `kubectl apply` and a real API server; tests/unit/api holds pydantic to the same verdicts."""

from collections.abc import Callable, Iterator

import pytest
from peftjob_api import read_peftjob
from peftjob_testkit.corpus import Case, every, read, samples
from peftjob_testkit.kubectl import Kubectl, KubectlError


@pytest.fixture(scope="module")
def kubectl(kubectl_in: Callable[[str], Kubectl]) -> Kubectl:
    return kubectl_in("corpus")


@pytest.fixture
def emptied(kubectl: Kubectl) -> Iterator[Kubectl]:
    yield kubectl
    kubectl.run("delete", "peftjobs", "--all")


@every(read("bad-*.yaml"))
def test_a_bad_manifest_is_refused_with_the_field_and_the_fix(case: Case, kubectl: Kubectl) -> None:
    with pytest.raises(KubectlError) as refused:
        kubectl.run("apply", "-f", "-", stdin=case.text)
    for words in case.want("kubectl"):
        assert words in str(refused.value)


@every(read("good.yaml") + samples())
def test_a_good_manifest_is_taken_and_stored_as_the_models_read_it(case: Case, emptied: Kubectl) -> None:
    emptied.run("apply", "-f", "-", stdin=case.text)
    stored = emptied.job(case.manifest["metadata"]["name"])
    assert stored["spec"] == read_peftjob(case.text).spec.to_wire()
    assert "status" not in stored


@every(read("updates.yaml"))
def test_a_started_job_changes_only_where_it_may(case: Case, emptied: Kubectl) -> None:
    emptied.apply(case.sample)
    if case.started:
        status = '{"status": {"startTime": "2026-01-01T00:00:00Z"}}'
        name = case.sample["metadata"]["name"]
        emptied.run("patch", "peftjob", name, "--subresource=status", "--type=merge", "--patch", status)
    if not case.field:
        emptied.run("apply", "-f", "-", stdin=case.text)
        return
    with pytest.raises(KubectlError) as refused:
        emptied.run("apply", "-f", "-", stdin=case.text)
    for words in case.want("kubectl"):
        assert words in str(refused.value)
