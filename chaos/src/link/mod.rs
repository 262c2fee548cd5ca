//! Links between places, emulated in user space: bytes of every connection wait here before they go on.
//!
//! Kernels without `netem` can't delay packets, and a container rarely may change its network. So each
//! node advertises an address of the emulator instead of its own; whoever dials it is recognised by
//! [`owner`], and [`emulator`] carries the bytes of the connection with the delays of that pair.
//!
//! What is emulated is what an application sees of TCP: a lost segment is a late one (and all behind
//! it), so loss adds a retransmission timeout, and reordering, which TCP hides, can only be seen as
//! jitter. A cut direction holds its bytes, as retransmission does, and lets them go when it heals; no
//! handshake succeeds meanwhile, though the dialer's own kernel already calls it connected. A half-open
//! connection loses its bytes for ever, and its ends hear nothing of each other.

pub mod emulator;
mod owner;

use crate::seed::Seed;
use serde::Deserialize;
use std::collections::BTreeMap;
use std::time::Duration;

/// The least retransmission timeout of Linux's TCP (`TCP_RTO_MIN`).
const RETRANSMIT: Duration = Duration::from_millis(200);

/// Somebody who dials or is dialed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Site {
    /// A node, by its number.
    Node(usize),
    /// A sidecar, by its number.
    Sidecar(usize),
    /// The clients of a region.
    Clients(usize),
}

/// One direction between two sites.
#[derive(Clone, Copy, Debug, Default, PartialEq, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Link {
    /// From one end to the other, milliseconds.
    pub delay_ms: u64,
    /// At most so much more, evenly spread, milliseconds.
    pub jitter_ms: u64,
    /// The share of chunks that come late by a retransmission, 0 to 1.
    pub loss: f64,
    /// Kilobits per second; 0 is no bound.
    pub kbit: u64,
    /// Nothing passes.
    #[serde(skip)]
    pub cut: bool,
}

impl Link {
    /// How long a chunk of so many bytes is on its way, the time for its bytes apart.
    pub fn takes(&self, seed: &mut Seed) -> Duration {
        let jitter = self.jitter_ms as f64 * seed.fraction();
        let delay = Duration::from_millis(self.delay_ms);
        let mut takes = delay + Duration::from_secs_f64(jitter / 1_000.0);
        if self.loss > 0.0 && seed.fraction() < self.loss {
            // A retransmission leaves after the timeout, which is never below the round trip.
            takes += RETRANSMIT.max(delay * 2);
        }
        takes
    }

    /// How long the line is busy with so many bytes.
    pub fn busy(&self, bytes: usize) -> Duration {
        match self.kbit {
            0 => Duration::ZERO,
            kbit => Duration::from_secs_f64(bytes as f64 * 8.0 / (kbit as f64 * 1_000.0)),
        }
    }
}

/// What lies between all sites, at one moment.
#[derive(Clone, Debug, Default)]
pub struct Links {
    regions: BTreeMap<Site, usize>,
    between: BTreeMap<(usize, usize), Link>,
    own: BTreeMap<(Site, Site), Link>,
}

impl Links {
    /// Says in which region a site is.
    pub fn place(&mut self, site: Site, region: usize) {
        self.regions.insert(site, region);
    }

    /// The sites of a region, or all.
    pub fn sites(&self, region: Option<usize>) -> Vec<Site> {
        let of = self.regions.iter();
        let of = of.filter(|(_, at)| region.is_none_or(|region| region == **at));
        of.map(|(site, _)| *site).collect()
    }

    /// Sets the round trip between two regions, half of it each way.
    pub fn apart(&mut self, one: usize, other: usize, round_trip: Duration) {
        let link = Link {
            delay_ms: round_trip.as_millis() as u64 / 2,
            ..Link::default()
        };
        self.between.insert((one, other), link);
        self.between.insert((other, one), link);
    }

    /// The link from one site to another.
    pub fn of(&self, from: Site, to: Site) -> Link {
        if let Some(link) = self.own.get(&(from, to)) {
            return *link;
        }
        let region = |site| self.regions.get(&site).copied().unwrap_or_default();
        let between = self.between.get(&(region(from), region(to)));
        between.copied().unwrap_or_default()
    }

    /// Changes the link from one site to another; nothing changes the round trip between their regions.
    pub fn change(&mut self, from: Site, to: Site, change: impl FnOnce(&mut Link)) {
        let mut link = self.of(from, to);
        change(&mut link);
        self.own.insert((from, to), link);
    }

    /// Undoes every change of the link from one site to another.
    pub fn heal(&mut self, from: Site, to: Site) {
        self.own.remove(&(from, to));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_link_is_that_of_its_regions_until_it_is_changed_and_again_when_it_heals() {
        let (one, other) = (Site::Node(0), Site::Sidecar(3));
        let mut links = Links::default();
        links.place(one, 0);
        links.place(other, 1);
        links.apart(0, 1, Duration::from_millis(80));
        assert_eq!(links.of(one, other).delay_ms, 40);
        links.change(one, other, |link| link.cut = true);
        assert!(links.of(one, other).cut && !links.of(other, one).cut);
        assert_eq!(links.of(one, other).delay_ms, 40);
        links.heal(one, other);
        assert!(!links.of(one, other).cut);
    }

    #[test]
    fn loss_is_lateness_and_bandwidth_is_time() {
        let mut seed = Seed::new(1);
        let lossy = Link {
            delay_ms: 30,
            loss: 0.25,
            ..Link::default()
        };
        let late = (0..4_000).filter(|_| lossy.takes(&mut seed) >= RETRANSMIT);
        let late = late.count();
        assert!((900..1_100).contains(&late), "{late}");
        let narrow = Link {
            kbit: 800,
            ..Link::default()
        };
        assert_eq!(narrow.busy(1_000), Duration::from_millis(10));
    }
}
