# make demo    train a supernet on spoken digits and show every size (8 to 14 minutes with set-up)
#              [METHOD=iterative_zero_out] [ENCODER=des_e_branchformer]
# make demo-shrink   train a plain Conformer on spoken digits, and shrink it (9 minutes)
# make demo-web [PORT=8000]   recognise with every size in a browser, on a local page; needs npm
# make test    run the tests (12 to 23 minutes)
# make lint    ruff and mypy (half a minute)
# make docs    build the documentation as HTML (a minute)
# make test-recipes [ESPNET_ROOT=DIR]   both corpora's recipes on tiny corpora
# make test-faults             trainings killed, disks filled, checkpoints damaged (15 minutes)
# make test-thorough           what says little in its time; 20 times as many generated examples
# make test-web                the page of demo-web in a browser; needs npm and chromium
# make test-natural            natural voices from packages; needs npm
# make test-oldest test-latest  the tests with the oldest and the newest torch that fit
# make compare [SEEDS=3]        is a size as good as a model of its own? (about 3 hours on two cores)
# make compare-hard [SEEDS=3]   the same on a harder corpus (about 7 hours)
# make compare-scale [SEEDS=1]  the same with 48 layers on 15 hours of read speech (one GPU)
# make compare-natural [SEEDS=2]   other ways beside them: 48 layers, natural voices (days); needs npm
# make ablations [SEEDS=3]      other settings of the method (a day)
# The last five go on where they stopped; JOBS=n trainings run side by side (2; compare-scale: 1).
# All set up .venv themselves (.venv-oldest, .venv-latest); nothing is installed elsewhere.
# PYTHON=python3.13 is tried before python3, where an environment is made.

METHOD ?= simple_top_k
ENCODER ?= des_conformer
SHELL := bash
.SHELLFLAGS := -euo pipefail -c

SEEDS ?= 3
JOBS ?= 2

.PHONY: always demo demo-shrink demo-web test lint docs test-faults test-recipes test-thorough test-web test-natural test-oldest test-latest compare compare-hard compare-scale compare-natural ablations clean
export ESPNET_ROOT

TESTS = -m pytest -m "not faults and not recipes and not thorough and not web and not natural" --numprocesses 2 --dist loadfile

DEMO = egs2/mini_digits/asr1
TAG = $(patsubst %,%_,$(filter-out des_conformer,$(ENCODER)))$(METHOD)
demo: .venv/.ready
	ENCODER="$(ENCODER)" egs2/mini_digits/asr1/run.sh --asr_tag "$(TAG)" \
	    --asr_args "--model_conf method=$(METHOD)"

demo-shrink: .venv/.ready
	egs2/mini_digits/asr1/run.sh --stop_stage 11 --asr_config conf/train_conformer_24.yaml \
	    --asr_tag conformer
	egs2/mini_digits/asr1/run.sh --stage 11 --shrink exp/asr_conformer \
	    --asr_tag conformer_shrunk --shrink_args "--sizes 8 16 24"

PORT ?= 8000
demo-web: EXP = exp/asr_$(TAG)
demo-web: .venv/.ready web/node_modules/.ready
	[ -e $(DEMO)/$(EXP)/valid.cer_ctc.ave.pth ] || $(MAKE) demo
	cd $(DEMO) && "$(CURDIR)/.venv/bin/python" -m espnet_des.bin.prepare_web \
	    --asr_train_config $(EXP)/config.yaml --asr_model_file $(EXP)/valid.cer_ctc.ave.pth \
	    --test_sets dump/raw/test_clean dump/raw/test_noisy --output "$(CURDIR)/web/models"
	@echo "Open http://localhost:$(PORT) in a browser; Ctrl-C ends the server"
	@.venv/bin/python -m http.server --bind 127.0.0.1 --directory web $(PORT) || \
	    { echo "Where the port is taken: make demo-web PORT=$$(($(PORT) + 1))" >&2; exit 1; }

web/node_modules/.ready: web/package.json web/package-lock.json
	@command -v npm >/dev/null || \
	    { echo "npm is needed (it comes with Node.js, nodejs.org); none was found." >&2; exit 1; }
	cd web && npm ci
	touch $@

test: .venv/.ready
	# One thread each: two processes of two threads on two cores wait for each other.
	OMP_NUM_THREADS=1 .venv/bin/python $(TESTS)

