"""`trainer.threads`: the test that chooses a number of threads, and the second look when steps become slow."""

import re
from types import SimpleNamespace

import pytest
import torch
from conftest import SMALL

from inception_zoo.errors import ZooError
from inception_zoo.system import threads
from inception_zoo.training.threads import AGAIN, WINDOW, Threads, chosen_threads


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


@pytest.fixture
def watched(monkeypatch):
    """A clock, a trainer, the number that the next test finds, and the numbers that were set."""
    state = SimpleNamespace(now=0.0, best=4, set_to=[], tests=0)

    def fastest(most, dtype):
        state.tests += 1
        return state.best, "measured"

    monkeypatch.setattr("inception_zoo.training.threads.time.perf_counter", lambda: state.now)
    monkeypatch.setattr("inception_zoo.training.threads.fastest_threads", fastest)
    monkeypatch.setattr(torch, "set_num_threads", state.set_to.append)
    return state, SimpleNamespace(global_step=0, precision="bf16-mixed")


def test_slow_steps_lead_to_another_test_and_a_quiet_machine_to_all_threads(watched, caplog):
    state, trainer = watched
    callback = Threads(4, most=4)
    callback.setup(trainer, None, "fit")
    steps(callback, trainer, state, 0.1, WINDOW)
    steps(callback, trainer, state, 0.14, WINDOW)  # not slow enough
    assert state.set_to == [4] and not caplog.records
    state.best = 2
    steps(callback, trainer, state, 0.4, WINDOW)
    assert state.set_to == [4, 2]
    assert caplog.messages == ["steps take 270 ms instead of 100; continuing with trainer.threads=2 instead of 4 (measured)"]
    state.best = 4
    steps(callback, trainer, state, 0.2, AGAIN // 2)
    assert state.set_to == [4, 2]
    steps(callback, trainer, state, 0.2, AGAIN // 2)
    assert state.set_to == [4, 2, 4] and caplog.messages[1:] == ["continuing with trainer.threads=4 instead of 2 (measured)"]


def test_steps_that_are_slow_for_another_reason_are_tested_once(watched, caplog):
    state, trainer = watched
    callback = Threads(4, most=4)
    steps(callback, trainer, state, 0.1, 2 * WINDOW)
    steps(callback, trainer, state, 0.3, 5 * AGAIN)  # larger images, for example
    assert state.tests <= 2 and not caplog.records


def test_a_job_that_began_with_few_threads_tests_again(watched):
    state, trainer = watched
    steps(Threads(1, most=4), trainer, state, 0.1, WINDOW)
    assert state.set_to == [4]


@pytest.mark.parametrize(("count", "most"), [(1, 1), (4, None)])
def test_one_thread_and_a_fixed_number_are_never_tested_again(count, most, watched):
    state, trainer = watched
    callback = Threads(count, most)
    steps(callback, trainer, state, 0.1, WINDOW)
    steps(callback, trainer, state, 9.0, 3 * WINDOW)
    assert state.tests == 0


def trainer_node(**changes):
    return {"devices": 1, "num_nodes": 1, "accelerator": "cpu", "precision": "32-true", **changes}


def test_the_test_is_for_cpus_and_for_processes_that_the_job_starts(monkeypatch):
    monkeypatch.setattr("inception_zoo.training.threads.fastest_threads", lambda most, dtype: (most, "measured"))
    monkeypatch.setattr("inception_zoo.training.threads.most_threads", lambda processes: 8 // processes)
    assert [chosen_threads(trainer_node(devices=devices))[0] for devices in (1, 2, "auto")] == [8, 4, 8]
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    assert chosen_threads(trainer_node())[0] == 8
    assert chosen_threads(trainer_node(accelerator="auto"))[0] is chosen_threads(trainer_node(accelerator="gpu"))[0] is None
    for name, value, changes in (("SLURM_NTASKS", "2", {}), ("TORCHELASTIC_RUN_ID", "a", {}), ("UNUSED", "", {"num_nodes": 2})):
        with monkeypatch.context() as patch, pytest.raises(ZooError, match="give the number of threads"):
            patch.setenv(name, value)
            chosen_threads(trainer_node(**changes))


def test_a_resumed_job_keeps_its_number_of_threads(zoo):
    words = "logger=none", "trainer.threads=auto", "trainer.accelerator=cpu", "hydra.run.dir=job"
    first = zoo(*SMALL, *words)
    assert first.returncode == 0, first.stderr
    (count,) = re.findall(r"threads: (\d+) \(a convolution with BatchNorm takes", first.stdout)
    again = zoo("ckpt=last", "trainer.max_epochs=2", *words)
    assert again.returncode == 0 and f"threads: {count} (from the checkpoint)" in again.stdout, again.stderr


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
