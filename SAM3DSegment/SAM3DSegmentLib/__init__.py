"""SAM3DSegment: slices -> frozen SAM encoder -> light residual 3-D decoder -> mask.

The package runs without 3D Slicer. Importing it imports neither torch nor SimpleITK.
"""

__version__ = "0.1.0"
