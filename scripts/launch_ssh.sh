#!/usr/bin/env bash
# Training on hosts that reach each other by ssh without a password: one Horovod rank for each slot.
#
#   scripts/launch_ssh.sh a:4,b:4 configs/x.yaml --name x
#   scripts/launch_ssh.sh a:4,b:4 --resume runs/x
#
# Every host must see this folder and the environment in .venv under the same path. PYTHON names another interpreter.
set -euo pipefail
cd "$(dirname "$0")/.."
hosts=${1:?give the hosts with their slots, as a:4,b:4}
shift
exec "${PYTHON:-.venv/bin/python}" -m facetrain launch --strategy horovod --hosts "$hosts" -- train "$@"
