"""The reason in results.json: one line that names the error, also that of another process with its traceback."""

import traceback

import pytest
from torch.utils.data import DataLoader, Dataset

from inception_zoo.errors import ZooError, messages_of
from inception_zoo.runs.results import reason_of


class Failing(Dataset):
    def __init__(self, error):
        self.error = error

    def __len__(self):
        return 2

    def __getitem__(self, index):
        try:
            raise ZeroDivisionError("first")
        except ZeroDivisionError as first:
            raise self.error from first


class Two(Exception):  # noqa: N818 -- torch cannot build it from one message
    def __init__(self, one, two):
        super().__init__(f"{one}\n  {two}")


@pytest.mark.parametrize(
    ("error", "reason"),
    [
        (TypeError("unsupported operand"), "TypeError: unsupported operand (in a data worker)"),
        (KeyError("label"), "KeyError: 'label' (in a data worker)"),
        (OSError(28, "No space left"), "OSError: [Errno 28] No space left (in a data worker)"),
        (Two("one", "two"), "Two: one two (in a data worker)"),
        (ZooError("data.root=x: empty; set another"), "data.root=x: empty; set another"),
    ],
    ids=lambda value: type(value).__name__,
)
def test_an_error_in_a_data_worker(error, reason):
    with pytest.raises(Exception) as caught:
        list(DataLoader(Failing(error), num_workers=1))
    assert len(str(caught.value)) > 500  # torch's message is the traceback
    assert reason_of(caught.value) == reason
    if isinstance(error, ZooError):
        assert messages_of(caught.value) == [reason]


def traced(error):
    try:
        raise error
    except type(error):
        return traceback.format_exc()


@pytest.mark.parametrize(
    "wrapped",
    [
        "We found the following error {}",  # LitData
        "Job (task=0) failed during processing with trace:\n-----------\n{}\n-----------\nYou can check full logs",  # submitit
        "ray::job() (pid=7, ip=127.0.0.1)\n{}",
    ],
)
def test_an_error_in_a_process_of_a_library(wrapped):
    error = RuntimeError(wrapped.format(traced(ValueError("bad\nvalue"))))
    assert reason_of(error) == "ValueError: bad value (in another process)"


def test_an_error_that_happens_here_stays_as_it_is():
    assert reason_of(ValueError("one\ntwo")) == "ValueError: one two"
    assert reason_of(ZooError("a" * 600)) == "a" * 600
    long = reason_of(RuntimeError("x" * 900))
    assert len(long) == 500 and long.endswith("…")
    dynamo = 'failed\n\nfrom user code:\n   File "net.py", line 3, in forward\n    x = y\n\nSet TORCHDYNAMO_VERBOSE=1\n'
    assert reason_of(RuntimeError(dynamo)).startswith('RuntimeError: failed from user code: File "net.py", line 3')
