"""All patches of Hydra.

Importing this module patches nothing. The entry points of this package and the workers of launchers call `install`. Other
programs that import this package, and other Hydra applications in the same environment, are not affected.
tests/system/test_private_names.py checks that the patched names still exist.
"""

import os
import re
from collections.abc import Callable
from datetime import datetime
from functools import cache
from pathlib import Path
from typing import Any

import hydra._internal.hydra
from hydra._internal.config_loader_impl import ConfigLoaderImpl
from hydra._internal.config_repository import ConfigRepository
from hydra._internal.hydra import Hydra
from hydra._internal.utils import create_config_search_path
from hydra._internal.utils import get_args_parser as get_args_parser
from hydra.conf import HydraConf
from hydra.core import utils
from hydra.core.config_store import ConfigStore
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.utils import JobReturn, configure_log
from hydra.errors import ConfigCompositionException
from hydra.plugins.config_source import ConfigResult, ConfigSource
from hydra.types import RunMode
from omegaconf import DictConfig, OmegaConf, read_write

from inception_zoo.architecture.choices import table_config
from inception_zoo.architecture.nets import ZOO, find_net
from inception_zoo.config import CONF
from inception_zoo.config.rules import direction
from inception_zoo.config.targets import refused_in_file
from inception_zoo.data.layout import count_classes
from inception_zoo.errors import ZooError, one_line, raise_all
from inception_zoo.redaction import guard
from inception_zoo.runs.results import REASON
from inception_zoo.system.places import walk
from inception_zoo.system.ranks import agreed
from inception_zoo.system.records import save_redacted
from inception_zoo.system.renamed import with_new_key

PLACE = re.compile(r"([\w/@]+\.)*(ckpt|root|weights|dirpath|\w*dir)")  # keys of paths


@cache
def install() -> None:
    """Patch Hydra in this process, once.

    Redact secrets in its files, check files, expand ``~``, add resolvers, the keys of every network's table as
    `model/table`, and GridSweeper as the default sweeper.
    """
    guard()
    utils._save_config = lambda cfg, filename, output_dir: save_redacted(cfg, output_dir / filename)
    # Hydra copies its store for each group that it reads, 117 times for --help. The copies are not needed: loading copies, too.
    ConfigStore.__deepcopy__ = lambda store, memo: store  # type: ignore[attr-defined]
    load, header = ConfigLoaderImpl.load_configuration, ConfigSource._get_header_dict
    ConfigLoaderImpl.load_configuration = lambda *args, **more: _at_home(load(*args, **more))  # type: ignore[method-assign]
    # without the byte order mark that some editors write, which would hide `# @package`
    ConfigSource._get_header_dict = staticmethod(lambda text: header(text.removeprefix("\ufeff")))  # type: ignore
    parse, read = OverridesParser.parse_overrides, ConfigRepository.load_config  # patched to accept old keys
    OverridesParser.parse_overrides = lambda parser, overrides: parse(parser, [*map(with_new_key, overrides)])  # type: ignore
    ConfigRepository.load_config = lambda files, config_path: _with_new_keys(config_path, _here(read(files, config_path)))  # type: ignore
    embed = ConfigLoaderImpl._embed_result_config
    ConfigLoaderImpl._embed_result_config = staticmethod(lambda *args: _checked(embed(*args)))  # type: ignore
    # The command of a sweep would keep the whole config of every job that another process has run, and nothing reads it.
    JobReturn.__getstate__ = lambda job: {**vars(job), "cfg": None, "hydra_cfg": None}  # type: ignore
    _add_resolvers()
    _fill_store()


def _is_ours(found: ConfigResult) -> bool:
    """Return True for a config of this package or of Hydra, and for that of rank 0, which was checked."""
    return found.path in (f"file://{CONF}", "pkg://hydra.conf", "structured://") or REASON in os.environ


def _here(found: ConfigResult | None) -> ConfigResult | None:
    """Refuse a file with a `hydra.searchpath`, as it is read: Hydra imports the packages in it before it composes anything."""
    if found and not _is_ours(found) and (path := OmegaConf.select(found.config, "hydra.searchpath")) is not None:
        raise_all(refused_in_file({"hydra": {"searchpath": str(path)}}))
    return found


def _checked(found: ConfigResult) -> ConfigResult:
    """Refuse a file that sets what only the user may set; `found` has all of its keys, at their place in the config."""
    if not _is_ours(found):
        defaults = [text for each in found.defaults_list or () for text in vars(each).values() if isinstance(text, str | list)]
        raise_all(refused_in_file({"defaults": defaults, **OmegaConf.to_container(found.config)}))  # type: ignore[dict-item]
    return found


