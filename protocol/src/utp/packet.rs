//! The packets of uTP: a header of twenty bytes, a chain of extensions, a payload (BEP 29).

/// Bytes of the header.
pub(super) const HEADER: usize = 20;
/// Bytes of the longest selective acknowledgement: one bit for each of 256 packets.
pub(super) const LONGEST_SACK: usize = 32;
/// Extensions of one packet that are read.
const MOST_EXTENSIONS: usize = 16;
const VERSION: u8 = 1;
const SELECTIVE_ACK: u8 = 1;
/// An extension that nobody knows and everybody skips: it makes a packet larger, to see whether it arrives.
const PADDING: u8 = 0xfe;

/// What a packet is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
pub(super) enum Kind {
    /// It carries bytes.
    Data = 0,
    /// The last of the sender's.
    Fin = 1,
    /// It acknowledges only.
    State = 2,
    /// There is no such connection.
    Reset = 3,
    /// The first of a connection.
    Syn = 4,
}

/// The header, and what of the extensions is understood.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Header {
    /// What it is.
    pub(super) kind: Kind,
    /// The receiver's id of the connection; in a SYN the sender's.
    pub(super) connection: u16,
    /// When it was sent, in microseconds of the sender's clock.
    pub(super) sent: u32,
    /// How much later than sent, by the two clocks, the other side's last packet arrived here, in microseconds.
    pub(super) delay: u32,
    /// Bytes that the sender still takes.
    pub(super) window: u32,
    /// Its number.
    pub(super) number: u16,
    /// The last number up to which everything has arrived.
    pub(super) ack: u16,
    /// Which packets after the next have arrived.
    pub(super) sack: Sack,
}

/// Bit `i` stands for the packet `ack + 2 + i`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(super) struct Sack {
    bits: [u8; LONGEST_SACK],
    /// Bytes that are there; a multiple of four if it is ours.
    length: usize,
}

impl Sack {
    /// Marks a packet; those too far away are left out.
    pub(super) fn set(&mut self, bit: u64) {
        if let Some(byte) = usize::try_from(bit / 8).ok().filter(|byte| *byte < LONGEST_SACK) {
            self.bits[byte] |= 1 << (bit % 8);
            self.length = self.length.max((byte / 4 + 1) * 4);
        }
    }
    /// Leaves only so many bytes.
    #[cfg(test)]
    pub(super) fn shorten(&mut self, bytes: usize) {
        self.length = self.length.min(bytes);
    }
    /// The marked packets, lowest first.
    pub(super) fn iter(&self) -> impl Iterator<Item = u64> + '_ {
        (0..self.length as u64 * 8).filter(|bit| self.bits[(bit / 8) as usize] >> (bit % 8) & 1 == 1)
    }
    /// Is nothing marked?
    pub(super) fn is_empty(&self) -> bool {
        self.length == 0
    }
}

impl Header {
    /// Appends the packet's header, with extensions that fill it up by `padding` bytes (0, or at least 2).
    pub(super) fn write(&self, padding: usize, out: &mut Vec<u8>) {
        let mut paddings = padding.div_ceil(257);
        let has_sack = !self.sack.is_empty();
        let next = |paddings: usize| if paddings > 0 { PADDING } else { 0 };
        out.extend_from_slice(&[
            (self.kind as u8) << 4 | VERSION,
            if has_sack { SELECTIVE_ACK } else { next(paddings) },
        ]);
        out.extend_from_slice(&self.connection.to_be_bytes());
        for word in [self.sent, self.delay, self.window] {
            out.extend_from_slice(&word.to_be_bytes());
        }
        out.extend_from_slice(&self.number.to_be_bytes());
        out.extend_from_slice(&self.ack.to_be_bytes());
        if has_sack {
            out.extend_from_slice(&[next(paddings), self.sack.length as u8]);
            out.extend_from_slice(&self.sack.bits[..self.sack.length]);
        }
        let mut left = padding;
        while paddings > 0 {
            // The last but one leaves room for the two bytes that the last begins with.
            let length = if paddings == 1 { left - 2 } else { (left - 2 * paddings).min(255) };
            paddings -= 1;
            out.extend_from_slice(&[next(paddings), length as u8]);
            out.resize(out.len() + length, 0);
            left -= length + 2;
        }
    }

