# `make quickstart` and `make test` do all the set-up themselves, in .venv.
PYTHON ?= python3
BIN := .venv/bin

# Of several GPUs one: all of them take a launch of their own, see README.md.
export CUDA_VISIBLE_DEVICES ?= 0

.PHONY: quickstart demo test test-all lint bench mini tutorial
.DEFAULT_GOAL := quickstart

.venv/.installed: setup.cfg constraints.txt
	$(PYTHON) -m venv .venv
	$(BIN)/pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[demo,onnx,openvino,plots,test]'
	touch $@

quickstart: .venv/.installed
	rm -rf runs/quickstart
	$(BIN)/accelerate launch --config_file accelerate_config.yaml scripts/finetune.py recipes/quickstart.yaml
	$(BIN)/python scripts/quickstart.py runs/quickstart

demo: .venv/.installed
	$(BIN)/python scripts/demo.py

# A few files in each process, for each takes six seconds to start: one that had run all tests, with OpenVINO and ONNX
# Runtime loaded, was killed by SIGSEGV in two of four runs, at different tests.
test: .venv/.installed
	ls tests/test_*.py | OMP_WAIT_POLICY=passive xargs -P 2 -n 4 $(BIN)/pytest -q

# What .ci/run runs: the slow tests too, two files at a time, the longest first; the kills, which must be answered in time,
# alone.
test-all: test
	(printf 'tests/test_%s.py\n' readme predict scripts; \
	    grep -l mark.slow tests/test_*.py | grep -v 'readme\|predict\|scripts\|kills') | \
	    OMP_WAIT_POLICY=passive xargs -P 2 -n 1 $(BIN)/pytest -q -m "slow and not gpu"
	$(BIN)/pytest -q -m "slow and not gpu" tests/test_kills.py

lint: .venv/.installed
	$(BIN)/flake8
	$(BIN)/ruff format --check --quiet --line-length 120

# Some 80 minutes on two cores, less where they are fast in bf16. The machine should have nothing else to do.
bench: .venv/.installed
	$(BIN)/python benchmarks/training.py --shape small --rows 1600 --epochs 2 --output runs/bench/training-small
	$(BIN)/python benchmarks/training.py --shape base --rows 256 --epochs 2 --output runs/bench/training-base

# The models that come with the package, anew: 70 minutes on two cores fast in bf16. Needs SmSA and, in SMSA_CORPUS_DIR, the texts that
# docs/mini-sources.md lists.
mini: .venv/.installed
	$(BIN)/accelerate launch --config_file accelerate_config.yaml scripts/pretrain.py recipes/pretrain-mini.yaml --resume auto
	$(BIN)/python scripts/bundle.py mini runs/pretrain-mini
	$(BIN)/accelerate launch --config_file accelerate_config.yaml scripts/finetune.py recipes/mini.yaml \
	    --seeds 1 2 3 --output_dir runs/mini-seeds --resume auto
	$(BIN)/python scripts/bundle.py mini-sentiment runs/mini-seeds

# What the tutorial prints, anew, in both languages and the notebook.
tutorial: .venv/.installed
	$(BIN)/python docs/regenerate.py
