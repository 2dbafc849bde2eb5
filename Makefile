# Everything is set up on the first use: only Python 3.10 or newer, a C and C++
# compiler, and CMake must be there. `make help` says what there is.
.POSIX:
.PHONY: help serve test lint proto bench diagrams test-external endurance setup clean distclean _server _dev

PYTHON ?= python3
ARGS ?=
BIN = .venv/bin

help: ## say what there is
	@sed -n 's/^\([a-z-]*\):.*## \(.*\)/  make \1 \2/p' Makefile | awk '{ printf "  make %-14s", $$2; $$1 = $$2 = ""; print }'
	@echo '  ARGS="..." is handed on; PYTHON=... names the Python to set up with'

serve: _server ## set up, and serve the built-in model on 127.0.0.1:50051
	@exec $(BIN)/llm-serving-engine serve $(ARGS)

test: _dev ## set up, and run the test suite
	@$(BIN)/python -m pytest -n logical --maxprocesses 4 --dist worksteal $(ARGS)

lint: _dev ## style, types, proto files, generated code
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/mypy deploy/bootstrap deploy/*.py docs/examples/*.py
	MYPYPATH=deploy:tests/fixtures:tests/benchmarks $(BIN)/mypy --explicit-package-bases \
	    --allow-untyped-defs --allow-incomplete-defs --allow-untyped-calls tests
	$(BIN)/buf lint proto
	$(BIN)/python deploy/proto.py --check
	$(BIN)/python deploy/diagrams.py --check
	$(BIN)/python deploy/settings.py --check

proto: _dev ## generate the code of proto/ again
	$(BIN)/python deploy/proto.py

diagrams: _dev ## write what the documents take from the code again
	$(BIN)/python deploy/diagrams.py
	$(BIN)/python deploy/settings.py

bench: _server ## measure the server that `make serve` runs elsewhere
	@exec $(BIN)/llm-serving-engine bench $(ARGS)

test-external: _dev ## test with real tools: Envoy, grpcurl, the Go and Node clients, clients of the HTTP API
	@$(BIN)/python deploy/tools.py
	@$(BIN)/python -m pytest tests/external $(ARGS)

endurance: _dev ## the long runs: runners killed under load, fuzzing, overload, 10,000 requests (an hour)
	@$(BIN)/python -m pytest -s tests/endurance $(ARGS)

setup: _dev ## only set up

clean: ## remove what was made, except the compiled llama.cpp in .cache/
	rm -rf .venv .tools build dist src/*.egg-info clients/node/node_modules
	rm -rf .pytest_cache .mypy_cache .ruff_cache .hypothesis
	find . -name __pycache__ -type d -prune -exec rm -rf {} +

distclean: clean ## remove that too
	rm -rf .cache

_server:
	@$(PYTHON) deploy/setup.py serve

_dev:
	@$(PYTHON) deploy/setup.py test
