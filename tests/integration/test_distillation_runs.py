"""Distillation as a user does it: embed, train with every kind of teacher, resume; what does not fit is refused."""

from __future__ import annotations

import importlib.util
import json
import shutil
import signal
import subprocess
import sys
import time

import numpy as np
import pytest

from facetrain.cli import main
from facetrain.config import load_config
from facetrain.distillation.store import EmbeddingStore
from facetrain.errors import InputError
from facetrain.experiment import check, resume, train
from facetrain.training.checkpoints import CheckpointStore
from tests.integration.commands import ROOT, SMOKE, TINY, assignments, environment

pytestmark = pytest.mark.integration
# Few layers, whose statistics follow fast: after six updates the embeddings have sizes that float16 holds.
BASE = {
    **TINY,
    "model.backbone": "{name: mobilefacenet, width: 0.125, stages: [[2, 64, 2, 2], [1, 128, 2, 2]], bn_momentum: 0.5}",
    "model.neck": "{name: gdc, bn_momentum: 0.5}",
    "evaluate": "[]",
    "train.epochs": 1,
    "distillation.measure": "false",
    "schedule.warmup_steps": 2,
}


def config(folder, name="student", **changes):
    values = {**BASE, "name": name, "train.runs_dir": folder / "runs", "data.cache_dir": folder / "cache"}
    values.update({key.replace("__", "."): value for key, value in changes.items()})
    return load_config(SMOKE, [f"{key}={value}" for key, value in values.items()])


