"""What training sees: the same slices as inference, changed in mm, placed on structures, repeatable."""

import dataclasses
import itertools
from types import SimpleNamespace

import numpy as np
import pytest
import SimpleITK as sitk
import torch

from SAM3DSegmentLib.base.watch import UNWATCHED
from SAM3DSegmentLib.card import (
    NORMALISATIONS,
    EncoderConfig,
    Label,
    SlicingRule,
    VitConfig,
    WindowRule,
)
from SAM3DSegmentLib.channel import IntensityRule
from SAM3DSegmentLib.decoder import Sam3dDecoder
from SAM3DSegmentLib.encoder import FrozenEncoder
from SAM3DSegmentLib.formats.volumes import read_volume
from SAM3DSegmentLib.inference import stream_logits, watch_of
from SAM3DSegmentLib.intensity import normalise
from SAM3DSegmentLib.network import Network
from SAM3DSegmentLib.preparation import Preparation
from SAM3DSegmentLib.sam.cache import EmbeddingCache
from SAM3DSegmentLib.sam.cached_encoder import CachedEncoder
from SAM3DSegmentLib.sam.encoders import COMPACT_VIT
from SAM3DSegmentLib.sam.vit import build_vit
from SAM3DSegmentLib.settings import AugmentationConfig, TrainingConfig
from SAM3DSegmentLib.training import augmentation
from SAM3DSegmentLib.training.augmentation import random_view
from SAM3DSegmentLib.training.case_files import CaseFiles
from SAM3DSegmentLib.training.classes import COMPLETE
from SAM3DSegmentLib.training.embeddings import StoredViews, ViewEncoder
from SAM3DSegmentLib.training.learner import DecoderLearner, EndToEndLearner
from SAM3DSegmentLib.training.prepared import plain_view, prepare_case
from SAM3DSegmentLib.training.samples import FreshViews, Sample, Samples, StepNumbers, make_loader
from SAM3DSegmentLib.work import Work

COMPACT_48 = EncoderConfig("compact_vit", 48, vit=COMPACT_VIT)
LABELS = (Label(1, "Ball", (255, 0, 0)), Label(2, "Box", (0, 255, 0)))
STILL = AugmentationConfig(
    probability=1, rotation_degrees=0, scaling=0, shear=0, translation=0, gamma=0, contrast=0, noise=0
)


