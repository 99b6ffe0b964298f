"""`inception-zoo report`: input files, error messages, and the page in a real browser."""

import json
import math
import re
import shutil
from pathlib import Path

import pytest
from PIL import Image
from playwright.sync_api import expect

from inception_zoo.architecture.choices import LOADING, table_config
from inception_zoo.architecture.nets import find_net
from inception_zoo.errors import ZooError
from inception_zoo.report.collect import collect
from inception_zoo.report.page import DETAILS, NETWORKS, page_data, write_report

NASTY = "<img src=x onerror=alert(1)></script>"
CLASSES = ["cat, tabby", NASTY, "émeu"]


def write_csv(path, header, rows):
    path.parent.mkdir(parents=True, exist_ok=True)
    text = "\n".join(",".join(f'"{cell}"' if "," in str(cell) else str(cell) for cell in row) for row in [header, *rows])
    path.write_text(text + "\n")


def write_run(folder, level, seed=1, model="googlenet", lr=0.1, blocks=(), epochs=3, tables=True, resolved=False, **results):
    """Write a run folder with all its files; `level` is the validation accuracy."""
    chosen = {"name": model, "num_classes": "${data.num_classes}", "in_channels": "${data.in_channels}"}
    chosen |= {**table_config(find_net(model)), **LOADING, "width": 0.25, "stem": "medium"}
    chosen["blocks"] = {**chosen["blocks"], **dict(blocks)}
    config = {
        "task": "fit",
        "seed": seed,
        "model": chosen,
        "data": {"num_classes": len(CLASSES), "in_channels": 1, "image_size": 32, "seed": "${seed}"},
        "optimizer": {"lr": lr},
        "callbacks": {"best": {"dirpath": "${hydra:runtime.output_dir}/checkpoints"}},
    }
    words = [f"model={model}", *(f"model.blocks.{key}={value}" for key, value in dict(blocks).items())]
    hydra = folder / ".hydra"
    hydra.mkdir(parents=True)
    (hydra / "config.yaml").write_text(json.dumps(config))  # JSON is valid YAML and faster to write
    (hydra / "overrides.yaml").write_text(json.dumps([*words, f"optimizer.lr={lr}", f"seed={seed}"]))
    if resolved:
        config["callbacks"]["best"]["dirpath"] = f"{folder}/checkpoints"
        config["data"]["seed"] = seed
        chosen |= {"num_classes": len(CLASSES), "in_channels": 1}
        (hydra / "resolved.yaml").write_text(json.dumps(config))
    swapped = ", ".join(f"{key}={value}" for key, value in dict(blocks).items())
    found = {"state": "finished", "reason": None, "started": "2026-11-25T08:44:58+00:00", "seed": seed, "model": model}
    found |= {"swapped": swapped, "parameters": 663_070 + 1000 * len(swapped), "multiply_adds": 8_420_352, "image_size": 32}
    if results.get("state", "finished") == "finished":
        found |= {"val/top1_best": level, "test/top1": level - 0.01, "test/ece": 0.02, "train/images_per_second": 360.0}
        found["minutes"] = 1 + level
    (folder / "results.json").write_text(json.dumps(found | results))
    steps = range(epochs)
    rows = [[epoch, epoch, 2 / (epoch + 1), "", ""] for epoch in steps]
    rows += [[epoch, epoch, "", 2.1 / (epoch + 1), level * (1 - math.exp(-epoch - 1))] for epoch in steps]
    write_csv(folder / "csv/version_0/metrics.csv", ["epoch", "step", "train/loss", "val/loss", "val/top1"], rows)
    if tables:
        write_tables(folder)
    return folder


def test_an_image_folder_run_is_drawn_from_its_resolved_config(tmp_path):
    run = write_run(tmp_path / "run", 0.9, resolved=True)
    config = json.loads((run / ".hydra/config.yaml").read_text())
    config["data"]["num_classes"] = "${zoo.classes:${data.root}}"
    (run / ".hydra/config.yaml").write_text(json.dumps(config))
    assert len(page_data(collect([run], pytest.fail), pytest.fail)["networks"]) == 1


