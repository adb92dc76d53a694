"""The list of encoders to train on, and what the chosen one is good for."""

from __future__ import annotations

from pathlib import Path

from slicer.i18n import tr as _

from ...base.errors import Sam3dError
from ...model_store import list_models, read_card
from ...sam.encoders import COMPACT_ENCODER, ENCODERS, usual_encoder
from .. import preferences
from ..preferences import SAM
from .controls import fillList
from .protocols import Ui


class EncoderBox:
    def __init__(self, ui: Ui) -> None:
        self._box = ui.encoderBox
        self._label = ui.encoderLabel
        self.update()
        ui.encoderBox.connect("currentIndexChanged(int)", self._describe)

    def chosen(self) -> str:
        """As the command line takes it; empty before `update`."""
        return self._box.itemData(self._box.currentIndex) or ""

    def update(self) -> None:
        """List encoders whose weights are here, one of the model's own, then each that a model file contains."""
        usual = SAM if preferences.samCheckpoint() else usual_encoder()
        chosen, seen = self.chosen() or usual, set[str]()
        titles = {name: row.title for name, row in ENCODERS.items() if preferences.samWeights(name).is_file()}
        titles[COMPACT_ENCODER] = _("An encoder of its own")
        for path in list_models():
            try:
                card = read_card(path)
            except Sam3dError:  # the section "Segment" shows the error when the model is chosen
                continue
            if card.encoder.in_model_file and card.encoder.sha256 not in seen:
                seen.add(card.encoder.sha256)
                titles[str(path)] = _("Encoder of {name}").format(name=path.stem)
        fillList(self._box, titles)
        self._box.currentIndex = max(0, self._box.findData(chosen))
        self._describe()

    def _describe(self, _index: int = 0) -> None:
        encoder = self.chosen()
        if encoder == SAM:
            text = _("Trained on photographs of all kinds, and stays as it is. Slow without a GPU.")
        elif encoder in ENCODERS:
            text = _("{family}'s, as it was published ({licence}), and stays as it is. Slow without a GPU.").format(
                family=ENCODERS[encoder].family, licence=ENCODERS[encoder].licence
            )
        elif encoder == COMPACT_ENCODER:
            text = _(
                "A small one, trained with the decoder, on your cases alone: fast on any computer. To use SAM's "
                "encoder, get its weights in Setup."
            )
        else:
            card = read_card(Path(encoder))
            text = _(
                "Trained on {modality} of {labels} only, and stays as it is: fast on any computer, but expect worse "
                "results for images that look different. To use SAM's encoder, get its weights in Setup."
            ).format(modality=card.modality or _("images"), labels=", ".join(label.name for label in card.labels))
        self._label.text = text
