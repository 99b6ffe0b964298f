"""Private names of other libraries: a table of every use, and tests that it is complete and that each name still exists.

A private name can disappear in any release. If a new version of a library removes one, these tests fail first and name
the file that has to change. Add every new use of a private name to `USES`.
"""

import ast
import importlib.util
import inspect
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).parents[2]
SOURCES = sorted([*(ROOT / "inception_zoo").rglob("*.py"), *(ROOT / "hydra_plugins").glob("*.py"), ROOT / "run.py"])
OURS = ("inception_zoo", "hydra_plugins")
DOCUMENTED = {"os._exit"}  # public, although it starts with an underscore

SUBPROCESS_LAUNCHER = "lightning.pytorch.strategies.launchers.subprocess_script._SubprocessScriptLauncher"
SPAWN_LAUNCHER = "lightning.pytorch.strategies.launchers.multiprocessing._MultiProcessingLauncher"
CSV_WRITER = "lightning.fabric.loggers.csv_logs._ExperimentWriter"
BASIC_SWEEPER = "hydra._internal.core_plugins.basic_sweeper.BasicSweeper"
MODULE = "torch.nn.Module"

# (file in inception_zoo/, name, reason); an attribute that only instances have is written after its class.
USES = [
    # Hydra
    ("config/hydra_patches.py", "hydra._internal.hydra", "its `Hydra` is replaced, to check a config before anything starts"),
    ("config/hydra_patches.py", "hydra._internal.hydra.Hydra", "base class of the replacement"),
    ("config/hydra_patches.py", "hydra._internal.config_loader_impl.ConfigLoaderImpl", "composes a config outside a job"),
    (
        "config/hydra_patches.py",
        "hydra._internal.config_repository.ConfigRepository",
        "`load_config` renames old keys of files",
    ),
    (
        "config/hydra_patches.py",
        "hydra._internal.config_loader_impl.ConfigLoaderImpl._embed_result_config",
        "replaced: each file is checked with its keys",
    ),
    ("config/hydra_patches.py", "hydra._internal.utils.create_config_search_path", "the loader's search path"),
    ("config/hydra_patches.py", "hydra._internal.utils.get_args_parser", "the command line is read before Hydra runs"),
    ("config/hydra_patches.py", "hydra.plugins.config_source.ConfigSource._get_header_dict", "skips a byte order mark"),
    ("config/hydra_patches.py", "hydra.core.utils._save_config", "replaced: `.hydra/` is written without secrets"),
    ("config/allowed.py", "hydra._internal.core_plugins.basic_launcher.BasicLauncher", "allowed as a `_target_`"),
    ("runs/sweepers.py", BASIC_SWEEPER, "base class of the sweepers"),
    ("runs/sweepers.py", f"{BASIC_SWEEPER}Conf", "base class of their configs"),
    ("runs/sweepers.py", f"{BASIC_SWEEPER}._parse_config", "the parameters of a sweep that stand in the config"),
    # Lightning
    ("tracking/csv_logger.py", f"{CSV_WRITER}._check_log_dir_exists", "overridden: a resumed run keeps its CSV"),
    ("tracking/csv_logger.py", f"{CSV_WRITER}._rewrite_with_new_header", "overridden: the file is replaced atomically"),
    ("tracking/csv_logger.py", "lightning.pytorch.loggers.CSVLogger._experiment", "set to the writer of this package"),
    ("tracking/wandb_logger.py", "lightning.pytorch.loggers.WandbLogger._experiment", "set to a null run if W&B is lost"),
    ("tracking/wandb_logger.py", "lightning.pytorch.loggers.WandbLogger._wandb_init", "an option that W&B warns of is removed"),
    ("tracking/tensorboard_logger.py", "lightning.pytorch.loggers.TensorBoardLogger._experiment", "a new file at a resume"),
    ("tracking/tensorboard_logger.py", "lightning.pytorch.loggers.TensorBoardLogger._kwargs", "the step of a resume"),
    ("tracking/mlflow_logger.py", "lightning.pytorch.loggers.MLFlowLogger._run_id", "stored, so that a resumed run continues"),
    ("tracking/mlflow_logger.py", "lightning.pytorch.loggers.MLFlowLogger._initialized", "stored once"),
    ("tracking/mlflow_logger.py", "lightning.pytorch.loggers.MLFlowLogger._mlflow_client", "returned as Lightning does"),
    ("training/callbacks.py", "lightning.pytorch.callbacks.EMAWeightAveraging._average_model", "moved to the device"),
    ("training/callbacks.py", "lightning.pytorch.callbacks.EMAWeightAveraging._latest_update_step", "0: no update yet"),
    ("training/components.py", "lightning.pytorch.Trainer._signal_connector", "its handler of SIGTERM is replaced"),
    (
        "training/components.py",
        "lightning.pytorch.trainer.connectors.signal_connector._SignalConnector._sigterm_notifier_fn",
        "replaced: it waits for all ranks inside a signal handler",
    ),
    ("training/components.py", SUBPROCESS_LAUNCHER, "recognized, to be replaced by `JobLauncher`"),
    ("training/components.py", SPAWN_LAUNCHER, "recognized, to be refused: results stay in its processes"),
    ("training/components.py", "lightning.pytorch.strategies.DDPStrategy._ddp_kwargs", "gradient_as_bucket_view with `auto`"),
    ("training/components.py", "lightning.pytorch.strategies.DDPStrategy._launcher", "set to `JobLauncher`"),
    (
        "training/last_checkpoint.py",
        "lightning.pytorch.loops.training_epoch_loop._TrainingEpochLoop._batches_that_stepped",
        "corrected: a resumed run logs its rows under the right step",
    ),
    (
        "training/last_checkpoint.py",
        "lightning.pytorch.loops.fit_loop._FitLoop._restarting",
        "corrected: ReduceLROnPlateau is stepped at the end of a resumed epoch, too",
    ),
    ("training/module.py", "lightning.pytorch.loops.fit_loop._FitLoop._data_source", "batches of an epoch, before set-up"),
    ("training/machines.py", SUBPROCESS_LAUNCHER, "recognized: its process speaks for the ranks of its machine"),
    ("training/processes.py", SUBPROCESS_LAUNCHER, "base class of `JobLauncher`"),
    (
        "training/processes.py",
        f"{SUBPROCESS_LAUNCHER}._call_children_scripts",
        "overridden: ranks start on the resolved config",
    ),
    ("training/processes.py", f"{SUBPROCESS_LAUNCHER}._check_can_spawn_children", "called by that override"),
    ("training/module.py", "torchmetrics.Metric._update_count", "a restored metric counts as updated"),
    # W&B
    ("tracking/service.py", "wandb.sdk.wandb_setup._WandbSetup._connection", "the service process, ended if W&B hangs"),
    ("tracking/service.py", "wandb.sdk.lib.service.service_connection.ServiceConnection._proc", "the same"),
    ("tracking/service.py", "wandb.sdk.lib.service.service_process.ServiceProcess._process", "the same"),
    ("tracking/dashboard.py", "wandb_workspaces.workspaces.Workspace._to_model", "the workspace as JSON, without an account"),
    # LitData
    ("data/stream.py", "litdata.utilities.env._DistributedEnv", "chunks are shared out by process, not by node"),
    ("data/stream.py", "litdata.StreamingDataset._create_cache", "the cache, before the first read"),
    ("data/stream.py", "litdata.streaming.cache.Cache._reader", "downloads whole chunks, once per machine"),
    ("data/stream.py", "litdata.streaming.reader.BinaryReader._get_chunk_index_from_index", "the chunk of an image"),
    (
        "data/chunks.py",
        "litdata.streaming.item_loader.PyTreeLoader._wait_until_chunk_ready",
        "for a check of each chunk",
    ),
    ("data/chunks.py", "litdata.streaming.item_loader.PyTreeLoader._chunks", "the number of items of a chunk"),
    # Optuna
    ("runs/study.py", "optuna.trial.FrozenTrial._trial_id", "a job's process continues the trial that the sweeper began"),
    ("runs/study.py", "optuna.Study._thread_local", "the sampler reads all trials again, as in `Study.ask`"),
    # PyTorch
    ("describe/saved_bytes.py", "torch.UntypedStorage._cdata", "identity of a storage: shared memory counts once"),
    ("bench/profile.py", "torch.utils._python_dispatch.TorchDispatchMode", "base class: it sees every call of an operator"),
    ("network/autograd/dispatch.py", "torch._C", "the next name"),
    ("network/autograd/dispatch.py", "torch._C._are_functorch_transforms_active", "torch.func needs plain modules"),
    ("network/autograd/dispatch.py", "torch._C._functorch", "the next name: gradients of several outputs at once?"),
    ("network/autograd/dispatch.py", "torch.autograd.forward_ad._current_level", "forward-mode AD needs plain modules"),
    ("interpret/circuits.py", f"{MODULE}._compiled_call_impl", "a compiled network would ignore hooks, so it is refused"),
    ("network/autograd/layers.py", f"{MODULE}._modules", "a layer that may be missing, faster than getattr"),
    ("network/autograd/layers.py", f"{MODULE}._forward_hooks", "a module with hooks runs as it is"),
    ("network/autograd/layers.py", f"{MODULE}._forward_pre_hooks", "the same"),
    ("network/autograd/layers.py", f"{MODULE}._backward_hooks", "the same"),
    ("network/autograd/layers.py", f"{MODULE}._backward_pre_hooks", "the same"),
    ("network/autograd/recipes.py", "torch.Tensor._version", "changed in place since it was saved?"),
    ("network/autograd/snapshot.py", "torch.Tensor._version", "changed in place since the forward pass?"),
    ("network/kernels/__init__.py", "torch.nn.functional._verify_batch_size", "the error for one value per channel"),
    ("network/kernels/__init__.py", "torch.ops.mkldnn._convolution_pointwise", "convolution, sum and ReLU in one call"),
    ("network/kernels/__init__.py", "torch.ops.mkldnn._is_mkldnn_bf16_supported", "bf16 on this CPU?"),
    ("serving/folding.py", "torch.ops.mkldnn._convolution_pointwise", "convolution and ReLU in one call"),
    ("serving/folding.py", "torch.ops.mkldnn._reorder_convolution_weight", "weights in the layout of oneDNN"),
]


