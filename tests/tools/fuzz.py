"""Random input until the time is over: `make fuzz MINUTES=5`. Hypothesis reduces each failure to a small example.

Targets:
    tests/properties, with new examples;
    random overrides on the command line, through Hydra and the config check;
    damaged records of runs, sweeps, data sets and benchmarks;
    corrupt weight files, each read in a separate process with a memory limit; it must not run code, write files or hang.
"""

import argparse
import io
import os
import resource
import signal
import subprocess
import sys
import tempfile
import time
import traceback
import zipfile
from contextlib import chdir, redirect_stderr
from functools import cache, partial
from pathlib import Path

os.environ["INCEPTION_ZOO_FUZZ"] = "1"  # set before the properties are imported: new examples each time
os.environ.setdefault("OMP_NUM_THREADS", "1")

sys.path.append(str(Path(__file__).resolve().parents[1]))
import pytest
import torch
from hydra._internal import hydra as hydra_internal
from hydra._internal.utils import create_config_search_path, get_args_parser
from hydra.core.global_hydra import GlobalHydra
from hydra.types import RunMode
from hypothesis import given, seed
from hypothesis import strategies as st
from rich.console import Console
from tools import hostile_files
from tools.damaged_records import any_record_is_read_or_an_error_of_ours
from tools.examples import examples, rows
from tools.hostile_configs import a_file_passes_no_other_variable_target_or_secret
from tools.hostile_text import PROPERTIES as TEXTS

from inception_zoo import create_model, load_model
from inception_zoo.architecture.notation import show
from inception_zoo.config import CONF, hydra_patches
from inception_zoo.config.composed import check_composed
from inception_zoo.config.explain import check_flags, one_line_errors
from inception_zoo.config.targets import VARIABLE, trust_words
from inception_zoo.errors import TREE, ZooError
from inception_zoo.runs import folders
from inception_zoo.weights.files import METADATA, write_weights
from inception_zoo.weights.saving import card_of, export_weights, save_model

# Overrides on the command line

WORDS = """
model=inception_v3 model=googlenet model=inception_resnet_v1 model.width=0.25 model.norm=group model.stem=small
model.aux=false model.blocks.grid17=residual model.blocks.all=parallel block=expanded
model.blocks.inception_3a=["max","1x1_8"] model.freeze=mixed_5b model.weights=timm:inception_v4.tf_in1k
model.adapt=[head] data=digits data=imagefolder data.root=photos data.image_size=32 data.mean=[0.5]
data.progressive={0:64,1:96} data.workers=0 data.classes=[0,1] data.crops=10 augmentation=randaugment
augmentation.mixup=0.2 augmentation.transforms.flip=null optimizer=sgd optimizer.lr=0.1 scheduler=one_cycle
recipe=modern recipe=null experiment=quickstart trainer=smoke trainer.devices=2 trainer.max_epochs=3
+trainer.val_check_interval=2 callbacks=ema callbacks.ema.decay=0.9 logger=csv logger.wandb.offline=true ckpt=last
task=test seed=1 label_smoothing=0.1 layer_decay=0.8 lr_for_batch=256 hydra.run.dir=x sweep.trial=1
~scheduler.warmup_epochs ~augmentation.transforms
""".split()  # noqa: SIM905
PIECES = [
    "=",
    "==",
    "~",
    "+",
    "++",
    "@",
    ":",
    ".",
    ",",
    "null",
    "true",
    "nan",
    "-1",
    "1e999",
    "[]",
    "{}",
    "[",
    "{",
    "'",
    '"',
    "\\",
    " ",
]
PIECES += ["${seed}", "${nothing}", "${oc.env:HOME}", "${", "???", "é", "\n", "9" * 5000, "_target_", "hydra.job.name"]


@st.composite
def words(draw):
    word = draw(st.sampled_from(WORDS))
    key, _, value = word.partition("=")
    piece, at = draw(st.sampled_from(PIECES)), draw(st.integers(0, len(word)))
    other = draw(st.sampled_from(WORDS))
    written = f"model.blocks.{draw(st.sampled_from(['inception_3a', 'all', 'grid14']))}=['{show(draw(rows))}']"
    mutated = [word[:at] + piece + word[at:], word[:at] + word[at + 1 :], f"{key}={piece}", f"{key}={other.partition('=')[2]}"]
    return draw(st.sampled_from([word, *mutated, f"~{key}", f"+{key}.x={value}", f"{key}.{piece}={value}", piece, written]))


