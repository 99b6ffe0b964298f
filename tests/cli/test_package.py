"""The package as users get it: sdist and wheel, installed in a clean environment, used outside of the checkout."""

import os
import subprocess
import sys
import sysconfig
import tarfile
import zipfile

import pytest
from conftest import ROOT, run_folder
from tools import commands

from inception_zoo import __version__

SMOKE = ["data=digits", "data.image_size=32", "model.width=0.25", "model.stem=medium", "trainer=smoke", "logger=csv"]

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def distributions(tmp_path_factory):
    """Build the sdist, and the wheel from it."""
    folder = tmp_path_factory.mktemp("dist")
    build = [sys.executable, "-m", "build", "--no-isolation", "--outdir", folder, ROOT]
    done = subprocess.run(build, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    return folder / f"inception_zoo-{__version__}.tar.gz", folder / f"inception_zoo-{__version__}-py3-none-any.whl"


@pytest.fixture(scope="module")
def installed(distributions, tmp_path_factory):
    """Install the wheel in a new environment, and return a function that runs a program of that environment.

    Dependencies come from the environment that runs the tests. Its own copy of the package is not importable in the new one:
    a path in a `.pth` file is searched last, and `.pth` files there, such as that of an editable install, are not read.
    """
    folder = tmp_path_factory.mktemp("clean")
    subprocess.run([sys.executable, "-m", "venv", "--system-site-packages", folder], check=True)
    python = folder / "bin/python"
    pip = [python, "-m", "pip", "install", "--quiet", "--no-deps", "--no-index", "--disable-pip-version-check"]
    subprocess.run([*pip, distributions[1]], check=True)
    (site,) = folder.glob("lib/python*/site-packages")
    (site / "dependencies.pth").write_text(sysconfig.get_path("purelib") + "\n")
    environment = {key: value for key, value in commands.environment().items() if key != "PYTHONPATH"}

    def run(program, *words, cwd):
        command = [folder / "bin" / program, *words]
        return subprocess.run(command, cwd=cwd, env=environment, capture_output=True, text=True, timeout=600)

    return site, run


def test_the_distributions_are_complete(distributions):
    sdist, wheel = distributions
    with tarfile.open(sdist) as archive:
        packed = {name.partition("/")[2] for name in archive.getnames()}
    configs = {path.relative_to(ROOT).as_posix() for path in (ROOT / "conf").rglob("*.yaml")}
    code = {path.relative_to(ROOT).as_posix() for path in (ROOT / "inception_zoo").rglob("*.py")}
    needed = {"inception_zoo/py.typed", "inception_zoo/network/kernels/kernels.cpp", *code}
    plugins = {path.relative_to(ROOT).as_posix() for path in (ROOT / "hydra_plugins").glob("*.py")}
    assert needed | plugins | configs | {"LICENSE", "README.md", "pyproject.toml"} <= packed

    with zipfile.ZipFile(wheel) as archive:
        files = set(archive.namelist())
        metadata = archive.read(f"inception_zoo-{__version__}.dist-info/METADATA").decode()
    assert needed | plugins | {f"inception_zoo/{path}" for path in configs} <= files
    assert {name.partition("/")[0] for name in files} == {
        "inception_zoo", "hydra_plugins", f"inception_zoo-{__version__}.dist-info",
    }  # fmt: skip
    headers = metadata.partition("\n\n")[0].splitlines()
    assert f"Version: {__version__}" in headers and "Classifier: Typing :: Typed" in headers
    addresses = {line.partition(",")[0] for line in headers if line.startswith("Project-URL: ")}
    assert addresses == {f"Project-URL: {name}" for name in ("Homepage", "Documentation", "Source", "Issues", "Changelog")}


def test_the_installed_package_lists_and_trains(installed, tmp_path):
    site, run = installed
    script = """if True:
        import importlib.metadata
        import inception_zoo, inception_zoo.config, hydra_plugins.inception_zoo_sweeper
        print(inception_zoo.__file__, inception_zoo.config.CONF, hydra_plugins.inception_zoo_sweeper.__file__, sep="\\n")
        print(importlib.metadata.version("inception-zoo"))
    """
    where = run("python", "-c", script, cwd=tmp_path)
    assert where.returncode == 0, where.stderr
    *paths, version = where.stdout.splitlines()
    assert len(paths) == 3 and all(path.startswith(f"{site}{os.sep}") for path in paths)
    assert version == __version__

    listed = run("inception-zoo", "list", cwd=tmp_path)
    assert listed.returncode == 0 and "inception_resnet_v2_slim" in listed.stdout, listed.stderr
    trained = run("inception-zoo", "run", *SMOKE, cwd=tmp_path)
    assert trained.returncode == 0, trained.stderr
    assert (run_folder(tmp_path) / "results.json").exists()