    /// Reads a packet; returns its header and payload, `None` if it is none of version 1.
    pub(super) fn read(packet: &[u8]) -> Option<(Self, &[u8])> {
        let (head, mut rest) = packet.split_first_chunk::<HEADER>()?;
        let short = |at: usize| u16::from_be_bytes([head[at], head[at + 1]]);
        let long = |at: usize| u32::from_be_bytes([head[at], head[at + 1], head[at + 2], head[at + 3]]);
        let kind = match (head[0] >> 4, head[0] & 0x0f) {
            (0, VERSION) => Kind::Data,
            (1, VERSION) => Kind::Fin,
            (2, VERSION) => Kind::State,
            (3, VERSION) => Kind::Reset,
            (4, VERSION) => Kind::Syn,
            _ => return None,
        };
        let mut sack = Sack::default();
        let mut extension = head[1];
        for _ in 0..MOST_EXTENSIONS {
            if extension == 0 {
                break;
            }
            let (&[next, length], after) = rest.split_first_chunk()?;
            let (body, after) = after.split_at_checked(usize::from(length))?;
            if extension == SELECTIVE_ACK && sack.is_empty() {
                // BEP 29 wants multiples of four, libtorrent sends as many bytes as it needs. What is longer is cut:
                // nobody has that much under way that we would believe.
                sack.length = body.len().min(LONGEST_SACK);
                sack.bits[..sack.length].copy_from_slice(&body[..sack.length]);
            }
            (extension, rest) = (next, after);
        }
        let header = Self {
            kind,
            connection: short(2),
            sent: long(4),
            delay: long(8),
            window: long(12),
            number: short(16),
            ack: short(18),
            sack,
        };
        (extension == 0).then_some((header, rest))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn header() -> Header {
        Header {
            kind: Kind::Data,
            connection: 0x0102,
            sent: 3,
            delay: 4,
            window: 5,
            number: 6,
            ack: 7,
            sack: Sack::default(),
        }
    }

    #[test]
    fn the_layout_is_that_of_bep_29() {
        let mut out = Vec::new();
        header().write(0, &mut out);
        assert_eq!(out, [1, 0, 1, 2, 0, 0, 0, 3, 0, 0, 0, 4, 0, 0, 0, 5, 0, 6, 0, 7]);
        let mut sack = Sack::default();
        sack.set(0);
        sack.set(9);
        sack.set(100_000);
        out.clear();
        Header { sack, ..header() }.write(0, &mut out);
        assert_eq!((out[1], &out[20..]), (1, &[0, 4, 1, 2, 0, 0][..]));
        assert_eq!(sack.iter().collect::<Vec<_>>(), [0, 9]);
    }

    #[test]
    fn a_selective_acknowledgement_may_have_any_length() {
        for length in [1, 2, 5, 32, 40] {
            let mut out = Vec::new();
            header().write(0, &mut out);
            out[1] = SELECTIVE_ACK;
            out.extend([0, length]);
            out.extend([1].repeat(length.into()));
            let (read, payload) = Header::read(&out).unwrap();
            assert!(payload.is_empty());
            assert_eq!(read.sack.iter().count(), usize::from(length).min(LONGEST_SACK));
        }
    }

    #[test]
    fn padding_is_as_long_as_asked_for_and_is_skipped() {
        for padding in [0, 2, 3, 256, 257, 258, 259, 500, 514, 515, 900] {
            for marked in [false, true] {
                let mut sack = Sack::default();
                marked.then(|| sack.set(3));
                let written = Header { sack, ..header() };
                let mut out = Vec::new();
                written.write(padding, &mut out);
                out.extend_from_slice(b"payload");
                assert_eq!(out.len(), HEADER + if marked { 6 } else { 0 } + padding + 7, "{padding}");
                assert_eq!(Header::read(&out), Some((written, &b"payload"[..])));
            }
        }
    }

    #[test]
    fn what_is_cut_off_or_endless_is_no_packet() {
        let mut out = Vec::new();
        header().write(300, &mut out);
        for length in 0..out.len() {
            assert_eq!(Header::read(&out[..length]), None, "{length}");
        }
        let mut endless = out[..HEADER].to_vec();
        endless[1] = 9;
        endless.extend([9, 0].repeat(1000));
        assert_eq!(Header::read(&endless), None);
    }
}