def write_tables(folder):
    write_csv(
        folder / "confusion.csv", ["class", *CLASSES], [[CLASSES[0], 8, 2, 0], [CLASSES[1], 1, 9, 0], [CLASSES[2], 0, 4, 6]]
    )
    columns = ["class", "images", "top1", "top5", "precision", "f1"]
    write_csv(folder / "per_class.csv", columns, [[name, 10, 0.6 + i / 10, 1.0, "", 0.5] for i, name in enumerate(CLASSES)])
    bins = [
        [k / 15, (k + 1) / 15, 0 if k < 5 else k, "" if k < 5 else k / 16, "" if k < 5 else (k + 0.5) / 15] for k in range(15)
    ]
    write_csv(folder / "calibration.csv", ["bin_low", "bin_high", "images", "accuracy", "confidence"], bins)
    decisions = [
        ["auroc", "", 30, 0.9, 0.85, 0.95],
        ["f1", CLASSES[0], 10, 0.8, 0.7, 0.9],
        ["threshold", CLASSES[0], 10, 0.4, "", ""],
    ]
    write_csv(folder / "decisions.csv", ["metric", "class", "images", "value", "low", "high"], decisions)
    subgroups = [["site", value, "auroc", "émeu", 15, 0.9, 0.8, 0.95] for value in ("east", NASTY)]
    write_csv(folder / "subgroups.csv", ["column", "subgroup", "metric", "class", "images", "value", "low", "high"], subgroups)
    curves = [[name, 0.9 - step / 5, step / 4, 1 - step / 5, 1 - step / 9] for name in CLASSES for step in range(5)]
    write_csv(folder / "curves.csv", ["class", "threshold", "sensitivity", "specificity", "precision"], curves)
    columns = ["picture", "label", "predicted", "probability", "probability_of_label", "loss", "image"]
    write_csv(folder / "worst.csv", columns, [["worst/0.png", NASTY, "émeu", 0.97, 0.001, 6.9, f"photos/{NASTY}.jpg"]])
    (folder / "worst").mkdir()
    Image.new("L", (96, 64), 90).save(folder / "worst" / "0.png")


def write_sweep(folder):
    """Write a sweep: two groups of two seeds, and four more runs: block changes, failed, interrupted, corrupt metrics."""
    (folder / "sweep").mkdir(parents=True)
    (folder / "sweep" / "sweep.json").write_text(json.dumps({"argv": [], "cwd": "/", "jobs": 6}))
    (folder / "sweep" / "results.json").write_text("[]")
    write_run(folder / "sweep/0", 0.80, seed=1, resolved=True)
    write_run(folder / "sweep/1", 0.90, seed=2)
    write_run(folder / "sweep/2", 0.70, seed=1, lr=0.01)
    write_run(folder / "sweep/10", 0.60, seed=2, lr=0.01)
    write_run(folder / "sweep/3", 0.95, blocks={"grid14": "residual"}, model="bn_inception")
    write_run(
        folder / "sweep/4", 0, lr=9, tables=False, epochs=0, state="failed", reason=f"ValueError: the loss is nan {NASTY}"
    )
    shutil.rmtree(write_run(folder / "old", 0.5, seed=3, tables=False) / "csv")
    (folder / "old" / "results.json").unlink()
    damaged = write_run(folder / "sweep/5", 0.99, tables=False) / "csv/version_0/metrics.csv"
    damaged.write_text(damaged.read_text() + "3,3,wrong,,\n")


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """Write the page of a small sweep; return its path, the warnings and the summary line."""
    folder, warnings = tmp_path_factory.mktemp("report"), []
    write_sweep(folder / "runs")
    said = write_report([folder / "runs"], folder / "report.html", warnings.append)
    return folder / "report.html", warnings, said


def names(page):
    return page.locator("#board tbody tr td.run").all_inner_texts()


def test_collects_runs_of_every_depth_and_names_what_is_damaged(made):
    path, warnings, said = made
    assert said == "7 runs in 4 groups"
    assert len(warnings) == 1
    assert re.search(
        r"sweep/5/csv/version_0/metrics.csv, row 8: train/loss=wrong must be a number; the run is skipped", warnings[0]
    )
    folder = path.parent / "runs"
    runs = {run.name: run for run in collect([folder / "sweep/0", folder, folder / "sweep"], lambda line: None)}
    assert list(runs) == ["sweep/0", "old", "sweep/1", "sweep/2", "sweep/3", "sweep/4", "sweep/10"]
    assert runs["sweep/0"].curves["train/loss"] == ([0, 1, 2], [2, 1, 2 / 3])
    assert (runs["old"].state, runs["old"].reason, runs["old"].seed) == ("interrupted", "no results.json was written", 3)
    assert runs["sweep/0"].config == runs["sweep/1"].config | {"seed": "1", "data.seed": "1"}  # with and without resolved.yaml


