"""What a run tells Weights & Biases, read back with W&B's own reader; what stays secret; the dashboard."""

import csv
import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
import wandb
from conftest import ROOT, SMALL, wandb_records, wandb_run
from hydra.conf import HydraConf, JobConf, OverridesConf, RuntimeConf
from hydra.types import RunMode
from omegaconf import OmegaConf

from inception_zoo.dashboard import as_json, write_dashboard
from inception_zoo.secrets import is_secret, redacted
from inception_zoo.tracking import TABLES, close, identity, log_folder

SECRET = "correct-horse-battery"
WHOLE = ["trainer.limit_test_batches=null"]  # 359 images, which one process and two share out differently


def job(folder, *words):
    environment = {k: v for k, v in os.environ.items() if not k.startswith(("WANDB", "HYDRA", "PL_"))}
    command = [sys.executable, ROOT / "run.py", *words, *SMALL, *WHOLE]
    environment["ZOO_TEST_TOKEN"] = SECRET
    done = subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    return done


@pytest.fixture(scope="module")
def swept(tmp_path_factory):
    """The folder of the one job, on two processes, of a sweep."""
    folder = tmp_path_factory.mktemp("tracked")
    words = [
        "logger.wandb.job_type=try",
        "logger.wandb.notes='to look at'",
        "trainer.default_root_dir=/${oc.env:ZOO_TEST_TOKEN}",
    ]
    done = job(folder, "-m", "model=inception_v1", "trainer.devices=2", "hydra.sweep.dir=blocks", *words)
    assert "W&B did not get" not in done.stdout + done.stderr
    return folder / "blocks/0"


class Read:
    """An offline run: `records` of every type, `history` keys, the `summary` and everything of leet's own summary."""

    def __init__(self, folder):
        (self.folder,) = folder.glob("wandb/offline-run-*")
        self.records, self.all = wandb_records(folder), wandb_run(folder)
        self.config, self.summary = self.all["config"], self.all["summary"]
        self.rows = [record["history"]["item"] for record in self.records if record["type"] == "history"]
        self.logged = {key.partition("._type")[0] for row in self.rows for key in row}

    def table(self, key):
        return json.loads((self.folder / "files" / self.summary[key]["path"]).read_text())


@pytest.fixture(scope="module")
def run(swept):
    return Read(swept)


def rows(path):
    return list(csv.DictReader(path.open()))


def test_who_the_run_is(run, swept):
    (record,) = [record["run"] for record in run.records if record["type"] == "run"][-1:]
    assert (record["display_name"], record["run_group"]) == ("googlenet-0", "blocks")
    assert (record["job_type"], record["notes"]) == ("try", "to look at")  # as the config says
    assert {"model=inception_v1", "trainer.devices=2", "data=digits"} <= set(record["tags"])
    assert not any(tag.startswith(("logger", "hydra")) for tag in record["tags"])
    results = json.loads((swept / "results.json").read_text())
    known = ("model", "parameters", "multiply_adds", "commit", "image_size", "world_size", "val/top1_best")
    assert {key: run.summary.get(key) for key in known} == {key: results.get(key) for key in known}
    assert run.config["model"]["name"] == "googlenet" and run.config["trainer"]["devices"] == 2
    assert (run.all["exit_code"], run.summary["state"]) == (0, "finished")


def test_metrics_have_one_axis_and_the_best_stands_in_the_summary(run, swept):
    logged = [row for row in run.rows if not set(row) <= {"_runtime", "_step", "_timestamp"}]
    assert all("trainer/global_step" in row for row in logged)
    assert {"train/gradient_norm", "train/peak_memory_gib", "train/images_per_second", "lr-AdamW"} <= run.logged
    best = rows(swept / "csv/version_0/metrics.csv")
    values = {key: [float(row[key]) for row in best if row[key]] for key in ("val/top1", "val/loss")}
    assert run.summary["val/top1"] == {"max": pytest.approx(max(values["val/top1"]))}
    assert run.summary["val/loss"] == {"min": pytest.approx(min(values["val/loss"]))}


def test_pictures_of_the_network_and_of_the_first_batch(run):
    for key in ("network", "train/images"):
        assert (run.folder / "files" / run.summary[key]["path"]).stat().st_size > 1000
    shown = run.summary["train/images"]  # sixteen of this process
    assert (shown["width"], shown["height"]) == (8 * 34 + 2, 2 * 34 + 2) and len(shown["caption"].split(", ")) == 16


