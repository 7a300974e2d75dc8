# `make run` and `make test` run the README's commands as they stand there, so that each is written once.
.PHONY: run test lint bench docs
.DELETE_ON_ERROR:

# TypeScript checks the JavaScript; nothing else here needs Node.js.
TSC ?= npx --yes --package typescript@5 tsc

# Runs the one line of the fenced block after a comment such as <!-- test --> in README.md.
readme = line=$$(awk '$$0 == "<!-- $(1) -->" {found = 1; next} \
	found && /^```/ {if (inside) exit; inside = 1; next} inside {print}' README.md) \
	&& [ -n "$$line" ] && bash -euo pipefail -c "$$line"

run:
	$(call readme,run)

test:
	$(call readme,test)

lint: .venv/.extra-test
	.venv/bin/ruff check .
	.venv/bin/ruff format --check .
	.venv/bin/mypy
	$(TSC) --noEmit

bench: .venv/.extra-bench
	.venv/bin/python -m benchmarks -o benchmarks/results.md

docs: .venv/.extra-docs
	.venv/bin/mkdocs build --strict

# An extra of pyproject.toml, installed once and again when that file changes.
.venv/.extra-%: pyproject.toml
	python3 -m venv .venv
	.venv/bin/pip install --quiet '.[$*]'
	touch $@
