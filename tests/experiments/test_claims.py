"""The studies of the papers' claims: pages equal their results, arms of equal cost, searched rates, and the statistics."""

import json
import math
import sys
from itertools import product
from pathlib import Path

import numpy as np
import pytest
from omegaconf import OmegaConf
from scipy import stats

from inception_zoo.architecture.cost import plan_cost
from inception_zoo.architecture.plan import plan_of
from inception_zoo.errors import ZooError

ROOT = Path(__file__).parents[2]
sys.path.append(str(ROOT / "experiments"))
import arms  # noqa: E402
import channels  # noqa: E402
import claims  # noqa: E402
import paired  # noqa: E402
import resnet  # noqa: E402
import speed  # noqa: E402

MEASURED = [name for name in claims.STUDIES if (claims.RESULTS / f"{name}.csv").exists()]
SWEEPS = {name: OmegaConf.load(ROOT / f"conf/sweep/{name}.yaml") for name in claims.STUDIES}
FAMILIES = ("parallel", "parallel_bn", "factorized_nx1", "expanded", "residual")


@pytest.mark.parametrize("name", MEASURED)
def test_a_page_has_the_figures_of_its_results(name):
    study = claims.STUDIES[name]
    page = (ROOT / "experiments" / f"{study.page or name}.md").read_text()
    assert claims.Results(name).text() in page
    assert not study.draw or f"({name}.svg)" in page


@pytest.mark.skipif(not (claims.RESULTS / "channels.csv").exists(), reason="not measured yet")
def test_the_page_of_the_channels_has_its_results():
    assert channels.results() in (ROOT / "experiments/channels.md").read_text()


def test_the_relative_speed_of_channels_is_that_against_a_smooth_curve():
    numbers = [60, 64, 72, 80, 96, 128]
    found = {n: np.exp(0.5 * np.log(n) - 0.03 * np.log(n) ** 2) * np.ones(3) for n in numbers}
    found[60] = found[60] * np.array([0.5, 0.6, 0.7])
    assert channels.relative(found, [60]) == pytest.approx([0.5, 0.6, 0.7])
    assert channels.relative(found, [64, 96]) == pytest.approx([1, 1, 1])


@pytest.mark.parametrize("name", MEASURED)
def test_the_results_have_every_seed_and_rate_of_every_arm_once(name):
    sweep, rows = SWEEPS[name].hydra.sweeper, claims.Results(name).rows
    arms = [OmegaConf.to_container(job)[0].removeprefix("run_name=") for job in sweep.jobs]
    arms += resnet.NETWORKS if name.startswith("cost") else ()
    values = [str(each).split(",") for each in sweep.params.values()]
    found = [(row["run_name"], *(str(float(row[key])) for key in sweep.params)) for row in rows]
    assert sorted(found) == sorted(product(arms, *([str(float(each)) for each in given] for given in values)))


UNEQUAL = "v3_ablation", "residual_scale", "width", "tricks", "cost"  # pages that do not compare at equal cost


@pytest.mark.parametrize("name", [name for name in claims.STUDIES if not name.startswith(UNEQUAL)])
def test_arms_have_the_cost_of_the_first(name, composed):
    """Channels are multiples of 8, so costs match within 6 %, in the search of rates within 9 %."""
    costs = {}
    for job in SWEEPS[name].hydra.sweeper.jobs:
        cfg = OmegaConf.to_container(composed(f"sweep={name}", *job), resolve=True)
        costs[cfg["run_name"]] = plan_cost(plan_of(cfg["model"]), cfg["data"]["image_size"]).macs
    first, most = next(iter(costs.values())), 0.09 if name == "rates" else 0.06
    other = {arm for arm, macs in costs.items() if abs(macs / first - 1) > most}
    assert {arm for arm in other if not arm.endswith(" at equal channels")} == set()


def test_arms_at_equal_channels_have_them(composed):
    channels = []
    for job in SWEEPS["factorization"].hydra.sweeper.jobs:
        if not job[0].endswith(" at equal cost"):
            cfg = OmegaConf.to_container(composed("sweep=factorization", *job), resolve=True)
            channels.append([block.c_out for block in plan_of(cfg["model"]).blocks])
    assert len(channels) == 4 and channels == channels[:1] * 4