def state_of(folder, name):
    checkpoint = CheckpointStore(folder / "runs" / name / "checkpoints").latest()
    return {key: np.asarray(value) for key, value in checkpoint.arrays.items()}


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A teacher of another embedding size, its config, and its embeddings."""
    folder = tmp_path_factory.mktemp("distillation")
    made = config(folder, "teacher", model__embedding_size=24, distillation="null")
    train(made)
    (folder / "data.yaml").write_text((folder / "runs" / "teacher" / "config.yaml").read_text())
    command = ["embed", str(folder / "runs" / "teacher"), str(folder / "data.yaml"), str(folder / "out.emb"), "--fp16"]
    assert main([*command, "--json"]) == 0
    return folder


def test_stored_embeddings_are_those_of_the_training_images(folder):
    store = EmbeddingStore(folder / "out.emb")
    assert (store.count, store.size, store.embeddings.dtype) == (96, 24, np.float16)
    assert store.teacher["contract"]["embedding_size"] == 24
    manifest = json.loads((folder / "runs" / "teacher" / "manifest.json").read_text())
    assert store.fingerprint == manifest["data_fingerprint"]


@pytest.mark.parametrize("form", ["teacher", "out.emb", "model.tflite", "model.onnx", "pca"])
def test_every_kind_of_teacher_trains_and_is_written_down(folder, form):
    path = folder / ("out.emb" if form == "pca" else form)
    if form == "teacher":
        path = folder / "runs" / "teacher"
    elif form.startswith("model"):
        if form == "model.onnx":
            pytest.importorskip("tf2onnx")
            pytest.importorskip("onnxruntime")
        kind = form.partition(".")[2]
        assert main(["export", str(folder / "runs/teacher/best"), "--format", kind, "--out", str(path), "--json"]) == 0
    name = f"from-{form.replace('.', '-')}"
    extra = {"distillation__sizes": "pca"} if form == "pca" else {}
    losses = "[{name: cosine, weight: 3.0}, {name: distances, weight: {at: [0, 4], values: [0.0, 1.0]}}]"
    made = config(folder, name, distillation__teacher=path, distillation__losses=losses, **extra)
    summary = train(made)
    assert summary["steps"] == 6
    manifest = json.loads((folder / "runs" / name / "manifest.json").read_text())
    (said,) = manifest["distillation"]["teachers"]
    assert said["path"] == str(path) and len(said["digest"]) == 64
    assert said["view"] == ("centre" if path.suffix == ".emb" else "as the student's")
    learned = [key for key in state_of(folder, name) if key.startswith("extra/")]
    assert learned == ([] if form == "pca" else ["extra/projection_0/kernel"])
    contract = json.loads((folder / "runs" / name / "best" / "contract.json").read_text())
    assert contract["embedding_size"] == 16


def test_a_stopped_run_goes_on_exactly_and_only_with_its_teacher(folder):
    changes = {"distillation__teacher": folder / "out.emb", "train__checkpoint_every": 2, "data__augment": "[flip]"}
    train(config(folder, "whole", **changes))
    shutil.copytree(folder / "runs" / "whole", folder / "runs" / "cut")
    store = CheckpointStore(folder / "runs" / "cut" / "checkpoints")
    for step in [step for step in store.steps() if step > 2]:
        shutil.rmtree(store.path(step))
    assert store.steps() == [2]
    resume(folder / "runs" / "cut")
    whole = state_of(folder, "whole")
    for name, value in state_of(folder, "cut").items():
        np.testing.assert_array_equal(value, whole[name], err_msg=name)
    manifest = folder / "runs" / "cut" / "manifest.json"
    values = json.loads(manifest.read_text())
    values["distillation"]["teachers"][0]["digest"] = "0" * 64
    manifest.write_text(json.dumps(values))
    with pytest.raises(InputError, match="no longer those the run began with"):
        resume(folder / "runs" / "cut")


def test_centres_of_the_teacher_and_its_classes(folder):
    """The head begins with the teacher's centres, and the divergence of classes is learned by them."""
    teacher = folder / "runs" / "teacher"
    changes = {
        "model__embedding_size": 24,
        "distillation__teacher": teacher,
        "distillation__centres": "teacher",
        "distillation__losses": "[{name: kl, temperature: 2.0, logit_scale: 16.0}]",
        "distillation__measure": "true",
        "schedule": "{name: constant, peak_lr: 1e-9}",
        "optimizer": "{name: mxnet_sgd, weight_decay: 0.0}",
    }
    train(config(folder, "centres", **changes))
    expected = state_of(folder, "teacher")["head/centres"]
    np.testing.assert_allclose(state_of(folder, "centres")["head/centres"], expected, atol=1e-6)
    manifest = json.loads((folder / "runs" / "centres" / "manifest.json").read_text())
    rates = manifest["distillation"]["images_per_second"]
    assert rates["student"] > 0 and rates["together"] > 0 and rates["teachers"][0] > 0
    other = {**changes, "data__synthetic__first_identity": 3}
    with pytest.raises(InputError, match="does not know 3 identities"):
        train(config(folder, "others", **other))


def test_without_labels_one_folder_of_images_is_enough(folder):
    changes = {"data__synthetic__identities": 1, "data__synthetic__images": 48, "loss": "none"}
    teacher = folder / "runs" / "teacher" / "best"
    summary = train(config(folder, "unlabelled", distillation__teacher=teacher, **changes))
    assert summary["steps"] == 3
    with pytest.raises(InputError, match="at least 2 identities"):
        train(config(folder, "labelled", distillation__teacher=teacher, **{**changes, "loss": "arcface"}))


def test_images_without_stored_embeddings_are_refused(folder):
    made = config(folder, "strangers", distillation__teacher=folder / "out.emb", data__synthetic__first_identity=50)
    with pytest.raises(InputError, match="holds no embedding of 96 of 96 images"):
        train(made)


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"distillation__several": "average"}, "a teacher must be given"),
        ({"distillation__teacher": "nowhere"}, "distillation.teacher: nowhere: expected a teacher"),
        ({"distillation__losses": "[cosin]"}, "distillation.losses.0: unknown distillation loss 'cosin'; did you mean"),
        ({"distillation__losses": "[{name: l2, weight: -1}]"}, "expected a number of 0 or above"),
        ({"distillation__losses": "[]"}, "at least one of"),
        ({"distillation__label_weight": "{at: [1 epoch], values: []}"}, "distillation.label_weight: expected"),
        ({"data__augment": "[mixup]"}, "leave mixup out"),
        ({"distillation__losses": "[{name: attention, layers: [[a, b]]}]"}, "Keras teachers alone"),
        ({"distillation__slice": "true"}, "a student is cut out of one Keras teacher"),
        ({"head": "sharded"}, "use the head 'partial'"),
        ({"distillation": "null", "loss": "none"}, "leaves nothing to learn without a teacher"),
    ],
)
def test_what_does_not_fit_is_refused_without_tensorflow(folder, changes, says):
    given = {"distillation__teacher": folder / "out.emb", **changes}
    if "distillation" in changes or "distillation__several" in changes:
        given.pop("distillation__teacher")
    with pytest.raises(InputError, match=says):
        check(config(folder, "refused", **given))


