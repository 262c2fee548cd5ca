//! The simulation in small: some seeds per push, and that a seed is one run.

use pontoon_chaos::sim;

/// How many seeds a push runs, from the first on: about a minute on two cores.
fn seeds() -> u64 {
    let asked = std::env::var("PONTOON_SIM_SEEDS").ok();
    asked.and_then(|seeds| seeds.parse().ok()).unwrap_or(200)
}

#[test]
fn a_seed_gives_the_same_trace_byte_for_byte() {
    for seed in [1, 2, 3] {
        let once = sim::run(seed, None).unwrap();
        let again = sim::run(seed, None).unwrap();
        assert!(once.trace.len() > 1000, "{}", once.trace);
        let differ = once.trace.lines().zip(again.trace.lines());
        for (line, (one, other)) in differ.enumerate() {
            assert_eq!(one, other, "seed {seed} differs in line {line}");
        }
        assert_eq!(once.trace, again.trace);
        assert_eq!(once.cover, again.cover);
    }
}

#[test]
fn what_must_hold_holds_in_every_seed() {
    let options = sim::Options {
        seeds: Some(seeds()),
        seed: Some(1),
        bug: None,
        log: None,
        jobs: 2,
    };
    if let Err(error) = sim::command(&options) {
        panic!("{error}");
    }
}

/// The net catches fish: each defect that can be planted is noticed by the check that is there for it.
#[test]
fn every_planted_defect_is_noticed_by_its_check() {
    let planted = [
        (sim::Bug::SkipFsync, "durable"),
        (sim::Bug::AckEarly, "committed"),
        (sim::Bug::VoteTwice, "committed"),
        (sim::Bug::NoPreVote, "pre-vote"),
        (sim::Bug::StaleNegative, "stale-negative"),
        (sim::Bug::FastClock, "early-expiry"),
        (sim::Bug::SlotUnfenced, "slot-fenced"),
        (sim::Bug::TicketTwice, "ticket-once"),
        (sim::Bug::EffectTwice, "effect-once"),
        (sim::Bug::LateOpen, "bound-once"),
        (sim::Bug::ForgetTold, "acknowledged"),
    ];
    for (bug, check) in planted {
        let noticed = |seed: &u64| {
            let failure = sim::run(*seed, Some(bug)).unwrap().failure;
            failure.is_some_and(|failure| failure.starts_with(check))
        };
        let first = (1..=60).find(noticed);
        println!("{bug:?} is noticed by {check} in seed {first:?}");
        assert!(first.is_some(), "{bug:?} is not noticed by {check}");
    }
}
