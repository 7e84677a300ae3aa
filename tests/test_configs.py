"""Every config that ships: it loads, names things that exist, and says at its top how to use it."""

from __future__ import annotations

from itertools import takewhile
from pathlib import Path

import pytest

from facetrain.config import dump_yaml, load_config
from facetrain.config.documents import read_document
from facetrain.experiment import check

CONFIGS = Path(__file__).resolve().parents[1] / "configs"
# Space files of searches are no configs: tests/tuning looks at them.
PATHS = [path for path in sorted(CONFIGS.rglob("*.yaml")) if path.parent.name != "tuning"]
FILES = {path.relative_to(CONFIGS).as_posix(): path for path in PATHS}
RECIPES = [name for name in FILES if not name.startswith("base/")]
# Recipes name the reader's own folders; what is checked here is everything else.
NO_PATHS = ["data.kind=synthetic", "data.path=null", "data.landmarks=null", "evaluate=[]", "distillation=null"]


def test_there_are_configs():
    assert "base/default.yaml" in FILES
    assert not list(CONFIGS.rglob("*.yml")), "configs end in .yaml"


@pytest.mark.parametrize("name", RECIPES)
def test_recipes_load_as_they_are(name):
    config = load_config(FILES[name])
    assert config.evaluate, "a recipe says how its result is judged"
    assert config.resolved_stages()


@pytest.mark.parametrize("name", FILES)
def test_components_exist(name):
    length = [] if name in RECIPES else ["train.epochs=1"]
    check(load_config(FILES[name], [*NO_PATHS, *length]))


@pytest.mark.parametrize("name", FILES)
def test_a_resolved_config_loads_as_the_same(name, tmp_path):
    length = [] if name in RECIPES else ["train.epochs=1"]
    config = load_config(FILES[name], length)
    path = tmp_path / "resolved.yaml"
    path.write_text(dump_yaml(config))
    assert load_config(path) == config


@pytest.mark.parametrize("name", FILES)
def test_headers_say_what_it_is(name):
    lines = FILES[name].read_text(encoding="utf-8").splitlines()
    header = "\n".join(takewhile(lambda line: line.startswith("#"), lines))
    assert header, "begin with a comment that says what this config is for"
    if name in RECIPES:
        commands = (f"facetrain train configs/{name}", "make demo")
        assert any(command in header for command in commands), f"the header gives the command: {commands[0]}"


@pytest.mark.parametrize("name", RECIPES)
def test_recipes_say_only_what_differs(name):
    assert "base" in read_document(FILES[name]).values, "recipes stand on a base"
