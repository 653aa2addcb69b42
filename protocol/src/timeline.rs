//! From a link to the first piece: when each station was reached, and how long the way there took.

use std::{fmt, time::Duration};

use castanet_core::{Moment, seams::discovery::Milestone};

/// When each station was reached for the first time.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Timeline {
    added: Moment,
    /// In the order in which they were reached.
    reached: Vec<(Milestone, Moment)>,
}

/// The way from one station to the next.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Phase {
    /// The station at its end.
    pub milestone: Milestone,
    /// When it was reached, counted from the start.
    pub at: Duration,
    /// Time since the station that was reached before it, whichever that was.
    pub took: Duration,
}

impl Timeline {
    /// Nothing is reached yet.
    pub fn new(added: Moment) -> Self {
        Self { added, reached: Vec::new() }
    }

    /// When it began.
    pub fn added(&self) -> Moment {
        self.added
    }

    /// A station is reached. Only the first time counts: then it returns true. A moment before that of another station
    /// is told late, and finds its place.
    pub fn reach(&mut self, milestone: Milestone, at: Moment) -> bool {
        if milestone == Milestone::Added || self.at(milestone).is_some() {
            return false;
        }
        let at = at.max(self.added);
        let place = self.reached.partition_point(|(_, other)| *other <= at);
        self.reached.insert(place, (milestone, at));
        true
    }

    /// When a station was reached, counted from the start.
    pub fn at(&self, milestone: Milestone) -> Option<Duration> {
        self.reached.iter().find(|(known, _)| *known == milestone).map(|(_, at)| at.since(self.added))
    }

    /// The stations in the order in which they were reached. The `took`s add up to the last `at`.
    pub fn phases(&self) -> Vec<Phase> {
        let mut before = self.added;
        let phase = |&(milestone, at): &(Milestone, Moment)| {
            let took = at.since(std::mem::replace(&mut before, at));
            Phase { milestone, at: at.since(self.added), took }
        };
        self.reached.iter().map(phase).collect()
    }
}

/// What a station is called among people.
fn name(milestone: Milestone) -> &'static str {
    match milestone {
        Milestone::Added => "added",
        Milestone::NamesResolved => "names",
        Milestone::Bootstrapped => "bootstrap",
        Milestone::LookedUp => "look-up",
        Milestone::FirstPeer => "first peer",
        Milestone::FirstConnected => "first connection",
        Milestone::FirstHandshake => "first handshake",
        Milestone::Metadata => "metadata",
        Milestone::FirstPiece => "first piece",
        Milestone::Complete => "complete",
        _ => "another station",
    }
}

impl fmt::Display for Timeline {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (at, phase) in self.phases().iter().enumerate() {
            let comma = if at == 0 { "" } else { ", " };
            write!(f, "{comma}{} after {}", name(phase.milestone), Short(phase.at))?;
        }
        Ok(())
    }
}

/// A time span with three digits or so.
struct Short(Duration);

impl fmt::Display for Short {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.0.as_millis() {
            millis @ ..1000 => write!(f, "{millis} ms"),
            millis @ ..60_000 => write!(f, "{}.{:02} s", millis / 1000, millis % 1000 / 10),
            millis => write!(f, "{} min {} s", millis / 60_000, millis % 60_000 / 1000),
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const ALL: [Milestone; 6] = [
        Milestone::NamesResolved,
        Milestone::LookedUp,
        Milestone::FirstPeer,
        Milestone::FirstHandshake,
        Milestone::Metadata,
        Milestone::FirstPiece,
    ];

    #[test]
    fn it_reads_as_a_sentence() {
        let start = Moment::ZERO + Duration::from_secs(5);
        let mut timeline = Timeline::new(start);
        assert!(timeline.reach(Milestone::FirstPeer, start + Duration::from_millis(80)));
        assert!(timeline.reach(Milestone::Metadata, start + Duration::from_millis(1230)));
        assert!(!timeline.reach(Milestone::FirstPeer, start + Duration::from_secs(9)), "only the first time counts");
        assert!(timeline.reach(Milestone::NamesResolved, start + Duration::from_millis(12)), "told late");
        assert_eq!(timeline.to_string(), "names after 12 ms, first peer after 80 ms, metadata after 1.23 s");
    }

    proptest! {
        #[test]
        fn the_phases_add_up(moments in prop::collection::vec((0..6usize, 0..10_000_000_000u64), 0..20)) {
            let mut timeline = Timeline::new(Moment::ZERO);
            for (station, at) in moments {
                timeline.reach(ALL[station], Moment(at));
            }
            let phases = timeline.phases();
            let sum: Duration = phases.iter().map(|phase| phase.took).sum();
            prop_assert_eq!(sum, phases.last().map_or(Duration::ZERO, |last| last.at));
            prop_assert!(phases.windows(2).all(|pair| pair[0].at <= pair[1].at));
        }
    }
}