def write_case(folder, name, size_ijk=(40, 36, 12), spacing=(1.0, 1.0, 1.0), seed=0):
    """Noise with a ball (1), 8 mm wide, in the middle and, in slices of the upper half only, a box (2)."""
    generator = np.random.default_rng(seed)
    shape = size_ijk[::-1]
    values = generator.normal(100, 20, shape)
    mm = [np.arange(n) * s - (n - 1) * s / 2 for n, s in zip(shape, spacing[::-1])]
    distance = np.sqrt(sum(d**2 for d in np.meshgrid(*mm, indexing="ij")))
    labels = (distance < 8).astype(np.uint8)
    labels[shape[0] // 2 :, 2:6, 2:6] = 2
    values[labels > 0] += 150
    folder.mkdir(exist_ok=True)
    paths = []
    for what, array in (("image", values.astype(np.float32)), ("label", labels)):
        image = sitk.GetImageFromArray(array)
        image.SetSpacing(spacing)
        image.SetDirection((-1, 0, 0, 0, -1, 0, 0, 0, 1))
        paths.append(folder / f"{name}_{what}.nii.gz")
        sitk.WriteImage(image, str(paths[-1]))
    return CaseFiles(name, paths[0], paths[1])


def prepare(folder, files, size=48):
    (folder / "prepared").mkdir(exist_ok=True)
    return prepare_case(
        files, LABELS, Preparation(SlicingRule(), (IntensityRule(),), size), COMPLETE, folder / "prepared"
    )[0]


@pytest.fixture
def case(tmp_path):
    return prepare(tmp_path, write_case(tmp_path, "a"))


@pytest.fixture
def tiny_encoder(tmp_path):
    """An untrained encoder, one block of width 48, that remembers its answers."""
    torch.manual_seed(1)
    config = VitConfig(48, 1, 2, (0,))
    frozen = FrozenEncoder(
        build_vit(config, 48), EncoderConfig("tiny", 48, "0" * 64, config), torch.device("cpu"), torch.float32
    )
    return CachedEncoder(frozen, EmbeddingCache(tmp_path / "cache", 10**9))


class Recorder:
    """Between the network and its encoder: what inference asks it to encode."""

    def __init__(self, encoder):
        self.config, self.device, self.dtype = encoder.config, encoder.device, encoder.dtype
        self.image_size, self.batch_size = encoder.image_size, encoder.batch_size
        self.seen = []
        self._encoder = encoder
        self.computed, self.multiplications = 0, 1.0

    def __call__(self, slices):
        self.seen.append(slices.clone())
        return self._encoder(slices)


@pytest.mark.parametrize(
    ("size_ijk", "spacing"),
    [
        ((90, 80, 5), (1.0, 1.0, 3.0)),  # shrinks
        ((20, 18, 6), (1.0, 1.0, 1.0)),  # is enlarged
        ((60, 30, 6), (0.7, 1.45, 1.0)),  # shrinks along one axis
        ((41, 37, 7), (1.0, 1.1, 0.9)),  # odd
    ],
)
@pytest.mark.parametrize("normalisation", NORMALISATIONS)
def test_training_and_inference_see_the_same_slices_to_the_bit(
    tmp_path, tiny_encoder, size_ijk, spacing, normalisation
):
    tiny_encoder.config = dataclasses.replace(tiny_encoder.config, normalisation=normalisation)
    files = write_case(tmp_path, "c", size_ijk, spacing)
    prepared = prepare(tmp_path, files)
    grey, _ = plain_view(prepared, 0, prepared.depth)
    trained_on = Recorder(tiny_encoder)
    case_encoder = object.__new__(ViewEncoder)
    case_encoder.encoder = trained_on
    case_encoder.embed(grey, prepared.fit)
    training_input = torch.cat(trained_on.seen)
    assert torch.equal(training_input, normalise(prepared.fit.place(grey.transpose(0, 1)), normalisation))

    volume = read_volume(files.image)
    for_inference = Preparation(SlicingRule(), (IntensityRule(),), 48).prepare(volume.array_kji, volume.ijk_to_ras)
    recorder = Recorder(tiny_encoder)
    network = Network(recorder, [Sam3dDecoder(3, (256, 8, 8, 8, 8))])
    list(stream_logits(for_inference, network, Work(for_inference.depth, WindowRule()), UNWATCHED))
    inference_input = torch.cat(recorder.seen)
    assert torch.equal(training_input, inference_input)
    assert tiny_encoder.keys(training_input) == tiny_encoder.keys(inference_input)
    assert all(tiny_encoder.cache.get(key) is not None for key in tiny_encoder.keys(training_input))


@pytest.mark.parametrize("size_ijk", [(90, 80, 5), (20, 18, 6), (41, 37, 7)])
def test_training_and_inference_add_a_detail_alike(tmp_path, tiny_encoder, size_ijk):
    """What the loss compares with the labels is what becomes the mask, voxel by voxel."""
    files = write_case(tmp_path, "c", size_ijk)
    prepared = prepare(tmp_path, files)
    grey, classes = plain_view(prepared, 0, prepared.depth)
    torch.manual_seed(0)
    decoder = Sam3dDecoder(3, (256, 8, 8, 8, 8), levels=2, detail=(4, 6)).eval()
    network = Network(tiny_encoder, [decoder])
    embeddings = network.encode(prepared.fit.place(grey.transpose(0, 1)))[:, 0].transpose(0, 1)
    learner = DecoderLearner(decoder, SimpleNamespace(encoder=tiny_encoder), {})
    levels, labels = learner.predict(learner.module, [Sample(prepared.fit, classes, grey, embeddings)])
    assert torch.equal(labels[-1][0], classes.long())

    volume = read_volume(files.image)
    for_inference = Preparation(SlicingRule(), (IntensityRule(),), 48).prepare(volume.array_kji, volume.ijk_to_ras)
    logits = stream_logits(for_inference, network, Work(for_inference.depth, WindowRule()), UNWATCHED)
    expected = prepared.fit.enlarge(levels[-1][0].transpose(0, 1))
    torch.testing.assert_close(torch.stack(list(logits)), expected.detach(), atol=1e-3, rtol=1e-3)


def test_a_detail_part_learns_alone_from_every_second_sample_of_a_batch(tmp_path, case, tiny_encoder):
    """From a fresh view of grey slices, whatever the other samples are; a batch of one has none such."""
    (tmp_path / "views").mkdir()
    config = dataclasses.replace(FROZEN, detail=(4, 6))
    views = StoredViews([case], config, tiny_encoder.cache, tmp_path / "views", 1)
    encoder = ViewEncoder(views, tiny_encoder, 0, 1)
    encoder.encode_plain(UNWATCHED)
    fresh = FreshViews([case], AugmentationConfig())
    samples = Samples([case], views, config, 2, fresh)
    assert [samples[number].only_detail for number in range(6)] == [False, True] * 3
    assert [samples[number].embeddings is None for number in range(6)] == [False, True] * 3
    assert not torch.equal(samples[1].grey, samples[7].grey)
    single = Samples([case], views, dataclasses.replace(config, batch_size=1), 1, fresh)
    assert not any(single[number].only_detail for number in range(6))

    decoder = Sam3dDecoder(3, (256, 8, 8, 8, 8), levels=2, detail=(4, 6))
    compact = EndToEndLearner(torch.nn.Identity(), decoder, COMPACT_48, torch.device("cpu"))
    for learner in (DecoderLearner(decoder, encoder, {}), compact):
        (logits,), (labels,) = learner.predict(learner.module, [samples[1]])
        assert torch.equal(labels[0], samples[1].classes.long())
        torch.testing.assert_close(logits, decoder.detail(samples[1].grey[None]))
        learner.module.zero_grad()
        logits.square().sum().backward()
        learnt = {name for name, weight in learner.module.named_parameters() if weight.grad is not None}
        assert learnt == {f"decoder.detail.{name}" for name, _ in decoder.detail.named_parameters()}


@pytest.mark.parametrize("head", ["linear", "convolutional"])
@pytest.mark.parametrize("is_lent", [True, False])
def test_the_model_says_the_mean_of_what_a_detail_part_learnt_to_say_alone_and_with_the_embeddings(
    case, tiny_encoder, head, is_lent
):
    """And all of the embeddings' share where it never learnt alone."""
    torch.manual_seed(0)
    decoder = Sam3dDecoder(3, (256, 8, 8, 8, 8), levels=2, head=head, detail=(4, 6)).eval()
    vit = build_vit(COMPACT_VIT, 48)
    grey, classes = plain_view(case, 0, case.depth)
    sample = Sample(case.fit, classes, grey)

    def learner(trains_detail_alone):
        if is_lent:
            embeddings = SimpleNamespace(encoder=tiny_encoder, embed=lambda grey, fit: known)
            return DecoderLearner(decoder, embeddings, {}, trains_detail_alone)
        return EndToEndLearner(vit, decoder, COMPACT_48, torch.device("cpu"), trains_detail_alone)

    known = torch.rand(256, case.depth, 3, 3)
    trainee = learner(True)
    with torch.no_grad():
        together = trainee.predict(trainee.module, [sample])[0][-1]
        alone = trainee.predict(trainee.module, [sample._replace(only_detail=True)])[0][-1]
    assert (together - alone).abs().max() > 0.1
    for learns_alone, expected in ((True, (together + alone) / 2), (False, together)):
        trained = learner(learns_alone).trained(trainee.module.state_dict())
        made, encoder = trained.decoder, trained.encoder
        embeddings = known
        if not is_lent:
            embeddings = Network(encoder, [made]).encode(case.fit.place(grey.transpose(0, 1)))[:, 0].transpose(0, 1)
        with torch.no_grad():
            *_, finest = made.eval()(embeddings[None].float())
            said = case.fit.to_grid(finest) + made.detail(grey[None])
        torch.testing.assert_close(said, expected, atol=5e-3, rtol=5e-3)  # weights in half precision


def test_a_view_without_change_is_the_plain_one(case):
    for start, stop in ((0, case.depth), (3, 9)):
        grey, classes = random_view(case, start, stop, STILL, torch.Generator().manual_seed(0))
        plain_grey, plain_classes = plain_view(case, start, stop)
        torch.testing.assert_close(grey, plain_grey, atol=0.05, rtol=0)  # of 255
        assert torch.equal(classes, plain_classes)


def test_an_unchanged_window_through_the_plane_is_the_plain_one(case):
    """The slices around it, which it is cut from again, leave it in its place."""
    config = dataclasses.replace(STILL, through_plane_probability=1)
    for start, stop in ((0, 4), (5, 9), (8, 12)):
        grey, classes = random_view(case, start, stop, config, torch.Generator().manual_seed(0))
        torch.testing.assert_close(grey, plain_view(case, start, stop)[0], atol=0.05, rtol=0)
        assert torch.equal(classes, plain_view(case, start, stop)[1])


def axis_ratio(mask, spacing_hw):
    """Longest to shortest axis of the ellipse with the second moments of a mask, in mm."""
    points = np.argwhere(mask) * spacing_hw
    moments = np.linalg.eigvalsh(np.cov(points.T))
    return float(np.sqrt(moments[1] / moments[0]))


def test_a_rotation_is_a_rotation_in_mm_however_voxels_are_shaped(tmp_path):
    """A ball stays one: in-plane where pixels are not square, and through the plane where slices are thick."""
    turn = dataclasses.replace(STILL, rotation_degrees=45)
    in_plane = prepare(tmp_path, write_case(tmp_path, "in", (80, 56, 6), (0.5, 0.72, 3.0)), 128)
    through = prepare(tmp_path, write_case(tmp_path, "through", (40, 40, 28), (1.0, 1.0, 1.2)), 64)
    tilted = dataclasses.replace(turn, through_plane_probability=1)
    for seed in range(4):
        generator = torch.Generator().manual_seed(seed)
        _, classes = random_view(in_plane, 0, in_plane.depth, turn, generator)
        assert axis_ratio((classes[3] == 1).numpy(), in_plane.spacing_mm[1:]) < 1.05
        _, classes = random_view(through, 0, through.depth, tilted, generator)
        assert axis_ratio((classes == 1).numpy().any(2), through.spacing_mm[:2]) < 1.1


def test_thick_slices_are_never_rotated_into_each_other(tmp_path):
    thick = prepare(tmp_path, write_case(tmp_path, "thick", (40, 40, 8), (1.0, 1.0, 4.0)))
    tilted = dataclasses.replace(STILL, rotation_degrees=30, through_plane_probability=1)
    for seed in range(5):
        _, classes = random_view(thick, 0, thick.depth, tilted, torch.Generator().manual_seed(seed))
        assert [bool((part == 2).any()) for part in classes] == thick.classes_in_slice[:, 2].tolist()


def test_random_views_differ_and_repeat_with_the_seed(case):
    def view(seed):
        return random_view(case, 2, 10, AugmentationConfig(probability=1), torch.Generator().manual_seed(seed))

    grey, classes = view(1)
    assert grey.shape == (1, *classes.shape) == (1, 8, *case.fit.grid) == (1, 8, 36, 40)
    assert (grey.dtype, classes.dtype) == (torch.float32, torch.uint8)
    assert torch.equal(view(1)[0], grey)
    assert not torch.equal(view(2)[0], grey)


def test_image_and_labels_move_together(case):
    """The structure's own voxels, moved as an image, land where its labels land."""
    as_image = dataclasses.replace(case, grey=(case.classes > 0)[None].astype(np.float32) * 255)
    change = AugmentationConfig(probability=1, gamma=0, contrast=0, noise=0, flip_left_right=True)
    for seed in range(5):
        grey, classes = random_view(as_image, 0, case.depth, change, torch.Generator().manual_seed(seed))
        assert ((grey[0] > 127) == (classes > 0)).float().mean() > 0.98


def test_noise_is_that_of_the_volume_not_of_the_square(tmp_path):
    """Slices that shrink are averaged, and so is the noise that is added to them: here about by half."""
    noisy = dataclasses.replace(STILL, noise=0.2)
    deviations = []
    for name, pixels in (("large", 96), ("same", 48)):
        files = write_case(tmp_path, name, (pixels, pixels, 4), (1.0, 1.0, 3.0))
        prepared = prepare(tmp_path, files)
        flat = dataclasses.replace(prepared, grey=np.full_like(prepared.grey, 127))
        views = [random_view(flat, 0, 4, noisy, torch.Generator().manual_seed(seed))[0] for seed in range(12)]
        deviations.append(max(float(view[..., 8:-8, 8:-8].std()) for view in views))
    assert deviations[0] < 0.7 * deviations[1]


def test_what_is_moved_in_from_outside_is_black_background(tmp_path):
    case = prepare(tmp_path, write_case(tmp_path, "case", (40, 20, 4), (1.0, 1.0, 3.0)))
    full = dataclasses.replace(case, classes=np.ones_like(case.classes), grey=np.full_like(case.grey, 200))
    change = dataclasses.replace(STILL, translation=0.4, contrast=0.5, gamma=1)
    outside = 0
    for seed in range(6):
        (grey,), classes = random_view(full, 0, 4, change, torch.Generator().manual_seed(seed))
        assert not grey[classes == 0].max() > grey.max() / 2 + 1  # half a pixel is in at the border
        outside += int((grey == 0).sum())
        assert (classes[grey == 0] == 0).all()
    assert outside


CONFIG = TrainingConfig(encoder="compact_vit", image_size=48, training_depth=4, batch_size=2)


def test_a_pass_covers_every_case_and_a_thin_one_keeps_its_depth(tmp_path):
    cases = [
        prepare(tmp_path, write_case(tmp_path, "long", (24, 24, 12))),
        prepare(tmp_path, write_case(tmp_path, "thin", (24, 24, 2))),
    ]
    samples = Samples(cases, FreshViews(cases, AugmentationConfig()), CONFIG, 2)
    assert samples.per_pass == 3 + 1
    for first in (0, 4, 8):
        depths = sorted(len(samples[number].classes) for number in range(first, first + 4))
        assert depths == [2, 4, 4, 4]


def test_the_share_of_samples_on_a_structure_can_be_set(tmp_path):
    """The box is in one slice of forty, so that a random window of four rarely holds it."""
    case = prepare(tmp_path, write_case(tmp_path, "a", (24, 24, 40)))
    classes = np.zeros_like(case.classes)
    classes[33, :4, :4] = 2
    classes_in_slice = np.zeros_like(case.classes_in_slice)
    classes_in_slice[:, 0], classes_in_slice[33, 2] = True, True
    rare = dataclasses.replace(case, classes=classes, classes_in_slice=classes_in_slice)
    still = AugmentationConfig(probability=0)

    def share_with_box(foreground_share):
        config = dataclasses.replace(CONFIG, foreground_share=foreground_share)
        samples = Samples([rare], FreshViews([rare], still), config, 2)
        return np.mean([bool((samples[number].classes == 2).any()) for number in range(200)])

    assert share_with_box(1.0) == 1
    assert 0.4 < share_with_box(0.5) < 0.7
    assert share_with_box(0.0) < 0.25


def test_samples_depend_on_seed_and_number_alone_and_workers_draw_the_same(case):
    samples = Samples([case], FreshViews([case], AugmentationConfig()), CONFIG, 2)
    other = Samples([case], FreshViews([case], AugmentationConfig()), dataclasses.replace(CONFIG, seed=1), 2)
    assert torch.equal(samples[5].grey, samples[5].grey)
    assert not torch.equal(samples[5].grey, other[5].grey)
    direct = [samples[number].grey for number in range(2, 6)]
    for workers in (0, 2):
        loader = make_loader(samples, StepNumbers(1, 2, 0, 1), workers, False)
        steps = list(itertools.islice(loader, 2))
        assert all(torch.equal(a, s.grey) for a, s in zip(direct, [s for step in steps for s in step]))


def test_ranks_share_the_numbers_of_each_step():
    numbers = [list(itertools.islice(StepNumbers(3, 2, rank, 2), 2)) for rank in (0, 1)]
    assert numbers == [[[12, 13], [16, 17]], [[14, 15], [18, 19]]]


FROZEN = dataclasses.replace(CONFIG, augmented_copies=1)


def test_embeddings_are_computed_once_and_found_again(tmp_path, case, tiny_encoder, monkeypatch):
    (tmp_path / "views").mkdir()
    views = StoredViews([case], FROZEN, tiny_encoder.cache, tmp_path / "views", 1)
    encoder = ViewEncoder(views, tiny_encoder, 0, 1)
    told = []
    encoder.encode_plain(watch_of(lambda stage, done, total: told.append((done, total)), None))
    assert told == [(0, 12), (8, 12), (12, 12)]
    encoder.encode_more()
    assert not views.is_stored(0, 1)
    encoder.encode_more()
    assert views.is_stored(0, 1)
    early = views.sample(0, 2, 6, 0, torch.Generator().manual_seed(0))
    squares = case.fit.place(plain_view(case, 2, 6)[0].transpose(0, 1))
    expected = tiny_encoder(normalise(squares, "sam")).transpose(0, 1)
    assert torch.equal(early.embeddings.float(), expected)
    later = [views.sample(0, 2, 6, 1000, torch.Generator().manual_seed(seed)) for seed in range(8)]
    assert any(not torch.equal(sample.embeddings, early.embeddings) for sample in later)


@pytest.mark.parametrize("detail", [(), (4, 6)])
def test_what_the_cache_has_lost_is_computed_again(tmp_path, case, tiny_encoder, detail):
    """To the bit, with the grey slices that a detail part reads."""
    (tmp_path / "views").mkdir()
    config = dataclasses.replace(FROZEN, detail=detail)
    views = StoredViews([case], config, tiny_encoder.cache, tmp_path / "views", 1)
    encoder = ViewEncoder(views, tiny_encoder, 0, 1)
    encoder.encode_plain(UNWATCHED)
    before = views.sample(0, 0, 4, 0, torch.Generator())
    assert (before.grey is not None) == bool(detail)
    for entry in tiny_encoder.cache.folder.iterdir():
        entry.unlink()
    after = views.sample(0, 0, 4, 0, torch.Generator())
    assert after.embeddings is None
    assert torch.equal(after.classes, before.classes)
    assert before.grey is None or torch.equal(after.grey, before.grey)
    assert torch.equal(encoder.embed(after.grey, after.fit), before.embeddings.float())


def test_the_copies_of_a_case_are_drawn_from_the_step_on_when_they_are_there(tmp_path, case, tiny_encoder):
    """A matter of the step's number alone, so that a resumed run draws what an unbroken one draws."""
    views = StoredViews([case, case], dataclasses.replace(FROZEN, augmented_copies=2), tiny_encoder.cache, tmp_path, 2)
    ready = [views._ready_steps[number, copy] for copy in (0, 1, 2) for number in (0, 1)]
    assert ready == [0, 0, 18, 18, 20, 20]  # two ranks, two batches a case, after a lag of 16


def test_a_change_in_the_plane_is_that_of_the_whole_volume():
    """Slices that are all changed alike are moved as pictures; the same as when they are moved as a volume."""
    volume = torch.nn.functional.avg_pool2d(torch.rand(6, 48, 48, generator=torch.Generator().manual_seed(0)), 5, 1, 2)
    matrix = augmentation._rotation(0.2, 0.0, 0.0) @ augmentation._scaling(1.0, 1.1, 0.9)
    whole = augmentation._read_at(volume[None], matrix, (6, 48, 48), "bilinear")[0]
    torch.testing.assert_close(augmentation._move(volume[None], matrix, 6, "bilinear")[0], whole)
    tilted = augmentation._rotation(0.0, 0.2, 0.0) @ matrix
    assert not torch.allclose(augmentation._move(volume[None], tilted, 6, "bilinear")[0], whole)


def test_changes_are_those_of_monai_to_the_bit():
    """Which drew them before: trainings stay what they were."""
    transforms = pytest.importorskip("monai.transforms")
    create = pytest.importorskip("monai.transforms.utils")
    angles, shear, scale, shift = (0.2, -0.1, 0.3), (0.04, -0.03), (1.02, 0.9, 1.1), (1.5, -2.0, 3.0)
    pairs = [
        (augmentation._rotation(*angles), create.create_rotate(3, angles)),
        (augmentation._in_plane_shear(*shear), create.create_shear(3, (0, 0, 0, shear[0], 0, shear[1]))),
        (augmentation._scaling(*scale), create.create_scale(3, scale)),
        (augmentation._translation(*shift), create.create_translate(3, shift)),
    ]
    for ours, theirs in pairs:
        assert np.array_equal(ours, theirs)
    generator = torch.Generator().manual_seed(0)
    matrix = np.linalg.multi_dot([ours for ours, _ in pairs])
    for volume, size, motion in (
        (torch.rand(1, 9, 17, 30, generator=generator), (5, 17, 30), matrix),
        (torch.rand(9, 17, 30, generator=generator), (17, 30), matrix[1:, 1:]),
        (torch.rand(1, 1, 17, 30, generator=generator), (1, 17, 30), matrix),
    ):
        for mode in ("bilinear", "nearest"):
            affine = transforms.Affine(
                affine=motion, spatial_size=size, mode=mode, padding_mode="zeros", image_only=True
            )
            assert torch.equal(augmentation._read_at(volume, motion, size, mode), affine(volume).as_tensor())
