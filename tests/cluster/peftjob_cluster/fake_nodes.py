"""What kwok has to play: nodes that are always ready, and pods that run for a set time and exit as told.

Used by ``control_plane``. The stages are the whole behaviour of the fake kubelet; nothing is executed.
"""

from __future__ import annotations

from typing import Any

# Pod annotations by which a test directs one pod; Job templates carry them to every pod of the Job.
RUN_TIME = "cluster.peftjob.test/run-time"  # a Go duration such as 500ms; without it the ControlPlane's setting
EXIT_CODE = "cluster.peftjob.test/exit-code"  # of every container; 0 without it
MESSAGE = "cluster.peftjob.test/termination-message"

ENDS = """\
apiVersion: kwok.x-k8s.io/v1alpha1
kind: Stage
metadata: {name: pod-ends}
spec:
  resourceRef: {apiGroup: v1, kind: Pod}
  selector:
    matchExpressions:
    - {key: '.metadata.deletionTimestamp', operator: DoesNotExist}
    - {key: '.status.phase', operator: In, values: [Running]}
  delay:
    durationMilliseconds: @RUN_MILLISECONDS@
    durationFrom: {expressionFrom: '.metadata.annotations["@RUN_TIME@"]'}
  next:
    statusTemplate: |
      {{ $now := Now }}
      {{ $code := "0" }}
      {{ $message := "" }}
      {{ with .metadata.annotations }}
      {{ with index . "@EXIT_CODE@" }}{{ $code = . }}{{ end }}
      {{ with index . "@MESSAGE@" }}{{ $message = . }}{{ end }}
      {{ end }}
      conditions:
      - {lastTransitionTime: {{ $now | Quote }}, status: "False", type: Ready, reason: PodCompleted}
      - {lastTransitionTime: {{ $now | Quote }}, status: "False", type: ContainersReady, reason: PodCompleted}
      containerStatuses:
      {{ range .spec.containers }}
      - image: {{ .image | Quote }}
        name: {{ .name | Quote }}
        ready: false
        restartCount: 0
        started: false
        state:
          terminated:
            exitCode: {{ $code }}
            finishedAt: {{ $now | Quote }}
            startedAt: {{ $now | Quote }}
            reason: {{ if eq $code "0" }}Completed{{ else }}Error{{ end }}
            message: {{ $message | Quote }}
      {{ end }}
      phase: {{ if eq $code "0" }}Succeeded{{ else }}Failed{{ end }}
---
"""

LIVES = """\
apiVersion: kwok.x-k8s.io/v1alpha1
kind: Stage
metadata: {name: pod-deleted}
spec:
  resourceRef: {apiGroup: v1, kind: Pod}
  selector:
    matchExpressions:
    - {key: '.metadata.deletionTimestamp', operator: Exists}
  next: {finalizers: {empty: true}, delete: true}
---
apiVersion: kwok.x-k8s.io/v1alpha1
kind: Stage
metadata: {name: pod-runs}
spec:
  resourceRef: {apiGroup: v1, kind: Pod}
  selector:
    matchExpressions:
    - {key: '.metadata.deletionTimestamp', operator: DoesNotExist}
    - {key: '.status.phase', operator: In, values: [Pending]}
    - {key: '.status.conditions.[] | select( .type == "Ready" ) | .status', operator: NotIn, values: ['True']}
  next:
    statusTemplate: |
      {{ $now := Now }}
      conditions:
      - {lastTransitionTime: {{ $now | Quote }}, status: "True", type: Initialized}
      - {lastTransitionTime: {{ $now | Quote }}, status: "True", type: Ready}
      - {lastTransitionTime: {{ $now | Quote }}, status: "True", type: ContainersReady}
      containerStatuses:
      {{ range .spec.containers }}
      - image: {{ .image | Quote }}
        name: {{ .name | Quote }}
        ready: true
        started: true
        restartCount: 0
        state:
          running: {startedAt: {{ $now | Quote }}}
      {{ end }}
      phase: Running
      startTime: {{ $now | Quote }}
      podIP: {{ PodIPWith .spec.nodeName ( or .spec.hostNetwork false ) ( or .metadata.uid "" ) ( or .metadata.name "" )
        ( or .metadata.namespace "" ) | Quote }}
---
apiVersion: kwok.x-k8s.io/v1alpha1
kind: Stage
metadata: {name: node-ready}
spec:
  resourceRef: {apiGroup: v1, kind: Node}
  selector:
    matchExpressions:
    - {key: '.status.conditions.[] | select( .type == "Ready" ) | .status', operator: NotIn, values: ['True']}
  next:
    statusTemplate: |
      {{ $now := Now }}
      conditions:
      - lastHeartbeatTime: {{ $now | Quote }}
        lastTransitionTime: {{ $now | Quote }}
        type: Ready
        status: "True"
        reason: KubeletReady
        message: fake
      phase: Running
"""


def stages(pod_run_seconds: float | None) -> str:
    """Return kwok's configuration; ``None`` lets pods run until deleted, or until a test writes their status."""
    if pod_run_seconds is None:
        return LIVES
    ends = ENDS
    for key, value in {
        "@RUN_MILLISECONDS@": str(round(pod_run_seconds * 1000)),
        "@RUN_TIME@": RUN_TIME,
        "@EXIT_CODE@": EXIT_CODE,
        "@MESSAGE@": MESSAGE,
    }.items():
        ends = ends.replace(key, value)
    return ends + LIVES


def node(name: str) -> dict[str, Any]:
    """Return a Node that fits anything, eight accelerators at a time."""
    room = {"cpu": "1k", "memory": "1Ti", "pods": "100k", "nvidia.com/gpu": "8"}
    return {
        "apiVersion": "v1",
        "kind": "Node",
        "metadata": {
            "name": name,
            "annotations": {"kwok.x-k8s.io/node": "fake"},
            "labels": {"kubernetes.io/hostname": name, "kubernetes.io/os": "linux", "kubernetes.io/arch": "amd64"},
        },
        "status": {"capacity": room, "allocatable": room},
    }
