"""What `helm test` runs in a pod of the operator's image: standard library only, no rights beyond discovery."""

import json
import os
import pathlib
import ssl
import sys
import time
import urllib.request

ACCOUNT = pathlib.Path("/var/run/secrets/kubernetes.io/serviceaccount")
ATTEMPTS, PAUSE_S = 15, 2


def fetch(url: str, token: str | None = None, context: ssl.SSLContext | None = None) -> str:
    """Return the body of a successful answer."""
    headers = {"Authorization": f"Bearer {token}"} if token else {}
    with urllib.request.urlopen(urllib.request.Request(url, headers=headers), timeout=5, context=context) as answer:
        return answer.read().decode()


def healthy() -> None:
    """Check that the operator's reconcile loop turns."""
    fetch(os.environ["OPERATOR_URL_HEALTH"])


def counts() -> None:
    """Check that the operator's metrics can be scraped."""
    text = fetch(os.environ["OPERATOR_URL_METRICS"])
    assert "peftjob_operator_" in text, "the answer holds no metric of the operator"


def peftjobs_served() -> None:
    """Check that the API server serves PeftJobs and their status."""
    host, port = os.environ["KUBERNETES_SERVICE_HOST"], os.environ["KUBERNETES_SERVICE_PORT"]
    host = f"[{host}]" if ":" in host else host
    trust = ssl.create_default_context(cafile=str(ACCOUNT / "ca.crt"))
    found = json.loads(fetch(f"https://{host}:{port}/apis/peftjob.io/v1alpha1", (ACCOUNT / "token").read_text(), trust))
    names = {resource["name"] for resource in found["resources"]}
    assert {"peftjobs", "peftjobs/status"} <= names, f"the API server serves only {sorted(names)} of peftjob.io"


def main() -> int:
    """Run every check, each until it passes or time is up; return how many failed."""
    failed = 0
    for check in (healthy, counts, peftjobs_served):
        for attempt in range(1, ATTEMPTS + 1):
            try:
                check()
            except Exception as error:  # the loop reports whatever is wrong
                if attempt == ATTEMPTS:
                    print(f"FAILED {check.__name__}: {type(error).__name__}: {error}")
                    failed += 1
                else:
                    time.sleep(PAUSE_S)
            else:
                print(f"ok {check.__name__}")
                break
    return failed


if __name__ == "__main__":
    sys.exit(main())
