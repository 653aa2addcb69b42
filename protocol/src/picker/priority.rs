//! How much the user wants a piece, and the level of the rarity queues that follows from it.

/// How many priorities are downloaded at all: every one but [`Priority::Skip`].
pub(super) const LEVELS: usize = 3;

/// How much the user wants a piece.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord)]
pub enum Priority {
    /// Not at all: never asked for, and the torrent is complete without it.
    Skip,
    /// After everything else.
    Low,
    /// Like most.
    #[default]
    Normal,
    /// Before everything else.
    High,
}

impl Priority {
    /// 0 is served first; `None` is never served.
    pub(super) fn level(self) -> Option<usize> {
        match self {
            Self::High => Some(0),
            Self::Normal => Some(1),
            Self::Low => Some(2),
            Self::Skip => None,
        }
    }
}
