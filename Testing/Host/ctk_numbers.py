"""ctk's widgets for numbers: spin box, slider with spin box, range."""

from __future__ import annotations

from PySide6 import QtCore, QtWidgets
from PySide6.QtCore import Property, Signal

from pythonqt import standIn
from stored_property import storedProperty

_STEPS = 1000  # of the integer slider that shows a real number
_LARGEST = 1e12  # Qt's spin box does not take infinities, which Slicer's parameter nodes set for "unbounded"


def _finite(value: float) -> float:
    return max(-_LARGEST, min(_LARGEST, float(value)))


@standIn
class ctkDoubleSpinBox(QtWidgets.QDoubleSpinBox):
    """ctkDoubleSpinBox: value, minimum, maximum, decimals, singleStep, prefix, suffix, valueChanged(double)."""

    decimalsChanged = Signal(int)


@standIn
class ctkSliderWidget(QtWidgets.QWidget):
    """ctkSliderWidget: a slider beside a spin box. Here valueIsChanging is emitted with every change."""

    valueChanged = Signal(float)
    valueIsChanging = Signal(float)

    def __init__(self, parent: QtWidgets.QWidget | None = None):
        super().__init__(parent)
        self._slider = QtWidgets.QSlider(QtCore.Qt.Horizontal)
        self._slider.setRange(0, _STEPS)
        self._spinBox = QtWidgets.QDoubleSpinBox()
        row = QtWidgets.QHBoxLayout(self)
        row.setContentsMargins(0, 0, 0, 0)
        row.addWidget(self._slider)
        row.addWidget(self._spinBox)
        self._slider.valueChanged.connect(self._onSlider)
        self._spinBox.valueChanged.connect(self._onSpinBox)

    def _onSlider(self, step: int) -> None:
        self._spinBox.value = self.minimum + step / _STEPS * (self.maximum - self.minimum)

    def _onSpinBox(self, value: float) -> None:
        self._moveSlider()
        self.valueIsChanging.emit(value)
        self.valueChanged.emit(value)

    def _moveSlider(self) -> None:
        span = self.maximum - self.minimum
        self._slider.blockSignals(True)
        self._slider.value = round(_STEPS * (self.value - self.minimum) / span) if span else 0
        self._slider.blockSignals(False)

    def setValue(self, value: float) -> None:
        self._spinBox.setValue(float(value))

    def setMinimum(self, value: float) -> None:
        self._spinBox.setMinimum(_finite(value))
        self._moveSlider()

    def setMaximum(self, value: float) -> None:
        self._spinBox.setMaximum(_finite(value))
        self._moveSlider()

    def setRange(self, minimum: float, maximum: float) -> None:
        self._spinBox.setRange(_finite(minimum), _finite(maximum))
        self._moveSlider()

    def setDecimals(self, value: int) -> None:
        self._spinBox.setDecimals(int(value))

    def setSingleStep(self, value: float) -> None:
        self._spinBox.setSingleStep(float(value))

    def setSuffix(self, value: str) -> None:
        self._spinBox.setSuffix(value)

    def setPrefix(self, value: str) -> None:
        self._spinBox.setPrefix(value)

    value = Property(float, lambda self: self._spinBox.value, setValue)
    minimum = Property(float, lambda self: self._spinBox.minimum, setMinimum)
    maximum = Property(float, lambda self: self._spinBox.maximum, setMaximum)
    decimals = Property(int, lambda self: self._spinBox.decimals, setDecimals)
    singleStep = Property(float, lambda self: self._spinBox.singleStep, setSingleStep)
    suffix = Property(str, lambda self: self._spinBox.suffix, setSuffix)
    prefix = Property(str, lambda self: self._spinBox.prefix, setPrefix)
    pageStep, setPageStep = storedProperty("pageStep", float, 10.0)
    tickInterval, setTickInterval = storedProperty("tickInterval", float, 0.0)
    tracking, setTracking = storedProperty("tracking", bool, True)
    spinBoxVisible, setSpinBoxVisible = storedProperty(
        "spinBoxVisible", bool, True, onChange=lambda self, visible: self._spinBox.setVisible(visible)
    )


@standIn
class ctkDoubleSlider(ctkSliderWidget):
    """ctkDoubleSlider: the same without its spin box."""

    def __init__(self, parent: QtWidgets.QWidget | None = None):
        super().__init__(parent)
        self._spinBox.setVisible(False)


@standIn
class ctkRangeWidget(QtWidgets.QWidget):
    """ctkRangeWidget: a minimum and a maximum value within bounds."""

    valuesChanged = Signal(float, float)
    minimumValueChanged = Signal(float)
    maximumValueChanged = Signal(float)

    def __init__(self, parent: QtWidgets.QWidget | None = None):
        super().__init__(parent)
        row = QtWidgets.QHBoxLayout(self)
        row.setContentsMargins(0, 0, 0, 0)
        self._low, self._high = QtWidgets.QDoubleSpinBox(), QtWidgets.QDoubleSpinBox()
        for box, changed in ((self._low, self.minimumValueChanged), (self._high, self.maximumValueChanged)):
            row.addWidget(box)
            box.valueChanged.connect(changed)
            box.valueChanged.connect(self._onChanged)

    def _onChanged(self, _value: float) -> None:
        self.valuesChanged.emit(self._low.value, self._high.value)

    def setValues(self, minimum: float, maximum: float) -> None:
        """Both change before anybody is told."""
        before = self._low.value, self._high.value
        for box, value in ((self._low, minimum), (self._high, maximum)):
            box.blockSignals(True)
            box.setValue(float(value))
            box.blockSignals(False)
        if before != (self._low.value, self._high.value):
            self.valuesChanged.emit(self._low.value, self._high.value)

    def setRange(self, minimum: float, maximum: float) -> None:
        for box in (self._low, self._high):
            box.setRange(_finite(minimum), _finite(maximum))

    def setMinimumValue(self, value: float) -> None:
        self._low.setValue(float(value))

    def setMaximumValue(self, value: float) -> None:
        self._high.setValue(float(value))

    minimumValue = Property(float, lambda self: self._low.value, setMinimumValue)
    maximumValue = Property(float, lambda self: self._high.value, setMaximumValue)
    minimum = Property(float, lambda self: self._low.minimum, lambda self, value: self.setRange(value, self.maximum))
    maximum = Property(float, lambda self: self._low.maximum, lambda self, value: self.setRange(self.minimum, value))
    decimals, setDecimals = storedProperty("decimals", int, 2)
    singleStep, setSingleStep = storedProperty("singleStep", float, 1.0)


@standIn
class ctkDoubleRangeSlider(ctkRangeWidget):
    """ctkDoubleRangeSlider: shown like ctkRangeWidget."""
