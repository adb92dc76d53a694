"""Image files: headers, voxels, volumes, segmentations; one file a format."""
