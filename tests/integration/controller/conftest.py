"""The operator as a process against a real API server with fake nodes; the kubelet is played by the tests."""

from collections.abc import Callable, Iterator

import pytest
from peftjob_cluster.control_plane import ControlPlane
from peftjob_testkit.loopback import Namespace
from peftjob_testkit.operator import Operator, install_operator

# A queue that holds back every Job that carries its label, as Kueue's webhook does.
QUEUE = """
apiVersion: admissionregistration.k8s.io/v1beta1
kind: MutatingAdmissionPolicy
metadata: {name: queue}
spec:
  matchConstraints:
    resourceRules: [{apiGroups: [batch], apiVersions: [v1], operations: [CREATE], resources: [jobs]}]
  matchConditions:
  - name: queued
    expression: "has(object.metadata.labels) && 'kueue.x-k8s.io/queue-name' in object.metadata.labels"
  failurePolicy: Fail
  reinvocationPolicy: Never
  mutations:
  - patchType: ApplyConfiguration
    applyConfiguration: {expression: "Object{spec: Object.spec{suspend: true}}"}
---
apiVersion: admissionregistration.k8s.io/v1beta1
kind: MutatingAdmissionPolicyBinding
metadata: {name: queue}
spec: {policyName: queue}
"""


@pytest.fixture(scope="module")
def plane() -> Iterator[ControlPlane]:
    flags = [
        "--feature-gates=MutatingAdmissionPolicy=true",
        "--runtime-config=admissionregistration.k8s.io/v1beta1=true",
    ]
    with ControlPlane(fake_nodes=2, pod_run_seconds=3600, apiserver_flags=flags) as plane:
        plane.kubectl("apply", "-f", "-", stdin=QUEUE)
        yield plane


@pytest.fixture(scope="module")
def operator(plane: ControlPlane) -> Iterator[Operator]:
    with install_operator(plane) as operator:
        yield operator
        print(operator.log())


@pytest.fixture(scope="module")
def namespace(plane: ControlPlane, operator: Operator) -> Callable[[str], Namespace]:
    return lambda name: Namespace(plane, name)
