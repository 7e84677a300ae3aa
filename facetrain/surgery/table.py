"""The table of surgeries; listing it imports no TensorFlow."""

from __future__ import annotations

from facetrain.registry import Registry

SURGERIES = Registry("surgery")
EXACT: dict[str, str] = {}
"""Name -> whether outputs stay the same, which is proven then: ``"exact"``, or what it depends on."""

_PROVEN = "exact"

# name (also the function's), module, whether outputs stay the same, description
_TABLE = (
    ("prelu_to_depthwise", "activations", _PROVEN, "PReLU as ReLU, 1x1 depthwise convolutions and an addition"),
    (
        "replace_activations",
        "activation_kinds",
        "exact from (leaky) ReLU to PReLU",
        "one kind of activation by another",
    ),
    ("upsampling_to_conv_transpose", "upsampling", _PROVEN, "UpSampling2D, nearest and bilinear, as Conv2DTranspose"),
    ("fuse_conv_bn", "fusing", _PROVEN, "batch normalisation into the convolution or dense layer before it"),
    ("fuse_bn_dense", "fusing", _PROVEN, "batch normalisation into the dense layer after it"),
    ("fuse_consecutive_dense", "fusing", _PROVEN, "dense layers without an activation between them as one"),
    ("reparameterize", "branches", _PROVEN, "sums of linear branches as one convolution (RepVGG)"),
    ("fold_input_scaling", "scaling", "exact unless borders are given up", "pixel scaling and channel order inside"),
    ("replace_batchnorm", "normalization", "exact unless epsilon changes", "momentum, epsilon, statistics of replicas"),
    ("add_l2_regularizers", "regularizers", _PROVEN, "weight decay as penalties, by a decay rule"),
    ("strip_regularizers", "regularizers", _PROVEN, "takes penalties off, by a decay rule"),
    ("set_dropout", "training", _PROVEN, "the rate of dropout layers"),
    ("add_stochastic_depth", "training", _PROVEN, "drops residual branches in training"),
    ("remove_stochastic_depth", "training", _PROVEN, "takes stochastic depth out"),
    ("freeze", "training", _PROVEN, "fixes the weights of some layers"),
    ("set_input_shape", "shapes", "exact where the source takes that size too", "inputs of another size"),
    ("set_batch_size", "shapes", _PROVEN, "a fixed number of examples, or any"),
    ("prune_outputs", "shapes", _PROVEN, "keeps some outputs"),
    ("cut_at", "shapes", _PROVEN, "ends the model at a layer"),
    ("to_float32", "precision", "approximate", "every layer computes in float32"),
    ("to_mixed_precision", "precision", "approximate", "layers compute in half precision, outputs in float32"),
    ("to_keras_layers", "keras_layers", _PROVEN, "layers of this package as those of Keras, for tools without it"),
    ("global_depthwise", "converters", _PROVEN, "depthwise convolutions over a whole map, for converters without"),
    ("split_group_conv", "converters", _PROVEN, "grouped convolutions, for converters without"),
)

HOMES = {}
for _name, _module, _exact, _description in _TABLE:
    HOMES[_name] = _module
    SURGERIES.add(_name, f"facetrain.surgery.{_module}:{_name}", _description)
    EXACT[_name] = _exact
