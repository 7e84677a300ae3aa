"""``facetrain train`` on the processes that horovodrun starts.

horovodrun -np 2 python scripts/train_horovod.py configs/x.yaml --set train.epochs=3
"""

from __future__ import annotations

import sys

from facetrain.cli import main

if __name__ == "__main__":
    sys.exit(main(["train", *sys.argv[1:], "--set", "runtime.kind=horovod"]))