def test_the_tables_are_those_of_the_folder(run, swept):
    table = run.table("test/per_class")
    for row, line in zip(table["data"], rows(swept / "per_class.csv"), strict=True):
        assert dict(zip(table["columns"], map(str, row), strict=True)).keys() == line.keys()
        assert row[0] == line["class"] and row[2] == float(line["top1"])
    cells = {(actual, predicted): n for actual, predicted, n in run.table("test/confusion_table")["data"]}
    for line in rows(swept / "confusion.csv"):
        assert all(cells[line["class"], name] == int(n) for name, n in line.items() if name != "class")
    bins = [line for line in rows(swept / "calibration.csv") if line["accuracy"]]
    points = [(x, y) for x, name, y in run.table("test/calibration_table")["data"] if name == "accuracy"]
    assert points == [(float(line["confidence"]), float(line["accuracy"])) for line in bins]
    worst = run.table("test/worst")
    for (picture, *names), line in zip(worst["data"], rows(swept / "worst.csv"), strict=True):
        assert picture == "Image"
        assert names == [line["label"], line["predicted"], *(float(line[key]) for key in list(line)[3:])]
    (artifact,) = [r["artifact"] for r in run.records if r["type"] == "artifact" and "testworst" in r["artifact"]["name"]]
    files = {Path(file["local_path"]) for file in artifact["manifest"]["contents"]}
    assert {path.read_bytes() for path in swept.glob("worst/*.png")} <= {file.read_bytes() for file in files}
    assert all(file.is_relative_to(swept) for file in files)


def test_one_process_finds_what_two_found(swept):
    job(swept.parent.parent, "task=test", "ckpt=blocks/0", "hydra.run.dir=one", "logger=csv")
    one = swept.parent.parent / "one"
    for name in ("worst.csv", "calibration.csv", "per_class.csv", "confusion.csv"):
        assert (one / name).read_bytes() == (swept / name).read_bytes()
    pictures = {path.name: path.read_bytes() for path in one.glob("worst/*.png")}
    assert len(pictures) == 24 and pictures == {path.name: path.read_bytes() for path in swept.glob("worst/*.png")}


def test_a_secret_of_the_environment_stands_nowhere(run, swept):
    """Not in the config that W&B has, not in a checkpoint, not in any file."""
    assert run.config["trainer"]["default_root_dir"] == "/***"
    files = [path for path in swept.rglob("*") if path.is_file()]
    assert len(files) > 20 and not [path for path in files if SECRET.encode() in path.read_bytes()]


def test_redaction(monkeypatch):
    for key in ("api_key", "WANDB_API_KEY", "apiKey", "hf_token", "token", "secret", "db-password", "AWS_SECRET_ACCESS_KEY"):
        assert is_secret(key)
    for key in ("keys", "key_padding", "tokens", "num_tokens", "token_dim", "monkey", "key", "tokenizer", "PWD", "passes"):
        assert not is_secret(key)
    monkeypatch.setenv("STORE_PASSWORD", "hunter2hunter2")
    monkeypatch.setenv("PIN_TOKEN", "1")  # too short to be looked for
    config = {
        "data": {"root": "s3://me:sesame@host/x", "key": 1, "source": ["a", "b hunter2hunter2 c"], "num_tokens": 3},
        "logger": {"api_key": "abc", "credentials": {"user": "me"}, "token": None},
        "words": ["logger.wandb.api_key=abc", "model.width=0.1", "note=the token=x"],
    }
    before = json.dumps(config)
    assert redacted(config) == {
        "data": {"root": "s3://me:***@host/x", "key": 1, "source": ["a", "b *** c"], "num_tokens": 3},
        "logger": {"api_key": "***", "credentials": "***", "token": None},
        "words": ["logger.wandb.api_key=***", "model.width=0.1", "note=the token=x"],
    }
    assert json.dumps(config) == before


