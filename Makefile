# `make run` and `make test` run the README's commands as they stand there, so that each is written once.
.PHONY: run test lint bench docs
.DELETE_ON_ERROR:

# Runs the one line of the fenced block after a comment such as <!-- test --> in README.md.
readme = line=$$(awk '$$0 == "<!-- $(1) -->" {found = 1; next} \
	found && /^```/ {if (inside) exit; inside = 1; next} inside {print}' README.md) \
	&& [ -n "$$line" ] && bash -euo pipefail -c "$$line"

run:
	$(call readme,run)

test:
	$(call readme,test)

lint: .venv/.extra-lint node_modules/.package-lock.json
	.venv/bin/ruff check .
	.venv/bin/ruff format --check .
	.venv/bin/mypy
	node_modules/.bin/tsc --noEmit
	.venv/bin/hadolint Dockerfile

bench: .venv/.extra-bench
	.venv/bin/python -m benchmarks -o benchmarks/results.md

docs: .venv/.extra-docs
	.venv/bin/mkdocs build --strict

# An extra of pyproject.toml, installed once and again when that file changes.
.venv/.extra-%: pyproject.toml
	python3 -m venv .venv
	.venv/bin/pip install --quiet '.[$*]'
	touch $@

# TypeScript, which checks the JavaScript. Nothing else here needs Node.js.
node_modules/.package-lock.json: package-lock.json
	npm ci --no-audit --no-fund
