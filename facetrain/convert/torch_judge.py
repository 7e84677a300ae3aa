"""PyTorch as a judge, where it is installed: the networks computed by its functions, from the file's own names."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np

from facetrain.convert.conversion import Judge
from facetrain.convert.optional import import_if_there


def torch_judge(compute: str, tensors: Mapping[str, np.ndarray], epsilon: float) -> tuple[Judge, ...]:
    """Returns PyTorch as a judge of a state dict, or nothing where it is not installed.

    Args:
        compute: ``iresnet``, ``ir`` or ``mobilefacenet``: the network, as its own code computes it.
        tensors: state dict without a prefix, channels first.
        epsilon: of batch normalisation.
    """
    torch = import_if_there("torch")
    if torch is None:
        return ()
    network = _Network(torch, tensors, epsilon)

    def embed(inputs: np.ndarray) -> np.ndarray:
        images = torch.from_numpy(np.ascontiguousarray(inputs.transpose(0, 3, 1, 2), np.float32))
        with torch.no_grad():
            return _COMPUTE[compute](network, images).numpy()

    return (Judge(f"PyTorch {torch.__version__}", embed),)


class _Network:
    """Layers of PyTorch by the names of their tensors."""

    def __init__(self, torch: Any, tensors: Mapping[str, np.ndarray], epsilon: float):
        self.functional, self.epsilon = torch.nn.functional, epsilon
        self.tensors = {name: torch.from_numpy(np.array(tensor, np.float32)) for name, tensor in tensors.items()}

    def __contains__(self, name: str) -> bool:
        return f"{name}.weight" in self.tensors

    def conv(self, x: Any, name: str, stride: int = 1, padding: int | None = None) -> Any:
        """Convolution; padded by half its kernel, in as many groups as its kernel tells."""
        kernel = self.tensors[f"{name}.weight"]
        padding = kernel.shape[-1] // 2 if padding is None else padding
        groups = x.shape[1] // kernel.shape[1]
        return self.functional.conv2d(x, kernel, stride=stride, padding=padding, groups=groups)

    def norm(self, x: Any, name: str) -> Any:
        """Batch normalisation by the running statistics."""
        mean, variance, scale, shift = (
            self.tensors.get(f"{name}.{part}") for part in ("running_mean", "running_var", "weight", "bias")
        )
        return self.functional.batch_norm(x, mean, variance, scale, shift, False, 0.1, self.epsilon)

    def prelu(self, x: Any, name: str) -> Any:
        """PReLU."""
        return self.functional.prelu(x, self.tensors[f"{name}.weight"])

    def linear(self, x: Any, name: str) -> Any:
        """Matrix product, with a bias if there is one."""
        return self.functional.linear(x.flatten(1), self.tensors[f"{name}.weight"], self.tensors.get(f"{name}.bias"))


def _iresnet(net: _Network, x: Any) -> Any:
    x = net.prelu(net.norm(net.conv(x, "conv1"), "bn1"), "prelu")
    for stage in range(1, 5):
        index = 0
        while (unit := f"layer{stage}.{index}.") + "bn1" in net:
            stride = 2 if index == 0 else 1
            y = net.prelu(net.norm(net.conv(net.norm(x, f"{unit}bn1"), f"{unit}conv1"), f"{unit}bn2"), f"{unit}prelu")
            y = net.norm(net.conv(y, f"{unit}conv2", stride), f"{unit}bn3")
            if f"{unit}downsample.0" in net:
                x = net.norm(net.conv(x, f"{unit}downsample.0", stride), f"{unit}downsample.1")
            x, index = x + y, index + 1
    return net.norm(net.linear(net.norm(x, "bn2"), "fc"), "features")


def _ir(net: _Network, x: Any) -> Any:
    x = net.prelu(net.norm(net.conv(x, "input_layer.0"), "input_layer.1"), "input_layer.2")
    number = 0
    while (unit := f"body.{number}.") + "res_layer.0" in net:
        widens = f"{unit}shortcut_layer.0" in net
        stride = 2 if number == 0 or widens else 1
        y = net.conv(net.norm(x, f"{unit}res_layer.0"), f"{unit}res_layer.1")
        y = net.conv(net.prelu(net.norm(y, f"{unit}res_layer.2"), f"{unit}res_layer.3"), f"{unit}res_layer.4", stride)
        if widens:
            x = net.norm(net.conv(x, f"{unit}shortcut_layer.0", stride), f"{unit}shortcut_layer.1")
        else:
            x = net.functional.max_pool2d(x, 1, stride)
        x, number = x + net.norm(y, f"{unit}res_layer.5"), number + 1
    return net.norm(net.linear(net.norm(x, "output_layer.0"), "output_layer.3"), "output_layer.4")


def _mobilefacenet(net: _Network, x: Any) -> Any:
    def block(x: Any, name: str, stride: int = 1, padding: int | None = None) -> Any:
        x = net.norm(net.conv(x, f"{name}.layers.0", stride, padding), f"{name}.layers.1")
        return net.prelu(x, f"{name}.layers.2") if f"{name}.layers.2" in net else x

    def bottleneck(x: Any, name: str, stride: int) -> Any:
        x = block(block(x, f"{name}.layers.0"), f"{name}.layers.1", stride)
        return block(x, f"{name}.layers.2")

    x = block(x, "layers.0", 2)
    for row in range(1, 8):
        name, index = f"layers.{row}", 0
        if f"{name}.layers.0" in net:
            x = block(x, name)
        elif f"{name}.layers.0.layers.0" in net:
            x = bottleneck(x, name, 2)
        while f"{name}.layers.{index}.layers.0.layers.0" in net:
            x, index = x + bottleneck(x, f"{name}.layers.{index}", 1), index + 1
    x = block(block(x, "conv_sep"), "features.layers.0", padding=0)
    return net.norm(net.linear(x, "features.layers.2"), "features.layers.3")


_COMPUTE: dict[str, Callable[[_Network, Any], Any]] = {
    "iresnet": _iresnet,
    "ir": _ir,
    "mobilefacenet": _mobilefacenet,
}
