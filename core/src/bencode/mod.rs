//! Bencode from strangers (BEP 3): one pass checks a whole document, then values are borrowed spans of it.
//!
//! [`scan`] is lenient where real files and trackers are sloppy (keys out of order, a trailing newline) and says so in
//! [`Scanned::oddities`]; it is strict about lengths, depth and number of values. It does not recurse and allocates
//! nothing unless there is an oddity to report. Values know their exact bytes ([`Value::raw`]), which is what an
//! info-hash is made of. Everything that Castanet itself writes is encoded by the `bendy` crate.

mod scan;

use std::fmt;

pub use scan::{scan, scan_prefix};

/// Nesting that no document may exceed, whatever its [`Limits`] say.
pub const DEEPEST: usize = 100;
/// Oddities that are remembered; the rest is only counted.
pub const MOST_ODDITIES: usize = 16;

/// How much of a document is looked at before it is refused.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Limits {
    /// Lists and dictionaries within one another, at most [`DEEPEST`].
    pub depth: usize,
    /// Values, keys included.
    pub items: usize,
    /// Bytes in all.
    pub size: usize,
}

impl Limits {
    /// For .torrent files. Room for three million pieces in 64 MiB and for half a million files.
    pub const TORRENT: Self = Self { depth: DEEPEST, items: 4_000_000, size: 64 << 20 };
    /// For messages of peers, DHT nodes and trackers. Room for 20,000 peers in the long form.
    pub const MESSAGE: Self = Self { depth: 32, items: 200_000, size: 2 << 20 };
}

impl Default for Limits {
    fn default() -> Self {
        Self::TORRENT
    }
}

/// A document that is well formed from beginning to end.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Scanned<'a> {
    /// The outermost value.
    pub root: Value<'a>,
    /// What was forgiven, in order of appearance; at most [`MOST_ODDITIES`].
    pub oddities: Vec<Oddity>,
}

/// Something that the standard forbids and that was accepted.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Oddity {
    /// What it is.
    pub kind: OddityKind,
    /// At which byte of the document.
    pub offset: usize,
}

/// The departures from the standard that are accepted.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum OddityKind {
    /// A key that sorts before the one in front of it.
    UnorderedKey,
    /// The same key as the one in front of it; the first counts.
    DuplicateKey,
    /// An integer or length with leading zeros, or minus zero.
    LeadingZero,
    /// Spaces or line ends after the document.
    TrailingSpace,
    /// Other bytes after the document.
    TrailingBytes,
}

impl fmt::Display for Oddity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let what = match self.kind {
            OddityKind::UnorderedKey => "a dictionary key out of order",
            OddityKind::DuplicateKey => "a dictionary key twice (the first counts)",
            OddityKind::LeadingZero => "a number with a leading zero",
            OddityKind::TrailingSpace => "blanks after the end",
            OddityKind::TrailingBytes => "unknown bytes after the end",
        };
        write!(f, "{what} (at byte {})", self.offset)
    }
}

/// Why a document is refused.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("{problem} (at byte {offset})")]
pub struct BencodeError {
    /// What is wrong.
    pub problem: Problem,
    /// At which byte of the document.
    pub offset: usize,
}

/// What can be wrong with a document.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum Problem {
    /// It ends within a value.
    #[error("the data ends too early")]
    Truncated,
    /// A byte that begins no value.
    #[error("unexpected byte {0:#04x}")]
    UnexpectedByte(u8),
    /// An integer without digits, or with something else among them.
    #[error("malformed integer")]
    BadInteger,
    /// A string's length that is no number, or too large for any machine.
    #[error("malformed string length")]
    BadLength,
    /// A dictionary key that is not a string.
    #[error("a dictionary key is not a string")]
    KeyNotString,
    /// A dictionary that ends after a key.
    #[error("a dictionary key without a value")]
    MissingValue,
    /// More nesting than allowed.
    #[error("nested deeper than {0} levels")]
    TooDeep(usize),
    /// More values than allowed.
    #[error("more than {0} values")]
    TooMany(usize),
    /// More bytes than allowed.
    #[error("larger than {0} bytes")]
    TooLarge(usize),
}

