"""Weakly annotated 3D instance segmentation: a box around every cell, a mask on a few, every cell's mask out."""

__version__ = "0.1.0"
