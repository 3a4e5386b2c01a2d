# Two commands do everything on a fresh machine: `make demo` and `make test`.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.installed

.PHONY: demo test install check clean

install: $(STAMP)

# libGL and libglib are what OpenCV (a dependency of mediapipe) loads; slim Debian images lack them.
$(STAMP): pyproject.toml CMakeLists.txt scripts/player_runtime.sh $(shell find cuda_ext -type f 2>/dev/null)
	@scripts/system_packages.sh
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --upgrade --quiet pip
	$(BIN)/python -m pip install --quiet --editable ".[dev]"
	@scripts/player_runtime.sh || echo "The exported player will not speak from sound; everything else works."
	touch $@

# Fits the bundled clip: leaves demo/demo.avatar, demo/preview.mp4, demo/report.html and the folder demo/player.
demo: install
	$(BIN)/avatar fit captures/demo.mp4 -o demo --preset quick
	$(BIN)/avatar export demo/demo.avatar -o demo/player
	@echo "demo/demo.avatar  demo/preview.mp4  demo/report.html"
	@echo "To see it talk in a browser:  $(BIN)/avatar play demo/player"
	@echo "To look at it and move it:    $(BIN)/avatar view demo/demo.avatar"

test: install
	@scripts/system_packages.sh tests
	@npm ci --silent --no-audit --no-fund --ignore-scripts --prefix tests/export || \
	  echo "Tests that read exports with npm packages are skipped."
	scripts/check.sh

clean:
	rm -rf build demo $(VENV)
