"""Distillation: a small student with a larger teacher and without, over several seeds; and what stored embeddings cost.

    python benchmarks/distillation.py --part demo --work bench_distill            # generated people
    python benchmarks/distillation.py --part photos --work bench_distill --photos lfw --pairs lfw/val_pairs.txt
        --teacher runs/lfw_mobilefacenet_arcface_1h    # instead of training one
    python benchmarks/distillation.py --part throughput

Every training is a run of its own below --work; called again, what is finished is not repeated and what was stopped
goes on. Both students of a seed see the same images in the same order and begin with the same weights. The interval of
a run is that of its report; the difference between the two students of a seed has one over resamplings of the same
pairs for both, with the thresholds of each as they are.
"""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np

ROOT = Path(__file__).resolve().parents[1]
TEACHER, ALONE, TAUGHT = "teacher", "alone", "taught"
BOOTSTRAP, FOLDS = 2000, 10
# What a part trains on, for how long, and how strongly the teacher counts.
DEMO = {
    "people": 300,
    "images": 20,
    "held_out": 100,
    "pairs": 6000,
    "teacher": [("softmax", 0.9, 0.0, 16.0), ("margin0.3", 1.1, 0.3, 32.0), ("margin0.5", 1, 0.5, 32.0)],
    "student": [("softmax", 1, 0.0, 16.0), ("margin0.3", 2, 0.3, 32.0)],
    "weight": 20.0,
}
PHOTOS = {
    "teacher": [("scale16", 8, 0.5, 16.0), ("scale32", 6, 0.5, 32.0), ("scale64", 6, 0.5, 64.0)],
    "student": [("scale16", 8, 0.5, 16.0), ("scale32", 6, 0.5, 32.0), ("scale64", 6, 0.5, 64.0)],
    "weight": 40.0,
}


def facetrain(*arguments: Any) -> dict[str, Any]:
    """Runs a command of the library and returns the JSON object that it prints."""
    command = [sys.executable, "-m", "facetrain", *map(str, arguments), "--json"]
    done = subprocess.run(command, cwd=ROOT, stdout=subprocess.PIPE, text=True, check=True)
    return json.loads(done.stdout.strip().splitlines()[-1])


def prepare_demo(work: Path, part: dict[str, Any], size: int) -> tuple[Path, Path]:
    """Makes generated people, aligned; returns the training folder and the pairs of others."""
    parts = {
        "train": ["--identities", part["people"], "--images", part["images"]],
        "heldout": [
            *("--identities", part["held_out"], "--images", 12, "--first-identity", 100000, "--pairs", part["pairs"])
        ],
    }
    for name, options in parts.items():
        if not (work / "photos" / name).exists():
            run_plain("data", "synth", work / "photos" / name, "--seed", 1, *options)
        if not (work / "aligned" / name).exists():
            run_plain("align", work / "photos" / name, work / "aligned" / name, "--size", size)
    pairs = work / "aligned" / "heldout" / "pairs.txt"
    pairs.write_text((work / "photos" / "heldout" / "pairs.txt").read_text(encoding="utf-8"), encoding="utf-8")
    return work / "aligned" / "train", pairs


def run_plain(*arguments: Any) -> None:
    """Runs a command whose result is files."""
    command = [sys.executable, "-m", "facetrain", *map(str, arguments)]
    subprocess.run(command, cwd=ROOT, stdout=subprocess.DEVNULL, check=True)