/// A value: a span of a document that [`scan`] has checked.
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct Value<'a> {
    raw: &'a [u8],
}

impl<'a> Value<'a> {
    /// The value's exact bytes in the document.
    pub fn raw(self) -> &'a [u8] {
        self.raw
    }
    /// The integer; `None` if this is something else or does not fit.
    pub fn as_int(self) -> Option<i64> {
        std::str::from_utf8(self.digits()?).ok()?.parse().ok()
    }
    /// The text of an integer of any size, sign included.
    pub fn digits(self) -> Option<&'a [u8]> {
        self.raw.strip_prefix(b"i")?.strip_suffix(b"e")
    }
    /// The bytes of a string.
    pub fn as_bytes(self) -> Option<&'a [u8]> {
        self.raw[0].is_ascii_digit().then(|| scan::string_of(self.raw))
    }
    /// The text of a string that is valid UTF-8.
    pub fn as_str(self) -> Option<&'a str> {
        std::str::from_utf8(self.as_bytes()?).ok()
    }
    /// The values of a list.
    pub fn as_list(self) -> Option<List<'a>> {
        self.raw.strip_prefix(b"l").map(|rest| List { rest })
    }
    /// The dictionary.
    pub fn as_dict(self) -> Option<Dict<'a>> {
        self.raw.strip_prefix(b"d").map(|rest| Dict { rest })
    }
}

impl fmt::Debug for Value<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let shown = &self.raw[..self.raw.len().min(80)];
        write!(f, "Value({}{})", shown.escape_ascii(), if shown.len() < self.raw.len() { "…" } else { "" })
    }
}

/// The values of a list, one after another.
#[derive(Debug, Clone, Copy)]
pub struct List<'a> {
    rest: &'a [u8],
}

impl<'a> Iterator for List<'a> {
    type Item = Value<'a>;

    fn next(&mut self) -> Option<Value<'a>> {
        scan::take_value(&mut self.rest)
    }
}

/// A dictionary: the pairs of key and value, one after another. Looking a key up walks over those before it.
#[derive(Debug, Clone, Copy)]
pub struct Dict<'a> {
    rest: &'a [u8],
}

impl<'a> Dict<'a> {
    /// The value of a key; the first if there are several.
    pub fn get(self, key: impl AsRef<[u8]>) -> Option<Value<'a>> {
        let key = key.as_ref();
        { self }.find(|(other, _)| *other == key).map(|(_, value)| value)
    }
    /// The integer under a key.
    pub fn int(self, key: impl AsRef<[u8]>) -> Option<i64> {
        self.get(key)?.as_int()
    }
    /// The string under a key.
    pub fn bytes(self, key: impl AsRef<[u8]>) -> Option<&'a [u8]> {
        self.get(key)?.as_bytes()
    }
    /// The string under a key if it is valid UTF-8.
    pub fn str(self, key: impl AsRef<[u8]>) -> Option<&'a str> {
        self.get(key)?.as_str()
    }
    /// The list under a key.
    pub fn list(self, key: impl AsRef<[u8]>) -> Option<List<'a>> {
        self.get(key)?.as_list()
    }
    /// The dictionary under a key.
    pub fn dict(self, key: impl AsRef<[u8]>) -> Option<Dict<'a>> {
        self.get(key)?.as_dict()
    }
}

impl<'a> Iterator for Dict<'a> {
    type Item = (&'a [u8], Value<'a>);

    fn next(&mut self) -> Option<Self::Item> {
        let key = scan::take_value(&mut self.rest)?.as_bytes()?;
        Some((key, scan::take_value(&mut self.rest)?))
    }
}

#[cfg(test)]
mod tests;
