"""Training a decoder from labelled volumes. Needs the extra packages of `pip install "SAM3DSegment[train]"`."""
