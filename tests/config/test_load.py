"""Config files as users write them, and what they are told when something is wrong."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from facetrain.config import config_fingerprint, config_from_dict, dump_yaml, json_schema, load_config
from facetrain.errors import InputError


@pytest.fixture
def write(tmp_path: Path):
    def write(name: str, text: str) -> Path:
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
        return path

    return write


def test_bases_are_relative_to_their_file_and_paths_are_not(write, monkeypatch, tmp_path):
    write("base/a.yaml", "train: {epochs: 3}\nloss: {name: arcface, scale: 64}\ndata: {path: faces}\n")
    write("base/b.yaml", "base: a.yaml\nloss: {margin: 0.3}\n")
    path = write("recipe.yaml", "base: base/b.yaml\nloss: {scale: 30}\n")
    config = load_config(path)
    assert config.loss == {"name": "arcface", "scale": 30, "margin": 0.3}
    assert config.data.path == "faces"
    assert config.name == "recipe"
    monkeypatch.chdir(tmp_path)
    assert load_config("recipe.yaml") == config


def test_overrides_come_last(write):
    path = write("c.yaml", "train: {epochs: 3}\nevaluate: [{path: a}]\n")
    config = load_config(path, ["train.epochs=5", "optimizer.weight_decay=5e-4", "evaluate.0.path=b", "name=x"])
    assert config.train.epochs == 5
    assert config.optimizer == {"weight_decay": 5e-4, "name": "mxnet_sgd"}
    assert config.evaluate[0].path == "b"
    assert config.name == "x"


def test_dump_round_trips(write):
    path = write(
        "c.yaml",
        "name: '007'\nseed: 5\ndata: {augment: [flip, {name: crop, pad: 4}], kind: synthetic}\n"
        "stages: [{epochs: 0.5, loss: {scale: 16}}, {epochs: 2, name: 'no', freeze: ['*bn*']}]\n"
        "evaluate: [{synthetic: {pairs: 10}}]\ntrain: {ema: 0.999, checkpoint_every: {steps: 5}}\n"
        "init: {from: '../a b', head: new}\n",
    )
    config = load_config(path)
    again = load_config(write("dump.yaml", dump_yaml(config)))
    assert again == config
    assert dump_yaml(again) == dump_yaml(config)
    assert config_fingerprint(again) == config_fingerprint(config)


@pytest.mark.parametrize(
    ("text", "sets", "message"),
    [
        ("seeed: 1\n", [], r"unknown config key 'seeed' \(.*c\.yaml:1\); did you mean 'seed'\?"),
        ("data:\n  sise: 1\n", [], r"'data\.sise' \(.*c\.yaml:2\); did you mean 'size'\?"),
        ("", ["epochs=3"], r"'epochs' \(in --set epochs=3\); did you mean 'train\.epochs'\?"),
        ("", ["evaluate.0.pth=3"], r"'evaluate\.0\.pth'.*did you mean 'path'\?"),
        ("", ["runtime.qqq=1"], r"known here: kind, devices"),
        ("train: {epochs: three}\n", [], r"'train\.epochs' \(.*c\.yaml:1\) should be a whole number, received 'three'"),
        ("train: {epochs: '3'}\n", [], r"should be a whole number, received '3'"),
        ("train: {epochs: true}\n", [], r"should be a whole number, received true"),
        ("", ["train.epochs=0"], r"should be at least 1, received 0"),
        ("", ["train.ema=1.0"], r"should be less than 1\.0, received 1\.0"),
        ("", ["train.ema=.nan"], r"should be a finite number"),
        ("", ["data.kind=foldr"], r"received 'foldr'; did you mean 'folder'\?"),
        ("", ["data.cache=disc"], r"should be 'memory', 'disk' or 'none', received 'disc'; did you mean 'disk'\?"),
        ("", ["data.variants=-1"], r"should be at least 0, received -1"),
        ("", ["data.variants=2", "data.cache=none"], r"'data'.*variants is 2, .* but cache is 'none': set data\.cache"),
        ("", ["data.variants=2", "data.augment=[]"], r"augment is empty, which would make equal copies"),
        ("", ["data.augment_after=[color]"], r"follows cached variants, but variants is 0: set data\.variants"),
        ("", ["data.order=3"], r"'data\.order'.*expected a name or a mapping of arguments, received 3"),
        ("", ["data=null"], r"'data'.* should be a mapping of keys to values, received null"),
        ("", ["evaluate=3"], r"'evaluate'.* should be a list, received 3"),
        ("", ["losses=[{name: center, weight: 0}]"], r"'losses\.0\.weight' should be a number above 0, received 0"),
        ("", ["losses=[{name: center, weight: much}]"], r"'losses\.0\.weight' should be a number above 0"),
        ("", ["loss=3"], r"'loss'.*expected a name or a mapping of arguments, received 3"),
        ("", ["loss={name: 3}"], r"expected text as the name of a component, received 3"),
        ("", ["data.augment=[{pad: 4}]"], r"expected a 'name' beside the arguments \['pad'\]"),
        ("", ["train.checkpoint_every=2 weeks"], r"'2 epochs' or a mapping.* received .*weeks"),
        ("", ["train.checkpoint_every=0"], r"above zero, received 0"),
        ("", ["name=a/b"], r"'name'.*letters, digits"),
        ("", ["evaluate.0.flip=true"], r"'evaluate\.0'.*either 'path' or 'synthetic', and neither"),
        ("", ["evaluate.0={path: x, synthetic: {}}"], r"both are given"),
        (
            "stages: [{epochs: 2}, {epochs: 2}]\n",
            ["train.epochs=3"],
            r"train\.epochs is 3 but 'stages' take 4 together",
        ),
        ("", ["train.epochs=null"], r"set train\.epochs .* or stages"),
        ("", ["stages=[{name: a}]"], r"'stages\.0\.epochs'.* is missing"),
        ("", ["stages=[{epochs: 1, frozen: bakbone}]"], r"'stages\.0\.frozen'.*did you mean 'backbone'\?"),
        ("", ["stages=[{epochs: 1, order: 3}]"], r"'stages\.0\.order'.*expected a name or a mapping"),
        ("", ["init.frm=runs/a"], r"unknown config key 'init\.frm'.*did you mean 'from'\?|'init\.from'.* is missing"),
        ("", ["init.from=runs/a", "init.head=atuo"], r"'init\.head'.*received 'atuo'; did you mean 'auto'\?"),
        ("", ["init.from=''"], r"'init\.from'.* should be text that is not empty"),
        ("", ["data.batch_size=10", "train.accumulate_steps=4"], r"take 8 as the batch size"),
        ("base: nowhere.yaml\n", [], r"base 'nowhere\.yaml' \(.*c\.yaml:1\) does not exist"),
        ("base: 3\n", [], r"'base' .*received 3"),
        ("base: c.yaml\n", [], r"each other's base: 'c\.yaml' -> 'c\.yaml'"),
    ],
)
def test_mistakes_are_named(write, text, sets, message):
    path = write("c.yaml", text)
    if not any("epochs" in s for s in [text, *sets]):
        sets = ["train.epochs=1", *sets]
    with pytest.raises(InputError, match=message) as caught:
        load_config(path, sets)
    assert "\n" not in str(caught.value)


def test_several_mistakes_are_counted(write):
    with pytest.raises(InputError, match=r"\(1 more after this one\)"):
        load_config(write("c.yaml", "train: {epochs: x, ema: y}\n"))


def test_arguments_of_default_components_need_no_name(write):
    config = load_config(write("c.yaml", "train: {epochs: 1}\nmodel: {neck: {dropout: 0.2}}\n"), ["loss.margin=0.4"])
    assert config.model.neck == {"name": "gdc", "dropout": 0.2}
    assert config.loss == {"name": "arcface", "margin": 0.4}
    assert load_config(write("d.yaml", "train: {epochs: 1}\n")).loss == {"name": "arcface"}


def test_cached_variants_move_the_work_of_a_step_to_what_follows(write):
    path = write("c.yaml", "train: {epochs: 1}\ndata: {augment: [flip, color]}\n")
    assert load_config(path).data.augment_steps == [{"name": "flip"}, {"name": "color"}]
    assert load_config(path, ["data.variants=4"]).data.augment_steps == []
    after = load_config(path, ["data.variants=4", "data.augment_after=[grey]"]).data.augment_steps
    assert after == [{"name": "grey"}]


def test_a_cycle_of_bases_is_shown(write):
    write("a.yaml", "base: b.yaml\n")
    path = write("b.yaml", "base: a.yaml\n")
    with pytest.raises(InputError, match="'b.yaml' -> 'a.yaml' -> 'b.yaml'"):
        load_config(path)


def test_fingerprint_follows_what_influences_the_result():
    base = {"train": {"epochs": 3}}
    reference = config_fingerprint(config_from_dict(base))
    same = config_from_dict({**base, "name": "other", "runtime": {"kind": "single"}, "data": {"cache_dir": "/tmp/x"}})
    assert config_fingerprint(same) == reference
    in_memory = config_from_dict({**base, "data": {"cache": "memory"}})
    assert config_fingerprint(in_memory) == reference
    for changed in (
        {"seed": 2},
        {"loss": {"name": "arcface", "margin": 0.4}},
        {"data": {"batch_size": 32}},
        {"data": {"order": "sequential"}},
        {"data": {"variants": 4}},
        {"data": {"variants": 4, "augment_after": ["color"]}},
    ):
        assert config_fingerprint(config_from_dict({**base, **changed})) != reference
    shuffled = {"train": {"epochs": 3}, "model": {}, "loss": {"name": "arcface"}}
    assert config_fingerprint(config_from_dict(shuffled)) == reference


def test_stages_are_resolved():
    config = config_from_dict(
        {
            "loss": {"name": "arcface", "margin": 0.5, "scale": 64},
            "stages": [
                {"epochs": 2, "loss": {"scale": 16}},
                {"epochs": 0.5, "loss": "norm_softmax", "name": "last", "freeze": ["*/bn*"]},
            ],
        }
    )
    first, last = config.resolved_stages()
    assert (first.name, first.epochs, first.loss) == ("stage1", 2.0, {"name": "arcface", "margin": 0.5, "scale": 16})
    assert (last.name, last.epochs, last.loss) == ("last", 0.5, {"name": "norm_softmax"})
    assert last.freeze == ("*/bn*",)
    assert first.schedule == config.schedule


def test_losses_that_are_added_up_take_the_place_of_the_loss():
    losses = ["arcface", {"name": "center", "weight": 0.003}]
    config = config_from_dict(
        {"losses": losses, "stages": [{"epochs": 1, "loss": {"scale": 16}}, {"epochs": 1, "loss": "cosface"}]}
    )
    first, last = config.resolved_stages()
    centre = {"name": "center", "weight": 0.003}
    assert first.loss == {"name": "sum", "losses": [{"name": "arcface", "scale": 16}, centre]}
    assert last.loss == {"name": "sum", "losses": [{"name": "cosface"}, centre]}


def test_losses_can_be_overridden_one_by_one(write):
    path = write("c.yaml", "train: {epochs: 1}\nlosses: [arcface, {name: center, weight: 0.003}]\n")
    config = load_config(path, ["losses.1.weight=0.01", "losses.0=cosface"])
    assert config.losses == [{"name": "cosface"}, {"name": "center", "weight": 0.01}]
    assert load_config(write("d.yaml", dump_yaml(config))) == config


def test_without_stages_there_is_one():
    (stage,) = config_from_dict({"train": {"epochs": 7}}).resolved_stages()
    assert stage.epochs == 7
    assert stage.loss == {"name": "arcface"}


def test_configs_are_frozen():
    config = config_from_dict({"train": {"epochs": 7}})
    with pytest.raises(ValueError, match="frozen"):
        config.seed = 3


def test_schema_describes_every_field():
    schema = json_schema()
    json.dumps(schema)
    assert "base" in schema["properties"]
    for section in [schema, *schema["$defs"].values()]:
        for name, field in section["properties"].items():
            assert field.get("description"), f"{section['title']}.{name} has no description"
        assert section["additionalProperties"] is False


def test_loading_imports_no_tensorflow(write):
    path = write("c.yaml", "train: {epochs: 1}\n")
    code = (
        "import sys; from facetrain.config import load_config; load_config(sys.argv[1]);"
        "sys.exit(any(m in sys.modules for m in ('tensorflow', 'numpy', 'cv2')))"
    )
    assert subprocess.run([sys.executable, "-c", code, str(path)], check=False).returncode == 0