def config_of(
    arguments: argparse.Namespace, images: Path, pairs: Path, stages: list, student: bool, seed: int
) -> dict[str, Any]:
    """Returns the configuration of one training, without a teacher."""
    epochs = arguments.epochs_scale
    return {
        "base": str(ROOT / "configs" / "base" / "default.yaml"),
        "seed": seed,
        "data": {"path": str(images), "size": arguments.size, "batch_size": 64, "augment": ["flip"]},
        "model": {
            "backbone": {"name": "mobilefacenet", "width": arguments.width if student else 1.0},
            "embedding_size": 128 if student else 256,
        },
        "schedule": {"name": "warmup_cosine", "peak_lr": 0.1, "warmup_steps": 25},
        "stages": [
            {
                "name": name,
                "epochs": count * epochs,
                "loss": {"name": "norm_softmax", "scale": scale}
                if not margin
                else {"name": "arcface", "margin": margin, "scale": scale},
            }
            for name, count, margin, scale in stages
        ],
        "train": {
            "precision": arguments.precision,
            "tensorboard": False,
            "evaluate_every": None,
            "runs_dir": str(arguments.work.resolve() / arguments.part / "runs"),
        },
        "evaluate": [{"name": "heldout", "path": str(pairs)}],
    }


def train(name: str, config: dict[str, Any]) -> Path:
    """Trains a run unless it is finished; returns its folder, in which ``seconds.json`` says how long it took."""
    run = Path(config["train"]["runs_dir"]) / name
    seconds = run / "seconds.json"
    if seconds.is_file():
        return run
    start = time.perf_counter()
    resumed = (run / "config.yaml").is_file()
    if resumed:
        facetrain("train", "--resume", run)
    else:
        with tempfile.NamedTemporaryFile("w", suffix=".yaml", encoding="utf-8") as file:
            file.write(json.dumps(config))  # which is YAML too
            file.flush()
            facetrain("train", file.name, "--name", name)
    took = None if resumed else time.perf_counter() - start
    seconds.write_text(json.dumps(took), encoding="utf-8")
    return run


def scores_of(run: Path, pairs: Path) -> tuple[np.ndarray, np.ndarray]:
    """Returns the cosines of all pairs by the best model of a run, and which pairs are of one person."""
    from facetrain.evaluation.evaluators import VerificationEvaluator
    from facetrain.models import embedding_function, load_embedding_model

    kept = run / "scores.npz"
    if not kept.is_file():
        model, contract = load_embedding_model(run / "best")
        evaluator = VerificationEvaluator(pairs, contract.input_size, flip=contract.flip_fusion)
        result = evaluator.evaluate(embedding_function(model, contract.scaling), bootstrap=0)
        np.savez(kept, scores=result.scores, is_same=evaluator.pairs.is_same)
    with np.load(kept) as found:
        return found["scores"], found["is_same"]


def difference_interval(
    first: np.ndarray, second: np.ndarray, is_same: np.ndarray, seed: int = 0
) -> tuple[float, float, float]:
    """Returns how much more accurate the second scores are, and the 95 % interval over pairs drawn anew.

    Pairs are drawn with replacement within each fold and kind, the same for both.
    """
    from facetrain.evaluation.metrics import fold_numbers, kfold_accuracy

    fold_of, right = fold_numbers(len(is_same), FOLDS), []
    for scores in (first, second):
        thresholds = np.asarray(kfold_accuracy(scores, is_same, FOLDS).thresholds)
        right.append((scores >= thresholds[fold_of]) == is_same)
    gain = right[1].astype(np.float64) - right[0]
    rng, totals = np.random.default_rng(seed), np.zeros(BOOTSTRAP)
    for fold in range(FOLDS):
        for kind in (True, False):
            values = gain[(fold_of == fold) & (is_same == kind)]
            if len(values):
                totals += rng.choice(values, (BOOTSTRAP, len(values))).sum(axis=1)
    low, high = np.quantile(totals / len(gain), [0.025, 0.975])
    return float(gain.mean()), float(low), float(high)


def tflite_of(run: Path) -> tuple[int, float]:
    """Returns size in bytes and median milliseconds of an image of the run's model as TensorFlow Lite, one thread."""
    from facetrain.export.runtimes import load_tflite

    path = run / "model.tflite"
    if not path.is_file():
        facetrain("export", run / "best", "--format", "tflite", "--out", path)
    embed = load_tflite(path, threads=1)
    size = json.loads((run / "best" / "contract.json").read_text(encoding="utf-8"))["input_size"]
    image, times = np.zeros((1, size, size, 3), np.uint8), []
    for _ in range(55):
        start = time.perf_counter()
        embed(image)
        times.append(time.perf_counter() - start)
    return path.stat().st_size, 1000 * statistics.median(times[5:])


