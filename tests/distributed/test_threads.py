"""How the cores of a host are divided among the processes of a training."""

from __future__ import annotations

import json
import os
import subprocess
import sys

import pytest

from facetrain.distributed import threads


@pytest.fixture
def four_cores(monkeypatch):
    monkeypatch.setattr(os, "sched_getaffinity", lambda pid: set(range(4)), raising=False)


def write(folder, **files):
    for name, text in files.items():
        path = folder / name.replace("__", "/").replace("_dot_", ".")
        path.parent.mkdir(exist_ok=True)
        path.write_text(text)


@pytest.mark.parametrize(
    ("quota", "cores"), [("max 100000", 4), ("250000 100000", 2), ("50000 100000", 1), ("900000 100000", 4), ("x y", 4)]
)
def test_cores_follow_affinity_and_the_quota_of_version_2(tmp_path, four_cores, quota, cores):
    write(tmp_path, cpu_dot_max=quota + "\n")
    assert threads.usable_cores(tmp_path) == cores


@pytest.mark.parametrize(("quota", "cores"), [("-1", 4), ("300000", 3)])
def test_cores_follow_the_quota_of_version_1(tmp_path, four_cores, quota, cores):
    write(tmp_path, cpu__cpu_dot_cfs_quota_us=quota + "\n", cpu__cpu_dot_cfs_period_us="100000\n")
    assert threads.usable_cores(tmp_path) == cores
    assert threads.usable_cores(tmp_path / "none") == 4


@pytest.mark.parametrize(("cores", "processes", "each"), [(8, 2, 4), (8, 3, 2), (2, 4, 1), (5, 0, 5)])
def test_threads_are_cores_over_processes(cores, processes, each):
    assert threads.threads_for(processes, cores) == each


def config(workers, index):
    return json.dumps({"cluster": {"worker": workers}, "task": {"type": "worker", "index": index}})


@pytest.mark.parametrize(
    ("environment", "processes"),
    [
        ({}, 1),
        ({"HOROVOD_LOCAL_SIZE": "4"}, 4),
        ({"HOROVOD_LOCAL_SIZE": "x"}, 1),
        ({"TF_CONFIG": config(["a:1", "a:2", "b:1"], 0)}, 2),
        ({"TF_CONFIG": config(["a:1", "a:2", "b:1"], 2)}, 1),
        ({"TF_CONFIG": config(["a:1"], 7)}, 1),
        ({"TF_CONFIG": "{"}, 1),
        ({"TF_CONFIG": "[]"}, 1),
    ],
)
def test_processes_of_this_host(environment, processes):
    assert threads.processes_here(environment) == processes


def test_what_is_wanted(four_cores, monkeypatch):
    monkeypatch.setattr(threads, "usable_cores", lambda: 4)
    shared = {"HOROVOD_LOCAL_SIZE": "2"}
    assert threads.wanted_threads(None, {}) is None
    assert threads.wanted_threads(None, shared) == 2
    assert threads.wanted_threads(None, {**shared, "TF_NUM_INTRAOP_THREADS": "3"}) == 3
    assert threads.wanted_threads(None, {**shared, "TF_NUM_INTRAOP_THREADS": "0"}) == 2
    assert threads.wanted_threads(5, {**shared, "TF_NUM_INTRAOP_THREADS": "3"}) == 5
    assert set(threads.thread_environment(3)) == {"TF_NUM_INTRAOP_THREADS", "TF_NUM_INTEROP_THREADS", "OMP_NUM_THREADS"}
    assert set(threads.thread_environment(3).values()) == {"3"}


COUNT = """
import os, re, sys
import tensorflow as tf
from facetrain.distributed.threads import use_threads
given = int(sys.argv[1])
if given:
    assert use_threads(given)
def named(part):
    found = 0
    for task in os.listdir("/proc/self/task"):
        with open(f"/proc/self/task/{task}/comm") as f:
            found += part in f.read()
    return found
before = len(os.listdir("/proc/self/task"))
x = tf.random.normal((512, 512))
tf.matmul(x, x).numpy()
tf.function(lambda a: tf.nn.relu(a @ a) + tf.nn.tanh(a @ a))(x).numpy()
print(len(os.listdir("/proc/self/task")) - before)
if given:
    assert use_threads(given) and not use_threads(given + 1)
"""


def threads_started(argument, **variables):
    clean = {key: value for key, value in os.environ.items() if key not in threads.THREAD_VARIABLES}
    environment = {**clean, "PYTHONPATH": os.pathsep.join(sys.path), **variables}
    command = [sys.executable, "-c", COUNT, str(argument)]
    done = subprocess.run(command, check=True, env=environment, capture_output=True, timeout=120)
    return int(done.stdout.split()[-1])


@pytest.mark.integration
def test_tensorflow_starts_the_threads_it_is_given():
    """More threads are given than the machine may have cores, so that TensorFlow's own choice is another number."""
    many, few = 24, 2
    by_call = {number: threads_started(number) for number in (few, many)}
    assert by_call[many] - by_call[few] >= many - few
    by_variable = {
        number: threads_started(0, TF_NUM_INTRAOP_THREADS=str(number), TF_NUM_INTEROP_THREADS=str(number))
        for number in (few, many)
    }
    assert all(abs(by_variable[number] - by_call[number]) <= 2 for number in (few, many))
