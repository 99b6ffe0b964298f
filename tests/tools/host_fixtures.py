"""Fixtures of the tests of hosts, for each file of them: a cluster, an undisturbed job, and the rows of the table."""

import json
import os
from pathlib import Path

import pytest
from tools.cluster import Cluster, weights
from tools.hosts import hosts, why_impossible


@pytest.fixture
def cluster(tmp_path):
    """Return a function that makes hosts, for the length of a test."""
    if why := why_impossible():
        pytest.skip(why)
    made = []

    def make(count: int = 2, launcher: str = "by hand", **options: object) -> Cluster:
        made.append(hosts(count, tmp_path, **options))
        return Cluster(made[-1].__enter__(), launcher)

    yield make
    for each in made:
        each.__exit__(None, None, None)


@pytest.fixture(scope="session")
def undisturbed(tmp_path_factory):
    """Return the weights of a job on two hosts that nothing has disturbed."""
    if why := why_impossible():
        pytest.skip(why)
    with hosts(2, tmp_path_factory.mktemp("undisturbed")) as two:
        job = Cluster(two)
        job.start()
        assert job.end() == [0, 0], job.output()
        return weights(job.run)


@pytest.fixture
def record(request):
    """Return a function that adds a row to the table of docs/cluster.md, see `cluster_table`."""

    def add(case: str, seconds: float, message: str, digest: str) -> None:
        if path := os.environ.get("HOSTS_TABLE"):
            with Path(path).open("a") as file:
                file.write(json.dumps([case, round(seconds), message, digest]) + "\n")

    return add
