"""The reference of configuration keys: every key of the composed config has a comment in conf/, from which the page is made."""

import sys

import pytest
from conftest import ROOT
from hydra import compose, initialize_config_dir
from omegaconf import OmegaConf

from inception_zoo.config import CONF
from inception_zoo.config.hydra_patches import install

sys.path.append(str(ROOT / "docs/generate"))
from config_keys import keys_of, meaning_of, meanings, title

FILES = sorted(CONF.rglob("*.yaml"))


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.relative_to(CONF).as_posix())
def test_every_key_of_a_file_has_a_comment(path):
    known = meanings()
    assert title(path), "the file begins with a comment that says what it is"
    assert [key.key for key in keys_of(path) if key.value and not (key.meaning or meaning_of(key.key, known))] == []


def test_every_key_of_the_job_is_in_the_reference():
    install()
    with initialize_config_dir(str(CONF), version_base="1.3"):
        job = OmegaConf.to_container(compose("config"))
    known = meanings()
    keys = list(leaves(job))
    assert len(keys) > 80
    assert [key for key in keys if not meaning_of(key, known)] == []


def leaves(node, prefix=""):
    for name, child in node.items():
        if isinstance(child, dict) and child:
            yield from leaves(child, f"{prefix}{name}.")
        else:
            yield f"{prefix}{name}"


def test_a_comment_is_read_wherever_it_stands(tmp_path, monkeypatch):
    monkeypatch.setattr("config_keys.CONF", tmp_path)
    (tmp_path / "optimizer").mkdir()
    file = tmp_path / "optimizer/x.yaml"
    file.write_text(
        "# A title\nlr: 0.1 # the rate\n# in two\n# lines\nname: 'a # b'\nbetas:\n  first: [1, 2] # both\nbare: 1\n"
    )
    found = {key.key: (key.value, key.meaning) for key in keys_of(file)}
    assert found == {
        "optimizer.lr": ("0.1", "the rate"),
        "optimizer.name": ("'a # b'", "in two lines"),
        "optimizer.betas": ("", ""),
        "optimizer.betas.first": ("[1, 2]", "both"),
        "optimizer.bare": ("1", ""),
    }
    assert title(file) == "A title"
