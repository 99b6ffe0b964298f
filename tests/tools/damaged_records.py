"""Damaged copies of the records that this package writes and reads again, and a property for `make fuzz`."""

import json
import tempfile
from pathlib import Path

from hypothesis import given
from hypothesis import strategies as st
from tools.examples import examples

from inception_zoo.bench.results import read
from inception_zoo.bench.targets import read_targets
from inception_zoo.config.explain import CAUGHT
from inception_zoo.data.layout import count_classes
from inception_zoo.data.stream import _index
from inception_zoo.report.collect import collect
from inception_zoo.report.page import page_data
from inception_zoo.runs.results import check_free, evaluated_checkpoint, is_interrupted, read_results
from inception_zoo.runs.sweepers import _is_done
from inception_zoo.runs.sweeps import jobs_of, progress, resumed, sweep_table, words_of, write_results
from inception_zoo.tracking.csv_logger import CSVLogger

INDEX = {
    "config": {"data_format": ["str", "int", "bytes"]},
    "chunks": [{"filename": "a.bin", "chunk_bytes": 1, "chunk_size": 1}],
    "splits": ["train"],
    "classes": ["a"],
    "images_per_class": [1],
}
RUN = {"state": "finished", "reason": None, "started": "2026-01-01T00:00:00+00:00", "minutes": 1.0, "val/top1_best": 0.5}
RECORDS = {  # path in a sweep with the job `0` → content
    "sweep.json": json.dumps({"argv": ["-m", "seed=1,2"], "cwd": "/", "jobs": ["0", "1"], "fails_again": True}),
    "0/results.json": json.dumps({**RUN, "model": "googlenet", "monitor": "val/top1", "mode": "max", "tested": None}),
    "0/.hydra/overrides.yaml": "- seed=1\n",
    "0/.hydra/config.yaml": "seed: 1\nmodel: {name: googlenet}\n",
    "0/.hydra/resolved.yaml": "seed: 1\nmodel: {name: googlenet}\n",
    "0/csv/version_0/metrics.csv": "epoch,step,val/top1\r\n0,1,0.25\r\n1,2,0.5\r\n",
    "0/per_class.csv": "class,images,top1,top5,precision,f1\r\na,1,1,1,1,1\r\n",
    "0/confusion.csv": "class,a\r\na,1\r\n",
    "0/curves.csv": "class,threshold,sensitivity,specificity,precision\r\n0,0.5,1,0.5,0.5\r\n",
    "0/subgroups.csv": "column,subgroup,metric,class,images,value,low,high\r\nsex,f,auroc,a,5,0.9,0.8,1\r\n",
    "0/intended_use.txt": "Research only.\n",
    "0/calibration.csv": "bin_low,bin_high,images,accuracy,confidence\r\n0,1,1,1,1\r\n",
    "0/worst.csv": "picture,label,predicted,probability,probability_of_label,loss,image\r\n",
    "data/classes.json": '["a"]',
    "data/train/index.json": json.dumps(INDEX),
    "bench/results.json": json.dumps({"runs": [{}], "figures": {"a/b": {"unit": "s", "values": [1.0], "run": 0}}}),
    "bench/targets.json": '[{"name": "a", "sense": ">=", "bound": 1.0, "pairs": [["a/b", null]]}]',
}
OTHER_TYPES = ("[1]", "7", '"a"', "null", "{}", '[{"a": 1}]', '{"state": 5, "jobs": 1e9, "argv": "a", "cwd": [], "figures": 1}')
DAMAGES = {
    "missing": lambda content: None,
    "empty": lambda content: b"",
    "half": lambda content: content[: len(content) // 2],
    "cut by a byte": lambda content: content[:-1],
    "zeros": lambda content: bytes(len(content)),
    "binary": lambda content: bytes(range(256)) * 4,
    "deep": lambda content: b"[" * 100_000,
    **{f"another version: {text}": lambda content, text=text: text.encode() for text in OTHER_TYPES},
}


def write_sweep(folder, name=None, damage=lambda content: content):
    """Write a sweep with one finished job and all other records; damage the record `name`."""
    for record, text in RECORDS.items():
        path, content = folder / record, text.replace('"cwd": "/"', f'"cwd": "{Path.cwd()}"').encode()
        content = damage(content) if record == name else content
        path.parent.mkdir(parents=True, exist_ok=True)
        if content is not None:
            path.write_bytes(content)
    return folder


def commands(sweep, record):
    """Return what the commands read of a record in a sweep: name → function."""
    job = sweep / "0"
    others = {
        "data": lambda: (count_classes(str(sweep / "data")), _index(str(sweep / "data"), "train")),
        "bench": lambda: (read(sweep / "bench" / "results.json", "--compare"), read_targets(sweep / "bench")),
    }
    if (room := record.partition("/")[0]) in others:
        return {room: others[room]}
    return {
        "-m sweep.resume": lambda: (resumed(["-m", f"sweep.resume={sweep}"]), _is_done(job, ["seed=1"])),
        "the table of a sweep": lambda: (write_results(sweep, jobs_of(sweep)), sweep_table(jobs_of(sweep), 80)),
        "progress": lambda: progress(sweep / "1"),
        "ckpt=RUN": lambda: (evaluated_checkpoint(job), words_of(job), is_interrupted(job), read_results(job)),
        "hydra.run.dir=RUN": lambda: check_free(job, "fit", "last"),
        "hydra.run.dir=RUN, anew": lambda: check_free(job, "fit", None),
        "report": lambda: page_data(collect([sweep], len), len),
        "logger=csv": lambda: CSVLogger(str(job), "csv").go_on(2),
    }


def outcome(command):
    """Return the line of an error that a user can correct; None without an error. Any other error is a fault."""
    try:
        command()
    except CAUGHT as error:
        return str(error)
    return None


@st.composite
def damages(draw):
    content = RECORDS[name := draw(st.sampled_from(sorted(RECORDS)))].encode()
    for _ in range(draw(st.integers(1, 3))):
        at, size = draw(st.integers(0, len(content))), draw(st.integers(0, 20))
        new = draw(st.one_of(st.binary(max_size=8), st.sampled_from([b"", b"null", b"[]", b"{}", b"1e999", b'"', b"\n", b","])))
        content = content[:at] + new + content[at + size :]
    return name, content


@examples(25)
@given(damages())
def any_record_is_read_or_an_error_of_ours(damaged):
    name, content = damaged
    with tempfile.TemporaryDirectory() as folder:
        sweep = write_sweep(Path(folder) / "sweep", name, lambda _: content)
        for command in commands(sweep, name).values():
            said = outcome(command)
            assert said is None or ("\n" not in said and len(said) < 1000), said
