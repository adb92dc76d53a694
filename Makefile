# `make demo` and `make test` are all that is needed on a fresh machine with Python 3.11, make and git.
PYTHON ?= $(shell command -v python3.11 || command -v python3)
VENV := .venv
BIN := $(VENV)/bin
TEST := $(BIN)/python -m pytest -m "not slow"
LOG := $(VENV)/tests.log
SOURCES := SAM3DSegment Testing Utilities

# Of the Slicer that `make package` packs for; the revision is in Help > About 3D Slicer and matters on macOS only.
SLICER_VERSION ?= 5.12
SLICER_REVISION ?= 0
# linux, macosx or win; amd64 or arm64; those of this computer if empty
SLICER_OS ?=
SLICER_ARCH ?=

.PHONY: venv demo test test-slow test-gpu fuzz package selftest screenshots libraries lint format clean
.DEFAULT_GOAL := demo

venv: $(VENV)/.done

$(VENV)/.done: pyproject.toml constraints.txt
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --upgrade pip
	$(BIN)/python -m pip install --quiet --constraint constraints.txt --editable ".[train,evaluate,demo,test]"
	touch $@

demo: venv
	$(BIN)/python Utilities/demo.py

# Two rows of processes beside each other, one thread each, as they share the cores. The panel's tests have a process of
# their own: the stand-in host changes Qt and hides packages for all that follows. What the second row says is shown,
# whole, when both have ended.
test: venv libraries
	@export OMP_NUM_THREADS=1; \
	{ $(MAKE) --no-print-directory lint && $(TEST) Testing/Mrml Testing/Packaging; first=$$?; \
	  $(TEST) Testing/Gui; exit $$((first + $$?)); } > $(LOG) 2>&1 & row=$$!; \
	$(TEST) Testing/Python; python=$$?; \
	wait $$row; row=$$?; cat $(LOG); exit $$((python + row))

test-slow: venv libraries
	$(BIN)/python -m pytest -m slow Testing/Gui
	$(BIN)/python -m pytest -m slow Testing/Mrml Testing/Packaging Testing/Python

test-gpu: venv
	$(BIN)/python -m pytest -m gpu -rs Testing/Python

# The archive for Slicer's Extensions Manager, "Install from file", in dist/.
package: venv
	$(BIN)/python Utilities/package.py --slicer-version $(SLICER_VERSION) --slicer-revision $(SLICER_REVISION) \
	  $(if $(SLICER_OS),--os $(SLICER_OS)) $(if $(SLICER_ARCH),--arch $(SLICER_ARCH))

fuzz: venv
	FUZZ_MINUTES=$${FUZZ_MINUTES:-30} $(BIN)/python -m pytest Testing/Python/test_fuzz.py --log-cli-level=INFO --show-capture=no

selftest: venv libraries
	$(BIN)/python Testing/Host/selftest.py SAM3DSegment/SAM3DSegment.py

screenshots: venv libraries
	$(BIN)/python Utilities/screenshots.py

libraries:
	Testing/Host/libraries.sh

lint: venv
	$(BIN)/ruff check $(SOURCES)
	$(BIN)/ruff format --check $(SOURCES)
	$(BIN)/mypy

format: venv
	$(BIN)/ruff format $(SOURCES)
	$(BIN)/ruff check --fix $(SOURCES)

clean:
	rm -rf $(VENV) demo-output build dist