@pytest.mark.parametrize("name", sorted({name for _, name, _ in USES}))
def test_name_exists(name):
    resolve(name)


def test_a_missing_name_is_found_missing():
    for name in ("torch.nn.Module._no_such_attribute", "torch._no_such_module.Name", "torch.Tensor._no_such_slot"):
        with pytest.raises(AttributeError):
            resolve(name)


def test_table_is_complete():
    found = {(path.relative_to(ROOT).as_posix(), name) for path in SOURCES for name in private_names(path)}
    listed = {(f"inception_zoo/{file}", name) for file, name, _ in USES}
    matches = {(use, row) for use in found for row in listed if use[0] == row[0] and f".{row[1]}".endswith(f".{use[1]}")}
    unlisted, unused = found - {use for use, _ in matches}, listed - {row for _, row in matches}
    assert not unlisted, f"private names that USES does not list: {sorted(unlisted)}"
    assert not unused, f"rows of USES for private names that are no longer used: {sorted(unused)}"


def test_every_use_is_seen(tmp_path):
    """The scan finds imports, dotted strings and attributes, and nothing that the file defines itself."""
    file = tmp_path / "sample.py"
    file.write_text(
        "import a._b\nfrom c import _d\nX = 'e._f.G'\n"
        "def use(other, own):\n    a._b.g\n    other._h\n    own._i()\n    getattr(own, '_j')\n    own.__dict__\n"
        "class Own:\n    def _i(self):\n        self._k = 1\n        return self._k\n"
    )
    assert set(private_names(file)) == {"a._b", "c._d", "e._f.G", "_h", "_j"}


