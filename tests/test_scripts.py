"""Examples for clusters: they parse, and name commands, flags and files that exist."""

from __future__ import annotations

import os
import re
import shlex
import subprocess
from pathlib import Path

import pytest
import typer
import yaml

from facetrain.cli.program import app
from facetrain.distributed.launch import STRATEGIES

SCRIPTS = Path(__file__).resolve().parents[1] / "scripts"
SHELL = [SCRIPTS / "slurm.sbatch", SCRIPTS / "launch_ssh.sh"]
MANIFESTS = sorted((SCRIPTS / "kubernetes").glob("*.yaml"))
CONTAINERS = {"indexed-job": 1, "mpijob": 1}


def options(*names):
    command = typer.main.get_command(app)
    for name in names:
        command = command.commands[name]
    return {word for parameter in command.params for word in (*parameter.opts, *parameter.secondary_opts)}


def check_launch(words):
    """Refuses words after ``facetrain`` that its command line does not have."""
    assert words[0] == "launch"
    cut = words.index("--")
    flags = [word for word in words[1:cut] if word.startswith("-")]
    assert set(flags) <= options("launch"), flags
    assert words[words.index("--strategy") + 1] in STRATEGIES
    train = words[cut + 1 :]
    assert train[0] == "train"
    assert {word for word in train if word.startswith("--")} <= options("train")


def lines_of(path):
    """Yields the words of each ``facetrain`` command of a script, with comments' examples left out."""
    text = path.read_text(encoding="utf-8").replace("\\\n", " ")
    for line in text.splitlines():
        if not line.startswith("#") and " launch " in line:
            words = shlex.split(line)
            yield words[words.index("launch") :]


def containers(node):
    if isinstance(node, dict):
        yield from node.get("containers", ())
        for value in node.values():
            yield from containers(value)
    elif isinstance(node, list):
        for value in node:
            yield from containers(value)


@pytest.mark.parametrize("path", SHELL, ids=lambda path: path.name)
def test_shell_scripts_parse_and_start_what_exists(path):
    subprocess.run(["bash", "-n", str(path)], check=True)
    (words,) = lines_of(path)
    check_launch([word if word != "$@" else "configs/x.yaml" for word in words])


@pytest.mark.parametrize("path", MANIFESTS, ids=lambda path: path.stem)
def test_manifests_parse_and_start_what_exists(path):
    documents = list(yaml.safe_load_all(path.read_text(encoding="utf-8")))
    assert all({"apiVersion", "kind", "metadata", "spec"} <= set(one) for one in documents)
    commands = [one["command"] for document in documents for one in containers(document)]
    ours = [command for command in commands if command[0] == "facetrain"]
    assert len(ours) == CONTAINERS[path.stem]
    for command in ours:
        check_launch(command[1:])
    for document in documents:
        for pod in pods(document):
            volumes = {volume["name"] for volume in pod.get("volumes", ())}
            assert {mount["name"] for one in pod["containers"] for mount in one.get("volumeMounts", ())} <= volumes


def pods(node):
    if isinstance(node, dict):
        if "containers" in node:
            yield node
        for value in node.values():
            yield from pods(value)


def test_hosts_of_the_indexed_job_are_its_pods():
    service, job = yaml.safe_load_all((SCRIPTS / "kubernetes/indexed-job.yaml").read_text(encoding="utf-8"))
    spec = job["spec"]
    command = spec["template"]["spec"]["containers"][0]["command"]
    hosts = command[command.index("--hosts") + 1].split(",")
    name, domain = job["metadata"]["name"], spec["template"]["spec"]["subdomain"]
    port = service["spec"]["ports"][0]["port"]
    assert hosts == [f"{name}-{index}.{domain}:{port}" for index in range(spec["completions"])]
    assert service["metadata"]["name"] == domain and spec["completions"] == spec["parallelism"]
    assert service["spec"]["selector"] == {"job-name": name} and service["spec"]["clusterIP"] == "None"


@pytest.mark.parametrize("path", [*SHELL, *MANIFESTS], ids=lambda path: path.name)
def test_ranks_have_time_for_a_checkpoint(path):
    """Whoever ends the job waits longer than the launcher waits for its ranks."""
    text = path.read_text(encoding="utf-8")
    waits = [int(n) for n in re.findall(r"(?:terminationGracePeriodSeconds: |--signal=TERM@)(\d+)", text)]
    graces = [int(n) for n in re.findall(r"--grace\"?,?\s+(?:- )?\"?(\d+)", text)]
    assert len(waits) == len(graces) and all(wait > grace for wait, grace in zip(waits, graces))


def test_slurm_names_each_host_with_the_port_of_the_job(tmp_path):
    """The script itself, with ``scontrol`` and ``srun`` that say what they were given."""
    for name, text in (("scontrol", "printf 'n1\\nn2\\n'"), ("srun", 'printf "%s\\n" "$@"')):
        program = tmp_path / name
        program.write_text(f"#!/bin/sh\n{text}\n")
        program.chmod(0o755)
    environment = {
        **os.environ,
        "PATH": f"{tmp_path}:{os.environ['PATH']}",
        "SLURM_JOB_ID": "20007",
        "SLURM_JOB_NODELIST": "n[1-2]",
        "SLURM_SUBMIT_DIR": str(tmp_path),
    }
    command = ["bash", str(SCRIPTS / "slurm.sbatch"), "configs/x.yaml", "--name", "a b"]
    words = subprocess.run(command, env=environment, capture_output=True, text=True, check=True).stdout.splitlines()
    assert words[:2] == ["--kill-on-bad-exit=1", ".venv/bin/facetrain"]
    assert words[words.index("--hosts") + 1] == "n1:20007,n2:20007"
    assert words[words.index("--") + 1 :] == ["train", "configs/x.yaml", "--name", "a b"]


def test_ssh_hands_everything_on(tmp_path):
    python = tmp_path / "python"
    python.write_text('#!/bin/sh\nprintf "%s\\n" "$@"\n')
    python.chmod(0o755)
    command = ["bash", str(SCRIPTS / "launch_ssh.sh"), "a:4,b:4", "configs/x.yaml", "--set", "seed=3"]
    done = subprocess.run(
        command, env={**os.environ, "PYTHON": str(python)}, capture_output=True, text=True, check=True
    )
    assert done.stdout.split() == [
        "-m", "facetrain", "launch", "--strategy", "horovod", "--hosts", "a:4,b:4", "--",
        "train", "configs/x.yaml", "--set", "seed=3",
    ]  # fmt: skip
    nothing = subprocess.run(command[:2], capture_output=True, text=True, check=False)
    assert nothing.returncode != 0 and "give the hosts" in nothing.stderr
