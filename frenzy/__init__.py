"""Small image classifiers, and the proof of how small they are."""

__version__ = "0.1.0"
