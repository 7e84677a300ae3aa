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
EXPORTERS.add(
    "tflite_float16",
    "facetrain.export.tflite_quantized:TFLiteFloat16Exporter",
    "TensorFlow Lite with float16 weights, half the size",
)
EXPORTERS.add(
    "tflite_dynamic",
    "facetrain.export.tflite_quantized:TFLiteDynamicExporter",
    "TensorFlow Lite with int8 weights, a quarter of the size; values in between quantised image by image",
)
EXPORTERS.add(
    "tflite_int8",
    "facetrain.export.tflite_quantized:TFLiteInt8Exporter",
    "TensorFlow Lite all in int8, uint8 pixels in; ranges from crops of real faces",
)
EXPORTERS.add(
    "onnx",
    "facetrain.export.onnx:OnnxExporter",
    "ONNX float32 for onnxruntime and converters: any number of images, pixels 0..255 with scaling inside",
)
EXPORTERS.add(
    "keras",
    "facetrain.export.keras_format:KerasExporter",
    "Keras float32 with the contract inside the file: scaled input",
)