def test_identity(tmp_path):
    node = OmegaConf.create(
        {"_target_": "lightning.pytorch.loggers.WandbLogger", "name": None, "group": None, "job_type": None, "tags": []}
    )
    cfg = OmegaConf.create({"task": "fit", "model": {"name": "inception_v3"}})
    words = ["seed=2", f"data.root=/{'x' * 80}", "logger.wandb.offline=false", f"model.blocks.mixed_6b=[{'1x1 64,' * 12}]"]

    def hydra(mode, folder):
        runtime, overrides = RuntimeConf(output_dir=folder), OverridesConf(task=words)
        return HydraConf(mode=mode, runtime=runtime, job=JobConf(num=12), overrides=overrides)

    single = identity(node, cfg, hydra(RunMode.RUN, "/w/outputs/day/time_x"))
    assert (single["name"], single["job_type"], single.keys() & {"group", "id"}) == ("inception_v3", "fit", set())
    assert single["tags"][0] == "seed=2" and len(single["tags"]) == 2 and len(single["tags"][1]) == 64
    swept = identity(node, cfg, hydra(RunMode.MULTIRUN, "/w/multirun/2026-11-25/08-00-00/12"))
    assert (swept["name"], swept["group"]) == ("inception_v3-12", "2026-11-25/08-00-00")
    (tmp_path / "wandb/offline-run-20261125_090314-kkc67utp").mkdir(parents=True)
    assert identity(node, cfg, hydra(RunMode.RUN, str(tmp_path)))["id"] == "kkc67utp"  # what goes on is one run
    given = OmegaConf.merge(node, {"name": "mine", "group": "ours", "tags": ["t"]})
    assert identity(given, cfg, hydra(RunMode.RUN, "/w/x")) == {"job_type": "fit"}
    other = OmegaConf.create({"_target_": "lightning.pytorch.loggers.CSVLogger", "name": None})
    assert identity(other, cfg, hydra(RunMode.RUN, "/w/x")) == {}


@pytest.mark.parametrize(
    "state, reason, code", [("failed", "ZooError: no", 1), ("interrupted", None, 255), ("pruned", "val/top1 0.1", 0)]
)
def test_a_run_ends_as_it_ended_whatever_its_folder_lacks(state, reason, code, tmp_path, caplog, monkeypatch):
    monkeypatch.setenv("WANDB_DATA_DIR", str(tmp_path))
    wandb.init(mode="offline", dir=tmp_path, settings=wandb.Settings(silent=True))
    (tmp_path / "per_class.csv").write_text("class,images\n0,many\n")
    log_folder(tmp_path, {"parameters": 7}, step=3)
    warnings = [record.getMessage() for record in caplog.records if record.name == "inception_zoo.tracking"]
    assert [text.split(": ")[0] for text in warnings] == [f"W&B did not get {name}" for name, _ in TABLES.values()]
    assert "could not convert string to float: 'many'" in warnings[0]
    close(state, reason)
    assert wandb.run is None
    close("failed")  # there is none
    found = Read(tmp_path)
    assert (found.all["exit_code"], found.summary["state"], found.summary.get("reason")) == (code, state, reason)
    assert found.summary["parameters"] == 7


def named(view):
    """(where it must be, its name) for everything that the JSON of a workspace wants to draw."""
    if isinstance(view, list):
        for child in view:
            yield from named(child)
    if not isinstance(view, dict):
        return
    for key, value in view.items():
        if key in ("metrics", "mediaKeys"):
            yield from (("history", name) for name in value)
        elif key == "metricRegex":
            yield "regex", value
        elif key == "targetKey":
            yield "summary", value
        elif key in ("xAxis", "yAxis", "accessor") and isinstance(value, str):
            where, colon, name = value.partition(":")
            yield (where, name) if colon else ("history", value)
        else:
            yield from named(value)
    if view.get("name") == "tableKey":
        yield "summary", view["value"]
    if view.get("nodeType") == "const" and view.get("type") == "string":
        yield "summary", view["val"]


def missing(text, run):
    def is_there(where, name):
        if where == "regex":
            return any(re.fullmatch(name, key) for key in run.logged)
        if where == "config":
            key, _, rest = name.partition(".value.")
            return rest in run.config.get(key, {})
        return name in (run.logged if where == "history" else run.summary)

    return {name for where, name in named(json.loads(text)) if not is_there(where, name)}


def test_the_dashboard_draws_what_a_run_logs(run):
    text = as_json("", "inception_zoo")
    assert missing(text, run) == set()
    names = {name for _, name in named(json.loads(text))}
    assert {"test/worst", "test/confusion_table", "train/gradient_norm", "val/top1_best", "multiply_adds"} <= names
    for name in names:  # each of them is looked at
        assert len(missing(text.replace(f'{name}"', f'{name}_"'), run)) >= 1, name


def test_without_a_login_the_dashboard_is_a_file(tmp_path, monkeypatch):
    monkeypatch.delenv("WANDB_API_KEY", raising=False)
    monkeypatch.setenv("NETRC", str(tmp_path / "netrc"))
    said = write_dashboard(None, "inception_zoo", tmp_path / "board.json")
    assert "wandb login" in said
    sections = json.loads((tmp_path / "board.json").read_text())["spec"]["section"]["panelBankConfig"]["sections"]
    assert [section["name"] for section in sections][:3] == ["learning", "speed", "errors"]
