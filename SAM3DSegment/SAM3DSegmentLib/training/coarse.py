"""The coarse look of a training: a model that finds places on a coarse grid, trained first, as any other model is."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np

from ..base.progress import Display, Silent
from ..base.watch import Watch
from ..card import CoarseLook, Label, WindowRule
from ..formats.channels import ChannelFile, read_channels
from ..formats.label_maps import write_labels
from ..formats.volumes import Volume, write_volume
from ..inference import Segmenter
from ..model_file import Sam3dModel, load_model
from ..places.boxes import boxes_around, dilated, find_places
from ..places.finder import Finder
from ..settings import TrainingConfig
from .case_files import CaseFiles
from .execution import carry_out
from .open_run import Run
from .places import MOST_OFF, SHARE, Misses, find_misses, jitter_boxes
from .plan import Plan, make_plan
from .reading import read_case
from .run_folder import Options, RunFolder
from .splits import Split

logger = logging.getLogger(__name__)

PLACE = Label(1, "place", (230, 159, 0))
DEPTH = 32  # blocks of a training sample, along the slicing axis
DETAIL = (16, 32, 64)  # channels; the embeddings alone say little of a place that is smaller than a token
LEVELS = 2  # of the decoder; the detail part sees the rest
FOREGROUND_SHARE = 0.8  # of the samples; places are so few blocks that those without one teach little
VALIDATIONS = 4
BOXES_OF_A_PLACE = 3  # drawn for each case, where its views are not kept on disk
ENOUGH = 0.9  # of the places of held-out cases; where fewer are found, the user is told
_PARTS = 1000  # of a training that is counted in epochs


def look_for_places(run: Run, options: Options) -> Run:
    """Train what finds places, or take that of the model to begin with; choose the boxes that are trained on.

    Raises Cancelled, TrainingError.
    """
    plan, grid = run.plan, run.plan.coarse
    assert grid is not None
    share, total = 0.0, _PARTS if plan.config.epochs else max(1, round(60 * plan.config.minutes))
    if run.start is not None and run.start.coarse is not None:
        model = run.start.coarse
    else:
        share = SHARE
        # Of places alone no model can be made: who wants to finish now stops the training, and may resume it.
        watch = Watch(_OnlyProgress(run.watch.display), lambda: run.watch.cancelled() or run.watch.finishing())
        model = _learn(run, options, watch.part("train", 0, round(share * total), total))
    segmenter = Segmenter.load(model, str(run.fabric.device), "auto", options.sam_checkpoint)
    look = CoarseLook(model.card, grid.spacing_mm, grid.places, 0.0, plan.fine_extent_mm)
    misses = _find_misses(run, Finder(look, segmenter))
    margin_mm = max(0.0, round(misses.worst_mm + grid.spacing_mm, 1))  # a block more than any needed
    copies = 1 if plan.encoder.kept_views(plan.config) else BOXES_OF_A_PLACE
    boxes = jitter_boxes(plan.facts, misses, margin_mm, copies, plan.config.slicing, plan.config.seed)
    plan = replace(plan, boxes=boxes)
    look = replace(look, margin_mm=margin_mm, extent_mm=plan.fine_extent_mm)
    return replace(
        run,
        plan=replace(plan, card=replace(plan.card, coarse=look)),
        coarse=model,
        finder=Finder(look, segmenter),
        share=1 - share,
        watch=run.watch.part("train", round(share * total), total, total),
    )


class _OnlyProgress(Silent):
    """Of a training within another: what it tells beside is of a model that nobody will see."""

    def __init__(self, whole: Display) -> None:
        self._whole = whole

    def progress(self, stage: str, done: int, total: int) -> None:
        self._whole.progress(stage, done, total)


def _learn(run: Run, options: Options, watch: Watch) -> Sam3dModel:
    """A training that was stopped goes on, and one that has ended is not made again."""
    folder = RunFolder(run.folder.coarse / "coarse.sam3d")
    if folder.model.is_file():
        return load_model(folder.model)
    logger.info("first the coarse look, which finds the places of the structures.")
    began = folder.record.is_file()
    how = replace(options, resume=began, cases=None)
    model = carry_out(_coarse_plan(run, watch), folder, run.fabric, how, watch)
    run.fabric.barrier()
    return model


def _coarse_plan(run: Run, watch: Watch) -> Plan:
    """The same cases and the same split, on the coarse grid."""
    plan, split = run.plan, run.plan.splits[0]
    cases = _write_coarse_cases(run, split.training + split.validation, watch)
    dataset = replace(
        plan.dataset,
        folder=run.folder.coarse,
        cases=cases,
        names={PLACE.value: PLACE.name},
        notices=(),
        ignore=None,
        patients={},
    )
    coarse = make_plan(dataset, coarse_config(plan), hashed=True, watch=watch)
    return replace(coarse, splits=(Split(split.training, split.validation),))


def coarse_config(plan: Plan) -> TrainingConfig:
    """The settings of the training, but for what a place on a coarse grid needs otherwise."""
    assert plan.coarse is not None
    return replace(
        plan.config,
        name=PLACE.name,
        description="",
        labels=(PLACE,),
        look_twice=False,
        image_size=plan.encoder.coarse_image_size(plan.coarse.most_blocks),
        levels=LEVELS,
        detail=DETAIL,
        window=WindowRule(DEPTH, DEPTH // 2),
        training_depth=DEPTH,
        mirror=False,
        island_share=0.0,
        foreground_share=FOREGROUND_SHARE,
        painted_slices=False,
        resample=False,
        start_from="",
        minutes=SHARE * plan.config.minutes,
        validations=min(VALIDATIONS, plan.config.validations),
        validation_cases=0,
        test_cases=0,
        folds=1,
    )


def _write_coarse_cases(run: Run, names: Sequence[str], watch: Watch) -> tuple[CaseFiles, ...]:
    """Copies of cases on the coarse grid, unless they are there already."""
    cases = tuple(_coarse_files(run.plan.files[name], run.folder.coarse) for name in names)
    if run.fabric.is_global_zero:
        run.folder.coarse.mkdir(exist_ok=True)
        for files in watch.each("look", cases, "add --resume to go on."):
            if not files.label_map.is_file():
                _write_coarse(run.plan, files)
    run.fabric.barrier()
    return cases


def _coarse_files(case: CaseFiles, folder: Path) -> CaseFiles:
    images = [folder / f"{case.name}.{number}.nrrd" for number in range(len(case.channels))]
    parts = tuple(ChannelFile(part.name, image) for part, image in zip(case.parts, images))
    return CaseFiles(case.name, images[0], folder / f"{case.name}.place.nrrd", parts=parts)


def _write_coarse(plan: Plan, files: CaseFiles) -> None:
    """The label map last, so that a case that has it is complete. A place is a structure and one block around it."""
    image, classes_kji = read_case(plan.files[files.name], plan.labels, plan.rules)
    blocks = plan.blocks_of(classes_kji.shape, image.ijk_to_ras)
    matrix = blocks.move(image.ijk_to_ras)
    for channel, file in zip(image.channels, files.channels):
        write_volume(file.path, blocks.average(channel), matrix)
    is_place = dilated(blocks.any(classes_kji > 0), 1)
    source = Volume(np.empty(blocks.counts_kji, np.uint8), matrix, files.image)
    write_labels(files.label_map, is_place.astype(np.uint8), source, (PLACE,))


def _find_misses(run: Run, finder: Finder) -> Misses:
    """On the held-out cases."""
    facts = {case.files.name: case for case in run.plan.facts}
    watch, found = run.watch.silent(), []
    for files in _write_coarse_cases(run, run.plan.splits[0].validation, watch):
        watch.check("add --resume to go on.")
        image, case = read_channels(files.channels), facts[files.name]
        blocks = run.plan.blocks_of(case.shape_kji, case.ijk_to_ras)
        places = find_places(finder.probability(image.channels, image.ijk_to_ras), finder.look.places)
        found.append((case, boxes_around(places, blocks, 0.0, case.ijk_to_ras)))
    misses = find_misses(found, run.plan.config.slicing, MOST_OFF * finder.look.spacing_mm)
    told = f"the coarse look found {misses.found} of {misses.wanted} places of held-out cases"
    if misses.found < ENOUGH * misses.wanted:
        logger.warning("%s; train longer, or set look_twice to false in the file of --config.", told)
    else:
        logger.info("%s, cut by at most %.3g mm.", told, max(0.0, misses.worst_mm))
    return misses