@examples(100)
@given(st.lists(words(), min_size=1, max_size=4))
def any_words_make_a_config_or_lines_that_say_why(overrides):
    said = io.StringIO()
    with tempfile.TemporaryDirectory() as folder, chdir(folder), redirect_stderr(said):
        os.environ["HOME"] = folder  # an override may write there
        sys.argv[1:] = overrides
        try:
            with one_line_errors():
                _as_far_as_the_check(overrides)
            return
        except SystemExit as end:
            assert end.code == 2
        finally:
            os.environ.pop(VARIABLE, None)  # `trust_words` has set it
            for claimed in list(folders._claimed):
                folders.release(claimed)
            folders.keep()
    lines = said.getvalue().replace(TREE, "").splitlines()
    assert lines and all(line.startswith("error: ") and line.isprintable() for line in lines), lines


def _as_far_as_the_check(overrides):
    """Compose and check a config as a command does before it imports torch."""
    hydra_patches.install()
    hydra_patches.check_when_composed(check_composed)
    trust_words(overrides)
    check_flags()
    GlobalHydra.instance().clear()
    hydra = hydra_internal.Hydra.create_main_hydra2("fuzz", create_config_search_path(str(CONF)))
    hydra.acts = True
    words = get_args_parser().parse_args(overrides).overrides
    hydra.compose_config(config_name="config", overrides=words, run_mode=RunMode.RUN)


# Weight files

SUFFIXES = ("zip.ckpt", "legacy.pth", ".safetensors", ".h5")
GIB = 2**30


@cache
def whole_files():
    """Return a small network in every file format, as bytes."""
    model = create_model("googlenet_bn", 3, width=0.07, aux=False)
    keras = create_model("inception_v3_slim", 3, width=0.25, aux=False)
    card = card_of(model).plain()
    state = {f"model.{key}": value for key, value in model.state_dict().items()}
    checkpoint = {
        "state_dict": state,
        METADATA: card,
        "hyper_parameters": {"model": card["model"], "data": {}, "trainer": {}},
        "epoch": 1,
    }
    found = {}
    with tempfile.TemporaryDirectory() as folder:
        for suffix in SUFFIXES:
            path = Path(folder) / f"weights{suffix}"
            if suffix.endswith((".ckpt", ".pth")):
                torch.save(checkpoint, path, _use_new_zipfile_serialization=suffix.startswith("zip"))
            elif suffix == ".safetensors":
                save_model(model, path)
            else:
                write_weights(path, export_weights(keras, "keras"))
            found[suffix] = path.read_bytes()
    return found


@st.composite
def damaged(draw):
    """Return (suffix, bytes) of a corrupt file; most changes are near the start or end, where its structure is stored."""
    suffix = draw(st.sampled_from(SUFFIXES))
    data = whole_files()[suffix]
    if suffix == "zip.ckpt" and draw(st.booleans()):  # inside the archive, with valid checksums
        return suffix, _rezipped(data, lambda pickle: draw(_changed(pickle)))
    return suffix, draw(_changed(data))


@st.composite
def _changed(draw, data):
    for _ in range(draw(st.integers(1, 4))):
        near = min(len(data) - 1, draw(st.sampled_from([64, 1024, 16384, len(data)])))
        at = draw(st.integers(0, near))
        at = len(data) - 1 - at if draw(st.booleans()) else at
        what = draw(st.sampled_from(["byte", "cut", "drop", "repeat", "number", "zeros"]))
        size = draw(st.integers(1, 64))
        if what == "byte":
            data = data[:at] + bytes([draw(st.integers(0, 255))]) + data[at + 1 :]
        elif what == "number":
            number = draw(st.sampled_from([0, 1, 2**31 - 1, 2**32 - 1, 2**40, 2**63 - 1, 2**64 - 1])).to_bytes(8, "little")
            data = data[:at] + number + data[at + 8 :]
        else:
            part = {
                "cut": b"",
                "drop": data[at + size :],
                "repeat": data[at - size :],
                "zeros": bytes(size) + data[at + size :],
            }
            data = data[:at] + part[what]
        if len(data) < 2:
            break
    return data


