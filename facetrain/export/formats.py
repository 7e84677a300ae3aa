"""The table of export formats."""

from __future__ import annotations

from facetrain.registry import Registry

EXPORTERS = Registry("export format")
EXPORTERS.add(
    "savedmodel",
    "facetrain.export.savedmodel:SavedModelExporter",
    "TensorFlow SavedModel: uint8 images with scaling inside, and a signature for scaled input",
)
EXPORTERS.add(
    "tflite",
    "facetrain.export.tflite:TFLiteExporter",
    "TensorFlow Lite float32 for phones: pixels 0..255 with scaling inside",
)
