"""W&B logging, read with W&B's own reader; redaction of secrets; the dashboard."""

import csv
import json
import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import wandb
from conftest import ROOT, SMALL, lines, wandb_records, wandb_run
from hydra.conf import HydraConf, JobConf, OverridesConf, RuntimeConf
from hydra.types import RunMode
from omegaconf import OmegaConf
from tools import commands

from inception_zoo.redaction import is_secret, redacted
from inception_zoo.report.page import write_report
from inception_zoo.runs.sweeps import words_of
from inception_zoo.tracking.dashboard import as_json, write_dashboard
from inception_zoo.tracking.service import _within, close
from inception_zoo.tracking.wandb_logger import WandbLogger, identity
from inception_zoo.tracking.wandb_tables import TABLES, log_folder

SECRET = "correct-horse-battery"
WHOLE = ["trainer.limit_test_batches=null"]  # 359 images: one and two processes split them differently


@pytest.fixture(scope="module")
def job(tmp_path_factory):
    """Return a function that runs a job in a folder shared by this module's tests."""
    folder = tmp_path_factory.mktemp("tracked")

    def run(*words):
        done = commands.run([ROOT / "run.py", *words, *SMALL, *WHOLE], folder, env={"ZOO_TEST_TOKEN": SECRET})
        assert done.returncode == 0, done.stderr
        assert "W&B could not log" not in done.stdout + done.stderr
        return folder

    return run


@pytest.fixture(scope="module")
def swept(job):
    """Run a sweep of one job on two processes; return the job's run folder."""
    words = [
        "logger.wandb.job_type=try",
        "logger.wandb.notes='to look at'",
        "trainer.default_root_dir=/${oc.env:ZOO_TEST_TOKEN}",
    ]
    return job("-m", "model=inception_v1", "trainer.devices=2", "hydra.sweep.dir=blocks", *words) / "blocks/0"


class Read:
    """An offline W&B run: all records, config, summary, history rows and logged keys."""

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
    return list(csv.DictReader(path.read_text().splitlines()))


def test_who_the_run_is(run, swept):
    (record,) = [record["run"] for record in run.records if record["type"] == "run"][-1:]
    assert (record["display_name"], record["run_group"]) == ("googlenet-0", "blocks")
    assert (record["job_type"], record["notes"]) == ("try", "to look at")  # as set in the config
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
    shown = run.summary["train/images"]  # sixteen images of rank 0
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
        assert names == [line["label"], line["predicted"], *(float(line[key]) for key in list(line)[3:-1]), line["image"]]
    (artifact,) = [r["artifact"] for r in run.records if r["type"] == "artifact" and "testworst" in r["artifact"]["name"]]
    files = {Path(file["local_path"]) for file in artifact["manifest"]["contents"]}
    assert {path.read_bytes() for path in swept.glob("worst/*.png")} <= {file.read_bytes() for file in files}
    assert all(file.is_relative_to(swept) for file in files)


def test_one_process_finds_what_two_found(swept, job):
    one = job("task=test", "ckpt=blocks/0", "hydra.run.dir=one", "logger=csv") / "one"
    for name in ("worst.csv", "calibration.csv", "per_class.csv", "confusion.csv"):
        assert (one / name).read_bytes() == (swept / name).read_bytes()
    pictures = {path.name: path.read_bytes() for path in one.glob("worst/*.png")}
    assert len(pictures) == 24 and pictures == {path.name: path.read_bytes() for path in swept.glob("worst/*.png")}


def test_a_secret_of_the_environment_stands_nowhere(run, swept):
    """The secret is neither in W&B's config nor in a checkpoint nor in any other file."""
    assert run.config["trainer"]["default_root_dir"] == "/***"
    files = [path for path in swept.rglob("*") if path.is_file()]
    assert len(files) > 20 and not [path for path in files if SECRET.encode() in path.read_bytes()]