@pytest.mark.skipif("rates" not in MEASURED, reason="the rates were not searched yet")
def test_every_arm_has_the_rate_that_the_search_found_for_its_blocks(composed):
    rates = claims.Results("rates")
    for name in ("block_swap", "factorization", "reduction", "low_resolution"):
        for job in SWEEPS[name].hydra.sweeper.jobs:
            cfg = composed(f"sweep={name}", *job)
            blocks = {value for key, value in cfg.model.blocks.items() if value in FAMILIES}
            family = min(blocks - {"parallel"} or {"parallel"})
            assert f"with rate {cfg.optimizer.lr}" in cfg.run_name or cfg.optimizer.lr == claims.best_rate(rates, family)


@pytest.mark.skipif("batchnorm_rate" not in MEASURED, reason="the rate was not searched yet")
def test_batchnorm_has_1_5_and_30_times_the_rate_of_v1(composed):
    found = claims.best_rate(claims.Results("batchnorm_rate"), "V1")
    arms = [composed("sweep=batchnorm", *job) for job in SWEEPS["batchnorm"].hydra.sweeper.jobs]
    assert [cfg.optimizer.lr for cfg in arms] == pytest.approx([found, found, 5 * found, 30 * found])


@pytest.mark.skipif("v3_ablation_rate" not in MEASURED, reason="the rates were not searched yet")
def test_each_line_of_the_ablation_has_the_rate_of_its_network(composed):
    def network(cfg):
        return cfg.model.name.removesuffix("_7x7"), cfg.model.norm

    rates = claims.Results("v3_ablation_rate")
    searched = {network(cfg): claims.best_rate(rates, arm) for arm, cfg in arms.arms_of("v3_ablation_rate").items()}
    for cfg in arms.arms_of("v3_ablation").values():
        assert cfg.optimizer.lr == searched[network(cfg)]


@pytest.mark.skipif("tricks_rate" not in MEASURED, reason="the rates were not searched yet")
def test_each_recipe_has_a_rate_that_the_repeated_search_cannot_tell_from_the_best(composed):
    found = {(row["run_name"], float(row["optimizer.lr"])): float(row["val/top1_best"]) for row in claims.load("tricks_rate")}
    for job in SWEEPS["tricks"].hydra.sweeper.jobs:
        cfg = composed("sweep=tricks", *job)
        best = max(top1 for (arm, _), top1 in found.items() if arm == cfg.run_name)
        assert found[cfg.run_name, cfg.optimizer.lr] >= best - 0.005  # one standard error


@pytest.mark.skipif("finetune_rate" not in MEASURED, reason="the rates were not searched yet")
def test_each_way_of_fine_tuning_has_the_rate_that_was_searched(composed):
    rates = claims.Results("finetune_rate")
    arms = [composed("sweep=finetune", *job) for job in SWEEPS["finetune"].hydra.sweeper.jobs]
    assert [cfg.optimizer.lr for cfg in arms] == [claims.best_rate(rates, cfg.run_name) for cfg in arms]


@pytest.mark.skipif("finetune_tuning" not in MEASURED, reason="the options were not tuned yet")
def test_the_recipe_has_the_options_that_were_tuned(composed):
    best, results = {}, claims.Results("finetune_tuning")
    for arm in results.arms:
        data, _, options = arm.partition(" labels ")
        top1 = max(float(row["val/top1_best"]) for row in results.rows if row["run_name"] == arm)
        best.setdefault(options, {})[data] = top1
    chosen = max(best, key=lambda options: sum(best[options].values()))
    cfg = composed("recipe=finetune", "model.weights=x")
    assert f"decay {cfg.layer_decay} {'at once' if cfg.callbacks.unfreeze.every is None else 'gradual'}" == chosen


@pytest.mark.parametrize("name", ["cost_rate", "cost"])
def test_each_network_trains_for_equal_time(name):
    for arm, cfg in arms.arms_of(name).items():
        assert cfg.trainer.limit_train_batches == arms.batches("cost", arm) <= 429  # an epoch


@pytest.mark.skipif("cost_rate" not in MEASURED, reason="the rates were not searched yet")
def test_each_network_has_the_rate_that_was_searched():
    rates = claims.Results("cost_rate")
    assert all(cfg.optimizer.lr == claims.best_rate(rates, arm) for arm, cfg in arms.arms_of("cost").items())


