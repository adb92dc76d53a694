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


class _RealNumber(QtWidgets.QWidget):
    """A widget with a spin box in it. The spin box rounds what it shows to `decimals`; the widget's value is exact."""

    def __init__(self, parent: QtWidgets.QWidget | None = None):
        super().__init__(parent)
        self._value = 0.0
        self._spinBox = QtWidgets.QDoubleSpinBox()
        self._spinBox.valueChanged.connect(self._onTyped)
        self._row = QtWidgets.QHBoxLayout(self)
        self._row.setContentsMargins(0, 0, 0, 0)
        self._row.addWidget(self._spinBox)

    def _onTyped(self, value: float) -> None:
        self._change(value)

    def setValue(self, value: float) -> None:
        self._change(min(max(float(value), self.minimum), self.maximum))

    def _change(self, value: float) -> None:
        if value == self._value:
            return
        self._value = value
        self._show()
        self._emitChange()

    def _show(self) -> None:
        wasBlocked = self._spinBox.blockSignals(True)
        self._spinBox.setValue(self._value)
        self._spinBox.blockSignals(wasBlocked)

    def _emitChange(self) -> None:
        self.valueChanged.emit(self._value)

    def setRange(self, minimum: float, maximum: float) -> None:
        """A value outside is moved inside, which is told."""
        wasBlocked = self._spinBox.blockSignals(True)
        self._spinBox.setRange(_finite(minimum), _finite(maximum))
        self._spinBox.blockSignals(wasBlocked)
        self.setValue(self._value)

    def setMinimum(self, value: float) -> None:
        self.setRange(value, max(value, self.maximum))

    def setMaximum(self, value: float) -> None:
        self.setRange(min(value, self.minimum), value)

    def setDecimals(self, value: int) -> None:
        wasBlocked = self._spinBox.blockSignals(True)
        self._spinBox.setDecimals(int(value))
        self._spinBox.blockSignals(wasBlocked)
        self._show()
        self.decimalsChanged.emit(int(value))

    def setSingleStep(self, value: float) -> None:
        self._spinBox.setSingleStep(float(value))

    def setSuffix(self, value: str) -> None:
        self._spinBox.setSuffix(value)

    def setPrefix(self, value: str) -> None:
        self._spinBox.setPrefix(value)

    value = Property(float, lambda self: self._value, setValue)
    minimum = Property(float, lambda self: self._spinBox.minimum, setMinimum)
    maximum = Property(float, lambda self: self._spinBox.maximum, setMaximum)
    decimals = Property(int, lambda self: self._spinBox.decimals, setDecimals)
    singleStep = Property(float, lambda self: self._spinBox.singleStep, setSingleStep)
    suffix = Property(str, lambda self: self._spinBox.suffix, setSuffix)
    prefix = Property(str, lambda self: self._spinBox.prefix, setPrefix)


@standIn
class ctkDoubleSpinBox(_RealNumber):
    """ctkDoubleSpinBox: value, displayedValue, minimum, maximum, decimals, singleStep, prefix, suffix."""

    valueChanged = Signal(float)
    decimalsChanged = Signal(int)
    displayedValue = Property(float, lambda self: self._spinBox.value)


@standIn
class ctkSliderWidget(_RealNumber):
    """ctkSliderWidget: a slider beside a spin box. valueIsChanging comes only while tracking is off, by mouse, so it is
    not emitted here. Setting `decimals` emits valueChanged, too, and twice."""

    valueChanged = Signal(float)
    valueIsChanging = Signal(float)
    decimalsChanged = Signal(int)

    def __init__(self, parent: QtWidgets.QWidget | None = None):
        super().__init__(parent)
        self._slider = QtWidgets.QSlider(QtCore.Qt.Horizontal)
        self._slider.setRange(0, _STEPS)
        self._row.insertWidget(0, self._slider)
        self._slider.valueChanged.connect(self._onSlider)

    def _onSlider(self, step: int) -> None:
        self._change(self.minimum + step / _STEPS * (self.maximum - self.minimum))

    def _show(self) -> None:
        super()._show()
        span = self.maximum - self.minimum
        wasBlocked = self._slider.blockSignals(True)
        self._slider.value = round(_STEPS * (self.value - self.minimum) / span) if span else 0
        self._slider.blockSignals(wasBlocked)

    def setRange(self, minimum: float, maximum: float) -> None:
        super().setRange(minimum, maximum)
        self._show()

    def setDecimals(self, value: int) -> None:
        super().setDecimals(value)
        self._emitChange()
        self._emitChange()

    decimals = Property(int, lambda self: self._spinBox.decimals, setDecimals)
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
