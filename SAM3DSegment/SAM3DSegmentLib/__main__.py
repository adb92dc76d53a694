"""`python -m SAM3DSegmentLib` is `sam3dsegment`."""

import sys

from .cli import main

sys.exit(main())