def _rezipped(data, change):
    out = io.BytesIO()
    with zipfile.ZipFile(io.BytesIO(data)) as source, zipfile.ZipFile(out, "w") as target:
        for entry in source.infolist():
            content = source.read(entry)
            target.writestr(entry.filename, change(content) if entry.filename.endswith("data.pkl") else content)
    return out.getvalue()


@examples(60)
@given(damaged())
def any_bytes_are_weights_or_an_error_of_ours(file):
    suffix, data = file
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / f"weights{suffix}"
        path.write_bytes(data)
        status, said = in_a_child(lambda: load_model(path))
        assert status == 0, f"{status}: {said}"
        assert list(Path(folder).iterdir()) == [path]


def in_a_child(read, seconds=20, memory=GIB):
    """Call `read` in a fork that may allocate `memory` more bytes; return its exit status (0 after a ZooError) and stderr."""
    receive, send = os.pipe()
    child = os.fork()
    if child == 0:
        signal.signal(signal.SIGALRM, signal.SIG_DFL)
        signal.alarm(seconds)
        os.dup2(send, 2)
        used = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
        resource.setrlimit(resource.RLIMIT_AS, (used + memory, used + memory))
        sys.addaudithook(_forbid)
        status = 1
        try:
            read()
            status = 0
        except ZooError:
            status = 0
        except BaseException:
            traceback.print_exc()
        os._exit(status)
    os.close(send)
    with open(receive, "rb") as pipe:  # noqa: PTH123
        said = pipe.read().decode(errors="replace")
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]), said


def _forbid(event, arguments):
    if event in (
        "os.system",
        "os.exec",
        "os.posix_spawn",
        "os.fork",
        "subprocess.Popen",
        "socket.connect",
        "os.remove",
        "os.rename",
    ):
        os.write(2, f"{event} {arguments}".encode())
        os._exit(99)


# Run the targets in turn


def properties(only, number):
    """Run the properties with pytest in another process: its plugin has to be loaded before Hypothesis draws anything."""
    folder = Path(__file__).resolve().parents[1] / "properties"
    words = [sys.executable, "-m", "pytest", folder, "-q", "--no-header", "-p", "no:cacheprovider", "-k", only]
    status = subprocess.run([*words, *([] if number is None else [f"--hypothesis-seed={number}"])]).returncode
    assert status in (pytest.ExitCode.OK, pytest.ExitCode.NO_TESTS_COLLECTED), "a property does not hold"


def of_this_file(target):
    return lambda number: (target if number is None else seed(number)(target))()


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--minutes", type=float, default=5)
    parser.add_argument("--seed", type=int, default=None, help="repeat a run that was seeded; otherwise new examples")
    parser.add_argument("--only", default="", help="part of a target's name")
    options = parser.parse_args()
    own = [any_words_make_a_config_or_lines_that_say_why, any_bytes_are_weights_or_an_error_of_ours]
    own += [a_file_passes_no_other_variable_target_or_secret, any_record_is_read_or_an_error_of_ours]
    own += [*TEXTS, *hostile_files.PROPERTIES]
    targets = {found.__name__: of_this_file(found) for found in own if options.only in found.__name__}
    if not targets or not options.only:
        targets["properties"] = partial(properties, options.only)
    deadline, rounds, failed = time.monotonic() + 60 * options.minutes, dict.fromkeys(targets, 0), []
    while time.monotonic() < deadline and len(failed) < len(targets):
        for name in [name for name in targets if name not in failed]:
            try:
                targets[name](None if options.seed is None else options.seed + rounds[name])
                rounds[name] += 1
            except Exception:
                traceback.print_exc()
                failed.append(name)
            if time.monotonic() > deadline:
                break
    console = Console()
    for name in targets:
        console.print(f"{name}: {'[red]failed' if name in failed else 'holds'} after {rounds[name]} rounds")
    sys.exit(bool(failed))


if __name__ == "__main__":
    main()
