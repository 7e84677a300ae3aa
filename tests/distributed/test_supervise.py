"""Processes that train together, played by small ones: their output, their deaths, and how they are stopped."""

from __future__ import annotations

import os
import signal
import stat
import subprocess
import sys
import threading
import time
from types import SimpleNamespace

import pytest

from facetrain.distributed import supervise
from facetrain.distributed.launch import Launch
from facetrain.distributed.outcome import Outcome, describe_code, describe_failure, describe_loss, read_loss
from facetrain.distributed.process_tree import descendants, ranks_of
from facetrain.distributed.supervise import Job, Supervisor, run_alone
from facetrain.distributed.watch import ENDED, silence
from tests.integration.commands import is_running

# Says that it is there, and ends as a rank that trains does: with 130 after a signal, whatever signals come after that.
PATIENT = """
import signal, sys
asked = {signal.SIGINT, signal.SIGTERM}
signal.pthread_sigmask(signal.SIG_BLOCK, asked)
print("ready", flush=True)
print("stopped by", signal.sigtimedwait(asked, 60).si_signo, flush=True)
sys.exit(130)
"""
DEAF = """
import signal, time
signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT, signal.SIGTERM})
print("ready", flush=True)
time.sleep(60)
"""
LOSS = describe_loss(1, 2, 4711, "b", "{reason}", "go on with X")
# As horovodrun: ranks below a process of their own, lines with their numbers, a word about who failed.
RUNNER = """
import os, re, subprocess, sys, threading, signal
signal.signal(signal.SIGTERM, lambda *_: None); signal.signal(signal.SIGINT, lambda *_: None)
codes = [None] * len(sys.argv[1:])
def run(rank, code):
    p = subprocess.Popen([sys.executable, "-u", "-c", code], env={**os.environ, "HOROVOD_RANK": str(rank)},
                         stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, start_new_session=True)
    processes.append(p)
    def forward(pipe, name, to):
        for line in pipe:
            to.write(f"[{rank}]<{name}>:{line}"); to.flush()
    streams = [threading.Thread(target=forward, args=a) for a in
               ((p.stdout, "stdout", sys.stdout), (p.stderr, "stderr", sys.stderr))]
    [s.start() for s in streams]
    code = p.wait()
    [s.join() for s in streams]
    codes[rank] = code if code >= 0 else 128 - code
    if codes[rank]:
        print(f"Process {rank} exit with status code {codes[rank]}.", flush=True)
        for other in processes:
            other.terminate()
processes = []
threads = [threading.Thread(target=run, args=a) for a in enumerate(sys.argv[1:])]
[t.start() for t in threads]
[t.join() for t in threads]
if any(codes):
    print("Traceback: one or more processes exited with non-zero status", file=sys.stderr)
    sys.exit(1)
"""


class Heard:
    """What a supervisor writes; ``act`` is called once, when so many lines have a word."""

    def __init__(self, word="ready", count=0, act=None):
        self.lines, self._word, self._count, self._act = [], word, count, act

    def __call__(self, line, is_error):
        self.lines.append((line, is_error))
        if self._act is not None and sum(self._word in line for line, _ in self.lines) >= self._count:
            act, self._act = self._act, None
            threading.Thread(target=act).start()

    def texts(self):
        return [line for line, _ in self.lines]


def python(code, **env):
    return Launch([sys.executable, "-u", "-c", code], {key: str(value) for key, value in env.items()})


def workers(*codes):
    return [Job(python(code), rank) for rank, code in enumerate(codes)]


def runner(*codes):
    return [Job(Launch([sys.executable, "-u", "-c", RUNNER, *codes], {}), None)]


def signal_me(number):
    return lambda: os.kill(os.getpid(), number)