def compare(arguments: argparse.Namespace, part: dict[str, Any], images: Path, pairs: Path) -> dict[str, Any]:
    """Trains teacher and students; returns what the table shows."""
    work = arguments.work.resolve() / arguments.part
    if arguments.teacher:
        teacher = arguments.teacher.resolve()
    else:
        teacher = train(TEACHER, config_of(arguments, images, pairs, part["teacher"], False, 1))
    store = work / "teacher.emb"
    if not store.is_dir():
        facetrain("embed", teacher, images, store, "--fp16")
    runs: dict[str, list[Path]] = {TEACHER: [teacher], ALONE: [], TAUGHT: []}
    for seed in range(1, arguments.seeds + 1):
        config = config_of(arguments, images, pairs, part["student"], True, seed)
        runs[ALONE].append(train(f"{ALONE}-{seed}", config))
        loss = {"name": "cosine", "weight": arguments.weight or part["weight"]}
        config["distillation"] = {"teacher": str(store), "losses": [loss], "measure": False}
        runs[TAUGHT].append(train(f"{TAUGHT}-{seed}", config))
    rows = {kind: [row_of(run) for run in found] for kind, found in runs.items()}
    gains = []
    for one, two in zip(runs[ALONE], runs[TAUGHT]):
        (first, is_same), (second, _) = scores_of(one, pairs), scores_of(two, pairs)
        gains.append(difference_interval(first, second, is_same))
    return {"rows": rows, "gains": gains}


def row_of(run: Path) -> dict[str, Any]:
    """Returns accuracy with its interval, seconds of training, size and latency of a finished run."""
    (numbers,) = json.loads((run / "results.json").read_text(encoding="utf-8")).values()
    seconds = run / "seconds.json"
    size, latency = tflite_of(run)
    return {
        "accuracy": numbers["accuracy"],
        "interval": numbers["intervals"]["accuracy"],
        "seconds": json.loads(seconds.read_text(encoding="utf-8")) if seconds.is_file() else None,
        "bytes": size,
        "milliseconds": latency,
    }


def show(found: dict[str, Any]) -> None:
    """Prints the table."""
    print(f"{'':10} {'accuracy':>9} {'95 % interval':>18} {'seconds':>8} {'tflite bytes':>13} {'ms/image':>9}")
    for kind, rows in found["rows"].items():
        for number, row in enumerate(rows, start=1):
            low, high = row["interval"]
            seconds = "unknown" if row["seconds"] is None else f"{row['seconds']:.0f}"
            print(
                f"{kind + '-' + str(number):10} {row['accuracy']:9.4f}  {low:8.4f} {high:8.4f} {seconds:>8} "
                f"{row['bytes']:13d} {row['milliseconds']:9.2f}"
            )
    for number, (gain, low, high) in enumerate(found["gains"], start=1):
        print(f"taught less alone, seed {number}: {gain:+.4f} (95 % interval {low:+.4f} to {high:+.4f})")
    gains = [gain for gain, _, _ in found["gains"]]
    print(f"mean over {len(gains)} seeds: {statistics.mean(gains):+.4f}, lowest {min(gains):+.4f}")


