"""Counts and verdicts of `inception-zoo bench`. Its timings are not tested."""

import json
import math
import runpy
import subprocess
import sys
from dataclasses import replace
from importlib import import_module
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from conftest import lines

from inception_zoo.architecture.cost import plan_cost
from inception_zoo.architecture.nets import ZOO
from inception_zoo.architecture.plan import make_plan
from inception_zoo.bench import command, speedruns, targets
from inception_zoo.bench.contenders import CASES, Contender, case_of, contenders
from inception_zoo.bench.machine import Disturbance, all_reduce_seconds, provenance
from inception_zoo.bench.memory import largest_batch, saved_bytes
from inception_zoo.bench.options import Options
from inception_zoo.bench.projection import H100, Failures, all_reduce, per_step, project, projected
from inception_zoo.bench.results import Results, different, read, read_older
from inception_zoo.bench.roofline import Machine, bound, layers, step_bytes, step_flops
from inception_zoo.bench.scaling import deeper
from inception_zoo.bench.sections import SECTIONS, SPEEDRUNS, measure
from inception_zoo.bench.tables import compared, rows
from inception_zoo.bench.targets import PEER, SHARE, Target, read_targets
from inception_zoo.bench.turns import Figure, in_turns, rates
from inception_zoo.errors import ZooError

PUBLISHED = Path(__file__).parents[2] / "experiments" / "benchmarks" / "results.json"
TARGETS = read_targets(PUBLISHED.parent)
PAGE = SimpleNamespace(**runpy.run_path(str(PUBLISHED.parents[1] / "benchmark_page.py")))


def test_contenders_take_turns_and_the_first_round_only_warms_up():
    order = []

    def turn(label):
        order.append(label)
        return len(order)

    assert in_turns({label: lambda label=label: turn(label) for label in "AB"}, 3) == {"A": [3, 5, 7], "B": [4, 6, 8]}
    assert "".join(order) == "ABABABAB"
    measured = rates({"some": lambda: 10.0, "none": lambda: 0.0}, 4)
    assert all(rate > 0 for rate in measured["some"]) and measured["none"] == [0.0] * 4


def test_a_ratio_is_taken_round_by_round():
    ours, other = Figure("images/s", [2, 4, 30]), Figure("images/s", [1, 2, 30])
    assert ours.median == 4 and ours.over(other).values == [2, 2, 1] and ours.over(other).median == 2
    assert ours.over(Figure("images/s", [8])).median == 0.5
    assert [row[-1] for row in rows({"training/net/inception_zoo": ours, "training/net/timm": other}, "training")] == [
        "1.00",
        "2.00",
    ]


@pytest.mark.parametrize(
    ("sense", "bound", "pairs", "verdict"),
    [
        (">=", 2.0, [("a", "b")], "met"),
        ("<=", 1.9, [("a", "b")], "missed"),
        (">=", 1.5, [("a", "b"), ("b", "b")], "missed"),  # the worst pair decides
        ("<=", 1.5, [("a", "b"), ("b", "b")], "missed"),
        ("<=", 3.0, [("b", None)], "met"),
        ("<=", 2.0, [("b", None)], "undecided"),
        (">=", 0.85, [("a", SHARE)], "met"),
        (">=", 0.85, [("b", SHARE)], "not measured"),
        (">=", 0.1, [("a", "b"), ("a", "c")], "not measured"),
        (">=", 0.1, [("c", None)], "not measured"),
        (">=", 2.0, [("data/x/inception_zoo", PEER)], "met"),
        (">=", 2.0, [("data/y/inception_zoo", PEER)], "not measured"),
    ],
)
def test_a_verdict_follows_from_the_figures(sense, bound, pairs, verdict):
    figures = {"a": Figure("images/s", [4, 4, 9], share=0.9), "b": Figure("images/s", [2, 2, 3])}
    figures |= {
        f"data/{name}": figures[like] for name, like in {"x/inception_zoo": "a", "x/peer": "b", "y/inception_zoo": "a"}.items()
    }
    assert Target("", sense, bound, pairs).verdict(figures) == verdict


