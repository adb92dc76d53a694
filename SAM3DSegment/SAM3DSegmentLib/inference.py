"""A volume in, a label map out: with a model by name (`segment_volume`), or one kept ready for many (`Segmenter`)."""

from __future__ import annotations

import functools
import logging
import math
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch

from .base.devices import give_back_unused_memory, is_out_of_memory
from .base.errors import OutOfMemoryError
from .base.progress import Silent
from .base.watch import UNWATCHED, Watch
from .card import ModelCard
from .geometry import AUTO_REGION, WHOLE_REGION, Crop
from .model_file import Sam3dModel, load_model
from .network import Network, SliceEncoder
from .places.finder import Finder
from .postprocessing import find_islands, load_for_islands
from .preparation import Preparation, Prepared, Voxels, as_channels
from .quality import AUTO, BEST, QUALITIES, QualityChoice, check_quality, choose_quality
from .sam.cache import EmbeddingCache
from .sam.cached_encoder import CachedEncoder
from .streaming import classify, measure_speed, stream_logits
from .suitability import VolumeFacts, find_and_warn
from .work import PARTS, Work

logger = logging.getLogger(__name__)

OnProgress = Callable[[str, int, int], None]  # stage, parts of the work done, parts in all
ShouldCancel = Callable[[], bool]
OnChoice = Callable[[QualityChoice], None]


def segment_volume(
    array_kji: Voxels,
    ijk_to_ras: np.ndarray,
    model: Sam3dModel | str | Path,
    device: str = "auto",
    on_progress: OnProgress | None = None,
    should_cancel: ShouldCancel | None = None,
    precision: str = "auto",
    sam_checkpoint: str | Path | None = None,
    quality: str = BEST,
    region: str = AUTO_REGION,
) -> np.ndarray:
    """Segment one volume: (K, J, I) of any real type and its 4x4 matrix in mm -> labels (K, J, I) uint8.

    A model of several channels takes (C, K, J, I), in the order of its card, or an array (K, J, I) for each. The labels
    lie on the input's own grid, whatever its orientation, and have the values of the model's card. quality: a name of
    `quality.QUALITIES`, or "auto" for the best that takes at most a minute. on_progress(stage, parts done, parts in
    all) and should_cancel() are called as the work goes on; equal parts take about equal times. A volume that does not
    look like the model's training data is told in a warning. region: "whole" or "auto" for all voxels, or
    "I0:I1,J0:J1,K0:K1" (ijk, ends excluded), of which the result is that of the volume cropped to them, with background
    around.
    Raises an error of `base.errors`; `Cancelled` when should_cancel() became true.
    """
    if not isinstance(model, Sam3dModel):
        model = load_model(model)
    channels = as_channels(array_kji)
    model.card.check_channels(len(channels))
    facts = [VolumeFacts.of_array(channel, ijk_to_ras, region=region) for channel in channels]
    find_and_warn(model.card, facts, "the volume")
    segmenter = Segmenter.load(model, device, precision, sam_checkpoint, quality)
    return segmenter.segment(array_kji, ijk_to_ras, watch_of(on_progress, should_cancel), region)


def watch_of(on_progress: OnProgress | None, should_cancel: ShouldCancel | None) -> Watch:
    """For callers that give functions."""
    watch = UNWATCHED if on_progress is None else Watch(_Calls(on_progress))
    return watch if should_cancel is None else Watch(watch.display, should_cancel)


class _Calls(Silent):
    """Shows progress by calling a function."""

    def __init__(self, on_progress: OnProgress) -> None:
        self._on_progress = on_progress

    def progress(self, stage: str, done: int, total: int) -> None:
        self._on_progress(stage, done, total)


