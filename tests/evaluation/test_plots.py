from __future__ import annotations

import numpy as np
import pytest

from facetrain.evaluation import verification_report
from facetrain.evaluation.plots import (
    THEMES,
    _curve,
    _series,
    _stages,
    roc_plot,
    schedule_plot,
    score_plot,
    training_plot,
)
from facetrain.images import decode_image


def result(seed=0, shift=2.0):
    is_same = np.arange(200) % 2 == 0
    return verification_report(np.random.default_rng(seed).normal(size=200) + shift * is_same, is_same)


def has_colour(image, colour):
    rgb = np.array([int(colour[i : i + 2], 16) for i in (1, 3, 5)])
    return np.any(np.abs(image.astype(int) - rgb).max(axis=2) < 12)


HISTORY = [{"step": step, "loss": 10 / step, "learning_rate": 0.1} for step in range(1, 121)]
for row in HISTORY[9::10]:
    row["eval/a/accuracy"] = 0.5 + row["step"] / 300


@pytest.mark.parametrize("theme", sorted(THEMES))
def test_plots_are_pictures_in_the_colours_of_their_series(theme):
    colours = THEMES[theme]
    roc = decode_image(roc_plot({"a": result(), "b": result(1, 0.5)}, theme))
    scores = decode_image(score_plot(result(), theme))
    training = decode_image(training_plot(HISTORY, theme))
    for image, count in ((roc, 2), (scores, 2), (training, 1)):
        assert image.shape[0] > 300 and image.shape[1] > 500
        assert all(has_colour(image, colour) for colour in (*colours.series[:count], colours.text))
        assert tuple(image[0, 0]) == tuple(int(colours.background[i : i + 2], 16) for i in (1, 3, 5))


@pytest.mark.parametrize("theme", sorted(THEMES))
def test_schedules_are_drawn_with_their_stages(theme):
    colours, rates = THEMES[theme], np.concatenate([np.linspace(0.0, 0.1, 100), np.full(50_000, 0.02)])
    marked = decode_image(schedule_plot(rates, 50, [("one", 0), ("two", 100)], theme))
    plain = decode_image(schedule_plot(rates, 50, [("one", 0)], theme))
    assert marked.shape == plain.shape and not np.array_equal(marked, plain)
    for image in (marked, plain):
        assert all(has_colour(image, colour) for colour in (*colours.series[:2], colours.text))


def test_schedules_of_one_update_and_of_none_at_all_can_be_drawn():
    assert schedule_plot(np.array([0.1]), 10)[:4] == b"\x89PNG"
    assert schedule_plot(np.zeros(30), 10, [("a", 0), ("b", 20)])[:4] == b"\x89PNG"


def test_a_perfect_and_a_hopeless_set_can_be_drawn():
    is_same = np.arange(40) % 2 == 0
    for scores in (np.where(is_same, 0.9, 0.1), np.zeros(40)):
        assert roc_plot({"x": verification_report(scores, is_same)})[:4] == b"\x89PNG"
        assert score_plot(verification_report(scores, is_same))[:4] == b"\x89PNG"


def test_nothing_to_draw_is_none():
    assert training_plot([]) is None
    assert training_plot([{"step": 1, "loss": None}, {"step": 2}]) is None
    assert training_plot([{"step": 1, "loss": 2.0}]) is not None


def test_missing_and_infinite_values_are_left_out():
    rows = [{"step": 1, "loss": 3.0}, {"step": 2, "loss": None}, {"step": 3}, {"step": 4, "loss": float("nan")}]
    assert _series(rows, "loss").tolist() == [[1.0], [3.0]]


@pytest.mark.parametrize(("count", "lines"), [(99, 1), (100, 2)])
def test_long_noisy_curves_get_a_running_mean(count, lines):
    from matplotlib.figure import Figure

    axes = Figure().subplots()
    values = np.arange(count, dtype=float)
    _curve(axes, np.stack([values, values]), "loss", "#000000", "loss")
    assert len(axes.lines) == lines
    inner = slice(10, -10)  # the mean of a straight line is the line, away from its ends
    np.testing.assert_allclose(axes.lines[-1].get_ydata()[inner], values[inner])
    _curve(axes, np.stack([values, values]), "lr", "#000000", "learning_rate")
    assert len(axes.lines) == lines + 1


def test_stages_begin_after_the_last_row_of_the_one_before():
    rows = [{"step": 5, "stage": "one"}, {"step": 8, "stage": "one"}, {"step": 10, "stage": "two"}, {"stage": "x"}]
    assert _stages(rows) == [("one", 0), ("two", 8)]
    assert _stages([{"step": 5, "loss": 1.0}]) == []


@pytest.mark.parametrize("smooth", [False, True])
def test_curves_are_broken_between_stages(smooth):
    """12 in one stage and 0.4 in the next stay that: no line and no running mean leads from one to the other."""
    from matplotlib.figure import Figure

    axes, count = Figure().subplots(), 120 if smooth else 12
    steps, values = np.arange(1.0, count + 1), np.repeat([12.0, 0.4], count // 2)
    _curve(axes, np.stack([steps, values]), "loss", "#000000", "loss", [count / 2])
    drawn = np.array([line.get_ydata() for line in axes.lines])
    np.testing.assert_allclose(drawn, np.repeat([[12.0], [0.4]], 1 + smooth, axis=0) * np.ones(count // 2), rtol=1e-9)
    assert [line.get_label() for line in axes.lines].count("loss") == 1
    axes = Figure().subplots()
    _curve(axes, np.stack([steps, values]), "a", "#000000", "eval/a/accuracy", [count / 2])
    assert len(axes.lines) == 1


def test_stages_of_a_training_are_marked():
    one = [{**row, "stage": "one" if row["step"] <= 60 else "two"} for row in HISTORY]
    pictures = [decode_image(training_plot(rows)) for rows in (HISTORY, one)]
    assert pictures[0].shape == pictures[1].shape and not np.array_equal(*pictures)
    assert np.array_equal(decode_image(training_plot([{**row, "stage": "all"} for row in HISTORY])), pictures[0])
