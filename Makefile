# `make quickstart` and `make test` do all the set-up themselves, in .venv.
PYTHON ?= python3
BIN := .venv/bin

.PHONY: quickstart test test-all lint
.DEFAULT_GOAL := quickstart

.venv/.installed: setup.cfg constraints.txt
	$(PYTHON) -m venv .venv
	$(BIN)/pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[onnx,openvino,plots,test]'
	touch $@

quickstart: .venv/.installed
	rm -rf runs/quickstart
	$(BIN)/accelerate launch --config_file accelerate_config.yaml scripts/finetune.py recipes/quickstart.yaml
	$(BIN)/python scripts/quickstart.py runs/quickstart

test: .venv/.installed
	$(BIN)/pytest -q

# What .ci/run runs: the slow tests too.
test-all: .venv/.installed
	$(BIN)/pytest -q -m "not gpu"

lint: .venv/.installed
	$(BIN)/flake8
	$(BIN)/ruff format --check --quiet --line-length 120
