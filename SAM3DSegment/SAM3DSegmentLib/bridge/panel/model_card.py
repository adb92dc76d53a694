"""A model's card, as the panel shows it."""

from __future__ import annotations

import html

from slicer.i18n import tr as _

from ...card import ModelCard
from ...geometry import axis_names
from ...suitability import describe_lengths


def describeCard(card: ModelCard) -> str:
    """A model's card as rich text: labels with colours, modality, training, Dice, licence, and what it is not for."""
    swatches = " &nbsp; ".join(
        f'<span style="color: rgb{label.color}">\u25a0</span> {html.escape(label.name)}' for label in card.labels
    )
    lines = [html.escape(card.description), swatches]
    training = card.training
    facts = [card.modality, _("trained on {count} cases").format(count=training.cases)]
    if training.dice:
        mean = sum(training.dice.values()) / len(training.dice)
        facts.append(_("Dice {dice:.3f} on {count} others").format(dice=mean, count=training.dice_cases))
    facts.append(card.licence or _("licence not stated"))
    lines.append(html.escape(" \u00b7 ".join(fact for fact in facts if fact)))
    if len(card.channels) > 1:
        lines.append(html.escape(_describeChannels(card)))
    if card.coarse is not None:
        found = _("Looks for the structures first, and closely at {extent} mm around each.")
        lines.append(html.escape(found.format(extent=describe_lengths(card.coarse.extent_mm, 0))))
    lines.append(html.escape(_describeLimits(card)))
    return "<br>".join(line for line in lines if line)


def _describeChannels(card: ModelCard) -> str:
    passes = card.encoder.passes(len(card.channels))
    names = ", ".join(channel.name for channel in card.channels)
    if passes == 1:
        return _("Reads {names}, as colours of one picture.").format(names=names)
    return _("Reads {names}: encoding takes {count} times as long as with one volume.").format(
        names=names, count=passes
    )


def _describeLimits(card: ModelCard) -> str:
    limits = []
    if card.extent_mm and card.spacing_mm:
        limits.append(
            _(
                "Made for volumes of about {extent} mm ({axes}) with voxels of {spacing} mm; on others it may be quite "
                "wrong."
            ).format(
                extent=describe_lengths(card.extent_mm, 0), axes=_axes(card), spacing=describe_lengths(card.spacing_mm)
            )
        )
    limits.append(_("Check every result by eye; not for diagnosis or treatment."))
    return " ".join(limits)


def _axes(card: ModelCard) -> str:
    """Those along which a card's lengths are given, in the words of the patient where that is certain."""
    slices, *others = card.spacing_mm or (0, 1, 1)
    if slices >= card.slicing.anisotropy * max(others):  # by the acquisition, which may differ from case to case
        return _("slices x rows x columns")
    return axis_names(card.slicing.plane)
