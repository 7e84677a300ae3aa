"""What each surgery does to TensorFlow Lite: latency in four precisions, verification in float32 and int8.

Each network, trained on the generated people of `make demo`, is rewritten by each surgery and written in each format.
All files of one network take turns, call by call, in one process; a ratio is that of a call to the call of the model
without surgery in the same turn and format, given as the median and the quartiles over the turns. Times include what
turns uint8 pixels into the input. Verification goes by the file itself, with the mirror images if the contract says so.
Files and figures lie in --work: what is written already is taken as it is, and each part can be asked for alone, for
only the times need a quiet machine.

    python benchmarks/export.py                             # makes demo_out and trains in it what is not there yet
    python benchmarks/export.py --mobilefacenet demo_out/runs/demo/best --part verify
    python benchmarks/export.py --part time --rounds 201 --out latency.png
"""

from __future__ import annotations

import argparse
import functools
import itertools
import json
import os
import subprocess
import sys
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
os.environ.setdefault("CUDA_VISIBLE_DEVICES", "")
os.environ["PATH"] = os.pathsep.join([str(Path(sys.executable).parent), os.environ.get("PATH", "")])

import numpy as np
from tensorflow import keras
from turns import summary, take_turns

from facetrain import experiment, surgery
from facetrain.config import load_config
from facetrain.evaluation.evaluators import VerificationEvaluator
from facetrain.experiment.crops import CropChoice, Crops, choose_crops
from facetrain.export import EXPORTERS, load_export, read_contract, to_float32
from facetrain.export.parity import measure_parity
from facetrain.files import atomic_path, sha256_file, write_json
from facetrain.models import Contract, embedding_function, load_embedding_model
from facetrain.models.embedding_model import MODEL_FILE

ROOT = Path(__file__).resolve().parents[1]
SOURCE = "none"
VARIANTS: dict[str, list[Any]] = {
    SOURCE: [],
    "set_batch_size": [{"name": "set_batch_size", "size": 1}],
    "fuse_conv_bn": ["fuse_conv_bn"],
    "prelu_to_depthwise": ["prelu_to_depthwise"],
    "fuse_conv_bn, prelu_to_depthwise": ["fuse_conv_bn", "prelu_to_depthwise"],
    "the same, bitwise": ["fuse_conv_bn", {"name": "prelu_to_depthwise", "bitwise": True}],
    "global_depthwise": ["global_depthwise"],
    "fold_input_scaling": [{"name": "fold_input_scaling"}],
    "PReLU -> ReLU (not equal)": [{"name": "replace_activations", "old": "prelu", "new": "relu"}],
}
# name of the exporter -> what the table calls it
FORMATS = {
    "tflite": "float32",
    "tflite_float16": "float16",
    "tflite_dynamic": "dynamic",
    "tflite_int8": "int8",
}
INT8 = "tflite_int8"
JUDGED = ("tflite", INT8)
PARTS = ("write", "verify", "time")
# Variants of which the layers that lose most in int8 are shown, and how many.
LAYERS_OF, WORST = (SOURCE, "fuse_conv_bn, prelu_to_depthwise", "the same, bitwise"), 6
RECIPES = {"mobilefacenet": "demo", "iresnet18": "demo_iresnet18"}
Files = dict[str, dict[str, Path]]


def paths_of(variants: Iterable[str], folder: Path) -> Files:
    """Returns where the files of a network lie, by variant and format."""
    numbers = {variant: list(VARIANTS).index(variant) for variant in variants}
    return {key: {name: folder / f"{number}_{name}.tflite" for name in FORMATS} for key, number in numbers.items()}