def test_a_bound_inside_the_interval_of_a_figure_decides_nothing():
    figures = {"a": Figure("images/s", [1.0, 2.0, 3.0]), "b": Figure("images/s", [1.0] * 3)}
    assert [Target("", ">=", bound, [("a", "b")]).verdict(figures) for bound in (1.0, 1.1, 3.0, 3.1)] == [
        *("met", "undecided", "undecided", "missed")
    ]
    assert [Target("", "<=", bound, [("a", "b")]).verdict(figures) for bound in (0.9, 1.0, 2.9, 3.0)] == [
        *("missed", "undecided", "undecided", "met")
    ]


def test_the_interval_of_a_median_holds_it_in_19_of_20_cases():
    numbers = torch.randn(2000, 15, generator=torch.Generator().manual_seed(0)).tolist()
    held = [low <= 0 <= high for low, high in (Figure("", values).interval for values in numbers)]
    assert 0.95 < sum(held) / len(held) < 0.98
    assert Figure("", [3.0, 1.0, 2.0]).interval == (1.0, 3.0) and Figure("", list(range(9))).interval == (1, 7)


def test_only_ratios_within_a_run_are_compared():
    old, new = Results(), Results()
    for results, speeds in ((old, (2.0, 1.0)), (new, (40.0, 10.0))):  # the new machine is 10 to 20 times as fast
        for label, speed in zip(("inception_zoo", "timm tuned"), speeds, strict=True):
            results.put(f"training/net/{label}", Figure("images/s", [speed, speed, speed]))
            results.put(
                f"training/net outside convolutions/{label}",
                Figure("s/image", [speed * (3 if results is old and label != "inception_zoo" else 1)] * 3),
            )
    assert [row[1:] for row in compared(new, old)] == [
        ("timm tuned", "2.000", "4.000", "4.000 to 4.000", "better"),
        ("timm tuned", "0.667", "4.000", "4.000 to 4.000", "worse"),
    ]
    new.put("training/net/timm tuned", Figure("images/s", [10.0, 40.0, 20.0]))
    assert next(compared(new, old))[-1] == "no difference shown"
    for results in (old, new):
        results.put("memory/net/saved/plain", Figure("bytes/image", [10.0]))
        results.put("memory/net/saved/lean", Figure("bytes/image", [5.0]))
        results.put("profile/net Python and calls/timm tuned", Figure("s/image", [-1.0, 2.0]))
    assert [row[-1] for row in compared(new, old)][2:] == ["in MiB/image: not a ratio"] * 2


def test_the_worst_verdict_of_several_pairs_counts():
    figures = {"a": Figure("x", [1.11, 1.12, 1.13]), "b": Figure("x", [0.9, 1.13, 1.4]), "c": Figure("x", [1.0], share=0.9)}
    assert Target("", ">=", 1.1, [("a", None), ("b", None)]).verdict(figures) == "undecided"
    assert Target("", ">=", 1.1, [("a", None), ("c", None)]).verdict(figures) == "missed"
    figures["d"] = Figure("images/s", [5.0, 10.0, 20.0], share=0.5)
    assert Target("", ">=", 0.85, [("d", SHARE)]).verdict(figures) == "undecided"


def test_cpu_seconds_of_other_programs_are_noticed(monkeypatch):
    seconds, clock = iter([100.0, 103.0]), iter([0.0, 10.0])
    monkeypatch.setattr("inception_zoo.bench.machine._cpu_seconds", lambda: next(seconds))
    monkeypatch.setattr("inception_zoo.bench.machine._gemm", lambda *args: 1e12)
    monkeypatch.setattr("inception_zoo.bench.machine.time", SimpleNamespace(perf_counter=lambda: next(clock)))
    monkeypatch.setattr("inception_zoo.bench.machine.os.sched_getaffinity", lambda process: {0, 1})
    assert Disturbance().words() == ["other programs used 15% of the CPU time"]


