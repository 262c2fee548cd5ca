//! Whether a tunnel still lives (contract K-CON-4). Pure: time and byte counts come in.
//!
//! In use, 3 s without a received byte call for a probe, and 5 s more mean that it is dead. Parked,
//! 30 s and 15 s. Whatever is received answers a probe.

use std::time::Duration;

/// Patience, then grace.
const BUSY: (Duration, Duration) = (Duration::from_secs(3), Duration::from_secs(5));
const IDLE: (Duration, Duration) = (Duration::from_secs(30), Duration::from_secs(15));

/// What to do now.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Verdict {
    /// Nothing.
    Quiet,
    /// Send a probe.
    Ask,
    /// Close the tunnel.
    Dead,
}

/// Watches one tunnel. `now` is a span since any fixed moment.
#[derive(Debug, Default)]
pub(super) struct Pulse {
    received: u64,
    heard: Duration,
    busy: bool,
    asked: Option<Duration>,
}

impl Pulse {
    /// Looks at the tunnel: how many bytes it has received in all, and whether it is in use.
    pub(super) fn look(&mut self, now: Duration, received: u64, busy: bool) -> Verdict {
        if received != self.received {
            self.asked = None;
            self.heard = now;
        } else if busy && !self.busy {
            // A call that begins after a long idle time starts its own patience.
            self.heard = now;
        }
        self.received = received;
        self.busy = busy;
        let (patience, grace) = if busy { BUSY } else { IDLE };
        match self.asked {
            Some(asked) if now.saturating_sub(asked.max(self.heard)) >= grace => Verdict::Dead,
            None if now.saturating_sub(self.heard) >= patience => {
                self.asked = Some(now);
                Verdict::Ask
            }
            _ => Verdict::Quiet,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn run(busy: bool, answers: bool, seconds: u64) -> (Vec<u64>, Option<u64>) {
        let (mut pulse, mut asked, mut received) = (Pulse::default(), Vec::new(), 0);
        for second in 0..seconds {
            let now = Duration::from_secs(second);
            match pulse.look(now, received, busy) {
                Verdict::Quiet => {}
                Verdict::Ask => {
                    asked.push(second);
                    received += u64::from(answers);
                }
                Verdict::Dead => return (asked, Some(second)),
            }
        }
        (asked, None)
    }

    #[test]
    fn k_con_4_a_busy_tunnel_is_asked_after_3_s_and_dead_5_s_later() {
        assert_eq!(run(true, false, 60), (vec![3], Some(8)));
        assert_eq!(run(true, true, 10), (vec![3, 7], None));
    }

    #[test]
    fn k_con_4_an_idle_tunnel_is_asked_after_30_s_and_dead_15_s_later() {
        assert_eq!(run(false, false, 60), (vec![30], Some(45)));
        assert_eq!(run(false, true, 61), (vec![30], None));
    }

    #[test]
    fn a_tunnel_that_receives_is_never_asked() {
        let mut pulse = Pulse::default();
        for second in 0..1000 {
            let verdict = pulse.look(Duration::from_secs(second), second, true);
            assert_eq!(verdict, Verdict::Quiet);
        }
    }
}