@pytest.mark.skipif("residual_rate" not in MEASURED, reason="the rates were not searched yet")
def test_both_networks_have_the_rate_that_was_searched(composed):
    rates = claims.Results("residual_rate")
    arms = [composed("sweep=residual", *job) for job in SWEEPS["residual"].hydra.sweeper.jobs]
    assert [cfg.optimizer.lr for cfg in arms] == [claims.best_rate(rates, cfg.run_name) for cfg in arms]


def test_differences_are_those_of_a_paired_t_test():
    values = {"a": [1.0, 2.0, 4.0, 3.0], "b": [2.0, 2.5, 5.0, 4.5], "c": [1.5, 2.0, 3.0, 3.5]}
    found = paired.compare({arm: dict(zip("3142", each, strict=True)) for arm, each in values.items()}, {"b": "a", "c": "a"})
    for arm in "bc":
        known = stats.ttest_rel(values[arm], values["a"])
        low, high = known.confidence_interval(0.95)
        each = found[arm]
        assert (each.mean - each.half, each.mean + each.half) == pytest.approx((low, high))
        assert each.p == pytest.approx(min(1, known.pvalue * (2 if arm == "b" else 1)))
    with pytest.raises(ValueError, match=r"b has the seeds \['1'\], and a has \['1', '2'\]"):
        paired.compare({"a": {"1": 1.0, "2": 1.0}, "b": {"1": 2.0}}, {"b": "a"})


def test_a_pooled_error_is_that_of_an_analysis_of_variance():
    rng = np.random.default_rng(0)
    table = rng.normal(size=(4, 5)) + np.arange(4)[:, None]
    values = {arm: dict(zip("12345", row, strict=True)) for arm, row in zip("abcd", table, strict=True)}
    found = paired.compare(values, {"b": "a", "d": "c"}, pooled=True)
    arm, seed = np.eye(4).repeat(5, 0), np.tile(np.eye(5), (4, 1))
    (fitted, (rest,), *_), free = np.linalg.lstsq(np.hstack([arm, seed[:, 1:]]), table.ravel()), 20 - 4 - 4
    error = math.sqrt(rest / free * 2 / 5)
    for name, mean in (("b", fitted[1] - fitted[0]), ("d", fitted[3] - fitted[2])):
        assert (found[name].mean, found[name].half) == pytest.approx((mean, error * stats.t.ppf(0.975, free)))
    p = [2 * stats.t.sf(abs(each.mean) / error, free) for each in found.values()]
    assert [each.p for each in found.values()] == pytest.approx(paired.holm(p))


def test_a_pooled_error_keeps_the_rate_of_false_alarms():
    rng = np.random.default_rng(1)
    alarms = 0
    for _ in range(2000):
        values = {arm: dict(zip("12345", rng.normal(size=5), strict=True)) for arm in "abcdef"}
        alarms += any(each.p < 0.05 for each in paired.compare(values, dict.fromkeys("bcdef", "a"), pooled=True).values())
    assert 0.02 < alarms / 2000 < 0.055


@pytest.mark.parametrize("comparisons", [1, 12])
def test_a_visible_difference_is_found_four_times_of_five(comparisons):
    shift = paired.visible(4, comparisons)
    samples = np.random.default_rng(0).normal(shift / np.sqrt(5), 1, (100_000, 5))  # in standard errors of the mean
    p = stats.ttest_1samp(samples, 0, axis=1).pvalue
    assert (p < 0.05 / comparisons).mean() == pytest.approx(0.8, abs=0.01)


@pytest.mark.parametrize("pooled", [False, True])
def test_nothing_to_compare_gives_no_differences(pooled):
    assert paired.compare({}, {}, pooled) == {}


def test_equal_differences_are_certain():
    values = {"a": {"1": 1.0, "2": 2.0}, "b": {"1": 2.0, "2": 3.0}, "c": {"1": 1.0, "2": 2.0}}
    found = paired.compare(values, {"b": "a", "c": "a"})
    assert (found["b"].p, found["b"].half) == (0, 0) and found["c"].p == 1


def test_holm():
    assert paired.holm([0.01, 0.04, 0.03, 0.005]) == pytest.approx([0.03, 0.06, 0.06, 0.02])
    assert paired.holm([0.6, 0.5]) == [1.0, 1.0]


