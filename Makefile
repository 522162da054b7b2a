# `make demo` and `make test` do all the set-up they need; nothing else is typed before.
PYTHON ?= python3
export PATH := $(CURDIR)/.venv/bin:$(PATH)
# pip reads PIP_FIND_LINKS by itself, uv only UV_FIND_LINKS.
ifdef PIP_FIND_LINKS
export UV_FIND_LINKS := $(PIP_FIND_LINKS)
endif

.PHONY: demo env test slow static clean

demo: .venv/complete
	dvc repro
	@grep -m 7 '^|' artifacts/report/index.md
	@echo "The report is artifacts/report/index.md"

env: .venv/complete

# Bytecode is compiled once here: compiled again in every process, torch and timm start three times slower.
.venv/complete: pyproject.toml constraints.txt
	$(PYTHON) -c 'import sys; sys.exit(None if sys.version_info >= (3, 11) else "kdpipe: Python %d.%d found, 3.11 or newer needed: make PYTHON=python3.12" % sys.version_info[:2])'
	$(PYTHON) -m venv .venv
	.venv/bin/python -m pip install --quiet --constraint constraints.txt uv
	VIRTUAL_ENV="$(CURDIR)/.venv" .venv/bin/python -m uv pip install --compile-bytecode --constraint constraints.txt --editable '.[dev]'
	touch .venv/complete

test: .venv/complete
	python -m pytest -m "not slow" -n 2 --dist loadfile

slow: .venv/complete
	python -m pytest -m slow -n 2 --dist loadfile

static: .venv/complete
	ruff check .
	ruff format --check .
	python -m mypy
	python -m mypy tests
	lint-imports

clean:
	rm -rf artifacts
