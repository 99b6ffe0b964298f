"""`trainer.threads`: the test that chooses a number of threads, and the second look when steps become slow."""

import re
from types import SimpleNamespace

import pytest
import torch
import yaml
from conftest import SMALL

from inception_zoo.system import threads
from inception_zoo.training.threads import AGAIN, WINDOW, Threads


@pytest.fixture(autouse=True)
def unchanged_threads():
    before, set_threads = torch.get_num_threads(), torch.set_num_threads
    yield
    set_threads(before)


@pytest.mark.parametrize(
    ("medians", "chosen"),
    [
        ({1: 5.0, 2: 3.0, 3: 2.0}, 3),
        ({1: 2.0, 2: 1.99, 3: 1.98}, 1),
        ({1: 1.0, 2: 3.0, 3: 3.0}, 1),
        ({1: 3.0, 2: 1.0, 3: 1.2}, 2),
    ],
)
def test_more_threads_must_be_worth_it(medians, chosen, monkeypatch):
    monkeypatch.setattr(threads, "_interleaved", lambda candidates, work: {count: medians[count] for count in candidates})
    count, why = threads.fastest_threads(3, torch.float32)
    assert count == chosen and all(f"{each}: {1e3 * seconds:.1f} ms" in why for each, seconds in medians.items())


def test_every_candidate_is_measured_with_its_number_of_threads():
    used = []
    medians = threads._interleaved([1, 2], lambda: used.append(torch.get_num_threads()))
    assert used == [1, 2] * (threads.ROUNDS + 1) and set(medians) == {1, 2}
    torch.set_num_threads(1)
    count, _ = threads.fastest_threads(2, torch.float32)
    assert count in (1, 2) and torch.get_num_threads() == 1  # as before


def test_threads_are_limited_by_the_container_and_divided_among_processes(tmp_path, monkeypatch):
    monkeypatch.setattr(threads, "QUOTA", tmp_path / "cpu.max")
    monkeypatch.setattr(torch, "get_num_threads", lambda: 64)
    assert [threads.most_threads(processes) for processes in (1, 4, 100)] == [64, 16, 1]
    (tmp_path / "cpu.max").write_text("max 100000\n")
    assert threads.most_threads(1) == 64
    (tmp_path / "cpu.max").write_text("250000 100000\n")
    assert [threads.most_threads(processes) for processes in (1, 2)] == [3, 1]


def steps(callback, trainer, clock, seconds, count):
    for _ in range(count):
        callback.on_train_batch_start(trainer)
        clock.now += seconds
        callback.on_train_batch_end(trainer)
        trainer.global_step += 1


def test_slow_steps_lead_to_another_test_and_a_quiet_machine_to_the_first_number(monkeypatch, caplog):
    clock, found = SimpleNamespace(now=0.0), {"best": 4}
    monkeypatch.setattr("inception_zoo.training.threads.time.perf_counter", lambda: clock.now)
    monkeypatch.setattr("inception_zoo.training.threads.fastest_threads", lambda most, dtype: (found["best"], "measured"))
    set_to = []
    monkeypatch.setattr(torch, "set_num_threads", set_to.append)
    trainer = SimpleNamespace(global_step=0, precision="bf16-mixed")
    callback = Threads(4, adapts=True)
    callback.setup(trainer, None, "fit")
    steps(callback, trainer, clock, 0.1, WINDOW)
    steps(callback, trainer, clock, 0.14, WINDOW)  # not slow enough
    assert set_to == [4] and not caplog.records
    found["best"] = 2
    steps(callback, trainer, clock, 0.4, WINDOW)
    assert set_to == [4, 2]
    assert caplog.messages == ["steps take 270 ms instead of 100; continuing with trainer.threads=2 instead of 4 (measured)"]
    steps(callback, trainer, clock, 0.2, AGAIN // 2)
    assert set_to == [4, 2]
    found["best"] = 4
    steps(callback, trainer, clock, 0.2, AGAIN // 2)
    assert set_to == [4, 2, 4] and caplog.messages[1:] == ["continuing with trainer.threads=4 instead of 2 (measured)"]


@pytest.mark.parametrize(("count", "adapts"), [(1, True), (4, False)])
def test_one_thread_and_a_fixed_number_are_never_tested_again(count, adapts, monkeypatch):
    clock, trainer = SimpleNamespace(now=0.0), SimpleNamespace(global_step=0, precision="32-true")
    monkeypatch.setattr("inception_zoo.training.threads.time.perf_counter", lambda: clock.now)
    monkeypatch.setattr("inception_zoo.training.threads.fastest_threads", None)
    callback = Threads(count, adapts)
    steps(callback, trainer, clock, 0.1, WINDOW)
    steps(callback, trainer, clock, 9.0, 3 * WINDOW)


def test_a_resumed_job_keeps_its_number_of_threads(zoo, tmp_path):
    first = zoo(*SMALL, "logger=none", "trainer.threads=auto", "hydra.run.dir=job")
    assert first.returncode == 0, first.stderr
    (count,) = re.findall(r"threads: (\d+) \(a convolution with BatchNorm takes", first.stdout)
    again = zoo("ckpt=last", "trainer.max_epochs=2", "hydra.run.dir=job")
    assert again.returncode == 0, again.stderr
    assert yaml.safe_load((tmp_path / "job/.hydra/resolved.yaml").read_text())["trainer"]["threads"] == int(count)


def test_a_number_of_threads_is_that_of_the_job_and_of_no_later_one(zoo, tmp_path):
    code = (
        "import sys, torch; from inception_zoo import app; from inception_zoo.training import threads; found = []\n"
        "setup = threads.Threads.setup\n"
        "def seen(self, *args, **more): setup(self, *args, **more); found.append(torch.get_num_threads())\n"
        "threads.Threads.setup = seen; before = torch.get_num_threads()\n"
        "try: app.main()\n"
        "except SystemExit: pass\n"
        "print('used', set(found), torch.get_num_threads() == before)"
    )
    (tmp_path / "job.py").write_text(code)
    done = zoo(*SMALL, "logger=none", "trainer.threads=1", script=(tmp_path / "job.py",), env={"OMP_NUM_THREADS": "2"})
    assert done.returncode == 0 and "used {1} True" in done.stdout, done.stderr


def test_what_is_not_a_number_of_threads(mistake):
    assert "trainer.threads=0" in mistake("trainer.threads=0").stderr