def write_files(
    model: keras.Model, contract: Contract, variants: Mapping[str, list[Any]], crops: np.ndarray, folder: Path
) -> Files:
    """Writes each variant of a model in each format, where it is not there yet.

    Args:
        model: any precision; its float32 twin is what is rewritten.
        contract: of the model.
        variants: surgeries by the name of the variant.
        crops: what int8 is calibrated on.
        folder: where to write to; beside an int8 file lie the errors of its layers.
    Returns:
        paths by variant and format.
    """
    twin, files = to_float32(model), paths_of(variants, folder)
    for variant, steps in variants.items():
        missing = {name: path for name, path in files[variant].items() if not path.is_file()}
        if not missing:
            continue
        print(f"{model.name}: {variant}", file=sys.stderr)
        new = surgery.apply(twin, with_scaling(steps, contract.scaling)) if steps else twin
        scaling = "raw" if "fold_input_scaling" in names_of(steps) else contract.scaling
        own = Contract.from_dict({**contract.to_dict(), "scaling": scaling})
        for name, path in missing.items():
            exporter = EXPORTERS.build({"name": name, **({"representative": crops} if name == INT8 else {})})
            with atomic_path(path) as temporary:
                exporter.write(new, own, temporary)
                if name == INT8:
                    errors = [error.to_dict() for error in exporter.layer_errors]
                    write_json(path.with_suffix(".json"), {"layers": errors})
    return files


def names_of(steps: Iterable[Any]) -> list[str]:
    """Returns the names of some surgeries."""
    return [step if isinstance(step, str) else step["name"] for step in steps]


def with_scaling(steps: Iterable[Any], scaling: str) -> list[Any]:
    """Returns surgeries, of which the one that folds the scaling is told which."""
    return [{**step, "scaling": scaling} if step == {"name": "fold_input_scaling"} else step for step in steps]


def latencies(files: Files, rounds: int, threads: int) -> dict[str, dict[str, dict[str, Any]]]:
    """Returns ``summary`` and the size in bytes by variant and format."""
    size = read_contract(next(iter(files[SOURCE].values())))["input_size"]
    image = np.random.default_rng(0).integers(0, 256, (1, size, size, 3), dtype=np.uint8)
    calls = {}
    for name in FORMATS:  # all of one format are neighbours
        for variant, paths in files.items():
            embed = load_export(paths[name], threads)
            calls[variant, name] = lambda embed=embed: embed(image)
    times = take_turns(calls, rounds)
    found: dict[str, dict[str, dict[str, Any]]] = {variant: {} for variant in files}
    for (variant, name), own in times.items():
        content = files[variant][name].read_bytes()
        found[variant][name] = {
            **summary(own, times[SOURCE, name]),
            "bytes": len(content),
            "same_file": content == files[SOURCE][name].read_bytes(),
        }
    return found


def judge(
    files: Files,
    model: keras.Model,
    contract: Contract,
    evaluator: VerificationEvaluator,
    crops: np.ndarray,
    found: dict[str, dict[str, dict[str, float]]],
    save: Callable[[], None],
) -> None:
    """Adds mean cosine with the model, 10-fold accuracy and its deviation by variant and format of ``JUDGED``.

    Args:
        files: what to judge.
        model, contract: what the files were made of.
        evaluator: of the pairs.
        crops: what the cosine is taken over.
        found: what is known already, to be added to.
        save: called after each file.
    """
    source = embedding_function(to_float32(model), contract.scaling)
    known: dict[bytes, dict[str, float]] = {}  # some variants write the same file
    for variant, name in itertools.product(files, JUDGED):
        content, cells = files[variant][name].read_bytes(), found.setdefault(variant, {})
        if name not in cells and content not in known:
            print(f"{model.name}: verification by {variant}, {name}", file=sys.stderr)
            embed = load_export(files[variant][name], os.cpu_count())
            result = evaluator.evaluate(embed, bootstrap=0)
            known[content] = {
                "cosine": measure_parity(source, embed, crops).mean_cosine,
                "accuracy": result.accuracy,
                "accuracy_std": result.accuracy_std,
            }
        known[content] = cells[name] = cells.get(name) or known[content]
        save()


def place_of(work: Path, name: str, best: Path, count: int) -> Path:
    """Returns the folder, made if need be, of what belongs to one trained model and number of crops."""
    place = work / f"{name}_{sha256_file(best / MODEL_FILE)[:8]}_{count}"
    place.mkdir(parents=True, exist_ok=True)
    return place


def write_and_verify(
    best: Path, folder: Path, variants: Mapping[str, list[Any]], choice: CropChoice, pairs: Path, verify: bool
) -> None:
    """Writes the files of a trained network into a folder, and adds to its ``verify.json`` if asked for."""
    model, contract = load_embedding_model(best)
    crops: Crops = choose_crops(choice, contract.input_size)
    files, target = write_files(model, contract, variants, crops.calibration, folder), folder / "verify.json"
    if verify:
        evaluator = VerificationEvaluator(pairs, contract.input_size, flip=contract.flip_fusion)
        found = read(target) or {"parameters": model.count_params(), "variants": {}}
        save = functools.partial(write_json, target, found)
        judge(files, model, contract, evaluator, crops.parity, found["variants"], save)