def test_output_has_the_rank_before_it_and_goes_where_it_went():
    heard = Heard()
    code = "import os, sys; print('hello', os.environ['NAME']); print('oh', file=sys.stderr)"
    jobs = [Job(python(code, NAME=name), rank) for rank, name in enumerate("ab")]
    outcome = Supervisor(jobs, heard).run()
    assert outcome == Outcome(False, {0: 0, 1: 0}, None, False) and outcome.exit_code == 0
    assert sorted(heard.lines) == [
        ("[0] hello a", False),
        ("[0] oh", True),
        ("[1] hello b", False),
        ("[1] oh", True),
    ]


def test_lines_that_are_no_text_or_never_end_are_passed_on():
    heard = Heard()
    code = r"import os; os.write(1, b'\xff\n' + b'x' * 200000 + b'\nlast')"
    Supervisor(workers(code), heard).run()
    texts = heard.texts()
    assert texts[0] == "[0] �" and texts[-1] == "[0] last"
    assert max(map(len, texts)) <= (1 << 16) + 4
    assert sum(text.count("x") for text in texts) == 200000


def once_others_are_ready(tmp_path, code):
    """Returns a program that waits until what ``mark`` does is done."""
    return f"import os, sys, time\nwhile not os.path.exists({str(tmp_path / 'ready')!r}): time.sleep(0.05)\n{code}"


def mark(tmp_path):
    return (tmp_path / "ready").touch


@pytest.mark.parametrize("jobs", [workers, runner])
def test_one_that_is_killed_ends_all_and_is_named(tmp_path, jobs):
    heard = Heard(count=1, act=mark(tmp_path))
    dying = once_others_are_ready(tmp_path, "print('I am ill', file=sys.stderr); os.kill(os.getpid(), 9)")
    begin = time.monotonic()
    outcome = Supervisor(jobs(PATIENT, dying), heard).run()
    assert time.monotonic() - begin < 20
    assert outcome.first.rank == 1 and outcome.first.lines == ["I am ill"] and not outcome.killed
    assert outcome.exit_code == 1
    assert outcome.codes[0] == 130, "the other one was asked, and could write a checkpoint"
    text = describe_failure(outcome, ["rank 0", "rank 1 on host b"], "go on with 'facetrain train --resume runs/x'")
    assert text.splitlines() == [
        "error: rank 1 on host b was killed by SIGKILL; the other ranks were ended",
        "the last lines of its stderr:",
        "    I am ill",
        "go on with 'facetrain train --resume runs/x'",
    ]
    assert not any("Traceback" in text for text in heard.texts())


def test_the_first_failure_counts_and_bad_input_keeps_its_code(tmp_path):
    refused = once_others_are_ready(tmp_path, "print('error: no images', file=sys.stderr); sys.exit(2)")
    heard = Heard(count=1, act=mark(tmp_path))
    outcome = Supervisor(workers(DEAF, refused), heard, failure_grace_s=0.5).run()
    assert (outcome.first.rank, outcome.exit_code, outcome.killed) == (1, 2, True)
    text = describe_failure(outcome, ["rank 0", "rank 1"], "go on")
    assert "ended with exit code 2; the other ranks were ended (some had to be killed)" in text
    assert text.endswith("    error: no images"), "bad input is not gone on with"


def shells(*scripts):
    return [Job(Launch(["/bin/sh", "-c", script], {}), rank) for rank, script in enumerate(scripts)]


def losing(reason):
    return f"echo '{LOSS.format(reason=reason)}' >&2; exit 1"


@pytest.fixture
def one_look(tmp_path, monkeypatch):
    """Makes a supervisor look for the second time when all of its shells, which wait until then, have ended."""
    before = set(descendants(os.getpid()))

    def sleep(seconds):
        (tmp_path / "go").touch()
        limit = time.monotonic() + 60
        while any(map(is_running, set(descendants(os.getpid())) - before)) and time.monotonic() < limit:
            time.sleep(0.01)

    monkeypatch.setattr(supervise, "time", SimpleNamespace(monotonic=time.monotonic, sleep=sleep))
    return lambda *scripts: shells(
        *(f"while [ ! -e {tmp_path / 'go'} ]; do sleep 0.02; done; {script}" for script in scripts)
    )


