# Every target is one call of a Python module that has --help; `make help` lists them.
PYTHON ?= python3
PY := .venv/bin/python
READY := .venv/.installed
PORT ?= 8080
# An exported STACK never deploys: only one given on the command line counts.
GIVEN := $(filter command line,$(origin STACK))
NEEDED = $(if $(GIVEN),,$(error name the stack: make $@ STACK=dev))
# Of a variable's name: what it was given, as one word for the shell, whatever is in it.
quoted = '$(subst ','\'',$(value $(1)))'
# From anywhere: to be taken for a trial harms nobody.
TRIAL := $(if $(filter-out 0,$(EMULATED)),--emulated)

.PHONY: help up demo-deploy plan test mutants bench soak prove key rotate promote kill estimate destroy cycle-all lint types reference lock clean
.DEFAULT_GOAL := help

help: ## this list
	@sed -n 's/^\([a-z-]*\):.*## /make \1\t/p' Makefile | expand -t 20

up: $(READY) ## run the whole thing here; with STACK=dev deploy that stack to AWS, EMULATED=1 to an emulated one
	@$(if $(GIVEN),$(PY) -m stacks up $(STACK) $(TRIAL),exec $(PY) -m local up --port $(PORT))

demo-deploy: $(READY) ## replace every replica here under 50 live streams: none is cut, or it fails
	@exec $(PY) -m local demo-deploy $(ARGS)

plan: $(READY) ## what STACK (default dev) would create: no account, no pulumi command
	@$(PY) -m preflight plan --stack $(if $(STACK),$(STACK),dev)

test: $(READY) ## every test that this machine can run
	@$(PY) -m pytest $(ARGS)

bench: $(READY) ## the gateway beside its rivals, at most 15 minutes; ARGS=--quick compares with the kept result
	@$(PY) -m benchmarks run $(ARGS)

soak: $(READY) ## five minutes of mixed traffic and faults: memory, tasks and descriptors stay flat; ARGS="cache ledger": millions of random steps
	@$(PY) -m tests.soak $(ARGS)

mutants: $(READY) ## break one line at a time in a copy of the code: a test must notice each
	@$(PY) -m tests.mutants $(ARGS)

prove: $(READY) ## measure what the documentation promises in numbers (about three minutes): all, or ARGS="merging deferral"
	@$(PY) -m tests.prove $(ARGS)

key: $(READY) ## store STACK's OpenAI key (asked for, or read from standard input); ADMIN=1: the key that rotates it
	@$(NEEDED)$(PY) -m stacks key $(STACK)$(if $(ADMIN), --admin)

rotate: $(READY) ## replace STACK's OpenAI key now
	@$(NEEDED)$(PY) -m stacks rotate $(STACK)

promote: $(READY) ## give stack TO the image that stack FROM runs (FROM=staging TO=prod)
	@$(if $(and $(FROM),$(TO)),,$(error name both stacks: make promote FROM=staging TO=prod))$(PY) -m stacks promote $(FROM) $(TO) $(ARGS)

kill: $(READY) ## stop spending of STACK (or here) within 2 s: TENANT=, KEY=, MODEL= or ALL=1, and WHY="..."; UNDO=1 lets it go on
	@$(if $(GIVEN),,$(if $(STACK),$(error an exported STACK does not count: make kill STACK=$(STACK))))$(if $(TENANT)$(KEY)$(MODEL)$(ALL),,$(error name what to stop: TENANT=, KEY=, MODEL= or ALL=1))$(if $(value WHY),,$(error say why, for the record and whoever undoes it: WHY="..."))
	@$(PY) -m $(if $(GIVEN),stacks kill $(STACK) $(if $(TENANT),--tenant $(call quoted,TENANT)) $(if $(KEY),--key $(call quoted,KEY)) $(if $(MODEL),--model $(call quoted,MODEL)) $(if $(ALL),--all),local kill --port $(PORT) $(if $(TENANT),tenant:$(call quoted,TENANT)) $(if $(KEY),key:$(call quoted,KEY)) $(if $(MODEL),model:$(call quoted,MODEL)) $(if $(ALL),org)) $(if $(UNDO),--undo) --why $(call quoted,WHY)

destroy: $(READY) ## delete STACK from AWS, after asking; with EMULATED=1 from the emulated one
	@$(NEEDED)$(PY) -m stacks destroy $(STACK) $(TRIAL)

cycle-all: $(READY) ## preview, up, preview, refresh and destroy of every stack in an emulated AWS (about 12 minutes)
	@$(PY) -m tests.engine.cycle $(ARGS)

estimate: $(READY) ## a month's OpenAI dollars: USERS= REQUESTS_PER_USER= OUTPUT_TOKENS= and PROMPT_TOKENS= or PROMPT_FILE=
	@$(if $(and $(USERS),$(REQUESTS_PER_USER),$(OUTPUT_TOKENS),$(PROMPT_TOKENS)$(PROMPT_FILE)),,$(error say what a month is like: make estimate USERS=1000 REQUESTS_PER_USER=100 PROMPT_TOKENS=1000 OUTPUT_TOKENS=400))
	@$(PY) -m app.budgets.estimate --users $(call quoted,USERS) --requests-per-user $(call quoted,REQUESTS_PER_USER) --output-tokens $(call quoted,OUTPUT_TOKENS) $(if $(PROMPT_TOKENS),--prompt-tokens $(call quoted,PROMPT_TOKENS)) $(if $(PROMPT_FILE),--prompt-file $(call quoted,PROMPT_FILE)) $(ARGS)

lint: $(READY) ## ruff: rules and format
	@.venv/bin/ruff check . && .venv/bin/ruff format --check .

types: $(READY) ## mypy, strict
	@.venv/bin/mypy

reference: $(READY) ## write docs/reference.md and docs/costs.md from the code
	@$(PY) -m tests.reference && $(PY) -m tests.costs

lock: ## resolve both locks anew from pyproject.toml (needs uv)
	@uv pip compile -q --universal --generate-hashes --no-header --python-version 3.11 --no-emit-index-url pyproject.toml -o app/requirements.lock
	@uv pip compile -q --universal --generate-hashes --no-header --python-version 3.11 --no-emit-index-url pyproject.toml --group dev -c app/requirements.lock -o requirements.lock

clean: ## remove the virtual environment and every cache
	@rm -rf .venv .pytest_cache .mypy_cache .ruff_cache .hypothesis && find . -name __pycache__ -type d -prune -exec rm -rf {} +

$(READY): requirements.lock
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "prodkit needs Python 3.11 or newer, this is " + sys.version.split()[0] + "; set PYTHON=python3.13")'
	@test ! -L .venv || { echo ".venv is a link: run make where it leads, this would empty it"; exit 1; }; echo "making .venv from requirements.lock (about a minute and a half the first time)"
	@$(PYTHON) -m venv --clear .venv && .venv/bin/pip install --quiet --disable-pip-version-check --require-hashes -r requirements.lock && touch $@