def private_names(path: Path) -> Iterator[str]:
    """Yield each private name of another library that a file uses: dotted if imported or a string, else the attribute."""
    tree = ast.parse(path.read_text("utf-8"))
    nodes = list(ast.walk(tree))
    imported = set(imports(nodes))
    own = set(defined(nodes))
    yield from imported
    for node in nodes:
        match node:
            case ast.Attribute(attr=name) if is_private(name) and name not in own:
                whole = ast.unparse(node)
                is_import = any(f"{each}.".startswith(f"{whole}.") for each in imported)
                if not is_import and whole not in DOCUMENTED and not is_on_self(node):
                    yield name
            case ast.Call(func=ast.Name("getattr" | "setattr" | "hasattr"), args=[_, ast.Constant(str(name)), *_]) if (
                is_private(name) and name not in own
            ):
                yield name
            case ast.Constant(str(text)) if re.fullmatch(r"[A-Za-z]\w*(\.\w+)+", text) and is_foreign(text):
                yield text
    if path.is_relative_to(ROOT):
        yield from inherited(path, tree)


def imports(nodes: list[ast.AST]) -> Iterator[str]:
    for node in nodes:
        if isinstance(node, ast.Import):
            yield from (each.name for each in node.names if is_foreign(each.name))
        elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
            yield from (name for each in node.names if is_foreign(name := f"{node.module}.{each.name}"))


