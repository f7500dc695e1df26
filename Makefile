# Two commands do everything on a fresh machine: `make demo` and `make test`.

PYTHON ?= python3
BIN := .venv/bin
INSTALLED := .venv/.installed
DEMO := build/demo
HERE := $(CURDIR)

.PHONY: demo test test-all test-peers peers fuzz decoders lint format bench bench-training agreement clean

# pip's --group needs 25.1.
$(INSTALLED): pyproject.toml constraints.txt
	$(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet --upgrade "pip>=25.1"
	$(BIN)/python -m pip install --quiet --constraint constraints.txt --group dev --editable .
	touch $(INSTALLED)

# Draws blood cells, trains on them, exports, verifies, classifies the test folder and measures the result.
demo: $(INSTALLED)
	rm -rf $(DEMO) && mkdir -p $(DEMO)
	cd $(DEMO) && $(HERE)/$(BIN)/medtrain fit
	cd $(DEMO) && $(HERE)/$(BIN)/medexport onnx ckpt.pt --data phantom/test --images all
	cd $(DEMO) && $(HERE)/$(BIN)/medinfer verify ckpt.onnx --provider cpu
	cd $(DEMO) && $(HERE)/$(BIN)/medinfer phantom/test --provider cpu --format table > predictions.txt
	cd $(DEMO) && (head -n 6; tail -n 5) < predictions.txt
	cd $(DEMO) && $(HERE)/$(BIN)/medinfer evaluate phantom/test --provider cpu --quiet

# Two files at a time, a thread each: most tests wait for a process to start.
test: $(INSTALLED) lint
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -m "not slow" --numprocesses 2 --dist loadfile

# With the long counts: thousands of fuzz cases, kill loops. `make test-peers` first, or other programs' tests skip.
test-all: $(INSTALLED) lint
	$(BIN)/python -m pytest

# Other programs open our files and run our runtime; what cannot be had is skipped.
test-peers: peers
	$(BIN)/python -m pytest tests/medexport/peers tests/examples

# Twenty thousand damaged images and models: each must give an answer or a typed error. SEED=1 makes others.
SEED ?= 0
fuzz: $(INSTALLED)
	$(BIN)/python -m tests.faults.fuzz --seed $(SEED)

# The decoders against others: intact files, damage, mutations, slow files, transcoding; about a quarter of an hour.
# Debian's dcmtk, webp and libjpeg-turbo-progs bring more decoders to compare with; those that are missing are left out.
decoders: $(INSTALLED)
	for trial in sweep damage mutations slow transcoding; do $(BIN)/python -m benchmarks.decoding.$$trial || exit 1; done

# Environments of their own for other programs.
peers: $(INSTALLED)
	for name in peers ort117 openvino ray; do test -x build/$$name/bin/python || $(PYTHON) -m venv build/$$name; done
	-build/peers/bin/python -m pip install --quiet ultralytics "openvino-model-api[onnx]" "optimum-onnx[onnxruntime]"
	-build/ort117/bin/python -m pip install --quiet "onnxruntime==1.17.3" "numpy<2"
	-build/openvino/bin/python -m pip install --quiet --editable ".[openvino]"
	-build/ray/bin/python -m pip install --quiet "ray[data]" numpy opencv-python-headless simplejpeg pillow click onnxruntime pyarrow
	-mkdir -p build/node && npm install --prefix build/node --silent --ignore-scripts onnxruntime-node pngjs onnxruntime-web@1.30.0

lint: $(INSTALLED)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports

format: $(INSTALLED)
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

# Two minutes, as a report; `make bench SETTINGS=default` is the whole picture, beside the peers of `make peers`.
SETTINGS ?= quick
bench: $(INSTALLED)
	$(BIN)/python -m benchmarks run $(SETTINGS) --out build/benchmark-$(SETTINGS).json
	$(BIN)/python -m benchmarks report build/benchmark-$(SETTINGS).json --out build/benchmark-$(SETTINGS)

# Against Keras, which gets an environment of its own.
bench-training: $(INSTALLED)
	test -x build/keras/bin/python || $(PYTHON) -m venv build/keras
	build/keras/bin/python -m pip install --quiet tensorflow-cpu
	$(BIN)/python -m benchmarks.training_speed --keras build/keras/bin/python

# Every network that recipes name, exported and held to torch; fails if one disagrees.
agreement: $(INSTALLED)
	$(BIN)/python -m benchmarks.export_matrix

clean:
	rm -rf build dist .venv .pytest_cache .ruff_cache .mypy_cache .hypothesis .import_linter_cache