def test_resumed_curves_are_one_and_damaged_tables_are_left_out(tmp_path):
    run = write_run(tmp_path / "run", 0.9)
    write_csv(run / "csv/version_10/metrics.csv", ["epoch", "val/top1"], [[2, 0.7], [3, "nan"]])
    write_csv(run / "csv/version_9/metrics.csv", ["epoch", "val/top1"], [[1, 0.5], [2, 0.6]])
    (run / "confusion.csv").write_text("class,a,b\na,1,2\nb,3\n")
    (run / "worst" / "0.png").write_text("<svg onload=alert(1)>")
    warnings = []
    row = page_data(collect([run], warnings.append), warnings.append)["runs"][0]
    assert row["curves"]["val/top1"] == [[0, 1, 2, 3], [pytest.approx(0.9 * (1 - math.exp(-1)), 1e-5), 0.5, 0.7, None]]
    assert set(row["details"]) == {"card", "per_class", "calibration", "decisions", "curves", "subgroups"}
    assert "confusion.csv, row 3: it must be a class and 2 whole numbers; the file is skipped" in warnings[0]
    assert "0.png is not a readable image: " in warnings[1] and warnings[1].endswith("; the file is skipped")


@pytest.mark.parametrize(
    ("break_it", "message"),
    [
        (lambda run: shutil.rmtree(run), "no such folder; give run folders"),
        (
            lambda run: (shutil.rmtree(run), run.mkdir()),
            "no run in this folder or its subfolders; a run folder contains results.json",
        ),
        (lambda run: (run / "results.json").write_text('{"state": "fin'), "results.json is damaged: Unterminated string"),
        (
            lambda run: (run / "results.json").write_text('{"state": "finishd"}'),
            "state=finishd is unknown; did you mean 'finished'",
        ),
        (lambda run: (run / "results.json").write_text('{"minutes": "2"}'), "results.json: minutes=2 must be a number"),
        (lambda run: (run / "csv/version_0/metrics.csv").write_text("epoch,step\n0,1\n1\n"), "row 3: 1 cells, but 2 columns"),
        (lambda run: (run / ".hydra/config.yaml").write_text("a: [1"), "config.yaml is damaged"),
        (lambda run: (run / ".hydra/overrides.yaml").write_text("- [1"), "overrides.yaml is damaged"),
    ],
)
def test_mistakes_are_one_line(tmp_path, break_it, message):
    break_it(write_run(tmp_path / "run", 0.9))
    with pytest.raises(ZooError, match=re.escape(message)) as caught:
        write_report([tmp_path / "run"], tmp_path / "report.html", lambda line: None)
    assert "\n" not in str(caught.value)
    assert not (tmp_path / "report.html").exists()


def test_secrets_stay_out_of_the_page(tmp_path):
    run = write_run(tmp_path / "run", 0.9)
    config = json.loads((run / ".hydra/config.yaml").read_text())
    (run / ".hydra/config.yaml").write_text(json.dumps({**config, "store": {"api_key": "hunter2"}}))
    (run / ".hydra/overrides.yaml").write_text('["store.api_key=hunter2"]')
    data = page_data(collect([run], pytest.fail), pytest.fail)
    assert "hunter2" not in json.dumps(data)
    assert data["config"]["store.api_key"] == data["runs"][0]["overrides"]["store.api_key"] == "***"


def test_out_needs_a_folder(made, tmp_path):
    runs = made[0].parent / "runs"
    with pytest.raises(ZooError, match="there is no folder"):
        write_report([runs], tmp_path / "nowhere" / "report.html", lambda line: None)
    with pytest.raises(ZooError, match="is a folder; give the name of a file"):
        write_report([runs], tmp_path, lambda line: None)


def test_code_that_a_config_names_is_not_run(tmp_path, monkeypatch):
    (tmp_path / "evil.py").write_text("raise SystemExit('code ran')")
    monkeypatch.syspath_prepend(tmp_path)
    warnings = []
    run = write_run(tmp_path / "run", 0.9, blocks={"grid14": "evil.block"}, tables=False)
    assert page_data(collect([run], warnings.append), warnings.append)["networks"] == []
    assert "its network is not drawn" in warnings[0]
    assert "evil.block" in warnings[0]


