.PHONY: demo test chaos check docs bench

demo: ## Everything on this machine, nothing to install
	cargo run --release -- demo

test: ## All tests, against real services
	scripts/test

chaos: ## Random plans with kills and restarts against a naive reference: PLANS=500, or one again with SEED=n
	cargo test --profile ci --test chaos -- $(if $(SEED),--seed $(SEED),--plans $(or $(PLANS),500) --from $(or $(FROM),1))

check: ## What .ci/run checks before the tests
	cargo fmt --all --check
	cargo clippy --workspace --all-targets --profile ci -- -D warnings

docs: ## The generated reference of the configuration
	cargo run --profile ci -q -- config --reference > docs/configuration.md

bench: ## The throughput benchmarks
	cargo bench