def figures_of(folder: Path) -> dict[str, Any]:
    """Returns what a folder holds of a network: figures by variant and format, and the int8 layers by variant."""
    verified, timed = read(folder / "verify.json"), read(folder / "time.json")
    files = {key: paths for key, paths in paths_of(VARIANTS, folder).items() if any(map(Path.is_file, paths.values()))}
    rows = {
        variant: {name: {**cell_of(timed, variant, name), **cell_of(verified, variant, name)} for name in FORMATS}
        for variant in files
    }
    layers = {variant: read(paths[INT8].with_suffix(".json")).get("layers", []) for variant, paths in files.items()}
    return {**timed, **verified, "variants": rows, "layers": layers}


def cell_of(found: Mapping[str, Any], variant: str, name: str) -> dict[str, Any]:
    """Returns the figures of a variant in a format, nothing if there are none."""
    return found.get("variants", {}).get(variant, {}).get(name, {})


def read(path: Path) -> dict[str, Any]:
    """Returns what a JSON file holds, nothing if there is none."""
    return json.loads(path.read_text(encoding="utf-8")) if path.is_file() else {}


def trained_run(name: str, folder: Path, data: Path, pairs: Path, epochs: float) -> Path:
    """Returns the best model of a run of the recipe in the demo's folder; trains it first if it is not there."""
    best = folder / "runs" / RECIPES[name] / "best"
    if not best.is_dir():
        recipe = ROOT / "configs" / f"{RECIPES[name]}.yaml"
        stages = load_config(recipe).resolved_stages()
        share = epochs / sum(stage.epochs for stage in stages)
        fast = "avx512_bf16" in Path("/proc/cpuinfo").read_text(encoding="utf-8")
        settings = [
            f"data.path={data}",
            f"evaluate.0.path={pairs}",
            f"train.runs_dir={folder / 'runs'}",
            f"train.precision={'mixed_bfloat16' if fast else 'float32'}",
            *(f"stages.{number}.epochs={share * stage.epochs}" for number, stage in enumerate(stages)),
        ]
        experiment.train(load_config(recipe, settings), show_progress=True)
    return best


def show(networks: Mapping[str, Any]) -> None:
    """Prints for each network ms without surgery, ratios (quartiles) with it, verification; layers that lose most."""
    judged = [f"{FORMATS[name]} {what}" for name in JUDGED for what in ("accuracy", "cosine")]
    for network, found in networks.items():
        print(f"\n{network}: {found['parameters']:,} parameters\n" if "parameters" in found else f"\n{network}\n")
        print(f"| surgery | {' | '.join([*FORMATS.values(), *judged])} |")
        print("|---" * (1 + len(FORMATS) + len(judged)) + "|")
        for variant, row in found["variants"].items():
            cells = [time_of(row[name], variant == SOURCE) for name in FORMATS]
            ends = [verification_of(row[name]) for name in JUDGED]
            print(f"| {variant} | {' | '.join([*cells, *ends])} |")
        print("\n| surgery | layer | operation | steps |\n|---|---|---|---|")
        for variant in LAYERS_OF:
            for layer in found["layers"].get(variant, [])[:WORST]:
                print(f"| {variant} | {layer['layer']} | {layer['operation']} | {layer['steps']:.2f} |")


def time_of(cell: Mapping[str, Any], is_source: bool) -> str:
    """Returns a cell of the table; empty where nothing was measured."""
    if "ratio" not in cell:
        return ""
    if is_source:
        return f"{cell['median_ms']:.2f} ms"
    ratio = f"{cell['ratio']:.3f} ({cell['ratio_25']:.2f} to {cell['ratio_75']:.2f})"
    return f"{ratio}, same file" if cell["same_file"] else ratio


def verification_of(cell: Mapping[str, Any]) -> str:
    """Returns two cells of the table; empty where nothing was verified."""
    return f"{cell['accuracy']:.4f} | {cell['cosine']:.5f}" if "accuracy" in cell else " | "


