#!/usr/bin/env python
"""Train a decoder without Slicer's window: `PythonSlicer train_sam3d.py --data DIR -o MODEL.sam3d --minutes 30`.

The same as `sam3dsegment train`; `--help` lists the options. Runs from the module's folder without installation.
"""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from SAM3DSegmentLib.cli import main

if __name__ == "__main__":
    sys.exit(main(["train", *sys.argv[1:]]))
