"""Config values with which a file could run code, write outside the run folder, read a secret or call an address."""

from hypothesis import given
from hypothesis import strategies as st
from tools.examples import examples

from inception_zoo.config.allowed import FOR_FILES, TARGETS
from inception_zoo.config.targets import own, refused_in_file, refused_targets

SHELL = "touch pwned; false"
ONLY_TYPED = {  # key → value; the file that sets it is refused when it is read, before anything is composed
    **{
        f"hydra.job.env_set.{name}": SHELL
        for name in ("GIT_CONFIG_PARAMETERS", "GIT_SSH_COMMAND", "GIT_EXTERNAL_DIFF", "CXX", "CC")
    },
    **{f"hydra.job.env_set.{name}": "core.fsmonitor" for name in ("GIT_CONFIG_KEY_0", "GIT_DIR", "GIT_EXEC_PATH", "GIT_PAGER")},
    **{f"hydra.job.env_set.{name}": "1" for name in ("GIT_CONFIG_COUNT", "omp_num_threads", "OMP_NUM_THREADS_X", "BASH_ENV")},
    **{f"hydra.job.env_set.{name}": "evil.so" for name in ("NCCL_NET_PLUGIN", "NCCL_TUNER_PLUGIN", "NCCL_PROFILER_PLUGIN")},
    **{f"hydra.job.env_set.{name}": "evil.so" for name in ("LD_PRELOAD", "LD_LIBRARY_PATH", "DYLD_INSERT_LIBRARIES", "PATH")},
    **{f"hydra.job.env_set.{name}": "evil" for name in ("PYTHONPATH", "PYTHONSTARTUP", "INCEPTION_ZOO_TARGETS", "HOME")},
    **{f"hydra.job.env_set.{name}": "evil" for name in ("TORCHINDUCTOR_CACHE_DIR", "TRITON_CACHE_DIR", "XDG_CACHE_HOME")},
    **{f"hydra.job.env_set.{name}": "evil" for name in ("WANDB_BASE_URL", "WANDB__EXECUTABLE", "MLFLOW_TRACKING_URI", "NETRC")},
    **{
        f"hydra.job.env_set.{name}": "evil" for name in ("MASTER_ADDR", "HTTPS_PROXY", "SSL_CERT_FILE", "TMPDIR", "HF_ENDPOINT")
    },
    "hydra.job.env_set.WANDB_MODE": "online",
    "hydra.job.env_set.NCCL_DEBUG": "INFO\nexport X=1",
    "hydra.job.env_copy": ["AWS_SECRET_ACCESS_KEY"],
    "hydra.job.name": "../../pwned",
    "hydra.job.config.override_dirname.kv_sep": "/",
    "hydra.run.dir": "pwned",
    "hydra.sweep.dir": "/tmp/pwned",
    "hydra.sweep.subdir": "../pwned",
    "hydra.output_subdir": "../conf",
    "hydra.searchpath": ["pkg://evil"],
    "hydra.callbacks.x.path": "pwned",
    "hydra.job_logging.handlers.file.filename": "pwned",
    "hydra.job_logging.handlers.console.class": "os.mkdir",
    "hydra.job_logging.handlers.console.stream": "ext://os.environ",
    "hydra.hydra_logging.filters.x.class": "os.mkdir",
    "hydra.hydra_logging.formatters.simple.format": "{x}",
    "hydra.launcher.setup": [SHELL],
    "hydra.launcher.python": SHELL,
    "hydra.launcher.srun_args": [SHELL],
    "hydra.launcher.additional_parameters": {"wrap": SHELL},
    "hydra.launcher.partition": "gpu\ntouch pwned",
    "hydra.launcher.submitit_folder": "pwned",
    "hydra.launcher.comment": "x",
    "hydra.launcher.pre_dispatch": "__import__('os').system('touch pwned')",  # joblib evaluates it
    "hydra.launcher.backend": "dask",
    "hydra.launcher.temp_folder": "pwned",
    "hydra.launcher.prefer": "threads",
    "hydra.launcher.init": {"runtime_env": {"pip": ["evil"]}, "_temp_dir": "pwned", "address": "evil:6379"},
    "hydra.launcher.init.dashboard_host": "0.0.0.0",
    "hydra.launcher.task": {"runtime_env": {"env_vars": {"LD_PRELOAD": "x.so"}}},
    "hydra.sweeper.storage": "sqlite:///pwned",
    "hydra.sweeper.custom_search_space": "evil.space",
    "hydra.sweeper.sampler": "evil.Sampler()",
    "hydra.sweeper.params": {"+hydra.job.env_set.CXX": "/x", "seed": "1,2"},
    "hydra.sweeper.jobs": [["seed=1", "+hydra.launcher.setup=[x]"]],
    "logger.wandb.offline": False,
    "logger.wandb.mode": "online",
    "logger.wandb.settings.mode": "shared",
    "logger.wandb.name": "${oc.env:AWS_SECRET_ACCESS_KEY}",
    "logger.wandb.tags": ["a ${oc.env:DATABASE} b"],
    "logger.wandb.notes": "${oc.decode:${oc.env:TOKEN}}",
    "logger.wandb.group": "${oc.${seed}:TOKEN}",
    "logger.tensorboard.name": "a$TOKEN",  # Lightning puts variables into this path
    "logger.csv.name": "${oc.create:'{_target_: os.mkdir}'}",
    "optimizer.x": "\\${oc.env:TOKEN}",
    "metrics.x": "${ oc.env : TOKEN }",
}
PLACES = {  # key → value; refused when the config is composed, with every value resolved
    "callbacks.best.dirpath": "/tmp/pwned",
    "callbacks.best.filename": "../../pwned",
    "callbacks.last.dirpath": "~/pwned",
    "trainer.default_root_dir": "pwned",
    "logger.csv.save_dir": "pwned",
    "logger.csv.name": "${logger.csv.prefix}./pwned",
    "logger.csv.prefix": ".",
    "data.source.cache": "pwned",
    "data.root": "s3://bucket",
    "logger.wandb.settings.base_url": "http://evil",
    "logger.wandb.settings.x_executable": SHELL,
    "logger.wandb.settings.disable_git": False,
    "logger.wandb.settings.api_key": "evil",
    "logger.wandb.settings.x_extra_http_headers": {"X-Evil": "a"},
    "logger.wandb.settings.program": "pwned",
    "logger.wandb.settings.code_dir": "/",
    "logger.mlflow.tracking_uri": "file:pwned",
}
FINE = {  # key → value that a file may set
    "hydra.job.env_set": {"OMP_NUM_THREADS": 4, "NCCL_DEBUG": "INFO", "CUDA_VISIBLE_DEVICES": "0,1", "WANDB_MODE": "offline"},
    "hydra.launcher": {"partition": "gpu", "timeout_min": 60, "gpus_per_node": 4, "setup": None},
    "hydra.run.dir": "outputs/${model.name}/${zoo.now:%Y}",
    "hydra.sweeper.params": {"optimizer.lr": "tag(log, interval(1e-4, 3e-2))", "seed": "1,2"},
    "hydra.mode": "MULTIRUN",
    "logger.wandb": {"project": "mine", "offline": True, "save_dir": "${hydra:runtime.output_dir}"},
    "optimizer": {"lr": 0.1},
    "data.root": "/photos",
}