def test_older_results_are_those_of_the_same_kind_of_machine(tmp_path):
    with pytest.raises(ZooError, match="no results for"):
        read_older(tmp_path)
    for name, more in (("", {}), ("other", {"cores": 999})):
        older, here = Results(), provenance(3)
        kind = here["hardware"]["cpu"].rpartition("(")[2]
        older.add({**here, "hardware": {**here["hardware"], "cpu": f"Another ({kind}", **more}})
        older.put("startup/a", Figure("s", [1.0]))
        (tmp_path / name).mkdir(exist_ok=True)
        older.save(tmp_path / name / "results.json")
    assert read_older(tmp_path).runs[0]["hardware"]["cores"] != 999
    (tmp_path / "third").mkdir()
    (tmp_path / "third" / "results.json").write_bytes((tmp_path / "results.json").read_bytes())
    with pytest.raises(ZooError, match="several results"):
        read_older(tmp_path)


def test_every_target_is_of_a_section_and_of_contenders_that_there_are():
    assert len({target.name for target in TARGETS}) == len(TARGETS)
    labels = {name: {each.label for each in contenders(case)} for name, case in CASES.items()}
    for target in TARGETS:
        for figure in {part for pair in target.pairs for part in pair} - {None, PEER, SHARE}:
            section, group, label = figure.split("/") if figure.count("/") == 2 else (figure.split("/")[0], None, None)
            assert section in SECTIONS
            assert section != "training" or label in labels[group.split()[0]]


def test_every_target_is_of_figures_that_there_are():
    """Every target refers to figures of the published results. Targets of speedruns are tested below."""
    published = read(PUBLISHED, "").figures
    usual = [target for target in TARGETS if not target.name.startswith(SPEEDRUNS)]
    assert {part for target in usual for pair in target.pairs for part in pair} - {None, PEER, SHARE} <= set(published)
    assert all(target.measured(published) for target in usual)


@pytest.mark.parametrize("folder", [PUBLISHED.parent, PUBLISHED.parent / "avx2", PUBLISHED.parent / "amx"])
def test_the_published_pages_follow_from_their_results(folder, tmp_path):
    PAGE.write_page(read(folder / "results.json", ""), read_targets(folder), tmp_path)
    assert (tmp_path / "README.md").read_bytes() == (folder / "README.md").read_bytes()


def test_targets_stand_beside_the_results_else_in_the_checkout_else_there_are_none(tmp_path, monkeypatch):
    assert read_targets(tmp_path) == TARGETS != []
    monkeypatch.setattr(targets, "CHECKOUT", tmp_path / "nowhere")
    assert read_targets(tmp_path) == []
    PAGE.write_page(read(PUBLISHED, ""), [], tmp_path)
    page = (tmp_path / "README.md").read_text()
    assert "## Targets" not in page and "## training" in page
    (tmp_path / targets.FILE).write_text('[{"name": "a", "sense": ">=", "bound": 1.0, "pairs": [["data/x/ours", "peer"]]}]')
    assert read_targets(tmp_path) == [Target("a", ">=", 1.0, [["data/x/ours", PEER]])]
    (tmp_path / targets.FILE).write_text('[{"name": "a"}]')
    with pytest.raises(ZooError, match="not a list of targets"):
        read_targets(tmp_path)


@pytest.mark.slow
def test_a_speedrun_is_timed_and_tested_a_seed_a_round_beside_the_tutorial(fashion_mnist_root, tmp_path, monkeypatch):
    assert [getattr(speedruns, experiment).args for experiment in SPEEDRUNS] == [(experiment,) for experiment in SPEEDRUNS]
    experiment, jobs = "speedrun", []
    run_job, short = speedruns.run_job, ("trainer=smoke", "trainer.max_epochs=1", "model.width=0.25", "data.batch_size=8")

    def shortened(words, folder, threads):
        jobs.append(words)
        run_job((*words, *short), folder, threads)

    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(speedruns, "run_job", shortened)
    monkeypatch.setitem(CASES, "tutorial", case_of("tutorial", batch=2))
    figures = dict(measure(experiment, Options(rounds=1, data_root=Path(fashion_mnist_root))))
    assert jobs == [(f"experiment={experiment}", "seed=1", f"data.root={fashion_mnist_root}")]
    (folder,) = tmp_path.glob(f"outputs/bench/*/{experiment}/1")
    tested = json.loads((folder / "results.json").read_text())["test/top1"]
    assert figures[f"{experiment}/test accuracy/inception_zoo"].values == [tested]
    assert all(figure.median > 0 for name, figure in figures.items() if "/time/" in name)
    mine = [target for target in TARGETS if target.name.startswith(f"{experiment},")]
    assert len(mine) == 2 and all(target.measured(figures) for target in mine)


