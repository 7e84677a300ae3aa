"""``facetrain train`` on the processes that horovodrun starts.

horovodrun -np 2 python scripts/train_horovod.py configs/x.yaml --set train.epochs=3
horovodrun -np 4 python scripts/train_horovod.py --resume runs/x
"""

from __future__ import annotations

import sys

from facetrain.cli import run

if __name__ == "__main__":
    # A resumed run goes on with its own config, in which the kind is "auto" or "horovod".
    resumed = any(argument.partition("=")[0] == "--resume" for argument in sys.argv[1:])
    run(["train", *sys.argv[1:], *([] if resumed else ["--set", "runtime.kind=horovod"])])
