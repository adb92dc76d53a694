"""The main job, once: segment the bundled MRI with the bundled model, offline, and show the result.

Writes demo-output/hippocampus.seg.nrrd (open it in 3D Slicer), hippocampus.nii.gz and overview.png.
"""

from __future__ import annotations

import time
from pathlib import Path

import numpy as np

from overview import draw_overview
from SAM3DSegmentLib.base.progress import Bar
from SAM3DSegmentLib.base.watch import Watch
from SAM3DSegmentLib.formats.label_maps import write_labels
from SAM3DSegmentLib.formats.volumes import read_volume
from SAM3DSegmentLib.inference import Segmenter
from SAM3DSegmentLib.metrics import label_dice
from SAM3DSegmentLib.model_file import load_model

ROOT = Path(__file__).resolve().parents[1]
SAMPLES = ROOT / "SAM3DSegment" / "Resources" / "SampleData"
OUTPUT = ROOT / "demo-output"


def main() -> None:
    OUTPUT.mkdir(exist_ok=True)
    began = time.monotonic()
    model = load_model("hippocampus-mri")
    volume = read_volume(SAMPLES / "hippocampus_015.nii.gz")
    segmenter = Segmenter.load(model)
    loaded = time.monotonic()
    bar = Bar()
    mask = segmenter.segment(volume.array_kji, volume.ijk_to_ras, Watch(bar))
    bar.close()
    seconds = time.monotonic() - loaded

    labels = model.card.labels
    for name in ("hippocampus.seg.nrrd", "hippocampus.nii.gz"):
        write_labels(OUTPUT / name, mask, volume, labels)
    reference = read_volume(SAMPLES / "hippocampus_015_label.nii.gz").array_kji
    scores = label_dice(mask, reference, [label.value for label in labels])
    draw_overview(OUTPUT / "overview.png", volume, mask, reference, model.card, scores)

    print(f"hippocampus_015, an MRI that the model has never seen, on {segmenter.network.encoder.device}:")
    for label, score in zip(labels, scores):
        print(f"  Dice {label.name:<10} {score:.4f}")
    print(f"  Dice mean       {np.mean(scores):.4f}")
    print(f"  {seconds:.1f} s to segment, {loaded - began:.1f} s to load")
    print("Look at:")
    for path in sorted(OUTPUT.iterdir()):
        print(f"  {path.relative_to(ROOT)}")


if __name__ == "__main__":
    main()
