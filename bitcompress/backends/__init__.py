"""Packed models in other runtimes: an ONNX file, its operators, the gate that it passes."""
