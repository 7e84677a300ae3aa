from __future__ import annotations

import time

from facetrain.training.state import RunState


def test_clock():
    state = RunState(steps_per_epoch=4, total_steps=10, global_batch=8)
    state.restore(9, {"best": 0.5, "best_step": 4, "evaluation": {"a/accuracy": 0.5}})
    assert (state.epoch, state.finished) == (2, False)
    state.step += 1
    assert state.finished
    again = RunState(4, 10, 8)
    again.restore(state.step, state.to_dict())
    assert again == state


def test_throughput_leaves_out_what_happens_while_the_watch_stands():
    state = RunState(4, 10, global_batch=8)
    state.stop_watch()  # the first step has no start
    assert state.take_throughput() is None
    for _ in range(2):
        state.start_watch()
        time.sleep(0.02)
        state.stop_watch()
        time.sleep(0.2)
    state.start_watch()
    state.skip_watch()  # another fit begins
    time.sleep(0.2)
    state.stop_watch()
    assert 8 / 0.08 < state.take_throughput() <= 8 / 0.02
    assert state.take_throughput() is None
