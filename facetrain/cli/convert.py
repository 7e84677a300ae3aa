"""``facetrain convert``: one subcommand for each format of weights from elsewhere."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Optional

import typer

from facetrain.cli.output import note, print_json, print_table, print_text

app = typer.Typer(
    help="Convert embedding models of other software.",
    no_args_is_help=True,
    rich_markup_mode=None,
)

_OUT = typer.Argument(..., metavar="OUT", help="Model folder to write.")
_SCALING = typer.Option(None, "--scaling", help="Pixel scaling of the source, e.g. minus_one_one_127_5.")
_CHANNELS = typer.Option(None, "--channels", help="Channel order of the source: RGB or BGR.")
_TEMPLATE = typer.Option(None, "--template", help="Landmark template of its crops, e.g. arcface_112.")
_LICENCE = typer.Option(None, "--licence", metavar="TEXT", help="Licence of the weights, kept in the contract.")
_IMAGES = typer.Option(None, "--images", metavar="DIR", help="Aligned face crops to compare on, too.")
_EXPECT = typer.Option(
    None, "--expect", metavar="NPZ", help="Inputs 'x_nhwc' and 'outputs' that the original software gave."
)
_EXPECT_OUTPUT = typer.Option(None, "--expect-output", metavar="NAME", help="Name of the outputs in that file.")
_ALLOW = typer.Option(False, "--allow-unmatched", help="Convert although tensors are left over or missing.")
_EPSILON = typer.Option(None, "--bn-epsilon", help="Epsilon of batch normalisation, which the file does not store.")
_JSON = typer.Option(False, "--json", help="Print the report as one JSON object.")


@app.command()
def mxnet(
    symbol: Path = typer.Argument(..., metavar="SYMBOL", help="The graph, model-symbol.json."),
    params: Path = typer.Argument(..., metavar="PARAMS", help="The weights, model-0000.params."),
    out: Path = _OUT,
    scaling: Optional[str] = _SCALING,
    channels: Optional[str] = _CHANNELS,
    template: Optional[str] = _TEMPLATE,
    licence: Optional[str] = _LICENCE,
    images: Optional[Path] = _IMAGES,
    expect: Optional[Path] = _EXPECT,
    expect_output: Optional[str] = _EXPECT_OUTPUT,
    allow_unmatched: bool = _ALLOW,
    as_json: bool = _JSON,
) -> None:
    """Convert an InsightFace model of MXNet, without MXNet."""
    from facetrain.convert import ConvertOptions, convert_mxnet

    options = ConvertOptions(scaling, channels, template, licence, images, expect, expect_output, allow_unmatched)
    print_report(convert_mxnet(symbol, params, out, options), as_json)


@app.command()
def torch(
    weights: Path = typer.Argument(..., metavar="WEIGHTS", help="State dict: .pth, .pt, .ckpt or .safetensors."),
    out: Path = _OUT,
    arch: Optional[str] = typer.Option(None, "--arch", help="Network, e.g. iresnet50; by default recognised."),
    bn_epsilon: Optional[float] = _EPSILON,
    scaling: Optional[str] = _SCALING,
    channels: Optional[str] = _CHANNELS,
    template: Optional[str] = _TEMPLATE,
    licence: Optional[str] = _LICENCE,
    images: Optional[Path] = _IMAGES,
    expect: Optional[Path] = _EXPECT,
    expect_output: Optional[str] = _EXPECT_OUTPUT,
    allow_unmatched: bool = _ALLOW,
    as_json: bool = _JSON,
) -> None:
    """Convert weights of PyTorch, without PyTorch and without running the file."""
    from facetrain.convert import ConvertOptions, convert_torch

    options = ConvertOptions(scaling, channels, template, licence, images, expect, expect_output, allow_unmatched)
    print_report(convert_torch(weights, out, options, arch=arch, bn_epsilon=bn_epsilon), as_json)


@app.command()
def keras(
    model: Path = typer.Argument(..., metavar="MODEL", help="Embedding model of Keras_insightface, .h5."),
    out: Path = _OUT,
    scaling: Optional[str] = _SCALING,
    channels: Optional[str] = _CHANNELS,
    template: Optional[str] = _TEMPLATE,
    licence: Optional[str] = _LICENCE,
    images: Optional[Path] = _IMAGES,
    expect: Optional[Path] = _EXPECT,
    expect_output: Optional[str] = _EXPECT_OUTPUT,
    allow_unmatched: bool = _ALLOW,
    as_json: bool = _JSON,
) -> None:
    """Convert an .h5 embedding model of Keras_insightface, without loading its code."""
    from facetrain.convert import ConvertOptions, convert_keras

    options = ConvertOptions(scaling, channels, template, licence, images, expect, expect_output, allow_unmatched)
    print_report(convert_keras(model, out, options), as_json)


@app.command()
def onnx(
    model: Path = typer.Argument(..., metavar="MODEL", help="The graph, e.g. w600k_mbf.onnx."),
    out: Path = _OUT,
    input_size: Optional[int] = typer.Option(
        None, "--input-size", help="Side of the images, if the graph leaves it open."
    ),
    output: Optional[str] = typer.Option(
        None, "--output", metavar="NAME", help="The embedding, if there are several outputs."
    ),
    scaling: Optional[str] = _SCALING,
    channels: Optional[str] = _CHANNELS,
    template: Optional[str] = _TEMPLATE,
    licence: Optional[str] = _LICENCE,
    images: Optional[Path] = _IMAGES,
    expect: Optional[Path] = _EXPECT,
    expect_output: Optional[str] = _EXPECT_OUTPUT,
    as_json: bool = _JSON,
) -> None:
    """Convert an ONNX graph, judged by onnxruntime where that is installed."""
    from facetrain.convert import ConvertOptions, convert_onnx

    options = ConvertOptions(scaling, channels, template, licence, images, expect, expect_output)
    print_report(convert_onnx(model, out, options, input_size=input_size, output=output), as_json)


def print_report(report: Any, as_json: bool = False) -> None:
    """Prints what a conversion found: a table of checks, the contract, and what to know.

    Args:
        report: a ``facetrain.convert.ConversionReport``.
        as_json: one JSON object instead.
    """
    if as_json:
        print_json(report.to_dict())
        return
    print_text(f"{report.family}, {report.parameters:,} parameters, from {report.source}")
    print_table(["check", "verdict", "finding"], report.rows())
    contract = report.contract
    size, order = contract["input_size"], contract["channel_order"]
    print_text(
        f"contract: {size}x{size} {order}, scaling {contract['scaling']}, template {contract['template']}, "
        f"{contract['embedding_size']} values, licence {contract['licence'] or 'not known'}"
    )
    for name, tensors in (("left over", report.matching.unused), ("missing", report.matching.missing)):
        for tensor in tensors:
            print_text(f"{name}: {tensor}")
    for line in report.notes:
        note(f"note: {line}")
    print_text(f"wrote {report.path}")
