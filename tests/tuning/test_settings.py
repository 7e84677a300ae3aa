from __future__ import annotations

import pytest

from facetrain.config import load_config
from facetrain.data.synth_folder import write_synthetic
from facetrain.errors import InputError
from facetrain.experiment.faces import open_training_source
from facetrain.tuning.search import Search
from facetrain.tuning.settings import config_of, proxy_assignments
from facetrain.tuning.space import Proxy, load_space
from tests.tuning.spaces import ROOT, SHIPPED, SMOKE, new_search, space_of

STAGES = ROOT / "configs" / "smoke" / "stages.yaml"


def refusal(folder, text, config=SMOKE, tuner="random", *overrides):
    with pytest.raises(InputError) as error:
        Search.create(folder / "tuning", load_config(config, overrides), space_of(folder, text), tuner, 4)
    assert not (folder / "tuning" / "search.yaml").exists()
    return str(error.value)


@pytest.mark.parametrize(
    ("space", "message"),
    [
        ("{optimiser.weight_decay: {float: [0, 1]}}", "did you mean 'optimizer'"),
        ("{loss.name: {choice: [arcface, arcfase]}}", "unknown loss 'arcfase'; did you mean 'arcface'"),
        ("{data.batch_size: {choice: [16, x]}}", "'data.batch_size'"),
        ("{train.ema: {float: [0.5, 1.5]}}", "'train.ema'"),
        ("{model.embedding_size: {int: [0, 4]}}", "at least 2"),
    ],
)
def test_every_key_is_checked_against_the_schema(tmp_path, space, message):
    assert message in refusal(tmp_path, f"space: {space}")


def test_keys_that_change_nothing_are_refused(tmp_path):
    stages = "stages=[{epochs: 1, loss: {margin: 0.2}}, {epochs: 1, loss: {margin: 0.3}}]"
    text = "space: {loss.margin: {float: [0.1, 0.4]}}"
    message = refusal(tmp_path, text, SMOKE, "random", stages, "train.epochs=null")
    assert message.startswith("space.loss.margin: its values make no difference")


def test_the_objective_must_exist(tmp_path):
    text = "space: {{seed: {{int: [1, 9]}}}}\nobjective: {{{}}}"
    assert "no evaluation 'held'; did you mean 'heldout'" in refusal(tmp_path, text.format("evaluation: held"))
    assert "no number 'acuracy'; did you mean 'accuracy'" in refusal(tmp_path, text.format("metric: acuracy"))
    assert "the config has none" in refusal(tmp_path, text.format(""), SMOKE, "random", "evaluate=[]")


def test_proxies_shorten_and_shrink():
    config = load_config(STAGES)
    made = config_of(STAGES, {}, proxy_assignments(config, Proxy(epochs=1.5, size=32, identities=9), 1))
    assert [stage.epochs for stage in made.stages] == pytest.approx([0.5, 0.25, 0.25, 0.5])
    assert (made.data.size, made.data.synthetic.identities, made.train.epochs) == (32, 9, None)
    plain = config_of(SMOKE, {}, proxy_assignments(load_config(SMOKE), Proxy(epochs=4, set={"data.variants": 2}), 1))
    assert (plain.train.epochs, plain.data.variants) == (4, 2)
    with pytest.raises(InputError, match="takes whole epochs, received 1.5"):
        proxy_assignments(load_config(SMOKE), Proxy(epochs=1.5), 1)
    with pytest.raises(InputError, match="50 of 40 people"):
        proxy_assignments(load_config(SMOKE), Proxy(identities=50), 1)


def test_a_proxy_takes_some_people_of_a_folder(tmp_path):
    write_synthetic(tmp_path / "photos", identities=5, images=2, seed=3)
    config = load_config(SMOKE, [f"data.path={tmp_path / 'photos'}"])
    proxies = proxy_assignments(config, Proxy(identities=3), seed=1)
    source = open_training_source(config_of(SMOKE, {}, proxies))
    whole = open_training_source(config)
    assert source.num_identities == 3 and set(source.identities) < set(whole.identities)
    again = open_training_source(config_of(SMOKE, {}, proxy_assignments(config, Proxy(identities=3), seed=1)))
    assert again.fingerprint() == source.fingerprint(), "all trials share one cache"


def test_hyperband_decides_the_length(tmp_path):
    assert "take this key out" in refusal(tmp_path, "space: {train.epochs: {int: [1, 3]}}", SMOKE, "hyperband")
    text = "space: {seed: {int: [1, 9]}}\nhyperband: {max_epochs: 3}"
    assert "trials have 2 epochs, received 3" in refusal(tmp_path, text, SMOKE, "hyperband")
    assert new_search(tmp_path, "hyperband", None).settings.max_epochs == 2


def test_a_search_is_read_back_equal_and_not_begun_twice(tmp_path):
    search = new_search(tmp_path, "random", None)
    again = Search.open(search.path)
    assert again.settings == search.settings and again.settings.trials == 20
    assert again.dimensions == search.dimensions
    assert load_config(search.base) == load_config(SMOKE)
    with pytest.raises(InputError, match="go on with it by 'facetrain tune --resume"):
        new_search(tmp_path)
    with pytest.raises(InputError, match="expected the folder of a search"):
        Search.open(tmp_path)


@pytest.mark.parametrize("tuner", ["random", "hyperband"])
def test_the_shipped_space_fits_the_smoke_config(tmp_path, tuner):
    search = Search.create(tmp_path / "tuning", load_config(SMOKE), load_space(SHIPPED), tuner, None)
    assert search.settings.evaluation == "heldout"
