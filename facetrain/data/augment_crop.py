"""Random resized crop: a window of the image fills it; one affine map, which joins its neighbours."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from facetrain.data.augment_base import Augmentation, check_interval, check_range, within
from facetrain.data.augment_geometry import WarpStage


class ResizedCrop(Augmentation):
    """Magnifies a window of random area and shape, anywhere inside the image, to the whole of it.

    Reference: Szegedy et al., CVPR 2015, arXiv 1409.4842. The window need not begin at a whole pixel.

    Args:
        area: (least, largest) part of the image's area that the window covers, above 0.
        aspect: largest ratio of the longer side to the shorter one, 1 or above; a window too long is cut.
        border: what appears beyond the border if the map is joined with others that reach there.
    """

    name = "resized_crop"
    num_uniforms = 4

    def __init__(self, area: Sequence[float] = (0.7, 1.0), aspect: float = 1.1, border: str = "edge"):
        self.area = check_interval("area", area, 0.01, 1)
        self.aspect = check_range("aspect", aspect, 1, 100)
        self.stage = WarpStage(border)

    def parameters(self, uniforms: np.ndarray, size: int) -> np.ndarray:
        """Returns maps that carry the drawn windows to the whole image, [B, 3, 3]."""
        extent, shape, x, y = uniforms.astype(np.float64).T
        area, ratio = within(self.area, extent), self.aspect ** (2 * shape - 1)
        matrices = np.zeros((len(uniforms), 3, 3))
        matrices[:, 2, 2] = 1
        for axis, side, place in ((0, np.sqrt(area * ratio), x), (1, np.sqrt(area / ratio), y)):
            part = np.minimum(side, 1)
            first = place * (1 - part) * size
            # Pixels are squares: the first one's centre lies half a pixel inside the window.
            matrices[:, axis, axis] = 1 / part
            matrices[:, axis, 2] = (0.5 - first) / part - 0.5
        return matrices
