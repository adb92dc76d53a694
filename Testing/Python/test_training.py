"""Training on real MRIs, shortened: what is checked is that it works, not how far it gets."""

import dataclasses
import shutil

import numpy as np
import pytest
import torch

from conftest import HIPPOCAMPUS
from SAM3DSegmentLib.card import Label, SlicingRule
from SAM3DSegmentLib.decoder import Sam3dDecoder
from SAM3DSegmentLib.errors import Cancelled, InputError, WeightsError
from SAM3DSegmentLib.losses import DeepSupervisionLoss
from SAM3DSegmentLib.model_file import load_model
from SAM3DSegmentLib.settings import AugmentationConfig, TrainingConfig
from SAM3DSegmentLib.training.augmentation import plain_view, random_view
from SAM3DSegmentLib.training.cases import find_dataset, read_case, split_cases
from SAM3DSegmentLib.training.gradients import BatchGradients
from SAM3DSegmentLib.training.trainer import TrainingRun, train

COMPACT = TrainingConfig(
    encoder="compact_vit",
    image_size=48,
    channels=(256, 16, 16, 8, 8),
    slicing=SlicingRule("coronal"),
    batch_size=1,
    training_depth=12,
    validation_cases=1,
    validations=2,
    epochs=2,
)


@pytest.fixture(scope="module")
def dataset():
    return find_dataset(HIPPOCAMPUS)


@pytest.fixture(scope="module")
def case(dataset):
    return read_case(dataset.cases[0], COMPACT, dataset.labels)


def test_a_decathlon_folder_is_understood(dataset):
    assert [case.name[-3:] for case in dataset.cases] == ["051", "225", "335", "340"]
    assert [(label.value, label.name) for label in dataset.labels] == [(1, "Anterior"), (2, "Posterior")]
    assert (dataset.modality, dataset.licence) == ("MRI", "CC-BY-SA 4.0")


def test_without_a_description_labels_are_found(tmp_path):
    for folder in ("imagesTr", "labelsTr"):
        shutil.copytree(HIPPOCAMPUS / folder, tmp_path / folder)
    assert [label.name for label in find_dataset(tmp_path).labels] == ["Label 1", "Label 2"]


def test_the_split_is_complete_disjoint_and_repeatable(dataset):
    config = dataclasses.replace(COMPACT, test_cases=1)
    split = split_cases(dataset.cases, config)
    assert (len(split.training), len(split.validation), len(split.test)) == (2, 1, 1)
    assert set(split.training) | set(split.validation) | set(split.test) == set(dataset.cases)
    assert split == split_cases(dataset.cases, config)
    with pytest.raises(InputError, match="leave none of 4"):
        split_cases(dataset.cases, dataclasses.replace(COMPACT, test_cases=3))


def test_a_view_without_change_is_the_plain_one(case):
    still = AugmentationConfig(probability=0)
    grey, classes = random_view(case, 64, 99, still, torch.Generator().manual_seed(0))
    plain_grey, plain_classes = plain_view(case, 64)
    inner = (slice(1, -1), slice(6, -6), slice(6, -6))
    assert grey.shape == plain_grey.shape
    # The square is centred to half a pixel, which is all that may differ.
    assert (classes != plain_classes)[inner].float().mean() < 0.02
    assert (grey - plain_grey)[inner].abs().mean() < 8


def test_views_are_of_whole_slices_unless_they_are_changed_through_the_plane(case):
    """An in-plane change moves nothing across slices, so that a structure fills the very slices that it did."""
    marked = torch.zeros_like(case.classes)
    marked[::2] = 1  # every other slice is the structure
    striped = dataclasses.replace(case, grey=marked * 255.0, classes=marked)
    still = AugmentationConfig(probability=1, gamma=0, contrast=0, noise=0, through_plane_probability=0)
    for seed in range(5):
        generator = torch.Generator().manual_seed(seed)
        grey, classes = random_view(striped, 64, 11, still, generator)
        centre = grey[:, 28:36, 28:36]
        assert set(centre.unique().round().tolist()) == {0.0, 255.0}
        assert torch.equal(centre > 127, classes[:, 28:36, 28:36] == 1)
        through = dataclasses.replace(still, through_plane_probability=1)
        blurred, _ = random_view(striped, 64, 11, through, generator)
        assert ((blurred > 20) & (blurred < 235)).float().mean() > 0.1