def test_both_ways_of_naming_teachers_are_refused(folder):
    with pytest.raises(InputError, match="takes the place of"):
        config(folder, distillation__teacher="a", distillation__teachers="[{path: b}]")


def test_a_killed_embedding_goes_on(folder, tmp_path):
    """`kill -9` in the middle loses no finished block."""
    data = tmp_path / "data.yaml"
    data.write_text((folder / "data.yaml").read_text().replace("images: 8", "images: 40"))
    out = tmp_path / "out.emb"
    command = ["embed", folder / "runs" / "teacher", data, out, "--block", 16, "--json"]
    parts = tmp_path / ".out.emb.parts"
    argv = [sys.executable, "-m", "facetrain", *map(str, command)]
    with subprocess.Popen(argv, stderr=subprocess.DEVNULL, stdout=subprocess.DEVNULL, env=environment(tmp_path)) as one:
        limit = time.monotonic() + 240
        while not list(parts.glob("block-*.npz")) and time.monotonic() < limit and one.poll() is None:
            time.sleep(0.02)
        one.send_signal(signal.SIGKILL)
    done = len(list(parts.glob("block-*.npz")))
    assert 1 <= done < 30 and not out.exists()
    assert main([*map(str, command)]) == 0
    assert EmbeddingStore(out).count == 480 and not parts.exists()


@pytest.mark.skipif(
    importlib.util.find_spec("horovod") is None, reason="Horovod is not installed: bash scripts/install_horovod.sh"
)
def test_two_ranks_embed_and_train(folder, tmp_path):
    from facetrain.distributed.launch import find_horovodrun

    out = tmp_path / "out.emb"
    launch = [find_horovodrun(), "-np", "2", sys.executable]
    embed = [*launch, "-m", "facetrain", "embed", folder / "runs" / "teacher", folder / "data.yaml", out, "--block", 16]
    values = {**BASE, "name": "two", "train.runs_dir": tmp_path / "runs", "data.cache_dir": tmp_path / "cache"}
    values["distillation.teacher"] = out
    script = [*launch, ROOT / "scripts" / "train_horovod.py", SMOKE, *assignments(values)]
    for command in (embed, script):
        done = subprocess.run(
            list(map(str, command)), capture_output=True, text=True, timeout=300, env=environment(tmp_path), check=False
        )
        assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
    half = EmbeddingStore(folder / "out.emb").embeddings
    np.testing.assert_allclose(EmbeddingStore(out).embeddings, half, rtol=1e-3, atol=1e-3)
    arrays = state_of(tmp_path, "two")
    assert "extra/projection_0/kernel" in arrays and all(np.isfinite(value).all() for value in arrays.values())


def test_checks_and_help_load_no_tensorflow(folder):
    code = (
        "import sys; from facetrain.config import load_config; from facetrain.experiment import check; "
        "from facetrain.cli import main; "
        f"check(load_config({str(SMOKE)!r}, ['distillation.teacher={folder / 'out.emb'}'])); "
        "assert main(['embed', '--help']) == 0 == main(['show', 'distillation-losses']); "
        "print('loaded' if 'tensorflow' in sys.modules else 'clean')"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, timeout=120, env=environment(folder), check=False
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip().splitlines()[-1] == "clean"
