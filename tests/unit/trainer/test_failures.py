"""From an exception to the reason and exit code that the operator acts on."""

import pytest
import torch
from peftjob_api import ExitCode, Reason
from peftjob_trainer.exits import TrainerError
from peftjob_trainer.failures import explain

GLOO = "[../third_party/gloo/gloo/transport/tcp/pair.cc:538] Connection closed by peer [10.0.0.7]:39201"
NCCL = (
    "NCCL error in: ../torch/csrc/distributed/c10d/NCCLUtils.hpp:268, remote process exited or there was a network "
    "error, NCCL version 2.21.5\nncclRemoteError: A call failed possibly due to a network error"
)


MISUSE = (
    "NCCL error in: NCCLUtils.hpp:268, invalid usage, NCCL version 2.21.5\nncclInvalidUsage: Duplicate GPU detected"
)


@pytest.mark.parametrize(
    ("error", "want", "want_code"),
    [
        (TrainerError(Reason.DATASET_EMPTY, "empty"), Reason.DATASET_EMPTY, ExitCode.BAD_DATA),
        (RuntimeError(GLOO), Reason.LOST_PEER, ExitCode.LOST_PEER),
        (RuntimeError("Socket Timeout"), Reason.LOST_PEER, ExitCode.LOST_PEER),
        (torch.distributed.DistBackendError(NCCL), Reason.LOST_PEER, ExitCode.LOST_PEER),
        (torch.distributed.DistBackendError(MISUSE), Reason.INTERNAL_ERROR, ExitCode.INTERNAL),
        (torch.distributed.DistNetworkError("The client socket has timed out"), Reason.LOST_PEER, ExitCode.LOST_PEER),
        (torch.distributed.DistStoreError("wait timeout after 600000ms"), Reason.LOST_PEER, ExitCode.LOST_PEER),
        (torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2 GiB"), Reason.OUT_OF_MEMORY, 64),
        (RuntimeError("[enforce fail at alloc_cpu.cpp:121] DefaultCPUAllocator: can't allocate memory"),
         Reason.OUT_OF_MEMORY, 64),
        (MemoryError(), Reason.OUT_OF_MEMORY, 64),
        (OSError(12, "Cannot allocate memory"), Reason.OUT_OF_MEMORY, 64),
        (RuntimeError("mat1 and mat2 shapes cannot be multiplied"), Reason.INTERNAL_ERROR, ExitCode.INTERNAL),
        (KeyError("gloo"), Reason.INTERNAL_ERROR, ExitCode.INTERNAL),
        (ValueError("out of memory"), Reason.INTERNAL_ERROR, ExitCode.INTERNAL),
        (AssertionError(), Reason.INTERNAL_ERROR, ExitCode.INTERNAL),
    ],
    ids=[
        "ours", "gloo lost its peer", "a store's socket", "NCCL lost its peer", "NCCL is used wrongly",
        "no rendezvous", "the store is gone", "CUDA memory", "host memory", "Python's memory", "the system's memory",
        "a shape", "a key that says gloo", "a value that says memory", "an invariant",
    ],
)  # fmt: skip
def test_reason_and_code(error: Exception, want: Reason, want_code: int) -> None:
    failure = explain(error)
    assert (failure.reason, failure.code) == (want, want_code)
    assert "\n" not in failure.message


def test_what_is_known_is_returned_as_it_is() -> None:
    error = TrainerError(Reason.UNKNOWN_LABEL, "a label")
    assert explain(error) is error


def test_an_unforeseen_error_says_what_it_was_and_where_to_look() -> None:
    message = explain(ZeroDivisionError("division by zero\nmore")).message
    assert message == "ZeroDivisionError: division by zero: the traceback is in the log"


def test_every_reason_of_the_trainer_has_a_code() -> None:
    named_by_operator = list(Reason).index(Reason.INVALID_SPEC)
    for reason in list(Reason)[:named_by_operator]:
        assert TrainerError(reason, "").code in set(ExitCode) - {ExitCode.DONE}