@pytest.fixture
def mine(tmp_path, monkeypatch):
    """Write a sweep of two arms with two seeds; return a function that changes the record of a run."""
    monkeypatch.setattr(claims, "RESULTS", tmp_path)
    monkeypatch.setattr(claims, "HERE", tmp_path)
    monkeypatch.setitem(claims.STUDIES, "mine", claims.Study("slow, wide", curves=True))
    for number, (arm, seed) in enumerate([("slow, wide", 10), ("fast", 9), ("slow, wide", 9), ("fast", 10)]):
        run = tmp_path / "mine" / str(number)
        (run / ".hydra").mkdir(parents=True)
        model = {"name": "googlenet", "num_classes": 10, "in_channels": 1, "width": 0.125, "aux": False}
        config = {"run_name": arm, "seed": seed, "optimizer": {"lr": 0.1}, "model": model, "data": {"image_size": 31}}
        (run / ".hydra/config.yaml").write_text(json.dumps(config))
        results = {
            "val/top1": 0.8,
            "val/top1_best": 0.8,
            "test/top1": 0.7 + seed / 100 + number / 50,
            "test/loss": 1.0,
            "minutes": 1,
        }
        facts = {"started": "2026-11-29T21:00:00+00:00", "commit": "abc", "parameters": 2e6, "multiply_adds": 3e6}
        (run / "results.json").write_text(json.dumps({**facts, **results, "seed": seed, "state": "finished", "reason": None}))
        (run / "csv/version_0").mkdir(parents=True)
        points = "9,0.5\n19,\n29,0.8\n" if arm != "fast" else "9,0.1\n29,0.7\n" if seed == 9 else "9,0.8\n"
        (run / "csv/version_0/metrics.csv").write_text(f"step,val/top1\n{points}")

    def change(number, **results):
        path = tmp_path / "mine" / str(number) / "results.json"
        path.write_text(json.dumps({**json.loads(path.read_text()), **results}))

    return change


def test_a_sweep_is_collected_and_written_to_its_page(mine, tmp_path):
    claims.collect("mine", tmp_path)
    results = claims.Results("mine")
    assert results.of("slow, wide") == pytest.approx({"10": 0.8, "9": 0.83})
    assert results.steps("slow, wide") == [30, 30] and results.steps("fast") == [math.inf, 10]
    begin = "<!-- results of mine: experiments/claims.py -->"
    (tmp_path / "mine.md").write_text(f"before\n{begin}\nold\n{claims.END}\nafter\n")
    claims.write("mine")
    page = (tmp_path / "mine.md").read_text()
    assert page.startswith(f"before\n{begin}\n| arm | rate |") and page.endswith(f"{claims.END}\nafter\n") and "old" not in page
    assert (
        "| fast | 0.1 | 2.00 | 3.0 | 0.13 | 83.50 ± 3.54 | +2.00 (-48.82 to +52.82) |" in page
        and "| never (10 to never) |" in page
    )
    assert "4 runs, 4 minutes in all" in page
    (tmp_path / "mine.md").write_text("no markers")
    with pytest.raises(ZooError, match="has no line"):
        claims.write("mine")


def test_a_run_that_diverged_is_counted_and_its_arm_not_tested(mine, tmp_path):
    mine(1, state="failed", reason="the loss is nan in epoch 0, batch 3, at learning rate 0.1; …")
    claims.collect("mine", tmp_path)
    assert "| fast | 0.1 | 2.00 | 3.0 | 0.13 | 86.00; 1 of 2 diverged | – | – | – |" in claims.Results("mine").text()


def test_nothing_is_compared_with_a_reference_that_diverged(mine, tmp_path):
    mine(0, state="failed", reason="a weight is not finite after 9 steps, at learning rate 0.1; …")
    claims.collect("mine", tmp_path)
    assert "| fast | 0.1 | 2.00 | 3.0 | 0.13 | 83.50 ± 3.54 | – | – | – |" in claims.Results("mine").text()


def test_a_run_that_collapsed_counts_as_diverged(mine, tmp_path):
    mine(1, **{"test/top1": 0.1})
    claims.collect("mine", tmp_path)
    assert "| 86.00; 1 of 2 diverged | – | – | – |" in claims.Results("mine").text()