def test_random_views_differ_and_repeat_with_the_seed(case):
    def view(seed):
        return random_view(case, 64, 12, AugmentationConfig(probability=1), torch.Generator().manual_seed(seed))

    grey, classes = view(1)
    assert grey.shape == classes.shape == (12, 64, 64)
    assert classes.dtype == torch.int64
    torch.testing.assert_close(view(1)[0], grey)
    assert not torch.equal(view(2)[0], grey)


def test_image_and_labels_move_together(case):
    """The structure's own voxels, moved as an image, land where its labels land."""
    as_image = dataclasses.replace(case, grey=(case.classes > 0).float() * 255)
    change = AugmentationConfig(probability=1, gamma=0, contrast=0, noise=0, flip_left_right=True)
    for seed in range(5):
        grey, classes = random_view(as_image, 96, 99, change, torch.Generator().manual_seed(seed))
        assert ((grey > 127) == (classes > 0)).float().mean() > 0.98


def test_a_decoder_can_learn_one_case_by_heart(case):
    torch.manual_seed(0)
    decoder = Sam3dDecoder(3, (16, 16, 16, 8, 8))
    _, classes = plain_view(case, 32)
    classes = classes[20:28][None]
    embeddings = torch.randn(1, 16, 8, 2, 2)
    loss_of, optimiser = DeepSupervisionLoss(), torch.optim.AdamW(decoder.parameters(), lr=5e-3)
    losses = []
    for _ in range(60):
        optimiser.zero_grad()
        loss = loss_of(decoder(embeddings), classes)
        loss.backward()
        optimiser.step()
        losses.append(loss.item())
    assert losses[-1] < 0.5 * losses[0]


def test_gradients_of_two_workers_are_those_of_one(monkeypatch):
    """Half of the batch in each thread, and the replica shares the weights but not the gradients."""
    torch.manual_seed(0)
    decoder = Sam3dDecoder(3, (16, 16, 16, 8, 8))
    samples = [(torch.randn(16, 4, 2, 2), torch.randint(3, (4, 32, 32))) for _ in range(4)]
    draws = [lambda sample=sample: sample for sample in samples]
    found = []
    for cores in (1, 2):
        monkeypatch.setattr(torch, "get_num_threads", lambda cores=cores: cores)
        gradients = BatchGradients(decoder, DeepSupervisionLoss(), torch.device("cpu"), len(samples))
        assert len(gradients._replicas) == cores
        loss = gradients.compute(draws)
        found.append((loss, [parameter.grad.clone() for parameter in decoder.parameters()]))
    (one_loss, one), (two_loss, two) = found
    assert one_loss == pytest.approx(two_loss, rel=1e-2)
    for a, b in zip(one, two):
        torch.testing.assert_close(a, b, rtol=0.05, atol=0.02 * float(a.abs().max()) + 1e-6)


def test_the_compact_encoder_is_trained_frozen_and_carried(tmp_path):
    seen = []
    train(HIPPOCAMPUS, tmp_path / "m.sam3d", COMPACT, device="cpu", on_progress=lambda *line: seen.append(line))
    model = load_model(tmp_path / "m.sam3d")
    assert model.card.encoder.carried
    assert model.card.training.steps == 2 * 3
    assert model.card.training.cases == 3
    assert set(model.card.training.dice) == {"Anterior", "Posterior"}
    assert model.card.spacing_mm == (1, 1, 1)
    assert seen[-1] == ("train", 6, 6)
    assert sorted(path.name for path in tmp_path.iterdir() if path.is_file()) == ["m.sam3d"]


def test_a_frozen_encoder_is_asked_once_for_each_slice(tmp_path, untrained_sam, monkeypatch):
    config = dataclasses.replace(COMPACT, encoder="sam_vit_b", image_size=32, augmented_copies=1, epochs=1)
    train(HIPPOCAMPUS, tmp_path / "a.sam3d", config, cases=2, sam_checkpoint=untrained_sam, device="cpu")
    from SAM3DSegmentLib.encoder import FrozenEncoder

    def fail(self, slices):
        raise AssertionError("the embeddings should be in the cache")

    monkeypatch.setattr(FrozenEncoder, "__call__", fail)
    again = train(HIPPOCAMPUS, tmp_path / "b.sam3d", config, cases=2, sam_checkpoint=untrained_sam, device="cpu")
    assert not again.encoder_tensors
    assert len(again.card.encoder.sha256) == 64


