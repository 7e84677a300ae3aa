"""The lines of the table of backbones; imports no TensorFlow."""

from __future__ import annotations

from typing import NamedTuple


class Source(NamedTuple):
    """Where the idea of a network is from.

    Attributes:
        paper: authors, place, year, arXiv number.
        licence: of the code that the authors published with it, ``"none stated"`` where that says nothing, or
            ``"paper only"``. The code here is this project's.
    """

    paper: str
    licence: str


class BackboneInfo(NamedTuple):
    """What a reader of the table wants to know before building a backbone.

    Attributes:
        parameters: number of weights at three input channels, moving averages included.
        multiply_adds: operations of one 112x112 image, as ``count_flops`` counts them.
        features: (height, width, channels) of the output for a 112x112 image.
        paper, licence: as of ``Source``.
        min_size: smallest side of an image, in pixels.
    """

    parameters: int
    multiply_adds: int
    features: tuple[int, int, int]
    paper: str
    licence: str
    min_size: int = 32


_SE = "Hu et al., CVPR 2018, arXiv 1709.01507"
_CHEN = Source("Chen et al., CCBR 2018, arXiv 1804.07573", "paper only")
_CHEN_SE = Source(f"{_CHEN.paper}; {_SE}", "Apache-2.0")
_LARGE = Source(f"{_CHEN.paper}; An et al., CVPR 2022, arXiv 2203.15565", "MIT")
_DENG = Source("He et al., CVPR 2016, arXiv 1512.03385; Deng et al., CVPR 2019, arXiv 1801.07698", "MIT")
_DENG_SE = Source(f"{_DENG.paper}; {_SE}", "MIT, Apache-2.0")
_MOBILE_1 = Source("Howard et al., 2017, arXiv 1704.04861", "Apache-2.0")
_MOBILE_2 = Source("Sandler et al., CVPR 2018, arXiv 1801.04381", "Apache-2.0")
_MOBILE_3 = Source("Howard et al., ICCV 2019, arXiv 1905.02244", "Apache-2.0")
_GHOST = Source("Han et al., CVPR 2020, arXiv 1911.11907", "Apache-2.0")
_GHOST_2 = Source("Tang et al., NeurIPS 2022, arXiv 2211.12905", "Apache-2.0")
_GHOST_FACE = Source(
    "Alansari et al., IEEE Access 2023; Tang et al., NeurIPS 2022, arXiv 2211.12905", "MIT, Apache-2.0"
)

_HE = Source("He et al., ECCV 2016, arXiv 1603.05027", "none stated")
_SZEGEDY = Source("Szegedy et al., AAAI 2017, arXiv 1602.07261", "Apache-2.0")
_TAN = Source("Tan and Le, ICML 2019, arXiv 1905.11946", "Apache-2.0")
_TAN_2 = Source("Tan and Le, ICML 2021, arXiv 2104.00298", "Apache-2.0")
_ZHANG = Source("Zhang et al., CVPRW 2022, arXiv 2004.08955", "Apache-2.0")
_YAN = Source("Yan et al., ICCVW 2019, arXiv 1910.04985", "MIT")
_DING = Source("Ding et al., CVPR 2021, arXiv 2101.03697", "MIT")
_DOSOVITSKIY = Source("Dosovitskiy et al., ICLR 2021, arXiv 2010.11929; An et al., CVPR 2022, arXiv 2203.15565", "MIT")
_GEORGE = Source(
    "George et al., TBIOM 2024, arXiv 2307.01838; Maaz et al., CADL 2022, arXiv 2206.10589", "BSD-3-Clause, MIT"
)

