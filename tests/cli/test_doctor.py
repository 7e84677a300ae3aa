"""``facetrain doctor`` on machines that have everything, nothing, or a TensorFlow that does not start."""

from __future__ import annotations

import json
import sys

import pytest

from facetrain.cli import environment, main
from facetrain.cli.environment import NEEDS, PACKAGES, collect, describe_machine, judge_need, run_probe
from facetrain.compiled import Library
from facetrain.errors import InputError

WHOLE = {
    "devices": ["CPU: x"],
    "tensorflow": {"imports": True, "cuda_build": None},
    "horovod": {"imports": True, "built_with": ["gloo"]},
}


@pytest.fixture
def probe(monkeypatch):
    """Stands in for the process that imports TensorFlow, where every package is installed."""

    def arrange(**answer):
        monkeypatch.setattr(environment, "_version", lambda package: "1.0")
        monkeypatch.setattr(environment, "run_probe", lambda: answer)

    return arrange


def test_every_need_is_a_known_package():
    known = {package.module for package in PACKAGES}
    assert all(set(need.modules) <= known for need in NEEDS)


def test_a_complete_machine(probe, capsys):
    probe(**WHOLE)
    assert main(["doctor"]) == 0
    shown = capsys.readouterr().out
    for word in ("facetrain", "python", "free disk", "gloo", "tensorflow", "scripts/train_horovod.py"):
        assert word in shown
    assert main(["doctor", "--json"]) == 0
    report = json.loads(capsys.readouterr().out)
    assert report["python"]["version"] == ".".join(str(part) for part in sys.version_info[:3])
    assert {row["command"] for row in report["commands"]} == {need.command for need in NEEDS}


def test_a_tensorflow_that_does_not_start(probe, capsys):
    probe(
        devices=[],
        tensorflow={"imports": False, "error": "ImportError: libcuda"},
        horovod={"imports": False, "error": "x"},
    )
    assert main(["doctor", "--json"]) == 1
    commands = {row["command"]: row for row in json.loads(capsys.readouterr().out)["commands"]}
    assert commands["train"]["missing"] == ["tensorflow does not import: ImportError: libcuda"]
    assert commands["align"]["ready"] and commands["show"]["ready"]
    assert main(["doctor"]) == 1
    assert "does not import: ImportError: libcuda" in capsys.readouterr().out


def test_a_probe_that_dies_says_so(probe):
    probe(devices=[])
    commands = {row["command"]: row for row in collect()["commands"]}
    assert commands["train"]["missing"] == ["tensorflow does not import: its import ends the process"]


def test_versions_name_who_provides_them(monkeypatch):
    versions = {"tensorflow-cpu": "2.15.1", "numpy": "1.26.4"}
    monkeypatch.setattr(environment.importlib.util, "find_spec", lambda name: object())

    def version(name):
        if name not in versions:
            raise environment.importlib.metadata.PackageNotFoundError(name)
        return versions[name]

    monkeypatch.setattr(environment.importlib.metadata, "version", version)
    found = collect(probe=False)["packages"]
    assert found["tensorflow"] == "2.15.1 (tensorflow-cpu)"
    assert found["numpy"] == "1.26.4"
    assert found["cv2"] == "of unknown version"


def test_missing_packages_come_with_their_remedy():
    found = {package.module: None for package in PACKAGES}
    (need,) = [need for need in NEEDS if need.command == "scripts/train_horovod.py"]
    judged = judge_need(need, found, {})
    assert not judged["ready"]
    assert "horovod: scripts/install_horovod.sh" in judged["missing"]
    assert "tensorflow: pip install tensorflow==2.15.1" in judged["missing"]


def test_a_machine_without_any_of_the_packages(monkeypatch, capsys):
    monkeypatch.setattr(environment.importlib.util, "find_spec", lambda name: None)
    monkeypatch.setattr(environment, "run_probe", lambda: {"devices": []})
    assert main(["doctor"]) == 1
    assert "missing" in capsys.readouterr().out


def test_processor_features_are_read_from_cpuinfo(tmp_path):
    cpuinfo = tmp_path / "cpuinfo"
    cpuinfo.write_text(
        "processor\t: 0\nmodel name\t: Some CPU\nflags\t\t: fpu avx2 fma avx512_bf16\n\nprocessor\t: 1\n"
    )
    machine = describe_machine(cpuinfo, tmp_path)
    assert machine["cpu"] == "Some CPU"
    assert machine["cpu_features"] == ["avx2", "fma", "avx512_bf16"]
    assert machine["cores"] >= 1
    assert machine["disk_free_gb"] > 0
    assert describe_machine(tmp_path / "none", tmp_path)["cpu_features"] == []


def test_the_probe_survives_noise_and_death():
    noisy = environment._PROBE.replace("import tensorflow as tf", "print('noise'); raise OSError('broken\\nmore')")
    noisy = noisy.replace("import horovod.tensorflow as hvd", "os._exit(1)")
    assert run_probe(noisy) == {"devices": [], "tensorflow": {"imports": False, "error": "OSError: broken"}}


@pytest.mark.slow
def test_the_probe_finds_this_machine():
    report = run_probe()
    assert report["tensorflow"]["imports"]
    assert any(device.startswith("CPU") for device in report["devices"])


@pytest.mark.parametrize("key", ["native", "decoder"])
@pytest.mark.parametrize(
    "state,words",
    [
        ({"loads": True, "built": True, "compiler": None}, "built and loads"),
        ({"loads": False, "built": True, "compiler": "g++"}, "does not load (facetrain doctor --build-ops)"),
        ({"loads": False, "built": False, "compiler": None}, "not built (no C++ compiler is here)"),
        ({"loads": False, "built": False, "compiler": "g++", "failed": "no header"}, "not built (no header)"),
        ({"loads": False, "error": "ImportError: x"}, "unknown: ImportError: x"),
    ],
)
def test_own_libraries_are_reported(probe, capsys, key, state, words):
    probe(**WHOLE, **{key: state})
    assert main(["doctor"]) == 0
    assert words in " ".join(capsys.readouterr().out.split())


@pytest.mark.parametrize("compiler", ["/usr/bin/g++", None])
def test_libraries_are_built_where_a_compiler_is(probe, capsys, monkeypatch, compiler):
    built = []

    def build(library):
        built.append(library.source.name)
        if library.source.name == "prelu.cc":
            raise InputError("it fails")

    state = {"loads": False, "built": False, "compiler": compiler}
    probe(**WHOLE, native=dict(state), decoder=dict(state))
    monkeypatch.setattr(Library, "build", build)
    monkeypatch.setattr(Library, "describe", lambda library: {"loads": True, "built": True, "compiler": compiler})
    assert main(["doctor", "--build-ops", "--json"]) == 0
    report = json.loads(capsys.readouterr().out)
    assert built == (["prelu.cc", "jpeg.cc"] if compiler else [])
    assert report["decoder"]["loads"] == (compiler is not None)
    assert report["native"] == ({**state, "failed": "it fails"} if compiler else state)