def test_redaction(monkeypatch):
    for key in ("api_key", "WANDB_API_KEY", "apiKey", "hf_token", "token", "secret", "db-password", "AWS_SECRET_ACCESS_KEY"):
        assert is_secret(key)
    for key in ("keys", "key_padding", "tokens", "num_tokens", "token_dim", "monkey", "key", "tokenizer", "PWD", "passes"):
        assert not is_secret(key)
    monkeypatch.setenv("STORE_PASSWORD", "hunter2hunter2")
    monkeypatch.setenv("PIN_TOKEN", "1")  # too short to be searched for
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
    cfg = OmegaConf.create({"task": "fit", "run_name": None, "model": {"name": "inception_v3"}})
    words = ["seed=2", f"data.root=/{'x' * 80}", "logger.wandb.offline=false", f"model.blocks.mixed_6b=[{'1x1 64,' * 12}]"]

    def hydra(mode, folder):
        runtime, overrides = RuntimeConf(output_dir=folder), OverridesConf(task=words)
        return HydraConf(mode=mode, runtime=runtime, job=JobConf(num=12), overrides=overrides)

    single = identity(node, cfg, hydra(RunMode.RUN, "/w/outputs/day/time_x"))
    assert (single["name"], single["job_type"], single.keys() & {"group", "id"}) == ("inception_v3", "fit", set())
    assert single["tags"][0] == "seed=2" and len(single["tags"]) == 2 and len(single["tags"][1]) == 64
    swept = identity(node, cfg, hydra(RunMode.MULTIRUN, "/w/multirun/2026-11-25/08-00-00/12"))
    assert (swept["name"], swept["group"]) == ("inception_v3-12", "2026-11-25/08-00-00")
    named = identity(node, OmegaConf.merge(cfg, {"run_name": "V1, wide"}), hydra(RunMode.MULTIRUN, "/w/multirun/x/12"))
    assert named["name"] == "V1, wide-12"
    (tmp_path / "wandb/offline-run-20261125_090314-kkc67utp").mkdir(parents=True)
    assert identity(node, cfg, hydra(RunMode.RUN, str(tmp_path)))["id"] == "kkc67utp"  # a resumed run keeps its id
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
    log_folder(tmp_path, {"parameters": 7}, step=3, written=[name for name, _ in TABLES.values()])
    warnings = [record.getMessage() for record in caplog.records if record.name == "inception_zoo.tracking.service"]
    assert [text.split(": ")[0] for text in warnings] == [f"W&B could not log {name}" for name, _ in TABLES.values()]
    assert any("could not convert string to float: 'many'" in warning for warning in warnings)
    close(state, reason)
    assert wandb.run is None
    close("failed")  # no open run: nothing to close
    found = Read(tmp_path)
    assert (found.all["exit_code"], found.summary["state"], found.summary.get("reason")) == (code, state, reason)
    assert found.summary["parameters"] == 7


PLANTED = {  # source of a secret → text that must not appear anywhere
    "a variable": "variable-of-the-environment",
    "a key": "typed-on-the-command-line",
    "a key of a service": "AKIA" + "ABCDEFGHIJKLMNOP",
    "a token of a service": "hf_" + "abcdefghij" * 3,
    "a password in an address": "sesame-open-yourself",
}


def test_secrets_of_the_command_line_stand_nowhere(zoo, tmp_path):
    """No secret is in the files of a sweep or job, in the output or on the page; resuming reports that a secret is missing."""
    variable, key, service, token, password = PLANTED.values()
    words = [
        f"+logger.wandb.config.api_key={key}",
        f"logger.wandb.notes='{service} of {token} at s3://me:{password}@host/set'",
        f"trainer.default_root_dir=/tmp/{variable}",
    ]
    done = zoo("-m", "hydra.sweep.dir=sweep", *SMALL, *words, env={"STORE_TOKEN": variable})
    assert done.returncode == 0, done.stderr
    sweep = tmp_path / "sweep"
    write_report([sweep], tmp_path / "report.html", pytest.fail)
    files = [path for path in tmp_path.rglob("*") if path.is_file()]
    assert {"multirun.yaml", "sweep.json", "hydra.yaml", "overrides.yaml", "resolved.yaml", "last.ckpt"} <= {
        f.name for f in files
    }
    found = {(name, path) for path in files for name, secret in PLANTED.items() if secret.encode() in path.read_bytes()}
    assert found == set()
    assert f"{words[0].partition('=')[0]}=***" in words_of(sweep / "0")
    again = zoo("-m", "hydra.sweep.dir=sweep", *SMALL, *words, env={"STORE_TOKEN": variable})
    assert again.returncode == 0 and "Epoch 0" not in again.stdout, again.stderr  # its only job had finished
    resumed = zoo("-m", "sweep.resume=sweep")
    assert resumed.returncode == 2 and "contained a secret, and secrets are not saved" in lines(resumed.stderr)[-1]


def test_keys_are_known_by_their_looks(monkeypatch):
    hidden = {
        "key AKIAABCDEFGHIJKLMNOP, used": "key ***, used",
        "ghp_" + "a1" * 18: "***",
        "github_pat_" + "a1" * 20: "***",
        "https://" + "a1" * 15 + "@host/x": "https://:***@host/x",
        "AIza" + "a1" * 17: "***",
        "xoxb-1234567890-abc": "***",
        "wandb_v1_" + "a1" * 20: "***",
        "eyJhbGciOiJIUzI1NiJ9.eyJzdWIiOiIxMjM0In0.abc": "***",
        "-----BEGIN RSA PRIVATE KEY-----\nMII\n-----END RSA PRIVATE KEY-----\n": "***\n",
        "at https://h/x?token=abcdef&size=3": "at https://h/x?token=***&size=3",
        "model=a,+store.password=hunter2,seed=1": "model=a,+store.password=***,seed=1",
        "{'api_key': 'abc', 'a': 1}": "{'api_key': ***, 'a': 1}",
        "+store.token=a,b c": "+store.token=***",
    }
    assert {text: redacted(text) for text in hidden} == hidden
    for text in (
        "46651a4" + "0" * 33,
        "store.token=${oc.env:TOKEN}",
        "num_tokens=12345",
        "s3://bucket/a:b@c",
        "hf_hub",
        "sk-learn",
    ):
        assert redacted(text) == text
    assert redacted("store.token=${oc.env:TOKEN,abc}") == "store.token=***"  # the default value may be a secret


