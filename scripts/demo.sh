#!/usr/bin/env bash
# The main job from beginning to end on generated people: photographs -> alignment -> record file -> training ->
# verification of people never seen -> export -> report. 'make demo' calls it; needs facetrain on the PATH.
#
#   scripts/demo.sh [FOLDER]      default: demo_out, which is emptied first
set -euo pipefail
cd "$(dirname "$0")/.."
out=${1:-demo_out}
rm -rf "$out"
mkdir -p "$out"
export TF_CPP_MIN_LOG_LEVEL=${TF_CPP_MIN_LOG_LEVEL:-2}
export XDG_CACHE_HOME=$out/cache

step() { printf '\n== %s\n' "$*" >&2; }

step "1/7 photographs of 300 people to learn from and of 100 others to be judged by"
facetrain data synth "$out/photos/train" --identities 300 --images 20 --seed 1
facetrain data synth "$out/photos/heldout" --identities 100 --images 12 --seed 1 --first-identity 100000 --pairs 6000

step "2/7 alignment by landmarks"
for part in train heldout; do
    facetrain align "$out/photos/$part" "$out/aligned/$part" --size 112
done
cp "$out/photos/heldout/pairs.txt" "$out/aligned/heldout/"

step "3/7 packing into a record file"
facetrain data pack "$out/aligned/train" "$out/packed"

step "4/7 training"
# Half as fast again where the processor multiplies bfloat16 itself, and much slower where it does not.
precision=float32
if grep -qw avx512_bf16 /proc/cpuinfo 2>/dev/null; then precision=mixed_bfloat16; fi
facetrain train configs/demo.yaml --name demo --set train.precision=$precision --set data.path="$out/packed" \
    --set evaluate.0.path="$out/aligned/heldout/pairs.txt" --set train.runs_dir="$out/runs"

step "5/7 verification of people who were not trained on"
best=$out/runs/demo/best
result=$(facetrain evaluate "$best" --pairs "$out/aligned/heldout/pairs.txt" --json | tail -n 1)
people=$(find "$out/aligned/heldout" -mindepth 1 -maxdepth 1 -type d | sort)
first=$(printf '%s\n' "$people" | sed -n 1p)
second=$(printf '%s\n' "$people" | sed -n 2p)
facetrain compare "$best" "$first/0000.jpg" "$first/0001.jpg"
facetrain compare "$best" "$first/0000.jpg" "$second/0000.jpg"

step "6/7 export for servers and phones"
facetrain export "$best" --format savedmodel --out "$out/export/savedmodel"
facetrain export "$best" --format tflite --out "$out/export/model.tflite"

step "7/7 report: open $out/runs/demo/report.html in a browser"
python - "$result" "$(printf '%s\n' "$people" | wc -l)" "$out/runs/demo/report.html" <<'PYTHON'
import json
import sys

result, people, report = json.loads(sys.argv[1]), sys.argv[2], sys.argv[3]
print(f"demo: accuracy={result['accuracy']:.4f} pairs={result['pairs']} identities={people} report={report}")
PYTHON
