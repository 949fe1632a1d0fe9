"""From a trained artefact to checked ONNX files."""
