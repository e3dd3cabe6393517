# make run   the quick study, from nothing to its tables
# make test  the tests
# make load  500 tiny cells, then a bound of 200,000 images: time and memory (half an hour)
# make check lint, types and import directions
# make cluster-test   a Ray cluster of two machines, made of this one (root on Linux; skipped elsewhere)
# make slurm-test     jobs/slurm.sh on Slurm over two such machines (Debian's slurm-wlm; skipped without it)
# make gpu-check   the first half hour on a GPU machine, stopping at the first failure; writes gpu-check.md
# make docs   the pages of docs/ as a site in site/, no warning allowed
# make pages  the pages that are made from the package: settings and command line
# make faults a study through fifty faults and more, half an hour; Linux, root, a C compiler
PYTHON ?= python3
VENV   ?= .venv
BIN    := $(VENV)/bin
# faiss-cpu and faiss-gpu exclude each other: ask the NVIDIA driver, if there is one.
DEVICE ?= $(shell nvidia-smi -L >/dev/null 2>&1 && echo gpu || echo cpu)
STUDY  ?= quick
# Processes that share out the files of tests; each may start a Ray of four logical cores.
TESTERS ?= 2

.PHONY: run test cluster-test slurm-test load check gpu-check docs pages faults install clean
run: install
	$(BIN)/harness run $(STUDY)

test: install
	$(BIN)/python -m pytest --numprocesses $(TESTERS) --dist loadfile --no-loadscope-reorder

load: install
	$(BIN)/python tests/load/cells.py
	$(BIN)/python tests/load/bound.py

cluster-test: install
	$(BIN)/python tests/two_hosts

slurm-test: install
	$(BIN)/python tests/two_hosts test_slurm.py

check: install
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports

gpu-check: install
	$(BIN)/python tests/gpu/check.py

docs: pages $(VENV)/installed-docs
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --strict --quiet

pages: install
	$(BIN)/python tests/generated.py

faults: install
	PYTHONPATH=tests $(BIN)/python -m faults --study $(STUDY) --table results/reference/faults.csv

install: $(VENV)/installed-$(DEVICE)

$(VENV)/installed-$(DEVICE): pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; sys.exit("Python 3.11 or newer is needed, this is " + sys.version.split()[0] if sys.version_info < (3, 11) else 0)'
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --constraint constraints.txt --editable '.[$(DEVICE),dev,reference,timm]'
# It pins a requests of 2021, which it does not import.
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --no-deps torchattacks==3.5.1
	@touch $@

$(VENV)/installed-docs: $(VENV)/installed-$(DEVICE)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --constraint constraints.txt --editable '.[docs]'
	@touch $@

clean:
	rm -rf $(VENV)