def plot(networks: Mapping[str, Any], target: Path) -> None:
    """Writes the ratios with their quartiles, a panel for each network."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(7 * len(networks), 4.5))
    for axes, (network, found) in zip(np.atleast_1d(figure.subplots(1, len(networks), sharey=True)), networks.items()):
        timed = {key: row for key, row in found["variants"].items() if all("ratio" in row[name] for name in FORMATS)}
        variants = list(timed)
        for place, name in enumerate(FORMATS):
            cells = [timed[variant][name] for variant in variants]
            middle = np.array([cell["ratio"] for cell in cells])
            ends = np.array([[cell["ratio_25"], cell["ratio_75"]] for cell in cells]).T
            rows = np.arange(len(variants)) + 0.18 * (place - 1.5)
            spread = np.abs(ends - middle)
            axes.errorbar(middle, rows, xerr=spread, fmt="o", ms=4, lw=1, label=FORMATS[name])
        axes.axvline(1.0, color="#b8c0cc", lw=1, zorder=0)
        axes.set_yticks(range(len(variants)), variants)
        axes.set(xscale="log", xlabel="time relative to the model without surgery", title=network)
    figure.axes[0].invert_yaxis()
    figure.axes[0].legend()
    figure.tight_layout()
    figure.savefig(target, dpi=120)


def main() -> None:
    """Reads arguments, trains what is missing, measures, prints."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--demo", type=Path, default=Path("demo_out"), help="folder of `make demo`; made if missing")
    for name in RECIPES:
        parser.add_argument(f"--{name}", type=Path, metavar="RUN/best", help="a trained model; else that of the demo")
    parser.add_argument("--pairs", type=Path, help="pair list to verify; else that of the demo")
    parser.add_argument("--data", type=Path, help="crops to calibrate int8 on; else those that the demo learns from")
    parser.add_argument("--count", type=int, default=200, help="crops to calibrate on")
    parser.add_argument("--epochs", type=float, default=3.0, help="of what has to be trained")
    parser.add_argument("--rounds", type=int, default=101, help="turns of the watch")
    parser.add_argument("--threads", type=int, default=1, help="of the interpreter")
    parser.add_argument("--only", choices=list(RECIPES), help="measure one network")
    parser.add_argument("--work", type=Path, default=Path("bench_export"), help="folder of the files and figures")
    parser.add_argument("--part", choices=PARTS, action="append", help="do some parts; else all")
    parser.add_argument("--surgery", choices=list(VARIANTS), action="append", help="beside none; else all of the table")
    parser.add_argument("--out", type=Path, help="PNG to draw the ratios to")
    parser.add_argument("--json", action="store_true")
    arguments = parser.parse_args()
    folder = arguments.demo.resolve()
    data, pairs = arguments.data or folder / "packed", arguments.pairs or folder / "aligned" / "heldout" / "pairs.txt"
    names = [arguments.only] if arguments.only else list(RECIPES)
    given = {name: getattr(arguments, name) for name in names}
    if not (data.exists() and pairs.exists()):
        if folder.exists():
            parser.error(f"{data} and {pairs} are not both there; name --data and --pairs, or run scripts/demo.sh")
        subprocess.run([str(ROOT / "scripts" / "demo.sh"), str(folder)], check=True, stdout=sys.stderr)
    runs = {name: given[name] or trained_run(name, folder, data, pairs, arguments.epochs) for name in names}
    choice, parts = CropChoice(data=data, count=arguments.count), arguments.part or PARTS
    places = {name: place_of(arguments.work, name, best, arguments.count) for name, best in runs.items()}
    variants = {key: VARIANTS[key] for key in VARIANTS if key in (SOURCE, *(arguments.surgery or VARIANTS))}
    for name, place in places.items():
        if "write" in parts or "verify" in parts:
            write_and_verify(runs[name], place, variants, choice, pairs, "verify" in parts)
        if "time" in parts:
            times = latencies(paths_of(variants, place), arguments.rounds, arguments.threads)
            settings = {"rounds": arguments.rounds, "threads": arguments.threads}
            write_json(place / "time.json", {**settings, "variants": times})
    networks = {name: figures_of(place) for name, place in places.items()}
    if arguments.out:
        plot(networks, arguments.out)
    if arguments.json:
        print(json.dumps({"networks": networks}))
    else:
        show(networks)


if __name__ == "__main__":
    main()
