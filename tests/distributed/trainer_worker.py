"""``facetrain`` as one of the ranks that the equality tests compare.

    python -m tests.distributed.trainer_worker FOLDER ARGUMENTS...

Batch normalisation is in evaluation mode, so that how a batch is divided must make no difference. Each rank works in a
folder of its own, FOLDER/rank-R, where the chief's relative ``train.runs_dir`` lies and others should leave nothing.
"""

from __future__ import annotations

import json
import os
import sys

from tensorflow import keras

from facetrain.cli import main


def freeze_batch_norm() -> None:
    """Makes every batch normalisation of this process use its moving averages, and leave them as they are."""
    call = keras.layers.BatchNormalization.call

    def frozen(self, inputs, training=None, mask=None):
        return call(self, inputs, training=False)

    keras.layers.BatchNormalization.call = frozen


def rank_of_this_process() -> int:
    """Returns the rank as horovodrun or TF_CONFIG says it."""
    described = json.loads(os.environ.get("TF_CONFIG", '{"task": {"index": 0}}'))
    return int(os.environ.get("HOROVOD_RANK", described["task"]["index"]))


if __name__ == "__main__":
    folder = os.path.join(sys.argv[1], f"rank-{rank_of_this_process()}")
    os.makedirs(folder, exist_ok=True)
    os.chdir(folder)
    freeze_batch_norm()
    code = main(sys.argv[2:])
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code)