@pytest.mark.parametrize(
    ("scripts", "first"),
    [(["exit 1", "exit 3", "kill -9 $$"], (2, -9)), ([losing(silence(6)), "exit 3"], (1, 3)), (["exit 5"], (0, 5))],
)
def test_of_those_that_end_together_the_cause_is_named(one_look, scripts, first):
    """A death by a signal before other failures, and those before a rank that tells of a loss."""
    outcome = Supervisor(one_look(*scripts), Heard()).run()
    assert outcome.first[:2] == first and len(outcome.codes) == len(scripts)


def shells_below_a_runner(*scripts):
    return runner(*(f"import os; os.execv('/bin/sh', ['sh', '-c', {script!r}])" for script in scripts))


@pytest.mark.parametrize("jobs", [shells, shells_below_a_runner])
def test_who_tells_of_a_killed_rank_is_not_blamed_and_not_heard_twice(tmp_path, jobs):
    """Also where the killed one is gone for the system only after the other has ended."""
    heard, ready = Heard(), tmp_path / "ready"
    dying = f"trap '' TERM; echo ill >&2; touch {ready}; sleep 0.6; kill -9 $$"
    outcome = Supervisor(jobs(f"while [ ! -e {ready} ]; do sleep 0.02; done; {losing(ENDED)}", dying), heard).run()
    assert outcome.first.rank == 1 and outcome.first.lines == ["ill"] and outcome.exit_code == 1
    assert not any("lost rank" in text for text in heard.texts())
    assert "rank 1 was killed by SIGKILL" in describe_failure(outcome, ["rank 0", "rank 1"], "go on with X")


@pytest.mark.parametrize("other", ["kill -STOP $$", losing(ENDED).replace("lost rank 1", "lost rank 0")])
def test_a_loss_that_no_process_here_explains_is_said_in_its_own_words(other):
    """A rank that was stopped, and had to be killed; and two that lost each other."""
    outcome = Supervisor(shells(losing(silence(6)), other), Heard(), failure_grace_s=0.3).run()
    assert outcome.first.rank in (0, 1) and outcome.exit_code == 1
    (line,) = describe_failure(outcome, ["rank 0", "rank 1"], "go on with X").splitlines()
    assert line == outcome.first.lines[-1] and line.count("go on with X") == 1


def test_a_loss_is_read_as_it_is_written():
    assert read_loss(describe_loss(12, 16, 4711, "gpu-3.lan", ENDED, "go on")) == (12, True)
    assert read_loss(describe_loss(0, 2, 1, "b", silence(30), "go on")) == (0, False)
    assert read_loss("error: rank 1 has another config") is None


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
@pytest.mark.parametrize("jobs", [workers, runner])
def test_a_request_to_stop_goes_to_every_rank(jobs, number):
    """With ``runner`` the rank that ends first has the other one get SIGTERM, before or after its own signal."""
    heard = Heard(count=2, act=signal_me(number))
    outcome = Supervisor(jobs(PATIENT, PATIENT), heard).run()
    assert (outcome.stopped, outcome.exit_code, outcome.killed) == (True, 130, False)
    said = [text for text in heard.texts() if "stopped by" in text]
    assert sorted(text[:3] for text in said) == ["[0]", "[1]"]
    assert said[0].endswith(f"stopped by {int(number)}") and (jobs is runner or said[1][3:] == said[0][3:])
    assert set(outcome.codes.values()) == {130}


def test_ranks_that_do_not_stop_are_killed_after_a_while_or_at_the_second_request():
    outcome = Supervisor(workers(DEAF), Heard(count=1, act=signal_me(signal.SIGINT)), stop_grace_s=0.3).run()
    assert (outcome.exit_code, outcome.killed, outcome.codes) == (130, True, {0: -9})
    heard = Heard(count=1, act=signal_me(signal.SIGINT))
    begin = time.monotonic()
    supervisor = Supervisor(workers(DEAF), heard, stop_grace_s=50)
    threading.Timer(1.5, signal_me(signal.SIGINT)).start()
    outcome = supervisor.run()
    assert outcome.killed and time.monotonic() - begin < 20


