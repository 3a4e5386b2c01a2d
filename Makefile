# Two commands do everything on a fresh machine: `make demo` and `make test`.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.installed

.PHONY: demo test install check clean

install: $(STAMP)

# libGL and libglib are what OpenCV (a dependency of mediapipe) loads; slim Debian images lack them.
$(STAMP): pyproject.toml CMakeLists.txt $(shell find cuda_ext -type f 2>/dev/null)
	@scripts/system_packages.sh
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --upgrade --quiet pip
	$(BIN)/python -m pip install --quiet --editable ".[dev]"
	touch $@

# Fits the bundled clip: leaves demo/demo.avatar, demo/preview.mp4 and demo/report.html.
demo: install
	$(BIN)/avatar fit captures/demo.mp4 -o demo --preset quick
	@echo "demo/demo.avatar  demo/preview.mp4  demo/report.html"

test: install
	scripts/check.sh

clean:
	rm -rf build demo $(VENV)
