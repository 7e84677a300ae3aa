"""Starting ``training_worker`` under the kinds of runtime."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
from pathlib import Path

import numpy as np

from facetrain.distributed.launch import find_horovodrun, tf_config

ROOT = Path(__file__).resolve().parents[2]
TIMEOUT_S = 480


def environment(**extra):
    kept = {k: v for k, v in os.environ.items() if not k.startswith(("HOROVOD_", "TF_CONFIG"))}
    kept.update(PYTHONPATH=str(ROOT), CUDA_VISIBLE_DEVICES="", TF_CPP_MIN_LOG_LEVEL="2")
    kept.update(TF_NUM_INTRAOP_THREADS="1", TF_NUM_INTEROP_THREADS="1", OMP_NUM_THREADS="1")
    return {**kept, **extra}


def command(kind, folder, *variants):
    return [sys.executable, "-m", "tests.distributed.training_worker", kind, str(folder), *(variants or ["plain"])]


def run(argv, **extra):
    """Runs a command to its end; fails with its output if it fails."""
    done = subprocess.run(argv, cwd=ROOT, env=environment(**extra), capture_output=True, text=True, timeout=TIMEOUT_S)
    assert done.returncode == 0, done.stdout[-4000:] + done.stderr[-4000:]
    return done.stdout


def train(kind, folder):
    """Returns what one process ended with."""
    run(command(kind, folder))
    return np.load(folder / "plain.npz")


def train_horovod(folder, *variants, kind="horovod"):
    """Returns what two ranks of one ``horovodrun`` ended with, per variant."""
    run([find_horovodrun(), "-np", "2", *command(kind, folder, *variants)])
    return {variant: np.load(folder / f"{variant}.npz") for variant in variants}


def train_multiworker(folder):
    """Returns what two processes of a TF_CONFIG cluster ended with."""
    hosts = [f"127.0.0.1:{port}" for port in free_ports(2)]
    processes = [
        subprocess.Popen(
            command("multiworker", folder),
            cwd=ROOT,
            env=environment(TF_CONFIG=tf_config(hosts, index)),
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        for index in range(2)
    ]
    try:
        outputs = [process.communicate(timeout=TIMEOUT_S)[0] for process in processes]
    finally:
        for process in processes:
            process.kill()
    assert [process.returncode for process in processes] == [0, 0], outputs
    return np.load(folder / "plain.npz")


def free_ports(count):
    sockets = [socket.socket() for _ in range(count)]
    for one in sockets:
        one.bind(("127.0.0.1", 0))
    ports = [one.getsockname()[1] for one in sockets]
    for one in sockets:
        one.close()
    return ports


def assert_same_training(actual, expected, tolerance):
    np.testing.assert_allclose(actual["weights"], expected["weights"], atol=tolerance)
    np.testing.assert_allclose(actual["slots"], expected["slots"], atol=tolerance)
    np.testing.assert_allclose(actual["mean_loss"], expected["mean_loss"], atol=1e-6)