def test_far_workers_are_not_signalled_but_end_with_the_others():
    """Whoever starts them ends when they do; here one that would not survive a signal."""
    far = "import time; print('ready', flush=True); time.sleep(1.5); raise SystemExit(130)"
    jobs = [*workers(PATIENT), Job(python(far), 1, is_remote=True)]
    outcome = Supervisor(jobs, Heard(count=2, act=signal_me(signal.SIGINT))).run()
    assert outcome.codes == {0: 130, 1: 130} and outcome.exit_code == 130


def test_an_elastic_training_goes_on_without_a_rank_that_fails():
    code = RUNNER.replace("other.terminate()", "pass").replace("if any(codes):", "if all(codes):")
    jobs = [Job(Launch([sys.executable, "-u", "-c", code, "print('done')", "raise SystemExit(3)"], {}), None)]
    outcome = Supervisor(jobs, Heard(), elastic=True).run()
    assert outcome.first is None and outcome.exit_code == 0 and outcome.codes == {1: 3}


def test_a_runner_that_fails_by_itself_is_quoted():
    outcome = Supervisor([Job(python("raise SystemExit('no ssh')"), None)], Heard()).run()
    assert outcome.first == (None, 1, ["no ssh"])
    text = describe_failure(outcome, ["rank 0"], "")
    assert text.startswith("error: the launcher of the ranks ended with exit code 1")


def test_a_program_that_cannot_be_started_leaves_nothing_behind():
    before = descendants(os.getpid())
    jobs = [Job(python("import time; time.sleep(50)"), 0), Job(Launch(["/no/such/program"], {}), 1)]
    with pytest.raises(FileNotFoundError):
        Supervisor(jobs, Heard()).run()
    assert descendants(os.getpid()) == before


@pytest.mark.parametrize(
    ("code", "text"),
    [
        (-9, "was killed by SIGKILL"),
        (137, "was killed by SIGKILL"),
        (134, "was killed by SIGABRT"),
        (1, "ended with exit code 1"),
        (255, "ended with exit code 255"),
    ],
)
def test_codes_in_words(code, text):
    assert describe_code(code) == text


def test_processes_below_a_process():
    code = (
        "import subprocess, sys, os; subprocess.run([sys.executable, '-c', "
        '\'import subprocess, sys; print(1, flush=True); subprocess.run(["sleep", "30"])\'],'
        "env={**os.environ, 'HOROVOD_RANK': '0'})"
    )
    process = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE)
    try:
        process.stdout.readline()
        until = time.monotonic() + 10
        while len(descendants(process.pid)) < 2 and time.monotonic() < until:
            time.sleep(0.05)
        rank, sleeping = descendants(process.pid)
        assert ranks_of(process.pid) == [rank]
    finally:
        for pid in (sleeping, rank, process.pid):
            os.kill(pid, signal.SIGKILL)
        process.wait()
        process.stdout.close()


def test_one_process_has_the_terminal_and_gets_sigterm(tmp_path):
    script = tmp_path / "train"
    script.write_text("#!/bin/sh\ntrap 'exit 130' TERM\necho ready > ready\nwhile true; do sleep 0.1; done\n")
    script.chmod(script.stat().st_mode | stat.S_IXUSR)
    assert run_alone(Launch([sys.executable, "-c", "raise SystemExit(7)"], {})) == 7
    assert run_alone(Launch([sys.executable, "-c", "import os; os.kill(os.getpid(), 9)"], {})) == 137

    def stop_when_ready():
        while not (tmp_path / "ready").exists():
            time.sleep(0.05)
        os.kill(os.getpid(), signal.SIGTERM)

    threading.Thread(target=stop_when_ready).start()
    assert run_alone(Launch(["/bin/sh", "-c", f"cd {tmp_path} && exec ./train"], {})) == 130
