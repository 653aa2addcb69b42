//! When a link is down: at given times, or from time to time by a seed.

use std::{ops::Range, time::Duration, vec};

use castanet_core::Moment;

/// The shortest that a link is up between two drawn outages, so that time goes on.
const SHORTEST: Duration = Duration::from_millis(1);

/// When a link is down, counted from its beginning. Packets vanish meanwhile; streams stall, and go on.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub enum Outages {
    /// Never.
    #[default]
    Never,
    /// At these times, in any order.
    At(Vec<Range<Duration>>),
    /// Again and again, for as long as is drawn each time.
    Drawn {
        /// How long it stays up.
        up: Range<Duration>,
        /// How long it is down.
        down: Range<Duration>,
    },
}

/// The outages of one line, looked through as time goes by.
#[derive(Debug, Clone, Default)]
pub(super) struct Calendar {
    /// The one that is, or the next; empty if there is none.
    next: Range<Moment>,
    later: Later,
}

#[derive(Debug, Clone, Default)]
enum Later {
    #[default]
    Nothing,
    Listed(vec::IntoIter<Range<Moment>>),
    Drawn {
        up: Range<Duration>,
        down: Range<Duration>,
        random: fastrand::Rng,
    },
}

impl Calendar {
    pub(super) fn new(outages: &Outages, begin: Moment, random: fastrand::Rng) -> Self {
        let later = match outages {
            Outages::Never => Later::Nothing,
            Outages::At(times) => {
                let mut times: Vec<_> = times.iter().map(|time| begin + time.start..begin + time.end).collect();
                times.sort_by_key(|time| time.start);
                Later::Listed(times.into_iter())
            }
            Outages::Drawn { up, down } => Later::Drawn { up: up.clone(), down: down.clone(), random },
        };
        let mut calendar = Self { next: begin..begin, later };
        calendar.turn();
        calendar
    }

    /// Until when the link is down, if it is now. `now` must not be earlier than the last time.
    pub(super) fn down_until(&mut self, now: Moment) -> Option<Moment> {
        while now >= self.next.end && self.turn() {}
        self.next.contains(&now).then_some(self.next.end)
    }

    /// Goes on to the next outage; says whether there is one.
    fn turn(&mut self) -> bool {
        let end = self.next.end;
        match &mut self.later {
            Later::Nothing => return false,
            Later::Listed(times) => match times.next() {
                Some(time) => self.next = time,
                None => self.later = Later::Nothing,
            },
            Later::Drawn { up, down, random } => {
                let start = end + draw(random, up).max(SHORTEST);
                self.next = start..start + draw(random, down);
            }
        }
        true
    }
}

/// A duration from this range; its beginning if it is empty.
pub(crate) fn draw(random: &mut fastrand::Rng, range: &Range<Duration>) -> Duration {
    let nanos = |duration: Duration| u64::try_from(duration.as_nanos()).unwrap_or(u64::MAX);
    if range.is_empty() { range.start } else { Duration::from_nanos(random.u64(nanos(range.start)..nanos(range.end))) }
}
