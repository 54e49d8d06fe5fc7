# Berth's tasks. `make` alone explains them.
GO      ?= go
PKGS    ?= ./...
VERSION ?= $(shell git describe --tags --always --dirty 2>/dev/null || echo dev)
LDFLAGS := -s -w -X github.com/berthdev/berth/internal/config.Version=$(VERSION)

.DEFAULT_GOAL := help
.PHONY: help build demo test soak bench lint dev runsc clean

help: ## this list
	@echo "Berth: Managed Agents, self-hosted. Tasks:"
	@awk -F':.*## ' '/^[a-z]+:.*## /{printf "  make %-7s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

build: ## bin/berth with bin/berth-agent in it, static, no C compiler needed
	CGO_ENABLED=0 $(GO) build -trimpath -ldflags '-s -w' -o bin/berth-agent ./cmd/berth-agent
	cp bin/berth-agent internal/sandbox/agent/berth-agent
	CGO_ENABLED=0 $(GO) build -trimpath -tags berth_agent -ldflags '$(LDFLAGS)' -o bin/berth ./cmd/berth

runsc: ## bin/runsc: gVisor from its pinned module, about 2.5 minutes, kept by version
	@want=$$(cd tools/runsc && $(GO) list -m -f '{{.Version}}' gvisor.dev/gvisor); \
	if [ -x bin/runsc ] && [ "$$(cat bin/runsc.version 2>/dev/null)" = "$$want" ]; then echo "bin/runsc is $$want already"; else \
	echo "building runsc $$want"; cd tools/runsc && CGO_ENABLED=0 $(GO) build -trimpath -ldflags "-s -w -X gvisor.dev/gvisor/runsc/version.version=$$want" -o ../../bin/runsc . && echo "$$want" > ../../bin/runsc.version; fi

demo: build ## one session end to end on a real data set, no key needed (MODEL=claude-... uses Claude)
	./examples/demo $(if $(MODEL),--model $(MODEL))

test: ## every test that this machine can run; lists what it left out (CI=true: leaving out fails)
	./test/setup
	CGO_ENABLED=0 $(GO) run ./test/run $(PKGS)

soak: ## the long runs: chaos over 300 sessions, every fuzz target for a minute (about an hour)
	./test/setup
	BERTH_SOAK=1 RAPID_CHECKS=1000 CGO_ENABLED=0 $(GO) run ./test/run -timeout 2h ./test/... ./worker/... ./internal/...
	CGO_ENABLED=0 ./test/fuzz 60s

bench: build ## every figure of docs/benchmarks.md beside its bar; exits 1 on a miss
	./test/setup
	CGO_ENABLED=0 $(GO) run ./test/bench

lint: ## gofmt, go vet, staticcheck
	@test -z "$$(gofmt -l .)" || { echo "gofmt would change:"; gofmt -l .; exit 1; }
	$(GO) vet ./...
	$(GO) run honnef.co/go/tools/cmd/staticcheck@v0.8.2 ./...

dev: build ## both halves on this machine, http://127.0.0.1:8400
	./bin/berth dev

clean: ## remove what make built
	rm -rf bin