def _with_new_keys(path: str, found: Any) -> Any:
    """Give the keys of a config file their current names, before it is merged with others.

    Args:
        path: of the file in the folder of configs, such as `data/mine`.
        found: Hydra's record of the file, with its content as `config`; None if the file does not exist.
    """
    node = found and (found.config if path.startswith("data/") else found.config.get("data"))
    if isinstance(node, DictConfig) and "val_size" in node:
        OmegaConf.update(node, "split.val", node.pop("val_size"))
    return found


def _at_home(cfg: DictConfig) -> DictConfig:
    """Expand ``~`` in the paths of a config, whether they were typed or are from a file."""
    for key, value in walk(OmegaConf.to_container(cfg)):
        if isinstance(value, str) and value.startswith("~") and PLACE.fullmatch(key):
            parent, _, name = key.rpartition(".")
            with read_write(node := OmegaConf.select(cfg, parent) if parent else cfg):
                node[name] = os.path.expanduser(value)  # noqa: PTH111 -- Path's method raises for an unknown user
    return cfg


def _add_resolvers() -> None:
    OmegaConf.register_new_resolver("zoo.classes", count_classes, replace=True)
    OmegaConf.register_new_resolver("zoo.mode", direction, replace=True)
    OmegaConf.register_new_resolver("zoo.crops", lambda flip: 2 if flip else 1, replace=True)  # 2: also the mirror image
    OmegaConf.register_new_resolver("zoo.image_size", lambda name: find_net(name).image_size, replace=True)
    OmegaConf.register_new_resolver("zoo.offline", lambda mode: mode in ("offline", "dryrun"), replace=True)  # of WANDB_MODE
    OmegaConf.register_new_resolver("zoo.now", lambda layout: _start().strftime(layout), use_cache=True, replace=True)


def _fill_store() -> None:
    """Add the keys of every network's table as `model/table`, and make GridSweeper the default sweeper."""
    store = ConfigStore.instance()
    for name, net in ZOO.items():
        store.store(name, table_config(net), group="model/table", provider="zoo")
    # An `override` in conf/config.yaml would replace the sweeper that `sweep=optuna` chooses.
    defaults = [{"sweeper": "grid"} if "sweeper" in each else each for each in HydraConf().defaults]
    store.store("config", HydraConf(defaults=defaults), group="hydra", provider="hydra")


@cache
def _start() -> datetime:
    """Return the start time of this command, the same in all processes of a job."""
    return datetime.fromisoformat(agreed("start", datetime.now().isoformat()))


def check_when_composed(check: Callable[[DictConfig, bool], None]) -> None:
    """Make Hydra call `check` before it calls anything, writes a file or creates a folder.

    Hydra has no hook at this point: its callbacks are themselves created from the config. Only a run or a sweep is checked;
    `--cfg`, `--help` and `--info` show an invalid config, too. The jobs of a sweep are not checked here.

    Args:
        check: Function of the composed config and a flag, True for a single job and False for a sweep.
    """
    _CheckedHydra.check = staticmethod(check)
    hydra._internal.hydra.Hydra = _CheckedHydra  # type: ignore[misc]


class _CheckedHydra(Hydra):
    acts = False
    check: Callable[[DictConfig, bool], None]

    def run(self, *args: Any, **more: Any) -> JobReturn:
        self.acts = True
        return super().run(*args, **more)

    def multirun(self, *args: Any, **more: Any) -> Any:
        self.acts = True
        return super().multirun(*args, **more)

    def compose_config(  # type: ignore[override] # Hydra passes all arguments by name
        self, *, run_mode: RunMode, with_log_configuration: bool = False, **more: Any
    ) -> DictConfig:
        try:
            cfg = super().compose_config(run_mode=run_mode, **more)
        except ZooError:
            raise
        except (ValueError, TypeError) as error:  # an option of a group is not a string
            raise ConfigCompositionException(one_line(error)) from error
        except RecursionError:
            raise ZooError("a config file is nested too deeply, or includes itself") from None
        if self.acts:
            self.check(cfg, run_mode == RunMode.RUN)
        if with_log_configuration:
            configure_log(cfg.hydra.hydra_logging, cfg.hydra.verbose)
        return cfg


def loader(added: str | None = None) -> ConfigLoaderImpl:
    """Return Hydra's loader of the configs in conf/ and in the folder `added`."""
    path = create_config_search_path(str(CONF))
    if added:
        schema = path.get_path().pop()
        path.append("command-line", f"file://{Path(added).absolute()}")
        path.append(schema.provider, schema.path)
    return ConfigLoaderImpl(path)