def test_logs_and_last_words_hold_no_secret(tmp_path):
    code = """
import logging, sys
from inception_zoo.redaction import guard
guard()
logging.basicConfig(stream=sys.stdout)
try:
    raise ValueError("password=hunter2")
except ValueError:
    logging.exception("at %s", "s3://me:sesame@host")
logging.error("%d", "no number")
raise KeyError("token=abcdef")
"""
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True)
    said = done.stdout + done.stderr
    assert done.returncode == 1 and "ValueError: password=***" in said and "at s3://me:***@host" in said
    assert "KeyError: 'token=***" in said
    assert not any(secret in done.stdout + lines(done.stderr)[-1] for secret in ("sesame", "abcdef"))


def named(view):
    """Yield (place, name) for each metric that the JSON of a workspace draws."""
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
    for name in names:  # a changed name must be reported as missing
        assert len(missing(text.replace(f'{name}"', f'{name}_"'), run)) >= 1, name


def test_without_a_login_the_dashboard_is_a_file(tmp_path, monkeypatch):
    monkeypatch.delenv("WANDB_API_KEY", raising=False)
    monkeypatch.setenv("NETRC", str(tmp_path / "netrc"))
    said = write_dashboard(None, "inception_zoo", tmp_path / "board.json")
    assert "wandb login" in said
    sections = json.loads((tmp_path / "board.json").read_text())["spec"]["section"]["panelBankConfig"]["sections"]
    assert [section["name"] for section in sections][:3] == ["training", "speed", "evaluation"]


def test_a_training_goes_on_where_wandb_is_killed(tmp_path):
    command = [ROOT / "run.py", *SMALL, "trainer.max_epochs=4", "hydra.run.dir=run"]
    with commands.started(command, tmp_path, tmp_path / "out.txt", timeout=120) as job:
        metrics = tmp_path / "run/csv/version_0/metrics.csv"
        while not (metrics.exists() and "\n1," in metrics.read_text()) and job.is_alive():
            time.sleep(0.1)
        os.kill(service_of(job.pid), signal.SIGKILL)
    said = (tmp_path / "out.txt").read_text()
    assert job.exitcode == 0, said
    assert said.count("W&B logging failed; the run continues without it") == 1 and "W&B could not log" not in said
    assert "Traceback" not in said
    assert {row["epoch"] for row in rows(metrics) if row["val/top1"]} == {"0", "1", "2", "3"}
    assert json.loads((tmp_path / "run/results.json").read_text())["state"] == "finished"


def service_of(pid):
    children = [int(child) for path in Path(f"/proc/{pid}/task").glob("*/children") for child in path.read_text().split()]
    (service,) = [child for child in children if b"wandb-core" in Path(f"/proc/{child}/cmdline").read_bytes()]
    return service


def test_what_wandb_never_answers_is_not_waited_for():
    started = time.monotonic()
    with pytest.raises(TimeoutError, match=r"no answer for 0\.1 seconds"):
        _within(0.1, lambda: time.sleep(2))
    assert time.monotonic() - started < 1
    with pytest.raises(OSError, match="gone"):
        _within(1, lambda: (_ for _ in ()).throw(OSError("gone")))


def test_a_run_of_wandbs_that_cannot_begin_is_a_warning(tmp_path, monkeypatch, caplog):
    monkeypatch.setenv("WANDB_BASE_URL", "http://127.0.0.1:9")
    monkeypatch.setenv("WANDB_API_KEY", "0" * 40)
    settings = wandb.Settings(init_timeout=2, silent=True)
    logger = WandbLogger(save_dir=str(tmp_path), settings=settings, notes="s3://me:sesame@host")
    logger.experiment.summary.update({"a": 1})
    logger.log_metrics({"a": 1.0}, 1)
    logger.finalize("success")
    said = [record.getMessage() for record in caplog.records if record.name == "inception_zoo.tracking.service"]
    assert len(said) == 1 and said[0].startswith("W&B logging failed") and wandb.run is None
    assert logger._wandb_init["notes"] == "s3://me:***@host"
