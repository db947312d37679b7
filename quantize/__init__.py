"""Checkpoint → ONNX → QDQ ONNX → OpenVINO IR and TFLite → bundle. `quantize.export` is the pipeline."""
