# `make demo` and `make test` are all that is needed on a fresh machine with Python 3.11, make and git.
PYTHON ?= $(shell command -v python3.11 || command -v python3)
# A Python that is asked for, as in `make test PYTHON=python3.12`, has an environment of its own.
VENV := .venv$(if $(filter command,$(origin PYTHON)),-$(notdir $(PYTHON)))
BIN := $(VENV)/bin
TEST = $(BIN)/python -m pytest -m "not slow"
SLOW = $(BIN)/python -m pytest -m slow
INSTALL = $(BIN)/python -m pip install --quiet
SOURCES := SAM3DSegment Testing Utilities

# Of `make test-torch`: these are the oldest that are meant to work.
TORCH ?= 2.2.2
NUMPY ?= 1.26.4

# Of the Slicer that `make package` packs for; the revision is in Help > About 3D Slicer and matters on macOS only.
SLICER_VERSION ?= 5.12
SLICER_REVISION ?= 0
# linux, macosx or win; amd64 or arm64; those of this computer if empty
SLICER_OS ?=
SLICER_ARCH ?=

.PHONY: venv demo test test-slow test-gpu test-torch test-fresh fuzz package selftest screenshots libraries lint format clean
.DEFAULT_GOAL := demo

venv: $(VENV)/.done

$(VENV)/.done: pyproject.toml constraints.txt
	$(PYTHON) -m venv $(VENV)
	$(INSTALL) --upgrade pip
	$(INSTALL) --constraint constraints.txt --editable ".[train,evaluate,bench,dicom,demo,test]"
	touch $@

demo: venv
	$(BIN)/python Utilities/demo.py

# The tests in parts, as many at once as JOBS says: three share two cores well, since each waits now and then, and have
# one thread each. What one says is shown, whole, when it has ended; so the longest begin. The panel's tests have a
# process of their own: the stand-in host changes Qt and hides packages for all that follows.
JOBS ?= 3
AT_ONCE = OMP_NUM_THREADS=1 $(MAKE) --no-print-directory --keep-going --jobs $(JOBS)
PARTS := gui t-z p-s c-i j-o a-b mrml
part-gui := Testing/Gui
part-mrml := Testing/Mrml Testing/Packaging
part-a-b := Testing/Python/test_[a-b]*.py
part-c-i := Testing/Python/test_[c-i]*.py
part-j-o := Testing/Python/test_[j-o]*.py
part-p-s := Testing/Python/test_[p-s]*.py
part-t-z := Testing/Python/test_[t-z]*.py
SHOWN = > $(VENV)/$@.log 2>&1; code=$$?; cat $(VENV)/$@.log; exit $$code

test: venv libraries
	@$(AT_ONCE) lint $(PARTS:%=fast-%)

test-slow: venv libraries
	@$(AT_ONCE) $(PARTS:%=slow-%)

fast-%: venv
	@$(TEST) $(part-$*) $(SHOWN)

slow-%: venv
	@$(SLOW) $(part-$*) $(SHOWN)

test-gpu: venv
	$(BIN)/python -m pytest -m gpu -rs Testing/Python

# The library with another torch and numpy, in an environment of its own. The newest MONAI asks for a newer torch than the
# oldest here, but what is used of it runs with that one too.
test-torch: BIN := .venv-torch-$(TORCH)/bin
test-torch:
	$(PYTHON) -m venv .venv-torch-$(TORCH)
	sed -E '/^(monai|numpy|torch|torchvision)==/d' constraints.txt > .venv-torch-$(TORCH)/constraints.txt
	$(INSTALL) --upgrade pip
	$(INSTALL) --constraint .venv-torch-$(TORCH)/constraints.txt \
	  torch==$(TORCH) numpy==$(NUMPY) --editable ".[train,test]"
	$(INSTALL) --constraint constraints.txt --no-deps monai
	OMP_NUM_THREADS=1 $(TEST) Testing/Python

# What is packed, with what a fresh Slicer has: its Python is 3.12, without torch.
test-fresh: BIN := .venv-fresh/bin
test-fresh: libraries
	$(PYTHON) -m venv .venv-fresh
	$(INSTALL) --upgrade pip
	$(INSTALL) --constraint constraints.txt numpy packaging pydicom requests scipy SimpleITK \
	  cmake PySide6-Essentials pytest slicer-core
	PYTHONPATH=SAM3DSegment $(TEST) Testing/Packaging

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
	$(BIN)/python Utilities/painting.py
	$(BIN)/python Utilities/page.py

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
