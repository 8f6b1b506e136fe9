# SPDX-License-Identifier: Apache-2.0
# Everything runs from a fresh clone on Debian 12: each target installs what it needs first.

SHELL := /bin/bash
.DELETE_ON_ERROR:
.PHONY: help setup tools packages run demo test lint bench wheel docs clean FORCE

# Compiled kernel programs of all that runs here stay here.
export CACHE_DIRECTORY := $(CURDIR)/build/programs

# Python keeps what it has compiled, too, whatever is usual here: hundreds of short programs are started.
unexport PYTHONDONTWRITEBYTECODE

# The distribution's interpreter, never the first on PATH: only it sees the distribution's BCC.
PYTHON   := /usr/bin/python3
BIN      := .venv/bin
READY    := .venv/ready
EQUIPPED := .venv/equipped
NATIVE    = trapstream_vtap/_native$(shell $(PYTHON) -c 'import sysconfig; print(sysconfig.get_config_var("EXT_SUFFIX"))')
PACKAGES := python3-bpfcc python3-venv python3-dev libbpf-dev g++ make iproute2 ethtool tcpdump util-linux

help:  ## show this list
	@sed -n 's/^\([a-z]*\):.*## /\1\t/p' $(MAKEFILE_LIST) | expand -t 8

setup: packages $(READY) $(NATIVE)  ## install what measuring needs; the command is then .venv/bin/vtap-stream
	@$(BIN)/vtap-stream --version

# What making it needs beside: for tests, linters, dashboards
tools: setup $(EQUIPPED)

run: setup  ## measure real traffic in a lab; IFACE=eth0 COLLECTOR=host:port streams an interface instead
ifdef IFACE
	@collector='$(COLLECTOR)'; host=$${collector%:*}; host=$${host#[}; \
	[[ $$collector == *:* ]] || { echo 'Say where to stream to: make run IFACE=$(IFACE) COLLECTOR=host:port' >&2; exit 2; }; \
	exec $(BIN)/vtap-stream -i '$(IFACE)' "$${host%]}" "$${collector##*:}"
else
	@exec $(BIN)/python -m lab.run
endif

demo: tools  ## show every dashboard panel, its query, and what three real databases answer
	@exec $(BIN)/python -m lab.demo

test: PACKAGES += golang-go openssl  # InfluxDB's own parser, the judge of our line protocol; certificates
test: PACKAGES += netsniff-ng iperf iperf3 mgen tshark bmon nftables  # independent traffic, and judges of what is said of it
test: PACKAGES += socat  # TLS in front of a Kafka broker
test: PACKAGES += systemd systemd-container  # the unit, started by a real systemd
test: PACKAGES += $(if $(shell command -v npm),,npm)  # Grafana's own types, the judge of our dashboards
test: PACKAGES += qemu-system-x86 gcc binutils  # another kernel in an emulator, and a module for it
test: tools  ## run every test; PYTEST_ARGS='-k name' to choose
	$(BIN)/python -m pytest -n 4 $(PYTEST_ARGS)

lint: tools  ## linter, formatter check, strict type check
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	PATH=$(BIN):$$PATH cython-lint --max-line-length 100 trapstream_vtap
	$(BIN)/mypy trapstream_vtap lab
	$(BIN)/hadolint deploy/Dockerfile

bench: tools  ## measure the cost of measuring
	$(BIN)/python -m bench

wheel: tools  ## build the wheel in dist/
	@$(BIN)/python -m lab.wheel

docs: tools  ## make reference pages, dashboards, alert rules and Telegraf's JSON inputs anew
	$(BIN)/python -m lab.reference

clean:  ## remove everything that was made here
	rm -rf .venv build dist *.egg-info .hypothesis trapstream_vtap/*.cpp trapstream_vtap/*.so
	find . -name __pycache__ -prune -exec rm -rf {} +

packages:
	@missing=$$(comm -23 <(printf '%s\n' $(PACKAGES) | sort) \
	    <(dpkg-query -W -f '$${db:Status-Abbrev}$${Package}\n' $(PACKAGES) 2>/dev/null | sed -n 's/^ii //p' | sort)); \
	[[ -z $$missing ]] && exit; \
	(( EUID == 0 )) || { echo "Missing packages; as root: apt-get install" $$missing >&2; exit 1; }; \
	echo "Installing" $$missing; export DEBIAN_FRONTEND=noninteractive; \
	install() { apt-get -qq -y install --no-install-recommends $$missing; }; \
	install >/dev/null 2>&1 || { apt-get -qq update && install >/dev/null; }

# An environment holds absolute paths and links to one Python: if it was made elsewhere, or something is missing in it,
# it is made anew. The stamp is written last and says where.
REQUIRED := import re, importlib.metadata as m; required = m.requires("trapstream-vtap")
healthy := $(shell [[ "$$(cat $(READY) 2>&1)" == "$(CURDIR)" && -x $(BIN)/vtap-stream ]] && \
    $(BIN)/python -c '$(REQUIRED); [m.version(re.match(r"[\w.-]+", r)[0]) for r in required if "extra" not in r]' \
    2>/dev/null && echo yes)
equipped := $(shell $(BIN)/python -c '$(REQUIRED); [m.version(re.match(r"[\w.-]+", r)[0]) for r in required]' \
    2>/dev/null && echo yes)

$(READY): setup.cfg setup.py pyproject.toml $(if $(healthy),,FORCE)
	rm -rf .venv trapstream_vtap/*.cpp trapstream_vtap/*.so
	$(PYTHON) -m venv --system-site-packages .venv
	$(BIN)/pip install -q --upgrade 'setuptools>=77' 'Cython>=3'
	$(BIN)/pip install -q --no-compile --no-build-isolation -e .
	echo '$(CURDIR)' > $@

$(EQUIPPED): $(READY) $(if $(equipped),,FORCE)
	$(BIN)/python -c '$(REQUIRED); print(*(r.split(";")[0] for r in required if "extra" in r), sep="\n")' | \
	    $(BIN)/pip install -q --no-compile -r /dev/stdin
	@touch $@

# With the environment they have been built already, and only what is older than its sources is built again.
$(NATIVE): $(wildcard trapstream_vtap/*.pyx trapstream_vtap/*.hpp) $(READY)
	$(BIN)/python setup.py -q build_ext --inplace
	@touch $@