# name (also the factory's), module, description, parameters, multiply-adds, side and channels of the features, source;
# the smallest side of an image where that is not 32
TABLE = (
    ("mobilefacenet", "mobilefacenet", "inverted residuals with PReLU, for phones", 861440, 217663488, 7, 128, _CHEN),
    ("se_mobilefacenet", "mobilefacenet", "with squeeze and excitation", 890376, 230531584, 7, 128, _CHEN_SE),
    ("mobilefacenet_large", "mobilefacenet", "wide blocks, narrow inside", 5811584, 1803350528, 7, 512, _LARGE),
    ("iresnet18", "iresnet", "residual network of 18 layers, BN first", 11190656, 2597109760, 7, 512, _DENG),
    ("iresnet34", "iresnet", "residual network of 34 layers, BN first", 21315520, 4446797824, 7, 512, _DENG),
    ("iresnet50", "iresnet", "residual network of 50 layers, BN first", 30779328, 6296485888, 7, 512, _DENG),
    ("iresnet100", "iresnet", "residual network of 100 layers, BN first", 52376128, 12076761088, 7, 512, _DENG),
    ("iresnet200", "iresnet", "residual network of 200 layers, BN first", 106120320, 23406100480, 7, 512, _DENG),
    ("se_iresnet18", "iresnet", "iresnet18 with squeeze and excitation", 11279856, 2597196800, 7, 512, _DENG_SE),
    ("se_iresnet34", "iresnet", "iresnet34 with squeeze and excitation", 21476952, 4446955008, 7, 512, _DENG_SE),
    ("se_iresnet50", "iresnet", "iresnet50 with squeeze and excitation", 31008600, 6296708608, 7, 512, _DENG_SE),
    ("se_iresnet100", "iresnet", "iresnet100 with squeeze and excitation", 52760808, 12077133312, 7, 512, _DENG_SE),
    ("se_iresnet200", "iresnet", "iresnet200 with squeeze and excitation", 106889680, 23406844928, 7, 512, _DENG_SE),
    ("mobilenet_v1", "mobilenet", "depthwise separable convolutions", 3228864, 567716352, 7, 1024, _MOBILE_1),
    ("mobilenet_v2", "mobilenet", "inverted residuals", 2257984, 299494272, 7, 1280, _MOBILE_2),
    ("mobilenet_v3_small", "mobilenet_v3", "found by search, small", 939120, 54896576, 7, 576, _MOBILE_3),
    ("mobilenet_v3_large", "mobilenet_v3", "found by search, large", 2996352, 214080960, 7, 960, _MOBILE_3),
    ("ghostnet_v1", "ghostnet", "half of the features by cheap convolutions", 2693396, 138641712, 7, 960, _GHOST),
    ("ghostnet_v2", "ghostnet", "the same with DFC attention", 3708212, 164539488, 7, 960, _GHOST_2),
    ("ghostfacenet", "ghostnet", "ghostnet_v2 with PReLU, 1.3 wide", 6173120, 266445536, 7, 1248, _GHOST_FACE),
    ("resnet50v2", "resnet_v2", "50 layers, BN and activation first", 23564800, 3480207360, 7, 2048, _HE),
    ("resnet101v2", "resnet_v2", "101 layers, BN and activation first", 42626560, 7192428544, 7, 2048, _HE),
    ("resnest50", "resnest", "50 layers with split attention", 25498816, 5369112576, 7, 2048, _ZHANG),
    ("inception_resnet_v2", "inception_resnet", "scaled modules", 54336736, 6446448000, 5, 1536, _SZEGEDY, 39),
    ("repvgg_a0", "repvgg", "three branches become one; 22 layers", 7851616, 1511301120, 7, 1280, _DING),
    ("repvgg_a1", "repvgg", "three branches become one; 22 wider layers", 12841088, 2625208320, 7, 1280, _DING),
    ("repvgg_b0", "repvgg", "three branches become one; 28 layers", 14572160, 3395911680, 7, 1280, _DING),
    ("efficientnet_b0", "efficientnet", "inverted residuals with gates", 4049564, 384534752, 7, 1280, _TAN),
    ("efficientnet_b1", "efficientnet", "1.1 times as deep", 6575232, 568371680, 7, 1280, _TAN),
    ("efficientnet_b2", "efficientnet", "1.2 times as deep, 1.1 as wide", 7768562, 657555440, 7, 1408, _TAN),
    ("efficientnet_b3", "efficientnet", "1.4 times as deep, 1.2 as wide", 10783528, 961172240, 7, 1536, _TAN),
    ("efficientnet_b4", "efficientnet", "1.8 times as deep, 1.4 as wide", 17673816, 1501918432, 7, 1792, _TAN),
    ("efficientnet_v2_b0", "efficientnet_v2", "early blocks fused", 5919312, 716806176, 7, 1280, _TAN_2),
    ("efficientnet_v2_b1", "efficientnet_v2", "1.1 times as deep", 6931124, 1014579232, 7, 1280, _TAN_2),
    ("efficientnet_v2_b2", "efficientnet_v2", "1.2 as deep, 1.1 as wide", 8769374, 1167422832, 7, 1408, _TAN_2),
    ("efficientnet_v2_b3", "efficientnet_v2", "1.4 as deep, 1.2 as wide", 12930622, 1608442624, 7, 1536, _TAN_2),
    ("efficientnet_v2_s", "efficientnet_v2", "early blocks fused, small", 20331360, 2848615872, 7, 1280, _TAN_2),
    ("vargfacenet", "vargfacenet", "groups of eight channels, for phones", 3022560, 359561216, 1, 1024, _YAN),
    ("edgeface_xs", "edgeface", "attention over channels, of low rank", 1688636, 76009436, 3, 192, _GEORGE),
    ("edgeface_s", "edgeface", "attention over channels, of low rank", 3527368, 151569552, 3, 304, _GEORGE),
    ("vit_tiny", "vit", "12 transformer blocks of 256 channels", 9567744, 1495314432, 12, 256, _DOSOVITSKIY),
    ("vit_small", "vit", "12 transformer blocks of 512 channels", 38009856, 5708537856, 12, 512, _DOSOVITSKIY),
    ("vit_base", "vit", "24 transformer blocks of 512 channels", 75820032, 11399159808, 12, 512, _DOSOVITSKIY),
)
