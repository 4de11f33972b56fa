PYTHON ?= python3
BIN = .venv/bin

.PHONY: demo test compat lint bench ship ship-deepgps deeploc1

# Every target starts from a bare clone. constraints.txt holds the torch that everything here was run with.
.venv/.installed: pyproject.toml constraints.txt
	test -d .venv || $(PYTHON) -m venv .venv
	$(BIN)/pip install -q -c constraints.txt -e '.[train,test]'
	touch $@

demo: .venv/.installed
	$(BIN)/python examples/demo.py

test: .venv/.installed
	$(BIN)/pytest -q

# The quick tests with the newest release of every dependency, in an environment of their own, which is made anew.
compat:
	rm -rf .venv-compat
	$(PYTHON) -m venv .venv-compat
	.venv-compat/bin/pip install -q --upgrade --upgrade-strategy eager -e '.[train,test]'
	.venv-compat/bin/pytest -q

# A Space runs flat: its modules have no package, so that each has a run of its own.
MYPY = MYPYPATH=../../modeling ../../$(BIN)/mypy --config-file ../../pyproject.toml
lint: .venv/.installed
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	cd spaces/opengps && $(MYPY) .
	cd spaces/endpoint && $(MYPY) .

# Ratios within one run; those of benchmarks/results/ are printed beside them.
bench: .venv/.installed
	$(BIN)/python -m benchmarks.deeploc
	$(BIN)/python -m benchmarks.embed --count 60 --baseline 24 --repeats 1
	$(BIN)/python -m benchmarks.unirep --count 256
	$(BIN)/python -m benchmarks.drawing
	$(BIN)/python -m benchmarks.deepgps
	$(BIN)/python -m benchmarks.growth
	$(BIN)/python -m benchmarks.fields
	$(BIN)/python -m benchmarks.site
	$(BIN)/python -m benchmarks.cost_model

# Take a trained model (make ship RUN=runs/deeploc) into the package, measure it and write its card; RUNS are the runs that
# trained it, REPORT further options of training/deeploc/report.py, such as "--ablation FILE".
RUNS ?= $(RUN)
REPORT ?=
DATASET ?= data/deeploc
DEEPLOC = modeling/protloc/assets/deeploc
ship: .venv/.installed
	$(BIN)/python -m training.common.ship --run $(RUN) --out $(DEEPLOC)
	$(BIN)/python -m training.deeploc.report --model $(DEEPLOC) --dataset $(DATASET) --runs $(RUNS) $(REPORT)

# The same for a deepGPS (make ship-deepgps RUN=runs/deepgps); its nucleus and tokenizer come along.
IMAGES ?= data/hpa:cells
PROTEINS ?= data/proteins
DEEPGPS = modeling/protloc/assets/deepgps
ship-deepgps: .venv/.installed
	$(BIN)/python -m training.common.ship --run $(RUN) --out $(DEEPGPS)
	$(BIN)/python -m training.deepgps.report --model $(DEEPGPS) --runs $(RUNS) --proteins $(PROTEINS) --images $(IMAGES) $(REPORT)

# DeepLoc 1.0's own benchmark, from the published files to the table:
#   make deeploc1 DEEPLOC1="deeploc_train.fasta deeploc_test.fasta" DEEPLOC2=Swissprot_Train_Validation_dataset.csv \
#     SIGNALS=sorting_signals.csv
LAUNCH ?= $(BIN)/accelerate launch
deeploc1: .venv/.installed
	$(BIN)/python -m datasets_scripts.build_deeploc --deeploc1 $(DEEPLOC1) --deeploc2 $(DEEPLOC2) --signals $(SIGNALS) \
	  --out data/deeploc1
	$(LAUNCH) -m training.deeploc.train training/configs/deeploc1.yaml resume=true
	$(BIN)/python -m training.deeploc.evaluate --model runs/deeploc1 --dataset data/deeploc1 --config deeploc1_single \
	  --split test --out runs/deeploc1/test.json
