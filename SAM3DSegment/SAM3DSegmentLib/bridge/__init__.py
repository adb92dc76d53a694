"""The only part of the package that imports slicer, vtk or qt. Names are camelCase here, as in Slicer."""
