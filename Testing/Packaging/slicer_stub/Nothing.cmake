# Slicer generates its package configuration here; the stand-in has nothing to do.