def throughput(arguments: argparse.Namespace) -> dict[str, Any]:
    """Images per second of the student alone and with stored embeddings, taking turns on the same batches."""
    from facetrain import heads, losses, optimizers
    from facetrain.data.pipeline import build_pipeline
    from facetrain.data.sampling import build_order
    from facetrain.distillation import Distiller, Lesson, attach
    from facetrain.losses import DISTILLATION_LOSSES
    from facetrain.losses.taught import DistillationLoss
    from facetrain.models import FaceRecognizer, build_embedding_model

    rng, count, batch = np.random.default_rng(0), 2048, 64
    images = rng.integers(0, 256, (count, arguments.size, arguments.size, 3), dtype=np.uint8)
    labels = rng.integers(0, 300, count).astype(np.int32)
    teacher = stored_teacher(count, rng)

    def build(taught: bool) -> Any:
        backbone = {"name": "mobilefacenet", "width": arguments.width}
        model = build_embedding_model(
            backbone, "gdc", 128, (arguments.size, arguments.size, 3), precision=arguments.precision
        )
        head, loss = heads.get("cosine", num_classes=300), losses.get("arcface")
        recognizer = Distiller(model, head, [Lesson(teacher)]) if taught else FaceRecognizer(model, head)
        loss = DistillationLoss([loss, DISTILLATION_LOSSES.build("cosine")], [1.0, 10.0]) if taught else loss
        recognizer.compile(optimizers.get("mxnet_sgd", learning_rate=0.01), loss)
        return recognizer

    contenders = {ALONE: build(False), TAUGHT: build(True)}
    rates: dict[str, list[float]] = {name: [] for name in contenders}
    for turn in range(arguments.turns + 1):
        for name, recognizer in contenders.items():
            order = build_order("shuffle", labels, batch, turn)
            data = build_pipeline(images, labels, order, ["flip"], seed=turn)
            data = attach(data, [teacher]) if name == TAUGHT else data
            start = time.perf_counter()
            recognizer.fit(data, epochs=1, steps_per_epoch=arguments.steps, verbose=0)
            if turn:  # the first turn traces
                rates[name].append(arguments.steps * batch / (time.perf_counter() - start))
    ratios = [taught / alone for alone, taught in zip(rates[ALONE], rates[TAUGHT])]
    medians = {name: statistics.median(found) for name, found in rates.items()}
    return {**medians, "ratio": statistics.median(ratios), "lowest": min(ratios), "highest": max(ratios)}


def stored_teacher(count: int, rng: np.random.Generator) -> Any:
    """Returns random embeddings of 256 values as ``facetrain embed --fp16`` would have stored them."""
    from facetrain.distillation import StoredTeacher

    class Store:
        size, embeddings, teacher, digest, flip = 256, rng.normal(size=(count, 256)).astype(np.float16), {}, "", False

    return StoredTeacher(Store(), np.arange(count))


def main() -> None:
    """Reads arguments, measures, prints."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--part", choices=("demo", "photos", "throughput"), default="throughput")
    parser.add_argument("--work", type=Path, default=Path("bench_distillation"), help="folder of runs, kept")
    parser.add_argument("--photos", type=Path, help="training photographs, one folder a person")
    parser.add_argument("--pairs", type=Path, help="pairs of photographs of other people")
    parser.add_argument("--teacher", type=Path, help="a finished run, judged on the same pairs")
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--width", type=float, default=0.25, help="of the student")
    parser.add_argument("--weight", type=float, help="of the loss against the teacher")
    parser.add_argument("--size", type=int, default=112)
    parser.add_argument("--epochs-scale", type=float, default=1.0, help="factor of all lengths")
    parser.add_argument("--precision", default="float32")
    parser.add_argument("--steps", type=int, default=20, help="throughput: updates in a turn")
    parser.add_argument("--turns", type=int, default=7)
    parser.add_argument("--json", action="store_true")
    arguments = parser.parse_args()
    if arguments.part == "throughput":
        found = throughput(arguments)
        line = "images/s alone {alone:.1f}, taught {taught:.1f}; ratio {ratio:.3f} ({lowest:.3f} to {highest:.3f})"
        print(json.dumps(found) if arguments.json else line.format(**found))
        return
    if arguments.part == "photos" and (arguments.photos is None or arguments.pairs is None):
        parser.error("--part photos needs --photos and --pairs")
    if arguments.part == "demo":
        part = DEMO
        images, pairs = prepare_demo(arguments.work.resolve() / "demo", part, arguments.size)
    else:
        part, images, pairs = PHOTOS, arguments.photos.resolve(), arguments.pairs.resolve()
    found = compare(arguments, part, images, pairs)
    if arguments.json:
        print(json.dumps(found))
    else:
        show(found)


if __name__ == "__main__":
    main()
