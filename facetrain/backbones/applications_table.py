"""The networks that come with Keras; imports neither them nor TensorFlow."""

from __future__ import annotations

from facetrain.backbones.table import Source

# Keras' code is used as it is, so the licence is that of Keras.
_LICENCE = "Apache-2.0"
_CONVNEXT = Source("Liu et al., CVPR 2022, arXiv 2201.03545", _LICENCE)
_DENSE = Source("Huang et al., CVPR 2017, arXiv 1608.06993", _LICENCE)
_EFFICIENT = Source("Tan and Le, ICML 2019, arXiv 1905.11946", _LICENCE)
_EFFICIENT_2 = Source("Tan and Le, ICML 2021, arXiv 2104.00298", _LICENCE)
_INCEPTION_3 = Source("Szegedy et al., CVPR 2016, arXiv 1512.00567", _LICENCE)
_INCEPTION_4 = Source("Szegedy et al., AAAI 2017, arXiv 1602.07261", _LICENCE)
_MOBILE_1 = Source("Howard et al., 2017, arXiv 1704.04861", _LICENCE)
_MOBILE_2 = Source("Sandler et al., CVPR 2018, arXiv 1801.04381", _LICENCE)
_MOBILE_3 = Source("Howard et al., ICCV 2019, arXiv 1905.02244", _LICENCE)
_NAS = Source("Zoph et al., CVPR 2018, arXiv 1707.07012", _LICENCE)
_REG = Source("Radosavovic et al., CVPR 2020, arXiv 2003.13678", _LICENCE)
_RESNET = Source("He et al., CVPR 2016, arXiv 1512.03385", _LICENCE)
_RESNET_2 = Source("He et al., ECCV 2016, arXiv 1603.05027", _LICENCE)
_RESNET_RS = Source("Bello et al., NeurIPS 2021, arXiv 2103.07579", _LICENCE)
_VGG = Source("Simonyan and Zisserman, ICLR 2015, arXiv 1409.1556", _LICENCE)
_XCEPTION = Source("Chollet, CVPR 2017, arXiv 1610.02357", _LICENCE)

