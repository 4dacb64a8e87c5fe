"""ONNX files: exporting, proving that a file computes the same, running one."""
