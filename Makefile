# SPDX-License-Identifier: GPL-2.0-only
# Throughwire: what can be built and run. All output goes below build/; expensive artefacts are cached outside the tree.

.DEFAULT_GOAL := help
SHELL := /bin/bash
# A folder of board/; the image build, the simulator and the tests read it from the environment.
export BOARD ?= qemu-x86_64
PY := build/venv/bin/python
RUN := PYTHONPATH=board $(PY)
APT := DEBIAN_FRONTEND=noninteractive apt-get -qq -o Dpkg::Use-Pty=0
BPF_SOURCES := $(wildcard appliance/bpf/*.c appliance/bpf/*.h)
# `make test TESTS=tests/unit` runs a part; ARGS goes to pytest as it is (`ARGS="-n 0"`: one after the other, for -s and
# --pdb). Files run in parallel on JOBS workers, but for those of the booted board (tests/support/workers.py).
TESTS ?= tests
ARGS ?=
JOBS ?= auto
PYTEST := $(PY) -m pytest -n $(JOBS)

.PHONY: help setup packages bpf qemu-image run test test-all simulate mutants test-plan lint format bench demo faults health-figures hardware-figures remote-figures panel image image-disk sbom test-image flash check-image clean

help: ## show this help
	@sed -nE 's/^([a-z-]+):.*## (.*)/  make \1\t\2/p' $(MAKEFILE_LIST) | expand -t 24

setup: build/setup.stamp bpf ## install Debian packages and the Python virtual environment

build/setup.stamp: build/packages.stamp build/venv/ready.stamp
	@touch $@

# Only missing packages are installed; without root the command to run is printed.
build/packages.stamp: board/$(BOARD)/host-packages.txt
	@mkdir -p build
	@want="$$(sed -E 's/#.*//' $< | xargs)"; missing=""; \
	for package in $$want; do \
	  dpkg-query -W -f '$${Status}' "$$package" 2>/dev/null | grep -q '^install ok installed' || missing="$$missing $$package"; \
	done; \
	if [ -n "$$missing" ]; then \
	  [ "$$(id -u)" = 0 ] || { echo "setup: packages are missing; as root: apt-get install --no-install-recommends$$missing" >&2; exit 1; }; \
	  echo "setup: installing Debian packages:$$missing"; \
	  $(APT) update && $(APT) install -y --no-install-recommends $$missing >build/packages.log 2>&1 \
	    || { tail -n 20 build/packages.log >&2; echo "setup: apt-get failed; the log is build/packages.log" >&2; exit 1; }; \
	fi
	@touch $@

build/venv/ready.stamp: pyproject.toml requirements-dev.lock build/packages.stamp
	@echo "setup: Python packages into build/venv"
	@[ -x $(PY) ] || python3 -m venv build/venv
	@build/venv/bin/pip --disable-pip-version-check -q install --require-hashes -r requirements-dev.lock
	@build/venv/bin/pip --disable-pip-version-check -q install --no-deps -e .
	@touch $@

bpf: build/bpf/steer.bpf.o ## compile the datapath

build/bpf/steer.bpf.o: $(BPF_SOURCES) build/packages.stamp
	@mkdir -p $(@D)
	@echo "bpf: $@"
	@clang -O2 -g -Wall -Wextra -Werror -target bpf -mcpu=v3 -I/usr/include/$$(uname -m)-linux-gnu -c appliance/bpf/steer.bpf.c -o $@.tmp
	@mv $@.tmp $@

qemu-image: setup ## build the image of a simulated board (only what changed)
	@$(RUN) -m imagebuild

run: qemu-image ## boot the appliance on the simulated board, its serial console in this terminal: IMAGE=... FIRMWARE=uefi
	@$(RUN) -m simulator run $(if $(IMAGE),--image "$(IMAGE)") $(if $(FIRMWARE),--firmware $(FIRMWARE))

panel: qemu-image ## show the simulated box live, with keys that break each part; starts it if none runs: WIRING=...
	@$(RUN) -m simulator panel $(if $(WIRING),--wiring "$(WIRING)")

test: $(if $(filter-out tests/unit%,$(TESTS)),qemu-image,setup) ## run all tests except the long ones: TESTS=FOLDER ARGS=...
	@$(PYTEST) -m "not slow" $(ARGS) $(TESTS)

test-all: qemu-image ## run all tests
	@$(PYTEST) $(ARGS) $(TESTS)

simulate: setup ## run the decisions in simulated time with faults injected: HOURS=1000 SEED=1 ONLY="flood,panic"
	@$(RUN) -m tests.simulate --hours $(or $(HOURS),1000) --seed $(or $(SEED),1) --only "$(ONLY)"

mutants: setup ## change the deciding modules one operator at a time: does a test notice? MODULES="appliance.keeper.core ..."
	@$(RUN) -m tests.mutants $(MODULES)

test-plan: ## list what the tests show, from their docstrings (Markdown)
	@python3 -m tests.plan

lint: setup ## check with ruff, mypy, import-linter (the layers), shellcheck and clang-format
	@build/venv/bin/ruff check .
	@build/venv/bin/ruff format --check .
	@build/venv/bin/mypy
	@build/venv/bin/lint-imports --no-cache --no-logo
	@git ls-files -z | xargs -0 awk 'FNR == 1 && /^#! ?\/(usr\/)?bin\/((ba|da)?sh|busybox sh|env bash)/ {print FILENAME} {nextfile}' | xargs -r shellcheck
	@git ls-files '*.c' '*.h' | xargs -r clang-format --dry-run -Werror

format: setup ## format the sources
	@build/venv/bin/ruff check -q --fix . || true
	@build/venv/bin/ruff format -q .
	@git ls-files '*.c' '*.h' | xargs -r clang-format -i

bench: setup ## measure steering speed, its limit and other implementations -> build/figures/bench.json
	@$(RUN) -m tests.bench

hardware-figures: qemu-image ## measure relay, watchdog and power on the simulated board -> build/figures/hardware.json: RUNS=30
	@$(RUN) -m tests.hardware_figures $(if $(RUNS),--runs $(RUNS))

health-figures: qemu-image ## measure how soon a failed guest is bypassed -> build/figures/health.json
	@$(RUN) -m tests.health_figures

remote-figures: setup ## measure frames to remotes that XDP encapsulates -> build/figures/remote.json
	@$(RUN) -m tests.remote_figures $(ARGS)

demo: qemu-image ## inject every failure on a live link -> build/figures/demo.json: ONLY="guest killed"
	@$(RUN) -m tests.demo $(if $(ONLY),--only "$(ONLY)") $(ARGS)

# Without BUILDROOT and LINUX (a kernel's source tree) it checks what needs neither, and says what it skips.
check-image: build/venv/ready.stamp ## check what the image holds against what the code uses: BUILDROOT=DIR LINUX=DIR
	@buildroot-config/check.sh "$(BUILDROOT)" $(if $(LINUX),"$(LINUX)")

image-disk: setup ## build the disk image of a simulated board -> build/BOARD/disk.img
	@$(RUN) -m imagebuild --disk

image: ## build the firmware with Buildroot -> build/image/BOARD/: BOARD=... BUILDROOT=DIR
	@[ -n "$(BUILDROOT)" ] || { echo "image: BUILDROOT is not set: make image BOARD=$(BOARD) BUILDROOT=DIR" >&2; exit 2; }
	@$(MAKE) --no-print-directory setup
	@buildroot-config/image.sh "$(BOARD)" "$(BUILDROOT)" build/image/$(BOARD)

sbom: setup ## write the firmware's bill of materials and licences, without a build: BOARD=... BUILDROOT=DIR
	@[ -n "$(BUILDROOT)" ] || { echo "sbom: BUILDROOT is not set: make sbom BOARD=$(BOARD) BUILDROOT=DIR" >&2; exit 2; }
	@buildroot-config/image.sh --sbom-only "$(BOARD)" "$(BUILDROOT)" build/image/$(BOARD)

test-image: ## test a built image on the simulated board: IMAGE=DISK-OR-FOLDER ARGS=...
	@[ -n "$(IMAGE)" ] || { echo "test-image: IMAGE is not set: make test-image IMAGE=DISK-OR-FOLDER" >&2; exit 2; }
	@$(MAKE) --no-print-directory qemu-image
	@IMAGE="$(abspath $(IMAGE))" $(PY) -m pytest -n 0 $(ARGS) tests/image/test_smoke.py \
	  $(if $(filter %.img,$(IMAGE)),tests/image/test_board_disk.py)

# The image is that of `make image` unless another one is given.
flash: setup ## write the disk image to a disk and verify it: DEVICE=/dev/... IMAGE=...
	@[ -n "$(DEVICE)" ] || { echo "flash: DEVICE is not set: make flash DEVICE=/dev/sdX" >&2; exit 2; }
	@$(RUN) -m imagebuild.disk.flash "$(or $(IMAGE),build/image/$(BOARD)/disk.img)" "$(DEVICE)"

clean: ## remove build/ (keeps the cache, which is outside)
	@rm -rf build
