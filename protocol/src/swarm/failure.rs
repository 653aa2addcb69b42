//! Why a dial came to nothing, as far as it helps to say why a download is slow.

use std::io::ErrorKind;

use castanet_core::seams::transport::TransportError;

/// Why a dial came to nothing.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
#[non_exhaustive]
pub enum DialFailure {
    /// Nobody listens there.
    Refused,
    /// Nobody answered: it is gone, or behind a firewall.
    TimedOut,
    /// There is no way to such an address from here.
    Unreachable,
    /// The connection was opened, but the handshake failed: another torrent, another protocol, or it hung up.
    Handshake,
    /// Anything else, and a dial that was no longer wanted.
    Other,
}

impl DialFailure {
    /// All of them.
    pub const ALL: [Self; 5] = [Self::Refused, Self::TimedOut, Self::Unreachable, Self::Handshake, Self::Other];

    /// What a transport's error amounts to.
    pub fn of(error: &TransportError) -> Self {
        let kind = match error {
            TransportError::Timeout(_) => return Self::TimedOut,
            TransportError::Unsupported { .. } => return Self::Unreachable,
            TransportError::Handshake(_) => return Self::Handshake,
            TransportError::Io(error) => error.kind(),
            _ => return Self::Other,
        };
        match kind {
            ErrorKind::ConnectionRefused | ErrorKind::ConnectionReset => Self::Refused,
            ErrorKind::TimedOut => Self::TimedOut,
            ErrorKind::HostUnreachable
            | ErrorKind::NetworkUnreachable
            | ErrorKind::NetworkDown
            | ErrorKind::AddrNotAvailable => Self::Unreachable,
            _ => Self::Other,
        }
    }
}

#[cfg(test)]
mod tests {
    use std::{io, time::Duration};

    use super::*;

    #[test]
    fn errors_are_told_apart() {
        for (error, kind) in [
            (TransportError::Timeout(Duration::from_secs(1)), DialFailure::TimedOut),
            (TransportError::Unsupported { transport: "t", to: "[::1]:1".parse().unwrap() }, DialFailure::Unreachable),
            (io::Error::from(ErrorKind::ConnectionRefused).into(), DialFailure::Refused),
            (io::Error::from(ErrorKind::NetworkUnreachable).into(), DialFailure::Unreachable),
            (io::Error::from(ErrorKind::TimedOut).into(), DialFailure::TimedOut),
            (io::Error::from(ErrorKind::PermissionDenied).into(), DialFailure::Other),
        ] {
            assert_eq!(DialFailure::of(&error), kind, "{error}");
        }
    }

    #[test]
    fn each_has_its_place() {
        assert!(DialFailure::ALL.iter().enumerate().all(|(place, kind)| *kind as usize == place));
    }
}
