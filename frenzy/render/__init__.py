"""Report -> text, CSV, JSON and pictures. Nothing here imports TensorFlow."""
