"""`facetrain train` with one config and one global batch, on one process and divided in three ways: the same training.

One run has three stages: a whole head, Partial FC with all classes, and Partial FC with a sample of them. All kinds are
compared after each; one start of the processes serves all tests.
"""

from __future__ import annotations

import importlib.util
import json
import subprocess
import sys

import numpy as np
import pytest

from facetrain.distributed.launch import find_horovodrun, tf_config
from facetrain.experiment import write_run_report
from facetrain.training.checkpoints import CheckpointStore
from facetrain.training.metrics_log import read_metrics
from tests.distributed.workers import ROOT, TIMEOUT_S, environment, free_ports
from tests.integration.commands import SMOKE, assignments

pytestmark = [
    pytest.mark.integration,
    pytest.mark.skipif(
        importlib.util.find_spec("horovod") is None, reason="Horovod is not installed: bash scripts/install_horovod.sh"
    ),
]
# 120 images: 10 updates an epoch. The first evaluation set has one batch of 64, so that one of two ranks has none.
CONFIG = {
    "data.size": 32,
    "data.batch_size": 12,
    "data.synthetic": "{identities: 12, images: 10, seed: 1}",
    "data.augment": "[flip, color]",
    "model.backbone": "{name: vit_tiny, channels: 16, blocks: 1, heads: 2, patch: 8}",
    "model.neck": "fc",
    "model.embedding_size": 16,
    "loss.scale": 16.0,
    "stages": "[{epochs: 2, head: cosine}, {epochs: 2, head: {name: partial, sample_rate: 1.0}}, "
    "{epochs: 1, head: {name: partial, sample_rate: 0.5}}]",
    "schedule": "{name: warmup_cosine, peak_lr: 0.05, warmup_steps: 5}",
    "optimizer": "{name: mxnet_sgd, momentum: 0.9, weight_decay: 5e-3}",
    "train.epochs": "null",
    "train.clip_norm": 1.0,
    "train.ema": 0.9,
    "train.log_every": 5,
    "train.checkpoint_every": 10,
    "train.keep_checkpoints": 9,
    "train.evaluate_every": "2 epochs",
    "train.runs_dir": "runs",
    "train.tensorboard": "true",
    "evaluate": "[{name: few, synthetic: {identities: 8, images: 4, seed: 1, first_identity: 1000, pairs: 40}}, "
    "{name: many, synthetic: {identities: 20, images: 8, seed: 1, first_identity: 2000, pairs: 200}}]",
}
UPDATES = (20, 40, 50)
KINDS = ("horovod", "mirrored", "multiworker")


def train_arguments(kind, cache):
    extra = {"runtime.kind": kind, "data.cache_dir": cache}
    if kind == "mirrored":
        extra["runtime.devices"] = "[CPU:0, CPU:1]"
    return ["train", str(SMOKE), "--name", "run", *assignments({**CONFIG, **extra})]


def run(folder, kind, arguments):
    """Returns the exit codes of the processes that carry out a command, and what they wrote."""
    argv = [sys.executable, "-m", "tests.distributed.trainer_worker", str(folder), *arguments]
    extra = [{}]
    if kind == "horovod":
        argv = [find_horovodrun(), "-np", "2", *argv]
    if kind == "multiworker":
        hosts = [f"127.0.0.1:{port}" for port in free_ports(2)]
        extra = [{"TF_CONFIG": tf_config(hosts, index)} for index in range(2)]
    out = {"stdout": subprocess.PIPE, "stderr": subprocess.STDOUT, "text": True, "cwd": ROOT}
    processes = [subprocess.Popen(argv, env=environment(**more), **out) for more in extra]
    try:
        outputs = [process.communicate(timeout=TIMEOUT_S)[0] for process in processes]
    finally:
        for process in processes:
            process.kill()
    return [process.returncode for process in processes], [text[-3000:] for text in outputs]


@pytest.fixture(scope="module")
def cache(tmp_path_factory):
    """Where the decoded images of all trainings lie."""
    return tmp_path_factory.mktemp("cache")


@pytest.fixture(scope="module")
def folders(tmp_path_factory, cache):
    """Where each kind trained: {kind: folder}, in which each rank had a folder of its own."""
    found = {}
    for kind in ("single", *KINDS):
        found[kind] = tmp_path_factory.mktemp(kind)
        codes, outputs = run(found[kind], kind, train_arguments(kind, cache))
        assert not any(codes), (kind, codes, outputs)
    return found


def run_of(folders, kind):
    return folders[kind] / "rank-0" / "runs" / "run"


def state_after(folders, kind, step):
    return CheckpointStore(run_of(folders, kind) / "checkpoints").load(step).arrays


@pytest.mark.parametrize("step", UPDATES)
@pytest.mark.parametrize("kind", KINDS)
def test_all_state_is_that_of_one_process(folders, kind, step):
    """Weights, momentum, averages and counters; 1e-5 is what float32 sums in another order make of it."""
    ours, alone = (state_after(folders, one, step) for one in (kind, "single"))
    assert set(ours) == set(alone) and int(np.asarray(alone["optimizer/iteration"])) == step
    assert any("average" in name for name in alone) and any("momentum" in name for name in alone)
    for name, value in alone.items():
        np.testing.assert_allclose(np.asarray(ours[name]), np.asarray(value), rtol=0, atol=1e-5, err_msg=name)


@pytest.mark.parametrize("kind", KINDS)
def test_the_log_holds_the_means_over_all_ranks(folders, kind):
    ours, alone = (read_metrics(run_of(folders, one) / "metrics.jsonl") for one in (kind, "single"))
    assert [row["step"] for row in ours] == [row["step"] for row in alone] == list(range(5, 51, 5))
    for our, their in zip(ours, alone):
        assert our["loss"] == pytest.approx(their["loss"], abs=1e-5)
        assert our["train_accuracy"] == pytest.approx(their["train_accuracy"], abs=1e-6)
        assert {key for key in our if key.startswith("eval/")} == {key for key in their if key.startswith("eval/")}
        assert our.get("eval/many/threshold", 0) == pytest.approx(their.get("eval/many/threshold", 0), abs=1e-4)


@pytest.mark.parametrize("kind", ["horovod", "multiworker"])
def test_only_the_chief_writes(folders, kind):
    """Ranks have folders of their own, in which a relative path of the config would lead."""
    assert {path.name for path in folders[kind].iterdir()} == {"rank-0", "rank-1"}
    assert list((folders[kind] / "rank-1").rglob("*")) == []
    alone = {str(p.relative_to(run_of(folders, "single"))) for p in run_of(folders, "single").rglob("*") if p.is_file()}
    ours = {str(p.relative_to(run_of(folders, kind))) for p in run_of(folders, kind).rglob("*") if p.is_file()}
    names = [{name for name in found if "tfevents" not in name} for found in (ours, alone)]
    assert names[0] == names[1] and len(ours) == len(alone)


@pytest.mark.parametrize("kind", KINDS)
def test_figures_of_all_ranks_are_those_of_one_process(folders, kind):
    """The best model judged by both ranks together, in the run, and by this process alone, here."""
    run = run_of(folders, kind)
    together = json.loads((run / "results.json").read_text())
    alone = write_run_report(run)["results"]
    assert set(together) == set(alone) == {"few", "many"}
    for name, figures in alone.items():
        for key, value in figures.items():
            if isinstance(value, (int, float)):
                assert together[name][key] == pytest.approx(value, abs=1e-6), (name, key)
            elif isinstance(value, list):
                np.testing.assert_allclose(together[name][key], value, atol=1e-6, err_msg=key)