@pytest.mark.parametrize("name", ZOO)
def test_the_rooflines_layers_are_the_plans(name):
    plan = make_plan(ZOO[name], aux=False)
    size = plan.net.image_size
    assert step_flops(plan, size) == 6 * plan_cost(plan).macs
    assert 0 < plan_cost(plan).params / sum(layer.weights for layer in layers(plan, size)) - 1 < 0.01  # norms and biases
    assert step_bytes(plan, size, 1, 2) > step_bytes(plan, size, 64, 2) > 0


def test_a_bound_is_of_the_flops_or_of_the_bytes():
    plan = make_plan(ZOO["inception_v3"], aux=False)
    flops, moved = step_flops(plan, 299), step_bytes(plan, 299, 16, 2)
    assert bound(plan, 299, 16, Machine("", 1e12, 1e30)) == pytest.approx(1e12 / flops)
    assert bound(plan, 299, 16, Machine("", 1e30, 1e12)) == pytest.approx(1e12 / moved)
    assert bound(plan, 299, 16, Machine("", 1e12, 1e12)) < min(1e12 / flops, 1e12 / moved)


def test_a_projection_sums_gradients_by_rings():
    assert all_reduce(10**9, 8, H100) == pytest.approx(2 * 7 / 8 * 4e9 / 450e9)
    assert all_reduce(10**9, 256, H100) == pytest.approx(2 * 7 / 8 * 4e9 / 450e9 + 2 * 31 / 32 * 4e9 / 8 / 50e9)
    plan = make_plan(ZOO["inception_v4"], aux=False)
    one, eight = (project(plan, 299, 64, H100, devices, reached=0.5) for devices in (1, 8))
    assert one.overlapped == one.serial == pytest.approx(bound(plan, 299, 64, H100) / 2)
    assert eight.overlapped == pytest.approx(8 * one.serial) and 4 * one.serial < eight.serial < 8 * one.serial


def test_a_ring_sends_what_its_seconds_say():
    for devices in (2, 8):
        assert per_step(10**9, devices, H100) / H100.node == pytest.approx(all_reduce(10**9, devices, H100))
    flat = replace(H100, network=H100.node)
    assert per_step(10**9, 256, flat) / H100.node == pytest.approx(all_reduce(10**9, 256, flat))


def test_the_interval_between_checkpoints_loses_the_least():
    failures = Failures(256, 24_000_000)
    assert failures.hours == pytest.approx(16_384 * 54 * 24 / 419 / 256)
    best = failures.lost(failures.minutes)
    assert all(best < failures.lost(failures.minutes * factor) for factor in (0.5, 0.9, 1.1, 2))
    assert best == pytest.approx(math.sqrt(2 * (12 * 24e6 / 1e9) / (3600 * failures.hours)) + 7 / 60 / failures.hours)


def test_more_gpus_read_and_fail_more():
    plan = make_plan(ZOO["inception_v3"], aux=False)
    found = {label: value for label, _, value in projected(plan, 299, 0.5, 50 * 2**20)}
    assert found["projected memory of a H100 SXM"] == pytest.approx(256 * 50 * 2**20, rel=0.05)
    eight, many = ("projected for 8 H100 SXM, {}", "projected for 256 H100 SXM, {}")
    assert found[many.format("between failures")] == pytest.approx(found[eight.format("between failures")] / 32)
    assert found[many.format("read by a node")] == pytest.approx(found[eight.format("read by a node")], rel=0.01)


def test_processes_sum_their_gradients():
    assert 0 < all_reduce_seconds(2, 1000) < 10


def test_a_peer_saves_what_is_known_of_it():
    case, torchvision = case_of("inception_v3"), Contender("torchvision", tuned=False)
    assert saved_bytes(torchvision.build(case), case.images(3)) / 2**20 == pytest.approx(93.7, rel=2e-3)