lint: .venv/.ready
	.venv/bin/ruff check espnet_des tests setup.py
	.venv/bin/ruff format --check espnet_des tests setup.py
	.venv/bin/mypy espnet_des

docs: .venv/.ready
	.venv/bin/python -c 'import sphinx, myst_parser, furo, sphinx_copybutton' 2>/dev/null || \
	    .venv/bin/python -m pip install --disable-pip-version-check --editable '.[docs]'
	.venv/bin/python -m sphinx -W --keep-going -b html docs docs/_build/html
	@echo "The documentation is in $(CURDIR)/docs/_build/html/index.html"

test-faults: .venv/.ready
	OMP_NUM_THREADS=1 .venv/bin/python -m pytest -m faults --numprocesses 2

test-thorough: .venv/.ready
	HYPOTHESIS_PROFILE=thorough OMP_NUM_THREADS=1 .venv/bin/python -m pytest \
	    -m "thorough or fuzzed" --numprocesses 2

test-web: .venv/.ready web/node_modules/.ready
	OMP_NUM_THREADS=1 .venv/bin/python -m pytest -m web -rs

test-natural: .venv/.ready
	.venv/bin/python -m pip install --disable-pip-version-check --editable '.[natural]'
	OMP_NUM_THREADS=1 .venv/bin/python -m pytest -m natural

# What setup.py and ESPnet 202611 admit: torch 2.11 to 2.14. DES_VENV is for the recipes.
test-oldest test-latest: test-%: .venv-%/.ready
	OMP_NUM_THREADS=1 DES_VENV="$(CURDIR)/.venv-$*" .venv-$*/bin/python $(TESTS)

.venv-oldest/.ready: PACKAGES = 'torch==2.11.0' 'espnet==202611'
.venv-latest/.ready: PACKAGES = --upgrade --upgrade-strategy eager
.venv-latest/.ready: always

# ESPNET_ROOT: a real ESPnet checkout, to run the recipes through its asr.sh as well.
test-recipes: .venv/.ready
	.venv/bin/python -m pytest -m recipes

compare: .venv/.ready
	egs2/compare_digits/asr1/compare.sh --seeds "$(SEEDS)" --jobs "$(JOBS)"

compare-hard: .venv/.ready
	egs2/compare_words/asr1/compare.sh --seeds "$(SEEDS)" --jobs "$(JOBS)"

compare-scale: SEEDS = 1
compare-scale: JOBS = 1
compare-scale: .venv/.ready
	.venv/bin/python -m pip install --disable-pip-version-check --editable '.[read]'
	egs2/compare_read/asr1/compare.sh --seeds "$(SEEDS)" --jobs "$(JOBS)"

compare-natural: SEEDS = 2
compare-natural: .venv/.ready
	.venv/bin/python -m pip install --disable-pip-version-check --editable '.[natural]'
	egs2/compare_natural/asr1/compare.sh --what rivals --seeds "$(SEEDS)" --jobs "$(JOBS)"

ablations: .venv/.ready
	egs2/compare_digits/asr1/compare.sh --what ablations --seeds "$(SEEDS)" --jobs "$(JOBS)"

# Python 3.12 or 3.13, which ESPnet 202611 needs, under one of its usual names.
.venv/.ready .venv-oldest/.ready .venv-latest/.ready: setup.py
	@for python in $(PYTHON) python3 python3.12 python3.13; do \
	    if "$$python" -c 'import sys; sys.exit(not (3, 12) <= sys.version_info < (3, 14))' 2>/dev/null; then \
	        found="$$python"; break; \
	    fi; \
	done; \
	if [ -z "$${found:-}" ]; then \
	    echo "Python 3.12 or 3.13 is needed (ESPnet 202611 asks for it); none was found." >&2; \
	    echo "pyenv and uv read .python-version: pyenv install 3.12, or uv venv --seed .venv" >&2; \
	    exit 1; \
	fi; \
	echo "Installing ESPnet and torch into $(@D) (6 GB, a few minutes)"; \
	[ -x $(@D)/bin/python ] || "$$found" -m venv $(@D)
	$(@D)/bin/python -m pip install --disable-pip-version-check --editable '.[demo,onnx,test]' $(PACKAGES)
	touch $@

clean:
	rm -rf egs2/{mini_digits,compare_digits,compare_digits_e_branchformer,compare_words,compare_read,compare_natural}/asr1/{data,dump,exp,downloads,downloads.partial,kokoro.files}
	rm -rf web/{models,node_modules}