def defined(nodes: list[ast.AST]) -> Iterator[str]:
    """Yield what a file defines: functions, classes, variables, and attributes that it sets on `self`."""
    for node in nodes:
        match node:
            case ast.FunctionDef(name=name) | ast.ClassDef(name=name):
                yield name
            case ast.Name(id=name, ctx=ast.Store()) | ast.Attribute(value=ast.Name("self"), attr=name, ctx=ast.Store()):
                yield name


def inherited(path: Path, tree: ast.Module) -> Iterator[str]:
    """Yield private names that the classes of a file share with base classes from other libraries."""
    for node in tree.body:
        if not isinstance(node, ast.ClassDef) or not node.bases:
            continue
        inside = list(ast.walk(node))
        names = {each.name for each in inside if isinstance(each, ast.FunctionDef)}
        names |= {each.attr for each in inside if is_on_self(each)}
        if names := {name for name in names if is_private(name)}:
            module = ".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__")
            kind = getattr(importlib.import_module(module), node.name)
            yield from (name for name in names if has(kind, name))


def has(kind: type, attribute: str) -> bool:
    """Return True if a class, or one of its bases, from another library has an attribute or sets it on its instances."""
    foreign = [base for base in kind.__mro__ if base is not object and not base.__module__.startswith(OURS)]
    return any(attribute in vars(base) or re.search(rf"\bself\.{attribute}\b", source(base)) for base in foreign)


def source(kind: type) -> str:
    try:
        return inspect.getsource(kind)
    except (OSError, TypeError):  # written in C
        return ""


def resolve(name: str) -> Any:
    """Return the object that ``package.module.Class.attribute`` names.

    Raises:
        AttributeError: there is no such name.
    """
    found, *rest = importlib.import_module(name.partition(".")[0]), *name.split(".")[1:]
    path = found.__name__
    for part in rest:
        path = f"{path}.{part}"
        if not hasattr(found, part) and inspect.isclass(found) and has(found, part):
            return part  # only instances have it
        if not hasattr(found, part) and inspect.ismodule(found) and importlib.util.find_spec(path):
            found = importlib.import_module(path)  # Hydra loads its plugins without making them attributes of their package
        else:
            found = getattr(found, part)
    return found


def is_private(name: str) -> bool:
    """Return True for `_name`; False for `__name__`, for `_` and for keys of Hydra such as `_target_`."""
    return name.startswith("_") and not name.startswith("__") and not name.endswith("_")


def is_foreign(dotted: str) -> bool:
    """Return True for a dotted name of another library with a private part."""
    parts = dotted.split(".")
    return parts[0] not in OURS and any(map(is_private, parts))


def is_on_self(node: ast.AST) -> bool:
    """Return True for `self.name` and `cls.name`: the class or a base class defines it (see `inherited`)."""
    return isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name) and node.value.id in ("self", "cls")