class Segmenter:
    """A model ready on a device; keep it to segment many volumes without loading the encoder again."""

    def __init__(
        self,
        card: ModelCard,
        network: Network,
        load_on_cpu: Callable[[], Network] | None = None,
        quality: str = BEST,
        on_choice: OnChoice | None = None,
        finder: Finder | None = None,
    ) -> None:
        """load_on_cpu: makes the network for volumes for which a GPU's memory does not suffice.

        quality: as for `segment_volume`; on_choice is told what "auto" has chosen for a volume, before it is computed.
        finder: finds the places that are looked at; None: the whole volume is.
        """
        self.card = card
        self.network = self._preferred = network  # network: that of the last volume, as is level, its quality
        self.level = self._quality = check_quality(quality)
        self.boxes: tuple[Crop, ...] = ()  # of the last volume, those that were computed
        self._load_on_cpu = functools.cache(load_on_cpu) if load_on_cpu else None
        self._on_choice = on_choice
        self._finder = finder
        self._label_values = torch.tensor([0] + [label.value for label in card.labels], dtype=torch.uint8)

    @classmethod
    def load(
        cls,
        model: Sam3dModel,
        device: str = "auto",
        precision: str = "auto",
        sam_checkpoint: str | Path | None = None,
        quality: str = BEST,
        on_choice: OnChoice | None = None,
    ) -> Segmenter:
        check_quality(quality)  # before an encoder is loaded

        def load(device: str, precision: str) -> Network:
            encoder: SliceEncoder = model.load_encoder(device, precision, sam_checkpoint)
            if not model.card.encoder.in_model_file:  # a large one: its embeddings are read faster than computed again
                encoder = CachedEncoder(encoder, EmbeddingCache())
            return Network(encoder, model.decoders)

        finder = None
        if model.coarse is not None and model.card.coarse is not None:
            finder = Finder(model.card.coarse, cls.load(model.coarse, device, precision, sam_checkpoint))
        return cls(model.card, load(device, precision), lambda: load("cpu", "auto"), quality, on_choice, finder)

    def segment(
        self,
        array_kji: Voxels,
        ijk_to_ras: np.ndarray,
        watch: Watch = UNWATCHED,
        region: str = AUTO_REGION,
    ) -> np.ndarray:
        """As `segment_volume`."""
        return self._segment_region(array_kji, ijk_to_ras, watch, region, with_confidence=False)[0]

    def segment_with_confidence(
        self,
        array_kji: Voxels,
        ijk_to_ras: np.ndarray,
        watch: Watch = UNWATCHED,
        region: str = AUTO_REGION,
    ) -> tuple[np.ndarray, np.ndarray]:
        """Labels as `segment_volume` gives them, and how probable the model finds each, (K, J, I) uint8 in percent.

        Where an island was removed the confidence is 0: the model took it for something else. So it is outside of the
        region.
        """
        labels, confidence = self._segment_region(array_kji, ijk_to_ras, watch, region, with_confidence=True)
        assert confidence is not None
        return labels, confidence

    def _segment_region(
        self, array_kji: Voxels, ijk_to_ras: np.ndarray, watch: Watch, region: str, with_confidence: bool
    ) -> tuple[np.ndarray, np.ndarray | None]:
        channels = as_channels(array_kji)
        shape = channels[0].shape
        before = 0  # parts of the work
        if (crop := Crop.named(region, shape)) is not None:
            self.boxes = (crop,)
        elif self._finder is None or region == WHOLE_REGION:
            self.boxes = (Crop.whole(shape),)
        else:
            self.card.check_channels(len(channels))
            before = self._finder.parts(channels, ijk_to_ras, self.card)
            self.boxes = self._finder.find(channels, ijk_to_ras, watch.part("segment", 0, before, PARTS))
        if self.boxes[0].is_whole:
            return self._segment(array_kji, ijk_to_ras, watch.part("segment", before, PARTS, PARTS), with_confidence)
        labels = np.zeros(shape, np.uint8)
        confidence = np.zeros(shape, np.uint8) if with_confidence else None
        ends = np.cumsum([math.prod(box.size_kji) for box in self.boxes])
        told = [before, *(before + (PARTS - before) * ends // ends[-1]).tolist()]
        for box, start, stop in zip(self.boxes, told, told[1:]):
            cut = tuple(map(box.take, channels))
            part = watch.part("segment", start, stop, PARTS)
            found, sure = self._segment(cut, box.move(ijk_to_ras), part, with_confidence)
            box.view(labels)[:] = found
            if confidence is not None and sure is not None:
                box.view(confidence)[:] = sure
        return labels, confidence

    def _segment(
        self,
        array_kji: Voxels,
        ijk_to_ras: np.ndarray,
        watch: Watch,
        with_confidence: bool,
        network: Network | None = None,
    ) -> tuple[np.ndarray, np.ndarray | None]:
        arguments = (array_kji, ijk_to_ras, watch, with_confidence)
        self.network = network or self._preferred
        try:
            return self._compute(*arguments)
        except (RuntimeError, MemoryError, ImportError) as error:
            if not is_out_of_memory(error):
                raise
            if self.network.encoder.device.type == "cpu" or self._load_on_cpu is None:
                raise OutOfMemoryError(
                    f"not enough memory for {'x'.join(map(str, np.shape(array_kji)))} voxels, even in small parts; "
                    "close other programs, or cut out the region around the structure."
                ) from error
        logger.warning("%s does not have enough memory; continuing on the CPU.", self.network.encoder.device)
        give_back_unused_memory()
        return self._segment(*arguments, self._load_on_cpu())

    def prepare(self, array_kji: Voxels, ijk_to_ras: np.ndarray) -> Prepared:
        """The volume on the model's terms."""
        card = self.card
        card.check_channels(len(as_channels(array_kji)))
        return Preparation(card.slicing, card.intensities, card.encoder.image_size).prepare(array_kji, ijk_to_ras)

    def choose(self, prepared: Prepared) -> QualityChoice:
        """What "auto" chooses for this volume, by the time that a few of its slices take."""
        speed = measure_speed(prepared, self.network)
        works = {name: quality.work(self.card, prepared) for name, quality in QUALITIES.items()}
        return choose_quality({name: work.seconds(speed) for name, work in works.items()})

    def _work(self, prepared: Prepared) -> Work:
        self.level = self._quality
        if self._quality == AUTO:
            choice = self.choose(prepared)
            logger.info("%s.", choice)
            if self._on_choice:
                self._on_choice(choice)
            self.level = choice.quality
        return QUALITIES[self.level].work(self.card, prepared)

    @torch.no_grad()
    def _compute(
        self, array_kji: Voxels, ijk_to_ras: np.ndarray, watch: Watch, with_confidence: bool
    ) -> tuple[np.ndarray, np.ndarray | None]:
        prepared = self.prepare(array_kji, ijk_to_ras)
        work = self._work(prepared)
        # Written slice by slice through views, so that neither is copied at the end.
        labels_kji = np.zeros(as_channels(array_kji)[0].shape, np.uint8)
        confidence_kji = np.zeros_like(labels_kji) if with_confidence else None
        labels = prepared.slicing.to_dhw(labels_kji)
        if self.card.island_share:
            load_for_islands(labels.shape)
        confidence = prepared.slicing.to_dhw(confidence_kji) if confidence_kji is not None else None
        for index, logits in enumerate(stream_logits(prepared, self.network, work, watch)):
            probability, classes = classify(logits)
            labels[index] = self._label_values.take(classes.cpu()).numpy()
            if confidence is not None:
                confidence[index] = (probability * 100).round().to(torch.uint8).cpu().numpy()
        if self.card.island_share:
            for slab, island in find_islands(labels, self.card.island_share):
                labels[slab][island] = 0
                if confidence is not None:
                    confidence[slab][island] = 0
        watch.progress("segment", PARTS, PARTS)
        return labels_kji, confidence_kji
