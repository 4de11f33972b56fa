PYTHON ?= python3
BIN = .venv/bin

.PHONY: demo test lint bench ship

# Every target starts from a bare clone. constraints.txt holds the torch that everything here was run with.
.venv/.installed: pyproject.toml constraints.txt
	test -d .venv || $(PYTHON) -m venv .venv
	$(BIN)/pip install -q -c constraints.txt -e '.[train,test]'
	touch $@

demo: .venv/.installed
	$(BIN)/python examples/demo.py

test: .venv/.installed
	$(BIN)/pytest -q

lint: .venv/.installed
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

bench: .venv/.installed
	$(BIN)/python benchmarks/benchmark_deeploc.py

# Take a trained model (make ship RUN=runs/deeploc) into the package: configuration, weights and tokenizer, without the
# remote code, and the references to it, that a folder for the Hub carries. Then measure it and write its card; RUNS are
# the runs that trained it.
RUNS ?= $(RUN)
DATASET ?= data/deeploc
ship: .venv/.installed
	cp $(RUN)/model.safetensors $(RUN)/tokenizer_config.json $(RUN)/vocab.txt modeling/protloc/assets/deeploc/
	$(BIN)/python -c "import json, sys; config = json.load(open(sys.argv[1])); \
	  [config.pop(key, None) for key in ('auto_map', 'custom_pipelines')]; \
	  json.dump(config, open(sys.argv[2], 'w'), indent=2, sort_keys=True)" \
	  $(RUN)/config.json modeling/protloc/assets/deeploc/config.json
	$(BIN)/python training/report_deeploc.py --model modeling/protloc/assets/deeploc --dataset $(DATASET) --runs $(RUNS)