def test_leaderboard_groups_seeds_sorts_and_unfolds(made, visit):
    page = visit(made[0])
    first = page.locator("#board tbody tr")
    assert page.locator("#count").inner_text() == "7 runs in 4 groups"
    assert names(page)[0] == "sweep/3"  # sorted by validation accuracy, best first
    group = first.filter(has_text="seeds 1, 2, 3").first
    assert "n = 2 of 3" in group.inner_text()
    assert "0.8500 ± 0.0707" in re.sub(r"\s+", " ", group.inner_text())  # computed by hand from 0.80 and 0.90
    fold = group.locator("button.fold")
    fold.focus()
    page.keyboard.press("Enter")
    assert page.locator("#board tr.member").count() == 3
    assert page.evaluate("document.activeElement.getAttribute('aria-expanded')") == "true"
    failed = first.filter(has_text="failed")
    assert f"ValueError: the loss is nan {NASTY}" in failed.inner_text()
    # The button in the header keeps the keyboard focus.
    header = page.locator('#board th[data-key="test"]')
    header.locator("button").focus()
    page.keyboard.press("Enter")
    assert header.get_attribute("aria-sort") == "descending"
    assert page.locator("#board th[aria-sort]").count() == 1
    page.keyboard.press("Space")
    assert header.get_attribute("aria-sort") == "ascending"
    assert "seeds 1, 2" in names(page)[0]  # mean 0.64, with the low learning rate
    assert names(page)[-1] == "sweep/4"  # missing values stay last
    for key in ("name", "=optimizer.lr", "state", "parameters"):
        page.locator(f'#board th[data-key="{key}"] button').click()
        assert page.locator(f'#board th[data-key="{key}"]').get_attribute("aria-sort") == "ascending"


def test_filter_by_words_and_state(made, visit):
    page = visit(made[0])
    page.get_by_label("Filter", exact=True).fill("LR=0.01 seed=2")
    expect(page.locator("#count")).to_have_text("1 of 7 runs in 1 group")
    assert names(page) == ["sweep/10\nseed 2"]
    page.get_by_label("Filter", exact=True).fill("")
    page.get_by_label("State").select_option("failed")
    expect(page.locator("#board tbody td.run")).to_have_text(["sweep/4"])
    assert page.locator("#count").inner_text() == "1 of 7 runs in 1 group"


def test_two_runs_are_compared_and_highlighted(made, visit):
    page = visit(made[0])
    page.get_by_role("button", name="Show every seed").click()
    page.get_by_label("Compare sweep/0", exact=True).check()
    assert page.locator("#diff-table").count() == 0
    page.get_by_label("Compare sweep/2", exact=True).check()
    body = page.locator("#diff-table tbody").first.locator("tr")
    assert [re.split(r"\s+", line.strip()) for line in body.all_inner_texts()] == [["optimizer.lr", "0.1", "0.01"]]
    page.locator("#curves").scroll_into_view_if_needed()
    expect(page.locator("#curves-note")).to_have_text(re.compile("^2 selected runs, in front of"))
    drawn = page.evaluate("document.getElementById('curves-chart').data.map(t => [t.showlegend, t.line.width])")
    assert sorted(drawn)[-2:] == [[True, 2], [True, 2]]
    assert sorted(drawn)[0] == [False, 1]  # the other runs are in the background
    page.get_by_label("Compare sweep/1", exact=True).check()
    assert "data.seed" in page.locator("#diff-table").inner_text()
    page.get_by_role("button", name="Clear").click()
    assert page.locator("#diff-table").count() == 0


def test_details_and_names_that_are_markup(made, visit):
    page = visit(made[0])
    page.locator("#which").select_option(label="sweep/1  googlenet")
    details = page.locator("#details")
    assert details.locator(".gallery img").get_attribute("src").startswith("data:image/webp;base64,")
    assert NASTY in details.locator(".gallery").inner_text()
    assert details.locator("table", has_text="precision").locator("th[scope=row]").all_inner_texts() == CLASSES
    details.scroll_into_view_if_needed()
    page.wait_for_selector("#details .heatmaplayer image")
    page.wait_for_selector("#details .barlayer")
    ticks = page.locator("#details .ytick text").all_text_contents()
    assert "<img src=x oner…" in ticks
    roc = details.locator("figure", has_text="ROC curves")
    roc.scroll_into_view_if_needed()
    page.wait_for_selector("#details figure:has-text('ROC curves') .scatterlayer path")
    assert roc.locator(".legendtext").all_text_contents() == [CLASSES[0], f"{NASTY[:31]}…", CLASSES[2]]
    assert "Sensitivity against 1 − specificity of 3 classes" in roc.locator("figcaption").inner_text()
    assert details.get_by_role("row").filter(has_text="auroc").filter(has_text=NASTY).count() == 1
    assert "Not stated. The author can write it into intended_use.txt" in details.inner_text()
    details.get_by_text("The most confused pairs as a table").click()
    assert details.get_by_role("row").filter(has_text="40.0 %").inner_text().split("\t")[:2] == ["émeu", NASTY]
    details.get_by_text("Draw googlenet").click()
    picture = details.locator("img.network")
    assert picture.evaluate("image => image.decode().then(() => image.naturalWidth)") > 300
    assert page.locator("img[src=x]").count() == 0


