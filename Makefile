# `make` or `make help` lists what there is. Needs Python 3.11 or later and make, and no activated environment.
# PYTHON=/path/to/python chooses the Python that the environment is made with.

.PHONY: help run again test lab refresh format stamp clean FORCE
.NOTPARALLEL:
.DEFAULT_GOAL := help

VENV := .venv
PY := $(VENV)/bin/python
INSTALLED := $(VENV)/.installed
# WEAKSEG_QUICK=1 trains for a moment only, to try the machinery: its results have a folder of their own.
RESULTS := results$(if $(filter 1,$(WEAKSEG_QUICK)),/quick)
LESSON := notebooks/00_start_here.ipynb
PAGE := $(RESULTS)/00_start_here.html

# Whatever environment this is called from must not leak into ours. The settings of pip stay, so that its index,
# cache and certificates are the machine's own; only where it installs is decided here.
unexport PYTHONPATH PYTHONHOME PYTHONSTARTUP VIRTUAL_ENV CONDA_PREFIX PIP_TARGET PIP_PREFIX PIP_REQUIRE_VIRTUALENV
unexport JUPYTER_PATH MPLBACKEND
export PIP_USER := 0
export PIP_DISABLE_PIP_VERSION_CHECK := 1

help:
	@echo "make run     train on simulated cells, segment new ones, score them; results/00_start_here.html shows it"
	@echo "make again   the same, even if nothing has changed since the last time"
	@echo "make test    lint, unit tests and notebooks"
	@echo "make lab     open JupyterLab on notebooks/"
	@echo "make refresh run all notebooks and keep their outputs in them, in the one form that make test asks for"
	@echo "make format  rewrite the code in the format that make test asks for"
	@echo "make stamp   carry the address in pyproject.toml into every file that names it"
	@echo "make clean   remove what make made: .venv, results and caches (never data/)"

# ---- the environment ------------------------------------------------------------------------------------------

# Whole: it was finished, for a checkout at this very place, and its Python still runs.
WHOLE := $(shell [ "$$(cat $(INSTALLED) 2>/dev/null)" = "$$(pwd)" ] && $(PY) -E -c '' 2>/dev/null && echo yes)
ifneq ($(WHOLE),yes)
$(INSTALLED): FORCE
endif
FORCE:

PYTHONS := $(if $(PYTHON),"$(PYTHON)",python3 python3.14 python3.13 python3.12 python3.11 python)

# Sets $$python to the first that is new enough and can make environments, or says what is missing.
define find_python
for python in $(PYTHONS); do \
    "$$python" -E -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null || continue; \
    "$$python" -E -c 'import ensurepip, venv' 2>/dev/null && break; \
    bare="$$python"; \
done; \
if ! "$$python" -E -c 'import ensurepip, sys, venv; sys.exit(sys.version_info < (3, 11))' 2>/dev/null; then \
    if [ -n "$$bare" ]; then \
        echo "$$bare cannot make environments: its venv or ensurepip is missing (Debian, Ubuntu: apt install python3-venv)"; \
    else \
        echo "no Python 3.11 or later among: $(subst ",,$(PYTHONS)). Install one, or name it: make PYTHON=/path/to/python"; \
    fi >&2; \
    exit 1; \
fi
endef

# A new or a broken environment is made from nothing; one that only lags behind its two files is brought up to date.
$(INSTALLED): pyproject.toml requirements.lock.txt
	@rm -f $@
	@if [ "$(WHOLE)" != yes ]; then \
	    $(find_python); \
	    echo "Making $(VENV) with $$("$$python" --version). Once, and mostly download: 2 to 10 minutes."; \
	    echo "(On Linux pip's usual torch brings its GPU libraries, some GB. Unpacking at the end is silent for a minute.)"; \
	    "$$python" -m venv --clear $(VENV) || exit 1; \
	else \
	    echo "Bringing $(VENV) up to date with pyproject.toml and requirements.lock.txt."; \
	fi
	@$(PY) -m pip install -c requirements.lock.txt -e '.[triton,zarr,formats,cluster,notebooks,test]' || \
	    { echo "The installation did not finish, see above; make again starts it anew." >&2; exit 1; }
	@pwd > $@

# ---- what one does with it ------------------------------------------------------------------------------------

run: $(PAGE)
	@$(PY) notebooks/run_notebook.py --scores $(RESULTS)

again:
	@rm -f $(PAGE)
	@$(MAKE) --no-print-directory run

$(PAGE): $(LESSON) notebooks/run_notebook.py $(shell find weakseg_lib -name '*.py') | $(INSTALLED)
	@$(PY) notebooks/run_notebook.py $(LESSON) $(RESULTS)

# Two workers with one thread each: two with two each would fight over two cores and take five times as long.
test: $(INSTALLED)
	$(PY) -m ruff check .
	$(PY) -m ruff format --check .
	@rm -rf results/test
	OMP_NUM_THREADS=1 WEAKSEG_QUICK=1 WEAKSEG_RESULTS="$(CURDIR)/results/test" $(PY) -m pytest tests notebooks \
	    --nbval-lax --nbval-current-env --nbval-cell-timeout=600 --nbval-kernel-startup-timeout=120 \
	    -n 2 --dist loadfile --durations=5

# JupyterLab refuses to start as root, which is what one is in many containers, unless told to.
lab: $(INSTALLED)
	$(PY) -m jupyterlab $(if $(filter 0,$(shell id -u)),--allow-root) notebooks

refresh: $(INSTALLED)
	$(PY) scripts/copy_results.py
	$(PY) notebooks/run_notebook.py --refresh notebooks/0*.ipynb

format: $(INSTALLED)
	$(PY) -m ruff check --fix .
	$(PY) -m ruff format .

stamp: $(INSTALLED)
	@$(PY) scripts/stamp_address.py

clean:
	rm -rf $(VENV) results .pytest_cache .ruff_cache .hypothesis build *.egg-info
	find . -path ./data -prune -o \( -name __pycache__ -o -name .ipynb_checkpoints \) -prune -exec rm -rf {} +