def test_means_of_curves_are_compared(mine, tmp_path, monkeypatch):
    monkeypatch.setitem(claims.STUDIES, "mine", claims.Study("slow, wide", curves=True, compare_curves=True))
    claims.collect("mine", tmp_path)
    assert claims.Results("mine").heights("fast") == pytest.approx({"9": 40, "10": 80})
    assert claims.Results("mine").differences()["fast, curve"].mean == pytest.approx(60 - 65)


def test_dead_networks_are_counted_by_their_training_loss(mine, tmp_path, monkeypatch):
    monkeypatch.setitem(claims.STUDIES, "mine", claims.Study(table=claims.table_of_deaths))
    mine(0, **{"train/loss_step": 2.3})
    mine(2, **{"train/loss_step": 1.0})
    mine(1, state="failed", reason="the loss is nan in epoch 0, batch 3, at learning rate 0.1; …", **{"train/loss_step": None})
    mine(3, **{"train/loss_step": 1.5})
    claims.collect("mine", tmp_path)
    table = claims.Results("mine").text()
    assert "| 2.30, 1.00 | 80.0, 83.0 | 1 of 2 |" in table and "| 1 of 2 |" in table.split("| fast |")[1]


@pytest.mark.parametrize(("state", "reason"), [("running", None), ("interrupted", "SIGTERM"), ("failed", "the disk is full")])
def test_a_sweep_that_did_not_end_is_refused(state, reason, mine, tmp_path):
    mine(1, state=state, reason=reason)
    with pytest.raises(ZooError, match=rf"mine/1 is {state}; run: python run.py -m sweep=mine"):
        claims.collect("mine", tmp_path)


def test_the_best_rate_is_the_smallest_of_equal_ones(monkeypatch):
    rows = [("a", "0.1", "0.8"), ("a", "0.01", "0.8"), ("a", "0.001", "0.7"), ("b", "0.1", "0.9")]
    rows = [{"run_name": arm, "optimizer.lr": rate, "val/top1_best": top1, "state": "finished"} for arm, rate, top1 in rows]
    monkeypatch.setattr(claims, "load", lambda name: [*rows, {**rows[0], "optimizer.lr": "1", "state": "diverged"}])
    results = claims.Results("rates")
    assert (claims.best_rate(results, "a"), claims.best_rate(results, "b")) == (0.01, 0.1)
    assert list(claims.table_of_rates(results))[1] == ["a", "0.700", "**0.800**", "0.800", "diverged"]


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:Precision loss")  # after two batches, the differences of both seeds can be equal
@pytest.mark.parametrize("name", claims.STUDIES)
def test_every_study_runs(name, zoo, tmp_path, monkeypatch, composed, fashion_mnist_root):
    short = ["trainer=smoke", "++trainer.val_check_interval=1.0", "hydra/launcher=basic", f"data.root={fashion_mnist_root}"]
    seeds = ["seed=1,2"] if claims.STUDIES[name].reference else []
    if name.startswith("finetune"):
        assert zoo("-m", "experiment=pretrain", *short, "trainer.max_epochs=1", "seed=0,1,2", timeout=600).returncode == 0
    done = zoo("-m", f"sweep={name}", *short, *seeds, f"hydra.sweep.dir={name}", timeout=600)
    assert done.returncode == 0, done.stderr
    for network, seed in product(resnet.NETWORKS, (1, 2)) if name == "cost" else ():
        resnet.run(network, composed(f"sweep={name}", *short, f"seed={seed}"), tmp_path / name / f"{network}, seed {seed}")
    monkeypatch.setattr(claims, "RESULTS", tmp_path)
    monkeypatch.setattr(claims, "COLLAPSED", 0)  # after two batches, every network is near chance
    if claims.STUDIES[name].timed:
        monkeypatch.setattr(speed, "RESULTS", tmp_path)
        speed.measure(name, batch=2, rounds=1)
    claims.collect(name, tmp_path)
    results = claims.Results(name)
    assert "| arm |" in results.text()
    if claims.STUDIES[name].draw:
        claims.STUDIES[name].draw(results).savefig(tmp_path / "picture.svg")
        assert (tmp_path / "picture.svg").stat().st_size > 10_000
