"""The studies of the papers' claims: pages equal their results, arms of equal cost, searched rates, and the statistics."""

import json
import sys
from pathlib import Path

import pytest
from omegaconf import OmegaConf
from scipy import stats

ROOT = Path(__file__).parents[2]
sys.path.append(str(ROOT / "experiments"))
import claims  # noqa: E402

MEASURED = [name for name in claims.STUDIES if (claims.RESULTS / f"{name}.csv").exists()]
SWEEPS = {name: OmegaConf.load(ROOT / f"conf/sweep/{name}.yaml") for name in claims.STUDIES}
FAMILIES = ("parallel", "parallel_bn", "factorized_nx1", "expanded", "residual")


@pytest.mark.parametrize("name", MEASURED)
def test_a_page_has_the_figures_of_its_results(name):
    study = claims.STUDIES[name]
    page = (ROOT / "experiments" / f"{study.page or name}.md").read_text()
    assert claims.text(claims.Results(name)) in page
    assert not study.draw or f"({name}.svg)" in page


@pytest.mark.parametrize("name", MEASURED)
def test_the_results_have_every_seed_of_every_arm(name):
    sweep, rows = SWEEPS[name].hydra.sweeper, claims.Results(name).rows
    seeds, arms = str(sweep.params.seed).split(","), [OmegaConf.to_container(job)[0] for job in sweep.jobs]
    found = {(row["run_name"], row["seed"]) for row in rows}
    assert found == {(arm.removeprefix("run_name="), seed) for arm in arms for seed in seeds}
    assert {row["state"] for row in rows} <= {"finished", "failed"}


@pytest.mark.parametrize("name", [name for name, study in claims.STUDIES.items() if study.same_cost is not None])
def test_arms_of_equal_cost_have_it(name, composed):
    from inception_zoo.architecture.cost import plan_cost
    from inception_zoo.architecture.plan import plan_of

    costs = {}
    for job in SWEEPS[name].hydra.sweeper.jobs:
        cfg = OmegaConf.to_container(composed(f"sweep={name}", *job), resolve=True)
        costs[cfg["run_name"]] = plan_cost(plan_of(cfg["model"]), cfg["data"]["image_size"]).macs
    study = claims.STUDIES[name]
    other = {arm for arm, macs in costs.items() if abs(macs / costs[study.reference] - 1) > 0.05}
    assert {arm for arm in other if arm.endswith(study.same_cost)} == set()


@pytest.mark.skipif("rates" not in MEASURED, reason="the rates were not searched yet")
def test_every_arm_has_the_rate_that_the_search_found_for_its_blocks(composed):
    rates = claims.Results("rates")
    for name in claims.STUDIES.keys() - {"rates"}:
        for job in SWEEPS[name].hydra.sweeper.jobs:
            cfg = composed(f"sweep={name}", *job)
            if "Muon" not in cfg.optimizer._target_:  # a study with a recipe and a search of its own
                continue
            blocks = {value for key, value in cfg.model.blocks.items() if value in FAMILIES}
            family = min(blocks - {"parallel"} or blocks)
            assert cfg.optimizer.lr == claims.best_rate(rates, family), (name, cfg.run_name)


def test_differences_are_those_of_a_paired_t_test():
    values = {"a": [1.0, 2.0, 4.0, 3.0], "b": [2.0, 2.5, 5.0, 4.5], "c": [1.5, 2.0, 3.0, 3.5]}
    found = claims.compare(values, "a")
    for arm in "bc":
        known = stats.ttest_rel(values[arm], values["a"])
        low, high = known.confidence_interval(0.95)
        each = found[arm]
        assert (each.mean - each.half, each.mean + each.half) == pytest.approx((low, high))
        assert each.p == pytest.approx(min(1, known.pvalue * (2 if arm == "b" else 1)))
        assert each.visible > each.half


def test_holm():
    assert claims.holm([0.01, 0.04, 0.03, 0.005]) == pytest.approx([0.03, 0.06, 0.06, 0.02])
    assert claims.holm([0.6, 0.5]) == [1.0, 1.0]


def test_a_sweep_is_collected_and_a_run_that_diverged_counts_as_chance(tmp_path, monkeypatch):
    monkeypatch.setattr(claims, "RESULTS", tmp_path)
    monkeypatch.setitem(claims.STUDIES, "mine", claims.Study("slow", curves=True))
    for number, (arm, seed) in enumerate([("slow", 1), ("fast", 1), ("slow", 2), ("fast", 2)]):
        run = tmp_path / "mine" / str(number)
        (run / ".hydra").mkdir(parents=True)
        (run / ".hydra/overrides.yaml").write_text(f"[run_name={arm}, seed={seed}]")
        (run / ".hydra/config.yaml").write_text("optimizer: {lr: 0.1}")
        facts = {"started": "2026-11-29T21:00:00+00:00", "commit": "abc", "parameters": 2e6, "multiply_adds": 3e6, "minutes": 1}
        lost = (arm, seed) == ("fast", 2)
        results = {} if lost else {"val/top1": 0.8, "val/top1_best": 0.8, "test/top1": 0.7 + seed / 100, "test/loss": 1.0}
        state = {"seed": seed, "state": "failed" if lost else "finished"}
        (run / "results.json").write_text(json.dumps({**facts, **results, **state}))
        (run / "csv/version_0").mkdir(parents=True)
        points = "9,0.5\n19,\n29,0.8\n" if arm == "slow" else "9,0.1\n29,0.1\n" if lost else "9,0.8\n"
        (run / "csv/version_0/metrics.csv").write_text(f"step,val/top1\n{points}")
    claims.collect("mine", tmp_path)
    results = claims.Results("mine")
    assert results.of("slow") == [0.71, 0.72] and results.of("fast") == [0.71, 0.1]
    assert results.steps() == {"slow": [30, 30], "fast": [10, None]}
    text = claims.text(results)
    assert "| fast | 0.1 | 2.00 | 3.0 | 40.50 ± 43.13 |" in text and "10 (10 to 10); 1 of 2 never |" in text
    assert "4 runs, 1 of them diverged (counted as 0.1); 4 minutes" in text


@pytest.mark.slow
@pytest.mark.parametrize("name", claims.STUDIES)
def test_every_study_runs(name, zoo, tmp_path, monkeypatch, fashion_mnist_root):
    short = ["trainer=smoke", "++trainer.val_check_interval=1.0", "seed=1,2", f"hydra.sweep.dir={name}", "hydra/launcher=basic"]
    done = zoo("-m", f"sweep={name}", *short, f"data.root={fashion_mnist_root}")
    assert done.returncode == 0, done.stderr
    monkeypatch.setattr(claims, "RESULTS", tmp_path)
    claims.collect(name, tmp_path)
    results = claims.Results(name)
    assert "| arm |" in claims.text(results)
    if claims.STUDIES[name].draw:
        claims.STUDIES[name].draw(results).savefig(tmp_path / "picture.svg")
        assert (tmp_path / "picture.svg").stat().st_size > 10_000