def test_the_tutorials_network_is_the_tutorials():
    case = CASES["tutorial"]
    ours, theirs = Contender().build(case), Contender("d2l").build(case)
    assert {sum(weights.numel() for weights in model.parameters()) for model in (ours, theirs)} == {5_977_530}
    assert plan_cost(case.plan, 96).macs / 1e9 == pytest.approx(0.276, rel=2e-3)
    assert theirs(torch.zeros(2, 1, 96, 96)).shape == (2, 10)


@pytest.mark.parametrize("largest", [0, 1, 2, 37, 64])
def test_the_largest_batch_is_found_by_bisection(largest):
    tried = []
    assert largest_batch(lambda batch: tried.append(batch) or batch <= largest) == largest
    assert len(tried) == len(set(tried)) <= 14


def test_a_line_is_fitted_to_the_upper_half_and_departs_below():
    points = {x: 3 * x**2 for x in (1, 2, 4, 8, 16, 32)}
    line = PAGE.Line("power", points | {2: 24}, "s")
    assert line.slope == pytest.approx(2) and line.at(64) == pytest.approx(3 * 64**2) and line.departs == 2
    line = PAGE.Line("linear", {x: 1 + 2 * x for x in (1, 2, 3, 4)}, "s")
    assert (line.start, line.slope, line.departs) == (pytest.approx(1), pytest.approx(2), None)


def test_a_deeper_network_repeats_a_block():
    plans = [make_plan(deeper(ZOO["inception_v3"], more), aux=False) for more in (0, 1, 3)]
    assert [len(plan.blocks) - len(plans[0].blocks) for plan in plans] == [0, 1, 3]
    costs = [plan_cost(plan).macs for plan in plans]
    assert costs[2] - costs[0] == 3 * (costs[1] - costs[0]) > 0


def test_results_are_kept_merged_and_compared(tmp_path):
    here, there = ({"hardware": {"cpu": cpu, "cores": 2}, "versions": {"torch": "2"}} for cpu in ("one", "other"))
    kept = Results()
    kept.add(there)
    for name in ("training/a", "training/b", "startup/c"):
        kept.put(name, Figure("s", [1.0, 2.0, 4.0]))
    kept.save(tmp_path / "old.json")
    kept.add(here)
    kept.put("training/a", Figure("s", [3.0], share=0.5))
    kept.drop_others("training", {"training/a"})
    kept.save(tmp_path / "new.json")
    new, old = (read(tmp_path / f"{name}.json", "--compare") for name in ("new", "old"))
    assert list(new.figures) == ["training/a", "startup/c"] and new.figures["training/a"].share == 0.5
    assert different(new, old) == ["different hardware; old: cpu other; new: cpu one"]
    assert [row[1:4] for row in compared(new, old)] == [("a", "2", "3"), ("c", "2", "2")]
    new.drop_others("startup", ())
    new.drop_others("training", ())
    new.put("training/b", Figure("s", [1.0]))
    new.save(tmp_path / "new.json")
    assert json.loads((tmp_path / "new.json").read_text())["runs"] == [here]  # machine records without figures are dropped


def test_an_interrupted_bench_loses_no_older_figure(tmp_path, monkeypatch, capsys):
    keep, old = tmp_path / "results.json", Results()
    old.add(provenance(5))
    for name in ("training/a", "training/b", "startup/c"):
        old.put(name, Figure("s", [1.0]))
    old.save(keep)

    def measured(section, options):
        yield "training/b", Figure("s", [2.0])
        raise SystemExit(130)  # as after Ctrl-C

    monkeypatch.setattr(command, "measure", measured)
    with pytest.raises(SystemExit):
        command.run(["training", "startup"], Options(rounds=1), keep, None)
    assert {name: each.median for name, each in read(keep, "").figures.items()} == {
        "training/a": 1,
        "training/b": 2,
        "startup/c": 1,
    }
    assert lines(capsys.readouterr().err)[-1] == "interrupted in training; figures measured before: 1"


def test_a_bench_that_is_told_to_end_keeps_what_was_measured(tmp_path):
    keep = tmp_path / "results.json"
    words = "bench", "memory", "googlenet", "--batch", "2", "--image-size", "64", "--rounds", "100000", "--json", str(keep)
    with subprocess.Popen([sys.executable, "-m", "inception_zoo.cli", *words], stderr=subprocess.PIPE, text=True) as bench:
        assert bench.stderr is not None
        figure = next(line for line in bench.stderr if "/saved/" in line)
        bench.terminate()
        said = bench.stderr.read()
    assert bench.returncode == 143 and "interrupted in memory" in said
    assert figure.strip().split(":")[0] in read(keep, "").figures