def nested(key, value):
    """Return the config in which a dotted key has this value."""
    for name in reversed(key.split(".")):
        value = {name: value}
    return value


NAMES = st.one_of(
    st.sampled_from(["GIT_DIR", "CXX", "LD_PRELOAD", "PATH", "NCCL_NET_PLUGIN", "OMP_NUM_THREADS", "NCCL_DEBUG", "WANDB_MODE"]),
    st.from_regex(r"[A-Za-z_][A-Za-z0-9_]{0,12}", fullmatch=True),
)
CALLED = st.sampled_from(["os.system", "subprocess.run", "torch.optim.SGD", "torch.optim.os.system", "builtins.eval", "my.Own"])
SIMPLE = st.one_of(
    st.none(), st.booleans(), st.integers(), st.sampled_from(["x", SHELL, "${seed}", "${oc.env:HOME}", "online"])
)
CONFIGS = st.recursive(
    st.one_of(SIMPLE, st.builds(lambda name: {"_target_": name}, CALLED)),
    lambda inner: st.one_of(
        st.lists(inner, max_size=3), st.dictionaries(st.sampled_from(["a", "b", "_args_"]), inner, max_size=3)
    ),
    max_leaves=8,
)


@examples(200)
@given(st.dictionaries(NAMES, SIMPLE, max_size=4), CONFIGS)
def a_file_passes_no_other_variable_target_or_secret(variables, config):
    node = {"hydra": {"job": {"env_set": variables}}, "trainer": config}
    said = refused_in_file(node)
    for name, value in variables.items():
        if value is not None and (f"job.env_set.{name}" not in FOR_FILES or "$" in str(value) or value == SHELL):
            assert any(each.startswith(f"hydra.job.env_set.{name}=") for each in said), (name, value, said)
    assert ("oc.env" not in str(config)) or any("oc.env" in each for each in said)
    targets = {"os.system", "subprocess.run", "torch.optim.os.system", "builtins.eval", "my.Own"}
    called = {name for name in targets if f"'_target_': '{name}'" in str(config)}
    messages = refused_targets(node)
    assert own() == set() and targets.isdisjoint(TARGETS)
    assert all(any(f"_target_={name} is not on the allow-list" in each for each in messages) for name in called)
