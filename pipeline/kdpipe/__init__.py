"""Depth distillation from stored teachers."""

__version__ = "0.1.0"
