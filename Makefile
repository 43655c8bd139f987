# Every command a user needs; `make` alone lists them.
FITS := 'import sys; sys.exit(not (3, 11) <= sys.version_info[:2] < (3, 13))'
PYTHON ?= $(shell for p in python3.11 python3.12 python3; do $$p -c $(FITS) 2>/dev/null && echo $$p && break; done)
TASKS ?=
TASK ?= retina
IMAGES ?=
HARDWARE ?= auto
REPOSITORY ?= model_repository
RELEASES ?=
ALL_TASKS := retina fundus glaucoma oct glomeruli artery
PROFILE ?= real
PHANTOM := $(filter phantom,$(PROFILE))
PLACE ?= $(if $(PHANTOM),out/phantom/)
DATA ?= $(PLACE)data
COUNT ?= 80
COUNT_artery := 160
COUNT_fundus := 160
SHORT := --weights none --epochs 25 --steps 300
KEPT = $(if $(PHANTOM),--out $(PLACE)training/$*) --into $(PLACE)weights
BIN := .venv/bin
PIP := $(BIN)/python -m pip install --quiet --disable-pip-version-check --constraint constraints.txt

.PHONY: help demo serve models test test-slow check fix bench report clean
.DEFAULT_GOAL := help

help: ## list the commands
	@awk -F ':.*## ' '/^[a-z-]+:.*## / {printf "  make %-10s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

demo: .venv/.serving ## start the server, ask it about phantoms (or IMAGES=folder), draw overlays (TASK=retina)
	@$(BIN)/python -m client.demo --task $(TASK) $(IMAGES)

serve: .venv/.serving ## serve on 127.0.0.1 until Ctrl-C (TASKS="retina oct", HARDWARE=auto|cpu|openvino|gpu, REPOSITORY=… or RELEASES=…)
	@$(BIN)/python -m fovea.server $(if $(RELEASES),--releases $(RELEASES),--repository $(REPOSITORY)) --hardware $(HARDWARE) $(TASKS)

models: $(addprefix model-,$(or $(TASKS),$(ALL_TASKS))) ## train, judge and export TASKS: on DATA, or PROFILE=phantom

model-%: .venv/.complete
	$(if $(PHANTOM),@$(BIN)/python -m training.phantoms $(DATA)/$* --task $* --count $(or $(COUNT_$*),$(COUNT)))
	@$(BIN)/python -m training $* --data $(DATA)$(if $(PHANTOM),/$* $(SHORT)) $(KEPT)
	@$(BIN)/python -m training $* --evaluate $(DATA)$(if $(PHANTOM),/$*) $(KEPT) --reports $(PLACE)reports
	@$(BIN)/python -m export $* --weights $(PLACE)weights --reports $(PLACE)reports --repository $(PLACE)model_repository

test: .venv/.complete ## run the tests
	@$(BIN)/python -m pytest -q -m "not slow and not gpu"

test-slow: .venv/.complete ## run the tests that take minutes
	@$(BIN)/python -m pytest -q -m "slow"

check: .venv/.complete ## ruff, mypy, import rules; changes nothing
	@$(BIN)/ruff check . && $(BIN)/ruff format --check .
	@$(BIN)/mypy
	@PYTHONPATH=. $(BIN)/lint-imports

fix: .venv/.complete ## let ruff repair and format
	@$(BIN)/ruff check --fix . ; $(BIN)/ruff format .

bench: .venv/.complete ## measure TASKS in process, over gRPC and HTTP; then make report
	@$(BIN)/python -m benchmarks multi $(TASKS)
	@$(BIN)/python -m benchmarks report

report: .venv/.complete ## remake the tables and plots from benchmarks/results/
	@$(BIN)/python -m benchmarks report

clean: ## delete the environment and everything generated
	rm -rf .venv out reports

.venv/bin/python:
	@test -n "$(PYTHON)" || { echo "No Python 3.11 or 3.12 was found: install one, or name it with PYTHON=…"; exit 2; }
	@echo "Making .venv with $$($(PYTHON) --version)"
	@$(PYTHON) -m venv .venv

.venv/.serving: .venv/bin/python pyproject.toml constraints.txt
	@echo "Installing what serving and the client need"
	@$(PIP) --editable '.[server]'
	@touch $@

.venv/.complete: .venv/.serving
	@echo "Installing what training, export and the tests need (about 2 GB)"
	@$(PIP) --editable '.[dev]'
	@touch $@
