# Shortcuts. The README's two commands need only cargo; nothing here is needed by them.

# List the recipes.
default:
    @just --list

# A whole cluster on this machine.
dev *ARGS:
    cargo run --release -- dev {{ARGS}}

# Every test, as the README and CI run them.
test *ARGS:
    cargo test --release --workspace {{ARGS}}

# Measures one thing beside the systems that do the same: calls, opens, failover, floods. docs/benchmarks.md has more.
bench NAME *ARGS:
    cargo build --release -p pontoon -p pontoon-chaos
    cargo run --release -p pontoon-chaos -- bench {{NAME}} {{ARGS}}

# Control planes in simulated time, from seeds. docs/chaos-sim.md has more.
sim *ARGS:
    cargo run --release -p pontoon-chaos -- sim {{ARGS}}

# Hurts a cluster of real processes: a scenario of chaos/scenarios. docs/chaos.md has more.
chaos SCENARIO *ARGS:
    cargo build --release -p pontoon -p pontoon-chaos
    cargo run --release -p pontoon-chaos -- run {{SCENARIO}} {{ARGS}}

# Change the files so that `verify` has less to say.
fix:
    cargo fmt --all
    cargo clippy --release --workspace --all-targets --fix --allow-dirty --allow-staged

# What CI runs; changes nothing.
verify:
    bash .ci/run