def test_a_model_lends_its_encoder(tmp_path):
    config = dataclasses.replace(COMPACT, encoder="hippocampus-mri", image_size=48, augmented_copies=0, epochs=1)
    lender = load_model("hippocampus-mri")
    model = train(HIPPOCAMPUS, tmp_path / "m.sam3d", config, cases=1, device="cpu")
    assert model.card.encoder == lender.card.encoder
    for key, value in lender.encoder_tensors.items():
        assert torch.equal(model.encoder_tensors[key], value)


def test_cancel_keeps_a_checkpoint_and_resume_ends_where_an_unbroken_run_ends(tmp_path):
    calls = []
    with pytest.raises(Cancelled, match="--resume"):
        train(
            HIPPOCAMPUS,
            tmp_path / "m.sam3d",
            COMPACT,
            device="cpu",
            should_cancel=lambda: len(calls) >= 4 or calls.append(1),
        )
    assert [path.name for path in tmp_path.glob("m.*")] == ["m.sam3d.checkpoint"]
    resumed = train(HIPPOCAMPUS, tmp_path / "m.sam3d", COMPACT, device="cpu", resume=True)
    unbroken = train(HIPPOCAMPUS, tmp_path / "u.sam3d", COMPACT, device="cpu")
    assert resumed.card.training.steps == unbroken.card.training.steps
    for key, value in unbroken.decoder.state_dict().items():
        torch.testing.assert_close(resumed.decoder.state_dict()[key], value)


def test_resume_needs_a_checkpoint_of_the_same_settings(tmp_path):
    with pytest.raises(InputError, match="no checkpoint"):
        train(HIPPOCAMPUS, tmp_path / "m.sam3d", COMPACT, device="cpu", resume=True)
    run = TrainingRun(tmp_path / "m.sam3d", find_dataset(HIPPOCAMPUS), COMPACT, None, None, "cpu", None)
    run.save_checkpoint()
    with pytest.raises(InputError, match="other settings of learning_rate"):
        train(
            HIPPOCAMPUS,
            tmp_path / "m.sam3d",
            dataclasses.replace(COMPACT, learning_rate=0.5),
            device="cpu",
            resume=True,
        )


def test_bad_data_is_refused_with_a_remedy(tmp_path):
    with pytest.raises(InputError, match="imagesTr"):
        find_dataset(tmp_path)
    shutil.copytree(HIPPOCAMPUS, tmp_path / "data")
    (tmp_path / "data" / "dataset.json").write_text("{")
    with pytest.raises(InputError, match="not valid JSON"):
        find_dataset(tmp_path / "data")
    paths = find_dataset(HIPPOCAMPUS).cases
    swapped = dataclasses.replace(paths[0], label=paths[1].label)
    with pytest.raises(InputError, match="not on the grid of its image"):
        read_case(swapped, COMPACT, (Label(1, "A", (0, 0, 0)), Label(2, "B", (0, 0, 0))))
    with pytest.raises(InputError, match=r"values \[2\] without a name"):
        read_case(paths[0], COMPACT, (Label(1, "A", (0, 0, 0)),))


@pytest.mark.parametrize(
    ("field", "value"), [("epochs", -1), ("test_cases", -1), ("validation_cases", -2), ("augmented_copies", -1)]
)
def test_settings_that_make_no_sense_are_refused(field, value):
    with pytest.raises(InputError, match=f"{field} {value} is negative"):
        dataclasses.replace(COMPACT, **{field: value})


def test_training_needs_a_case(tmp_path):
    with pytest.raises(InputError, match="0 training cases"):
        train(HIPPOCAMPUS, tmp_path / "m.sam3d", COMPACT, cases=0, device="cpu")


def test_training_on_sam_without_its_weights_says_how_to_get_them(tmp_path):
    config = dataclasses.replace(COMPACT, encoder="sam_vit_b")
    with pytest.raises(WeightsError, match="weights download sam_vit_b"):
        train(HIPPOCAMPUS, tmp_path / "m.sam3d", config, device="cpu")


def test_the_average_follows_the_weights(dataset, tmp_path):
    run = TrainingRun(tmp_path / "m.sam3d", dataset, COMPACT, None, None, "cpu", None)
    run.progress.step = 1000
    weights = run.network.module.state_dict()
    name = "decoder.heads.3.bias"
    before = run.average.state_dict()[name].clone()
    weights[name].add_(1.0)
    run._update_average()
    np.testing.assert_allclose(run.average.state_dict()[name] - before, 1 - COMPACT.averaging, rtol=1e-3)