def test_a_network_that_is_named_is_measured_whatever_its_norm():
    name, figure = next(measure("memory", Options(rounds=1, networks=("googlenet",), batch=2, image_size=64)))
    assert name == "memory/googlenet batch 2 px 64/saved/plain" and figure.median > 0


def test_every_way_to_serve_a_network_has_its_picture():
    titles = [axes.get_title() for axes in PAGE.PICTURES["evaluation"](read(PUBLISHED, "").figures).axes]
    assert {"Inception-v3", "Inception-v3, folded", "Inception-v3, int8", "tutorial"} <= set(titles) and len(titles) == 10


def test_every_section_has_its_function():
    places = (place.split(".") for place in SECTIONS.values())
    assert all(callable(getattr(import_module(f"inception_zoo.bench.{file}"), function)) for file, function in places)


def test_the_help_names_every_section(cli):
    said = cli("bench", "--help").stdout
    assert [section for section in SECTIONS if section not in said] == []


def test_a_small_bench_from_end_to_end(cli, tmp_path):
    words = ("training", "googlenet_bn", "--image-size", "64", "--batch", "2", "--rounds", "1")
    done = cli("bench", *words, "--json", "results.json")
    assert done.returncode == 0, done.stderr
    results = read(tmp_path / "results.json", "")
    group = "training/googlenet_bn batch 2 px 64"
    speeds = {f"{group}/{label}" for label in ("inception_zoo", "torchvision", "torchvision tuned")}
    outside = {f"{group} outside convolutions/{label}" for label in ("inception_zoo", "torchvision tuned")}
    assert speeds | outside == set(results.figures)
    assert all(figure.median > 0 for figure in results.figures.values())
    assert all(results.figures[name].share > 0 for name in speeds)
    assert results.runs[0]["rounds"] == 1 and results.runs[0]["versions"]["torch"]
    PAGE.write_page(read(tmp_path / "results.json", ""), TARGETS, tmp_path)
    page = (tmp_path / "README.md").read_text()
    assert "googlenet_bn batch 2 px 64" in page and page.count("not measured") == len(TARGETS)
    assert len([line for line in lines(done.stdout) if "torchvision tuned" in line]) == 2


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["trainig"], "'trainig' is neither a section nor a network; did you mean 'training'?"),
        (["startup", "inception_v3"], "startup does not take a network; leave inception_v3 out"),
        (["--batch", "4"], "choices does not take --batch or --image-size"),
        (["training", "inception_v3", "--image-size", "40"], "the 2x2 grid is smaller than the kernel"),
        (["training", "--json", "nowhere/results.json"], "there is no folder nowhere"),
        (["training", "--compare", "nothing.json"], "--compare nothing.json: No such file"),
        (["--fit", "4"], "--fit 4 takes one network, not ''"),
        (["training", "inception_v3", "--fit", "4"], "--fit 4 takes one network, not 'training inception_v3'"),
        (["inception_v3", "--fit", "1e6"], "--fit 1e+06: this machine has"),
    ],
)
def test_a_wrong_bench_is_one_line(cli, words, message):
    done = cli("bench", *words)
    assert done.returncode == 2 and done.stdout == ""
    assert done.stderr.startswith("error: ") and done.stderr.count("\n") == 1 and message in done.stderr


def test_a_peer_that_recomputes_saves_less_and_learns_the_same():
    case = case_of("googlenet_bn", 3, 64)
    saved, gradients = [], []
    for share in (0.0, 0.25, 1.0):
        torch.manual_seed(0)
        model = Contender("torchvision", tuned=False, recompute=share).build(case)
        model.dropout = torch.nn.Identity()
        saved.append(saved_bytes(model, case.images()))
        model(case.images()).sum().backward()
        gradients.append([weights.grad.double() for weights in model.parameters()])
    assert saved[0] > saved[1] > saved[2] > 0
    assert all(torch.equal(a, b) for others in gradients[1:] for a, b in zip(gradients[0], others, strict=True))
