from __future__ import annotations

from facetrain.training.display import Display, format_row
from facetrain.training.state import RunState

ROW = {"epoch": 1.5, "loss": 12.3456, "train_accuracy": 0.25, "learning_rate": 0.1, "images_per_second": 63.4}


def test_a_row_is_one_short_line():
    assert format_row(ROW) == "loss 12.346 acc 0.250 lr 0.1 63 img/s"
    assert format_row({**ROW, "eval/val/accuracy": 0.9, "eval/val/auc": 0.95}).endswith("63 img/s val 0.9000")


def test_plain_lines_go_to_stderr_when_piped(capsys):
    display, state = Display(True), RunState(4, 8, 8, step=6)
    display.open(state)
    display.show(state, ROW, "stage1")
    display.close()
    captured = capsys.readouterr()
    assert captured.err == f"stage1 epoch 1.50/2 step 6/8 {format_row(ROW)}\n" and captured.out == ""


def test_silent_when_asked(capsys):
    display, state = Display(False), RunState(4, 8, 8)
    display.open(state)
    display.show(state, ROW, "stage1")
    display.close()
    assert capsys.readouterr() == ("", "")
