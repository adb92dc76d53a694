"""MRML nodes: volumes, segmentations and training cases, in and out of the scene."""
