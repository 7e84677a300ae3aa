"""Small random graphs, with onnxruntime as the judge."""

from __future__ import annotations

import tempfile
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tests.convert.onnx_helpers import Maker, judged

pytest.importorskip("onnx")
STEPS = ("conv", "depthwise", "norm", "prelu", "relu", "add", "mul", "concat", "pool", "resize", "affine", "transpose")


@st.composite
def graphs(draw):
    steps = draw(st.lists(st.sampled_from(STEPS), min_size=1, max_size=6))
    return [(step, draw(st.integers(0, 2**16))) for step in steps], draw(st.sampled_from(["gemm", "matmul", "pool"]))


class Network:
    """A map in the making: its name, channels and size."""

    def __init__(self, m: Maker):
        self.m, self.x, self.channels, self.size = m, m.input, 3, m.shape[2:]

    def conv(self, rng):
        kernel, stride = rng.choice([1, 2, 3]), int(rng.choice([1, 2]))
        pads = [int(p) for p in rng.integers(0, 2, 4)]
        filters = int(rng.choice([2, 4, 5]))
        self.x = self.m.conv(self.x, self.channels, filters, kernel, strides=[stride, 1], pads=pads)
        self.channels = filters
        top, left, bottom, right = pads
        height, width = self.size
        self.size = ((height + top + bottom - kernel) // stride + 1, width + left + right - kernel + 1)

    def depthwise(self, rng):
        self.x = self.m.conv(self.x, self.channels, self.channels, 3, group=self.channels, pads=[1, 1, 1, 1])

    def norm(self, rng):
        c = self.channels
        statistics = [self.m.normal(c), self.m.normal(c), self.m.normal(c), np.abs(self.m.normal(c)) + 0.1]
        self.x = self.m.op("BatchNormalization", self.x, *statistics)

    def prelu(self, rng):
        self.x = self.m.op("PRelu", self.x, self.m.normal(self.channels, 1, 1))

    def relu(self, rng):
        self.x = self.m.op(str(rng.choice(["Relu", "Sigmoid", "HardSwish", "LeakyRelu"])), self.x)

    def add(self, rng):
        self.x = self.m.op("Add", self.x, self.m.conv(self.x, self.channels, self.channels))

    def mul(self, rng):
        self.x = self.m.op("Mul", self.m.op("Sigmoid", self.m.op("GlobalAveragePool", self.x)), self.x)

    def concat(self, rng):
        self.x = self.m.op("Concat", self.x, self.m.conv(self.x, self.channels, 2), axis=1)
        self.channels += 2

    def pool(self, rng):
        kind = str(rng.choice(["MaxPool", "AveragePool"]))
        self.x = self.m.op(kind, self.x, kernel_shape=[2, 2], strides=[1, 2], pads=[0, 1, 1, 0])
        self.size = (self.size[0], (self.size[1] + 1 - 2) // 2 + 1)

    def resize(self, rng):
        scales = np.array([1, 1, *rng.choice([1, 2], 2)], np.float32)
        self.x = self.m.op("Resize", self.x, "", scales, mode=str(rng.choice(["nearest", "linear"])))
        self.size = (self.size[0] * int(scales[2]), self.size[1] * int(scales[3]))

    def affine(self, rng):
        shape = [(self.channels, 1, 1), (1, self.channels, 1, 1), (1,), (self.size[1],)][rng.integers(4)]
        self.x = self.m.op(str(rng.choice(["Add", "Sub", "Mul"])), self.x, self.m.normal(*shape))

    def transpose(self, rng):
        self.x = self.m.op("Transpose", self.x, perm=[0, 1, 3, 2])
        self.size = self.size[::-1]

    def fits(self) -> bool:
        return min(self.size) >= 3 and self.channels * self.size[0] * self.size[1] < 4000

    def end(self, kind: str) -> str:
        if kind == "pool":
            return self.m.op("Flatten", self.m.op("GlobalAveragePool", self.x))
        flat, size = self.m.op("Flatten", self.x), self.channels * self.size[0] * self.size[1]
        weights = self.m.normal(size, 4) / np.float32(np.sqrt(size))
        return (
            self.m.op("Gemm", flat, weights, self.m.normal(4)) if kind == "gemm" else self.m.op("MatMul", flat, weights)
        )


@pytest.mark.slow
@settings(max_examples=12, deadline=None, suppress_health_check=list(HealthCheck))
@given(graphs())
def test_equals_onnxruntime(case):
    steps, end = case
    network = Network(Maker())
    for step, seed in steps:
        if network.fits():
            getattr(network, step)(np.random.default_rng(seed))
    with tempfile.TemporaryDirectory() as folder:
        rebuilt = judged(network.m.save(Path(folder), network.end(end), flat=False), 1e-4)
    if "transpose" not in [step for step, _ in steps]:
        assert not [layer for layer in rebuilt.model.layers if type(layer).__name__ == "Permute"]
