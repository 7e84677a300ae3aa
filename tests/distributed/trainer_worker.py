"""``facetrain`` as one of the ranks that the equality tests compare.

    python -m tests.distributed.trainer_worker FOLDER ARGUMENTS...

Batch normalisation is in evaluation mode, so that how a batch is divided must make no difference. Each rank works in a
folder of its own, FOLDER/rank-R, where the chief's relative ``train.runs_dir`` lies and others should leave nothing.
Where the environment has STOP_AFTER, the last rank gets a SIGINT after so many updates, as of Ctrl-C.
"""

from __future__ import annotations

import json
import os
import signal
import sys

from tensorflow import keras

from facetrain.cli import main
from facetrain.training.state import RunState


def freeze_batch_norm() -> None:
    """Makes every batch normalisation of this process use its moving averages, and leave them as they are."""
    call = keras.layers.BatchNormalization.call

    def frozen(self, inputs, training=None, mask=None):
        return call(self, inputs, training=False)

    keras.layers.BatchNormalization.call = frozen


def place_of_this_process() -> tuple[int, int]:
    """Returns rank and number of ranks as horovodrun or TF_CONFIG says them."""
    if "HOROVOD_RANK" in os.environ:
        return int(os.environ["HOROVOD_RANK"]), int(os.environ["HOROVOD_SIZE"])
    described = json.loads(os.environ.get("TF_CONFIG", '{"cluster": {"worker": [""]}, "task": {"index": 0}}'))
    return described["task"]["index"], len(described["cluster"]["worker"])


def interrupt_after(updates: int) -> None:
    """Makes this process send itself a SIGINT once."""
    stop_watch = RunState.stop_watch

    def watched(self):
        if self.step == updates:
            os.kill(os.getpid(), signal.SIGINT)
        stop_watch(self)

    RunState.stop_watch = watched


if __name__ == "__main__":
    rank, world = place_of_this_process()
    folder = os.path.join(sys.argv[1], f"rank-{rank}")
    os.makedirs(folder, exist_ok=True)
    os.chdir(folder)
    freeze_batch_norm()
    if rank == world - 1 and "STOP_AFTER" in os.environ:
        interrupt_after(int(os.environ["STOP_AFTER"]))
    code = main(sys.argv[2:])
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code)