# name in Keras -> parameters, multiply-adds of a 112x112 image, side and channels of its features, source
APPLICATIONS: dict[str, tuple[int, int, int, int, Source]] = {
    "ConvNeXtBase": (87566464, 3749332480, 3, 1024, _CONVNEXT),
    "ConvNeXtLarge": (196230336, 8389880064, 3, 1536, _CONVNEXT),
    "ConvNeXtSmall": (49454688, 2120529024, 3, 768, _CONVNEXT),
    "ConvNeXtTiny": (27820128, 1063483776, 3, 768, _CONVNEXT),
    "ConvNeXtXLarge": (348147968, 14874348544, 3, 2048, _CONVNEXT),
    "DenseNet121": (7037504, 701362176, 3, 1024, _DENSE),
    "DenseNet169": (12642880, 820588544, 3, 1664, _DENSE),
    "DenseNet201": (18321984, 1049997312, 3, 1920, _DENSE),
    "EfficientNetB0": (4049571, 106238288, 4, 1280, _EFFICIENT),
    "EfficientNetB1": (6575239, 158998160, 4, 1280, _EFFICIENT),
    "EfficientNetB2": (7768569, 184427216, 4, 1408, _EFFICIENT),
    "EfficientNetB3": (10783535, 267424736, 4, 1536, _EFFICIENT),
    "EfficientNetB4": (17673823, 419857264, 4, 1792, _EFFICIENT),
    "EfficientNetB5": (28513527, 661791040, 4, 2048, _EFFICIENT),
    "EfficientNetB6": (40960143, 944183520, 4, 2304, _EFFICIENT),
    "EfficientNetB7": (64097687, 1455784736, 4, 2560, _EFFICIENT),
    "EfficientNetV2B0": (5919312, 193287552, 4, 1280, _EFFICIENT_2),
    "EfficientNetV2B1": (6931124, 269553568, 4, 1280, _EFFICIENT_2),
    "EfficientNetV2B2": (8769374, 312589056, 4, 1408, _EFFICIENT_2),
    "EfficientNetV2B3": (12930622, 433075744, 4, 1536, _EFFICIENT_2),
    "EfficientNetV2L": (117746848, 3360506752, 4, 1280, _EFFICIENT_2),
    "EfficientNetV2M": (53150388, 1476292768, 4, 1280, _EFFICIENT_2),
    "EfficientNetV2S": (20331360, 759098880, 4, 1280, _EFFICIENT_2),
    "InceptionResNetV2": (54336736, 1178025312, 2, 1536, _INCEPTION_4),
    "InceptionV3": (21802784, 536367968, 2, 2048, _INCEPTION_3),
    "MobileNet": (3228864, 136772352, 3, 1024, _MOBILE_1),
    "MobileNetV2": (2257984, 80903808, 4, 1280, _MOBILE_2),
    "MobileNetV3Large": (2996352, 58176840, 4, 960, _MOBILE_3),
    "MobileNetV3Small": (939120, 15343688, 4, 576, _MOBILE_3),
    "NASNetLarge": (84916818, 2801309184, 4, 4032, _NAS),
    "NASNetMobile": (4269716, 151762880, 4, 1056, _NAS),
    "RegNetX002": (2336640, 57175168, 4, 368, _REG),
    "RegNetX004": (4809184, 114760192, 4, 384, _REG),
    "RegNetX006": (5700320, 167150208, 4, 528, _REG),
    "RegNetX008": (6623968, 217538048, 4, 672, _REG),
    "RegNetX016": (8320640, 412714368, 4, 912, _REG),
    "RegNetX032": (14350112, 810233088, 4, 1008, _REG),
    "RegNetX040": (20833312, 1018120704, 4, 1360, _REG),
    "RegNetX064": (24658464, 1632400896, 4, 1624, _REG),
    "RegNetX080": (37742112, 2025087104, 4, 1920, _REG),
    "RegNetX120": (43961440, 3055919104, 4, 2240, _REG),
    "RegNetX160": (52340704, 4016134144, 4, 2048, _REG),
    "RegNetX320": (105452576, 7984155648, 4, 2520, _REG),
    "RegNetY002": (2814844, 57649376, 4, 368, _REG),
    "RegNetY004": (3930296, 109889824, 4, 440, _REG),
    "RegNetY006": (5475920, 162398336, 4, 608, _REG),
    "RegNetY008": (5524056, 208102400, 4, 768, _REG),
    "RegNetY016": (10366102, 415356288, 4, 888, _REG),
    "RegNetY032": (17989498, 808751232, 4, 1512, _REG),
    "RegNetY040": (19619928, 1015013376, 4, 1088, _REG),
    "RegNetY064": (29368684, 1619271936, 4, 1296, _REG),
    "RegNetY080": (37248812, 2019889312, 4, 2016, _REG),
    "RegNetY120": (49677928, 3061617664, 4, 2240, _REG),
    "RegNetY160": (80687956, 4044396160, 4, 3024, _REG),
    "RegNetY320": (141492058, 8180176832, 4, 3712, _REG),
    "ResNet50": (23587712, 1020014592, 4, 2048, _RESNET),
    "ResNet50V2": (23564800, 929280000, 4, 2048, _RESNET_2),
    "ResNet101": (42658176, 1948069888, 4, 2048, _RESNET),
    "ResNet101V2": (42626560, 1857335296, 4, 2048, _RESNET_2),
    "ResNet152": (58370944, 2876125184, 4, 2048, _RESNET),
    "ResNet152V2": (58331648, 2785390592, 4, 2048, _RESNET_2),
    "ResNetRS50": (33696288, 1174722560, 4, 2048, _RESNET_RS),
    "ResNetRS101": (61675296, 2111690752, 4, 2048, _RESNET_RS),
    "ResNetRS152": (84724256, 3047086080, 4, 2048, _RESNET_RS),
    "ResNetRS200": (91337248, 3922647040, 4, 2048, _RESNET_RS),
    "ResNetRS270": (128055520, 5261252608, 4, 2048, _RESNET_RS),
    "ResNetRS350": (162219360, 6691510272, 4, 2048, _RESNET_RS),
    "ResNetRS420": (190213216, 7956027392, 4, 2048, _RESNET_RS),
    "VGG16": (14714688, 3836657664, 3, 512, _VGG),
    "VGG19": (20024384, 4877107200, 3, 512, _VGG),
    "Xception": (20861480, 1148026800, 4, 2048, _XCEPTION),
}

# The smallest side of an image, where that is not 32.
MIN_SIZES = {"InceptionV3": 75, "InceptionResNetV2": 75, "Xception": 71}