def test_every_chart_draws_dark_and_light_and_on_paper(made, visit):
    page = visit(made[0], color_scheme="dark")
    background = "getComputedStyle(document.body).backgroundColor"
    dark = page.evaluate(background)
    toggle = page.get_by_role("button", name="Dark")
    assert toggle.get_attribute("aria-pressed") == "true"
    toggle.click()
    assert toggle.get_attribute("aria-pressed") == "false"
    assert page.evaluate(background) != dark
    for chart in ("curves", "cost", "sweep"):
        page.locator(f"#{chart}-chart").scroll_into_view_if_needed()
        page.wait_for_selector(f"#{chart}-chart .scatterlayer path")
        assert page.locator(f"#{chart}-chart").get_attribute("aria-label")
        assert page.locator(f"#{chart} figcaption").inner_text()
    page.locator("#curves-chart").scroll_into_view_if_needed()
    for metric in ("train/loss", "val/loss"):
        page.get_by_label("Metric").select_option(metric)
        expect(page.locator("#curves-chart")).to_have_attribute("aria-label", re.compile(metric))
    page.locator("#cost-chart").scroll_into_view_if_needed()
    page.locator("#cost-axis").select_option("minutes")
    expect(page.locator("#cost-chart")).to_have_attribute("aria-label", re.compile("against minutes"))
    page.emulate_media(media="print")
    assert not page.get_by_label("Filter", exact=True).is_visible()
    page.emulate_media(media="screen")
    page.set_viewport_size({"width": 390, "height": 800})
    assert page.evaluate("document.documentElement.scrollWidth") == 390  # only tables scroll sideways


def test_many_runs_fit_one_page(tmp_path, visit):
    for number in range(500):
        blocks = {"grid14": "residual"} if number % 25 == 0 else {}
        write_run(
            tmp_path / f"runs/{number}",
            0.5 + number / 1000,
            1 + number % 2,
            lr=number // 2 / 100,
            blocks=blocks,
            epochs=2,
            tables=number % 50 == 0,
        )
    out = tmp_path / "report.html"
    assert write_report([tmp_path / "runs"], out, lambda line: None) == "500 runs in 270 groups"
    text = out.read_text()
    data = json.loads(re.search(r'<script type="application/json" id="data">(.*?)</script>', text)[1])
    assert len(data["runs"]) == 500
    assert sum("details" in run for run in data["runs"]) == 500
    assert data["distinct"] == len(data["networks"]) == 2 <= NETWORKS
    assert len(json.dumps(data)) < 1_500_000 < DETAILS
    page = visit(out)
    assert page.locator("#board tbody tr").count() == 270
    page.get_by_label("Filter", exact=True).fill("residual seed=1")
    expect(page.locator("#count")).to_have_text("10 of 500 runs in 10 groups")
    page.locator("#curves-chart").scroll_into_view_if_needed()
    page.wait_for_selector("#curves-chart .scatterlayer path")
    assert page.evaluate("document.getElementById('curves-chart').data.length") == 8
    assert "the best 8 of 10 groups" in page.locator("#curves-note").inner_text()


def test_the_best_runs_come_first_where_room_is_short(made, monkeypatch):
    monkeypatch.setattr("inception_zoo.report.page.DETAILS", 1)
    monkeypatch.setattr("inception_zoo.report.page.NETWORKS", 1)
    data = page_data(collect([made[0].parent / "runs"], lambda line: None), pytest.fail)
    assert [run["name"] for run in data["runs"] if "details" in run] == ["sweep/3"]
    assert [run["name"] for run in data["runs"] if run["network"] == 0] == ["sweep/3"]
    assert (len(data["networks"]), data["distinct"]) == (1, 2)


def test_a_page_names_no_other_file():
    folder = Path(__file__).parents[2] / "inception_zoo" / "report"
    for path in (*folder.glob("page.*"), folder / "charts.js"):
        assert not re.search(r"https?://|@import|innerHTML|insertAdjacentHTML", path.read_text()), path
