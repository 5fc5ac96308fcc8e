# Continual Learning, Hands-On. `make run` and `make test` set everything up; TORCH=cpu takes the CPU build of PyTorch.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
# An environment keeps the build of PyTorch that it was made with.
TORCH ?= $(or $(patsubst $(VENV)/.ready-%,%,$(wildcard $(VENV)/.ready-*)),default)
READY := $(VENV)/.ready-$(TORCH)
UV := $(BIN)/python -m uv
EXPORTS := COURSE_OFFLINE=1

.PHONY: lab run test build bench lock clean env

lab: env ; $(BIN)/jupyter lab notebooks
run: env ; $(EXPORTS) $(BIN)/course run --all --together 2
test: env ; $(EXPORTS) $(BIN)/python -m pytest --numprocesses auto --dist worksteal
build: env ; $(BIN)/course build
bench: env ; $(EXPORTS) $(BIN)/course bench
lock: env ; $(UV) pip compile --quiet --universal --python-version 3.11 --generate-hashes --no-emit-index-url --extra test --extra jax --extra compress pyproject.toml -o requirements.lock
clean: ; rm -rf build .pytest_cache .ruff_cache .mypy_cache .import_linter_cache

env: $(READY)

# Made again only when the lock or the project's metadata changes. uv is the one thing that pip brings itself.
$(READY): requirements.lock pyproject.toml
	@$(PYTHON) -c 'import sys; sys.version_info >= (3, 11) or sys.exit("The course needs Python 3.11 or newer, $(PYTHON) is " + sys.version.split()[0] + "; name another: make PYTHON=python3.12 ...")'
	$(if $(filter default cpu,$(TORCH)),,$(error TORCH=$(TORCH) is not known; say TORCH=cpu or TORCH=default))
	@test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	@$(BIN)/python -m uv --version >/dev/null 2>&1 || { $(BIN)/python -m ensurepip --upgrade >/dev/null && $(BIN)/python -m pip install --quiet uv; }
	@rm -f $(VENV)/.ready-*
	$(INSTALL_$(TORCH))
	$(UV) pip install --python $(BIN)/python --quiet --no-deps --no-build-isolation --editable .
	@touch $@

INSTALL_default = $(UV) pip install --python $(BIN)/python --require-hashes -r requirements.lock

# The lock holds the default build's hashes and its GPU libraries. The CPU build has the same versions and other files, so
# torch and torchvision come from uv's CPU backend, and everything else that is not a GPU library from the lock, with hashes.
CPU_LOCK := $(VENV)/requirements-cpu.lock
define INSTALL_cpu
	awk '/^[a-z0-9]/ { skip = /^(torch|torchvision|triton)==/ || /^(nvidia|cuda)-/ } !skip' requirements.lock > $(CPU_LOCK)
	$(UV) pip install --python $(BIN)/python --no-deps --torch-backend cpu $$(sed -n -E 's/^((torch|torchvision)==[^ ]+).*/\1/p' requirements.lock)
	$(UV) pip install --python $(BIN)/python --require-hashes --no-deps -r $(CPU_LOCK)
endef
