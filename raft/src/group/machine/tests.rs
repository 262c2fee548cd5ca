//! What is published, and when: a machine that adds numbers, without consensus around it.

use super::*;
use crate::machine::Clock;

/// Adds numbers; the effect of each command is its number.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
struct Sum(u64);

impl Machine for Sum {
    type Command = u64;
    type Reply = u64;
    type Effect = u64;

    const KIND: u8 = 202;

    fn clock(&self) -> Clock {
        Clock(self.0)
    }

    fn apply(&mut self, _: u64, _: Clock, number: u64, effects: &mut Vec<u64>) -> u64 {
        self.0 += number;
        effects.push(number);
        self.0
    }

    fn next_due(&self) -> Option<Clock> {
        Some(Clock(self.0 + 1))
    }

    fn tick() -> u64 {
        0
    }

    fn check(&self) -> Result<(), String> {
        Ok(())
    }
}

/// Applies entries that hold their own index as the command.
fn apply(typed: &mut Typed<Sum>, indices: std::ops::RangeInclusive<u64>, fresh: bool) {
    for index in indices {
        let batch = Batch {
            format: FORMAT,
            stamp: Clock(0),
            commands: vec![codec::encode(&index).unwrap()],
        };
        let body = codec::encode(&batch).unwrap();
        let record = codec::frame(Role::Batch, Sum::KIND, 0, &body).unwrap();
        typed.apply(index, &record, fresh, false).unwrap();
    }
}

fn heard(effects: &mut tokio::sync::broadcast::Receiver<u64>) -> Vec<u64> {
    std::iter::from_fn(|| effects.try_recv().ok()).collect()
}

#[test]
fn a_replica_that_starts_again_shows_nothing_older_than_was_seen() {
    let published = Arc::new(Published::new(&Sum(0)));
    let mut effects = published.effects.subscribe();
    let mut first = Typed::new(Sum(0), published.clone());
    apply(&mut first, 1..=4, true);
    first.publish(4, false);
    assert_eq!(heard(&mut effects), [1, 2, 3, 4]);
    drop(first);

    let mut second = Typed::new(Sum(0), published.clone());
    for index in 1..=3 {
        apply(&mut second, index..=index, false);
        second.publish(index, true);
        assert_eq!(published.state.load().0, 10, "after {index}");
        assert_eq!(*published.applied.borrow(), 4);
        assert_eq!(published.pulse.clock(), Clock(10));
        assert_eq!(published.pulse.due(), Some(Clock(11)));
    }
    // One batch leads over what was seen: only what is new has effects.
    apply(&mut second, 4..=6, true);
    second.publish(6, false);
    assert_eq!(published.state.load().0, 21);
    assert_eq!(*published.applied.borrow(), 6);
    assert_eq!(heard(&mut effects), [5, 6]);
    assert_eq!(
        *published.restored.borrow(),
        0,
        "everything unseen had its effects"
    );
}

#[test]
fn readers_learn_once_that_a_replay_has_brought_what_no_effect_told() {
    let published = Arc::new(Published::new(&Sum(0)));
    let mut effects = published.effects.subscribe();
    let mut typed = Typed::new(Sum(0), published.clone());
    for index in 1..=3 {
        apply(&mut typed, index..=index, false);
        typed.publish(index, index < 3);
        assert_eq!(published.state.load().0, (1..=index).sum::<u64>());
        assert_eq!(*published.restored.borrow(), u64::from(index == 3));
    }
    apply(&mut typed, 4..=4, true);
    typed.publish(4, false);
    assert_eq!(*published.restored.borrow(), 1);
    assert_eq!(heard(&mut effects), [4]);
}

#[test]
fn a_new_incarnation_begins_at_zero() {
    let published = Arc::new(Published::new(&Sum(0)));
    let mut old = Typed::new(Sum(0), published.clone());
    apply(&mut old, 1..=9, true);
    old.publish(9, false);
    drop(old);
    published.reset(&Sum(0));
    assert_eq!(*published.applied.borrow(), 0);
    assert_eq!(*published.restored.borrow(), 1);
    let mut new = Typed::new(Sum(0), published.clone());
    apply(&mut new, 1..=2, true);
    new.publish(2, false);
    assert_eq!(published.state.load().0, 3);
}
