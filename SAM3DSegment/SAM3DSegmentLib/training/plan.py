"""What a training will do, found out before anything is computed: its cases, labels, split, sizes and network."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np

from ..base.errors import InputError
from ..base.jsonable import from_json, to_json
from ..base.watch import UNWATCHED, Watch
from ..card import PATCH_SIZE, Label, ModelCard
from ..geometry import Slicing, slicing_of
from ..model_store import find_model, read_card
from ..places.blocks import Blocks
from ..preparation import Preparation, SquareFit
from ..sam.cache import cache_folder, cache_limit_bytes
from ..sam.checkpoints import encoder_of
from ..sam.encoders import USUAL_ENCODER, usual_encoder
from ..settings import TrainingConfig
from .case_files import CaseFiles, Dataset
from .classes import CaseFacts, LabelRules, agree_on_labels, has_sides
from .dataset import find_dataset
from .design import Triple, depth_for, make_card, with_flips
from .encoders import TrainingEncoder, find_encoder
from .look import look_at_cases
from .places import Boxes, CoarseGrid, choose_grid, grid_of, guess_boxes, median_extent_mm
from .splits import Split, split_cases


@dataclass(frozen=True)
class Plan:
    """One training: its data, and the network that will be trained. There is one split for each fold.

    card: of the model, but for what only the training finds out. fit: how slices of the median spacing and extent lie
    on the encoder's square. depths, spacings_mm: slices that are trained on, and their spacing with the slicing axis
    first, of each case that can be trained on. fingerprint: SHA-256 of each case's files; empty unless the plan was
    made to be carried out.
    """

    config: TrainingConfig
    dataset: Dataset
    rules: LabelRules
    facts: tuple[CaseFacts, ...]
    splits: tuple[Split, ...]
    encoder: TrainingEncoder
    card: ModelCard
    preparation: Preparation
    fit: SquareFit
    depths: dict[str, int]
    spacings_mm: dict[str, Triple]
    files: dict[str, CaseFiles]
    fingerprint: dict[str, str]
    coarse: CoarseGrid | None = None  # on which structures are found first; None: whole volumes are looked at
    boxes: Boxes = field(default_factory=dict)  # of each case, what is trained on; nothing: the whole volume
    notices: tuple[str, ...] = ()  # what is done otherwise than the settings say

    @property
    def labels(self) -> tuple[Label, ...]:
        return self.card.labels

    @property
    def image_size(self) -> int:
        return self.preparation.image_size

    @property
    def view_bytes(self) -> int:
        """What the cache takes for the embeddings of one view of each training case."""
        slices = sum(self.depths.get(name, 0) for name in self.training_names)
        return slices * self.card.decoder.channels[0] * (self.image_size // PATCH_SIZE) ** 2 * 2

    @property
    def fine_extent_mm(self) -> Triple:
        """Median of what is looked at closely, slicing axis first."""
        return median_extent_mm([c for c in self.facts if not c.problem], self.boxes, self.config.slicing)

    def blocks_of(self, shape_kji: tuple[int, ...], ijk_to_ras: np.ndarray) -> Blocks:
        """The coarse grid of a volume."""
        assert self.coarse is not None
        return Blocks.of_about(self.coarse.spacing_mm, shape_kji, ijk_to_ras)

    @property
    def problems(self) -> tuple[CaseFacts, ...]:
        """The cases that cannot be trained on."""
        return tuple(case for case in self.facts if case.problem)

    @property
    def training_names(self) -> tuple[str, ...]:
        """Cases that any of the folds trains on."""
        return tuple(sorted({name for split in self.splits for name in split.training}))


def make_config(settings: Any, overrides: dict[str, Any], sam_checkpoint: str | Path | None = None) -> TrainingConfig:
    """From a JSON object, with what overrides it. Raises InputError for settings that make no sense,
    WeightsError for a checkpoint that does not say whose it is.

    An encoder that is not given is that of the checkpoint, or the usual one; other settings that are not given are
    what suits the encoder, such as those of the model that lends it. Whether a mirrored view may be taken is not: that
    depends on the labels.
    """
    from_json(TrainingConfig, settings)
    given = {**settings, **overrides}
    name = from_json(TrainingConfig, given).encoder
    if name == USUAL_ENCODER:
        name = usual_encoder() if sam_checkpoint is None else encoder_of(Path(sam_checkpoint))
    return from_json(TrainingConfig, {**find_encoder(name).settings(), **given, "encoder": name})


def make_plan(
    data: str | Path | Dataset,
    config: TrainingConfig,
    most_training: int | None = None,
    hashed: bool = False,
    watch: Watch = UNWATCHED,
    sam_checkpoint: Path | None = None,
) -> Plan:
    """data: a folder of cases, or cases that were found.

    most_training: use at most so many training cases; hashed: with the files' fingerprint, which reads all of them.

    Raises InputError for data or settings that cannot work, Cancelled.
    """
    config = _with_encoder(config, sam_checkpoint)
    encoder = find_encoder(config.encoder)
    encoder.check(config)
    dataset = data if isinstance(data, Dataset) else find_dataset(data)
    if config.input_channels:
        dataset = dataset.with_channels([channel.name for channel in config.input_channels])
    rules = LabelRules.of(config, dataset)
    looks = look_at_cases(dataset, rules, hashed, watch)
    labels, facts = agree_on_labels(dataset, looks, config.labels)
    sided = has_sides(facts, labels)
    config = with_flips(config, sided)
    sound = [case for case in facts if not case.problem]
    if not sound:
        raise InputError(facts[0].problem)
    slicings = {case.files.name: slicing_of(case.ijk_to_ras, config.slicing) for case in sound}
    grid = _coarse_grid(config, sound)
    boxes = guess_boxes(sound, grid) if grid is not None else {}
    spacing = _median([slicing.spacing_mm for slicing in slicings.values()])
    extent = median_extent_mm(sound, boxes, config.slicing)
    image_size = config.image_size or encoder.image_size(spacing, extent)
    height, width = (max(1, round(e / s)) for e, s in zip(extent[1:], spacing[1:]))
    fit = SquareFit.of_slices(height, width, spacing[1:], image_size)
    config = replace(config, training_depth=config.training_depth or depth_for(fit))
    card = make_card(config, dataset, labels, fit, spacing, median_extent_mm(sound, {}, config.slicing))
    files = {case.name: case for case in dataset.cases}
    plan = Plan(
        config=config,
        dataset=dataset,
        rules=rules,
        facts=facts,
        splits=split_cases(files, config, most_training, dataset.patients),
        encoder=encoder,
        card=card,
        preparation=Preparation(config.slicing, card.intensities, image_size),
        fit=fit,
        depths={case.files.name: _depth(case, boxes, slicings[case.files.name]) for case in sound},
        spacings_mm={name: slicing.spacing_mm for name, slicing in slicings.items()},
        files=files,
        fingerprint={look.files.name: look.sha256 for look in looks if hashed},
        coarse=grid,
        boxes=boxes,
    )
    return _within_cache(plan)


def _depth(case: CaseFacts, boxes: Boxes, slicing: Slicing) -> int:
    """Slices that are trained on."""
    sizes: list[tuple[int, ...]] = [box.size_kji for box in boxes.get(case.files.name, ())]
    return sum(size_kji[slicing.kji_axes[0]] for size_kji in sizes or [case.shape_kji])


def _coarse_grid(config: TrainingConfig, sound: list[CaseFacts]) -> CoarseGrid | None:
    """A training that begins with a model looks as often as this does."""
    if not config.start_from:
        return choose_grid(sound, config.look_twice)
    look = read_card(find_model(config.start_from)).coarse
    return None if look is None else grid_of(look.spacing_mm, look.places, sound)


def _within_cache(plan: Plan) -> Plan:
    """With as many changed copies of each case as the cache has room for: others would be encoded in each step anew."""
    asked, needed = plan.config.augmented_copies, plan.encoder.kept_views(plan.config) * plan.view_bytes
    if not needed or needed <= (limit := cache_limit_bytes(cache_folder())):
        return plan
    copies = min(asked, max(0, limit // plan.view_bytes - 1))
    rest = "" if plan.view_bytes <= limit else ", and slices are encoded again and again"
    notice = (
        f"embeddings take {needed / 1e9:.3g} GB of the cache, which may take {limit / 1e9:.3g} GB: augmented_copies is "
        f"{copies} instead of {asked}{rest}; raise SAM3DSEGMENT_CACHE_GB, or free disk space."
    )
    return replace(plan, config=replace(plan.config, augmented_copies=copies), notices=(notice,))


def _with_encoder(config: TrainingConfig, sam_checkpoint: Path | None) -> TrainingConfig:
    """Settings made in Python that leave the encoder open: those that differ from the usual ones are given."""
    if config.encoder != USUAL_ENCODER:
        return config
    given, usual = to_json(config), to_json(TrainingConfig())
    return make_config({key: value for key, value in given.items() if value != usual[key]}, {}, sam_checkpoint)


def _median(triples: list[Any]) -> Triple:
    d, h, w = np.median(triples, axis=0).tolist()
    return d, h, w
