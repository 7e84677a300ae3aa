"""The margin family one number at a time, from the formulas in the docstrings; Python floats, no arrays."""

from __future__ import annotations

import math

from tests.losses.test_margins import slow_margin


def slow_cross_entropy(logits, label, smoothing=0.0):
    top = max(logits)
    log_sum = top + math.log(sum(math.exp(z - top) for z in logits))
    target = [(1 - smoothing) * (k == label) + smoothing / len(logits) for k in range(len(logits))]
    return sum(t * (log_sum - z) for t, z in zip(target, logits))


def _clip(value, low, high):
    return min(high, max(low, value))


def _theta(cosine):
    return math.acos(_clip(cosine, -1.0, 1.0))


def airface(row, label, length, batch, margin=0.4):
    return [1 - 2 * (_theta(c) + margin * (k == label)) / math.pi for k, c in enumerate(row)]


def curricularface(row, label, length, batch, margin=0.5, ema=0.01, t=0.0):
    own = slow_margin(row[label], 1, margin, 0, "cosface")
    t = (1 - ema) * t + ema * sum(batch["own"]) / len(batch["own"])
    return [own if k == label else c * (t + c) if c > own else c for k, c in enumerate(row)]


def magface(row, label, length, batch, l_a=10.0, u_a=110.0, l_m=0.45, u_m=0.8):
    a = _clip(length, l_a, u_a)
    own = slow_margin(row[label], 1, l_m + (u_m - l_m) * (a - l_a) / (u_a - l_a), 0, "cosface")
    return [own if k == label else c for k, c in enumerate(row)]


def magface_pull(length, l_a=10.0, u_a=110.0, strength=35.0):
    a = _clip(length, l_a, u_a)
    return strength * (a / u_a**2 + 1 / a)


def adaface(row, label, length, batch, margin=0.4, h=0.333, ema=0.01, mean=20.0, std=100.0):
    lengths = [_clip(value, 0.001, 100.0) for value in batch["lengths"]]
    average = sum(lengths) / len(lengths)
    spread = math.sqrt(sum((value - average) ** 2 for value in lengths) / (len(lengths) - 1))
    mean, std = ema * average + (1 - ema) * mean, ema * spread + (1 - ema) * std
    z = _clip(h * (_clip(length, 0.001, 100.0) - mean) / (std + 1e-3), -1.0, 1.0)
    shifted = max(_theta(row[label]) - margin * z, 0.0)
    angular = math.cos(shifted) if shifted <= math.pi else row[label] - abs(margin * z) * math.sin(abs(margin * z))
    return [angular - margin * (1 + z) if k == label else c for k, c in enumerate(row)]


def arcnegface(row, label, length, batch, margin=0.5, alpha=1.2, sigma=1.0):
    own = slow_margin(row[label], 1, margin, 0, "cosface")
    weights = [alpha * math.exp(-((c - own) ** 2) / (2 * sigma**2)) for c in row]
    return [own if k == label else w * c + w - 1 for k, (c, w) in enumerate(zip(row, weights))]


def circle(row, label, length, batch, margin=0.25):
    return [
        max(1 + margin - c, 0) * (c - 1 + margin) if k == label else max(c + margin, 0) * (c - margin)
        for k, c in enumerate(row)
    ]


def _raised(row, label, limit, own, t, adaptive):
    raised = [t * c + t - 1 if adaptive else c + t - 1 for c in row]
    return [own if k == label else r if c > limit else c for k, (c, r) in enumerate(zip(row, raised))]


def mv_arc(row, label, length, batch, margin=0.5, t=1.12, adaptive=True, easy_margin=False):
    limit = slow_margin(row[label], 1, margin, 0, "none" if easy_margin else "cosface")
    own = row[label] if easy_margin and row[label] <= 0 else limit
    return _raised(row, label, limit, own, t, adaptive)


def mv_am(row, label, length, batch, margin=0.35, t=1.12, adaptive=True, easy_margin=False):
    limit = row[label] - margin
    own = row[label] if easy_margin and row[label] <= margin else limit
    return _raised(row, label, limit, own, t, adaptive)


def npcface(row, label, length, batch, margin=0.5, m0=0.4, m1=0.2, t=1.1, a=0.2, easy_margin=False):
    beyond = "none" if easy_margin else "cosface"
    limit = slow_margin(row[label], 1, margin, 0, beyond)
    hard = [c for k, c in enumerate(row) if k != label and c > limit]
    own = slow_margin(row[label], 1, m0 + m1 * (sum(hard) / len(hard) if hard else 0.0), 0, beyond)
    own = row[label] if easy_margin and row[label] <= 0 else own
    return [own if k == label else t * c + a if c > limit else c for k, c in enumerate(row)]


def adacos_scale(rows, labels, dynamic=True, lower_median=False, scale=None):
    scale = math.sqrt(2) * math.log(len(rows[0]) - 1) if scale is None else scale
    if not dynamic:
        return scale
    sums = [sum(math.exp(scale * c) for k, c in enumerate(row) if k != y) for row, y in zip(rows, labels)]
    angles = sorted(_theta(row[y]) for row, y in zip(rows, labels))
    low, high = angles[(len(angles) - 1) // 2], angles[len(angles) // 2]
    median = low if lower_median else (low + high) / 2
    return math.log(sum(sums) / len(sums)) / math.cos(min(math.pi / 4, median))
