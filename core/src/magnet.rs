//! Magnet links (BEP 9, BEP 53 for file selections, BEP 52 for v2) and bare info-hashes.
//!
//! [`Magnet::parse`] takes what web pages really hold: either case, base32, numbered parameters (`tr.1`), `&amp;`.
//! Parameters that mean nothing to BitTorrent are passed over. [`Magnet`] displays as a link that reads back the same.

use std::{fmt, net::Ipv6Addr, ops::RangeInclusive};

use percent_encoding::{AsciiSet, NON_ALPHANUMERIC, percent_decode_str, utf8_percent_encode};

use crate::ids::{InfoHashV1, InfoHashV2, InfoHashes};

/// Bytes of a link. Browsers cut links sooner.
pub const LONGEST_LINK: usize = 64 * 1024;
/// Ranges of files that a link may select.
pub const MOST_RANGES: usize = 1000;

/// A magnet link.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Magnet {
    /// Which torrent (`xt`).
    pub info_hashes: InfoHashes,
    /// What to call it until its metadata is there (`dn`).
    pub name: Option<String>,
    /// Its size in bytes, as the link claims (`xl`).
    pub length: Option<u64>,
    /// Trackers (`tr`), each a tier of its own.
    pub trackers: Vec<String>,
    /// Web seeds (`ws`).
    pub web_seeds: Vec<String>,
    /// Peers as HOST:PORT (`x.pe`); the port is not 0.
    pub peers: Vec<String>,
    /// The files to download (`so`), by their index in the torrent; empty means all.
    pub files: Vec<RangeInclusive<u32>>,
    /// Where the torrent file may be had (`xs`).
    pub sources: Vec<String>,
    /// Where it may be had if nothing else helps (`as`).
    pub fallback_sources: Vec<String>,
}

/// Why a link is refused. The text is for users.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum MagnetError {
    /// It does not begin with `magnet:?`.
    #[error("not a magnet link: it does not begin with `magnet:?`")]
    NotMagnet,
    /// It is longer than [`LONGEST_LINK`].
    #[error("the magnet link is longer than {LONGEST_LINK} bytes")]
    TooLong,
    /// It names no torrent.
    #[error("the magnet link has no BitTorrent info-hash (`xt=urn:btih:…` or `xt=urn:btmh:…`)")]
    NoInfoHash,
    /// Its info-hash has the wrong length or letters.
    #[error(
        "the magnet link's info-hash `{0}` is neither 40 hexadecimal digits nor 32 of base32, nor a SHA-256 multihash"
    )]
    BadInfoHash(String),
    /// It names two torrents.
    #[error("the magnet link names two different torrents")]
    TwoTorrents,
    /// Its selection of files cannot be read.
    #[error("the magnet link's selection of files (`so`) has `{0}` where a number or a range such as 2-5 should be")]
    BadSelection(String),
    /// Its selection of files has more than [`MOST_RANGES`] parts.
    #[error("the magnet link's selection of files (`so`) has more than {MOST_RANGES} parts")]
    TooManyRanges,
}

impl Magnet {
    /// A link that says nothing but which torrent.
    pub fn new(info_hashes: InfoHashes) -> Self {
        Self {
            info_hashes,
            name: None,
            length: None,
            trackers: Vec::new(),
            web_seeds: Vec::new(),
            peers: Vec::new(),
            files: Vec::new(),
            sources: Vec::new(),
            fallback_sources: Vec::new(),
        }
    }

    /// Reads a link.
    pub fn parse(link: &str) -> Result<Self, MagnetError> {
        let link = link.trim();
        if link.len() > LONGEST_LINK {
            return Err(MagnetError::TooLong);
        }
        if !is_magnet(link) {
            return Err(MagnetError::NotMagnet);
        }
        let query = link[SCHEME.len()..].trim_start_matches('?');
        let mut magnet = Self::new(InfoHashes { v1: None, v2: None });
        for (key, value) in query.split('&').filter_map(|pair| pair.split_once('=')) {
            magnet.read(&normal_key(key), value)?;
        }
        match magnet.info_hashes {
            InfoHashes { v1: None, v2: None } => Err(MagnetError::NoInfoHash),
            _ => Ok(magnet),
        }
    }

    fn read(&mut self, key: &str, value: &str) -> Result<(), MagnetError> {
        match key {
            "xt" => self.read_topic(&decode(value))?,
            // Web pages write blanks of names as `+`, as forms do.
            "dn" if self.name.is_none() => {
                self.name = Some(decode(&value.replace('+', " "))).filter(|name| !name.is_empty());
            }
            "xl" => self.length = self.length.or(decode(value).parse().ok()),
            "tr" => add_url(&mut self.trackers, value),
            "ws" => add_url(&mut self.web_seeds, value),
            "xs" => add_url(&mut self.sources, value),
            "as" => add_url(&mut self.fallback_sources, value),
            "x.pe" if is_host_and_port(&decode(value)) => add_url(&mut self.peers, value),
            "so" => self.read_selection(&decode(value))?,
            _ => {}
        }
        Ok(())
    }

    fn read_topic(&mut self, topic: &str) -> Result<(), MagnetError> {
        let lower = topic.to_ascii_lowercase();
        let Some(text) = lower.strip_prefix("urn:btih:").or_else(|| lower.strip_prefix("urn:btmh:")) else {
            return Ok(());
        };
        let found = parse_info_hash(text).ok_or_else(|| MagnetError::BadInfoHash(text.to_owned()))?;
        let known = &mut self.info_hashes;
        if differ(known.v1, found.v1) || differ(known.v2, found.v2) {
            return Err(MagnetError::TwoTorrents);
        }
        known.v1 = known.v1.or(found.v1);
        known.v2 = known.v2.or(found.v2);
        Ok(())
    }

    fn read_selection(&mut self, selection: &str) -> Result<(), MagnetError> {
        for part in selection.split(',').filter(|part| !part.is_empty()) {
            let (first, last) = part.split_once('-').unwrap_or((part, part));
            let range = match (number(first), number(last)) {
                (Some(first), Some(last)) if first <= last => first..=last,
                _ => return Err(MagnetError::BadSelection(part.to_owned())),
            };
            if self.files.len() == MOST_RANGES {
                return Err(MagnetError::TooManyRanges);
            }
            self.files.push(range);
        }
        Ok(())
    }

    /// Is the file of this index to be downloaded?
    pub fn selects(&self, file: u32) -> bool {
        self.files.is_empty() || self.files.iter().any(|range| range.contains(&file))
    }
}

fn differ<T: PartialEq>(known: Option<T>, found: Option<T>) -> bool {
    matches!((known, found), (Some(known), Some(found)) if known != found)
}

const SCHEME: &str = "magnet:?";

/// Does this text mean to be a magnet link?
pub fn is_magnet(text: &str) -> bool {
    text.get(..SCHEME.len()).is_some_and(|start| start.eq_ignore_ascii_case(SCHEME))
}

/// Reads a bare info-hash: 40 hexadecimal digits or 32 of base32 (v1), 64 hexadecimal digits with or without the
/// `1220` of a multihash in front (v2).
pub fn parse_info_hash(text: &str) -> Option<InfoHashes> {
    let v1 = match text.len() {
        40 => InfoHashV1::from_hex(text),
        32 => InfoHashV1::from_base32(text),
        _ => None,
    };
    let v2 = match text.len() {
        64 => InfoHashV2::from_hex(text),
        68 => text.strip_prefix("1220").and_then(InfoHashV2::from_hex),
        _ => None,
    };
    (v1.is_some() || v2.is_some()).then_some(InfoHashes { v1, v2 })
}

/// `TR.1` and `amp;tr` are `tr`.
fn normal_key(key: &str) -> String {
    let key = key.to_ascii_lowercase();
    let key = key.strip_prefix("amp;").unwrap_or(&key);
    match key.rsplit_once('.') {
        Some((name, number)) if !number.is_empty() && number.bytes().all(|b| b.is_ascii_digit()) => name.to_owned(),
        _ => key.to_owned(),
    }
}

fn decode(value: &str) -> String {
    percent_decode_str(value).decode_utf8_lossy().into_owned()
}

fn add_url(urls: &mut Vec<String>, value: &str) {
    let url = decode(value).trim().to_owned();
    if !url.is_empty() && !url.contains(char::is_control) && !urls.contains(&url) {
        urls.push(url);
    }
}

fn number(text: &str) -> Option<u32> {
    text.bytes().all(|b| b.is_ascii_digit()).then(|| text.parse().ok())?
}

/// NAME:PORT, 1.2.3.4:PORT or [v6]:PORT.
fn is_host_and_port(text: &str) -> bool {
    let Some((host, port)) = text.rsplit_once(':') else { return false };
    let host_is_fine = match host.strip_prefix('[').and_then(|rest| rest.strip_suffix(']')) {
        Some(v6) => v6.parse::<Ipv6Addr>().is_ok(),
        None => !host.is_empty() && !host.contains(|c: char| c == ':' || c.is_whitespace() || c.is_control()),
    };
    host_is_fine && port.parse::<u16>().is_ok_and(|port| port != 0)
}

/// What must be escaped in a value. Colons and brackets need not be, and some clients do not decode `x.pe`.
const ESCAPED: &AsciiSet =
    &NON_ALPHANUMERIC.remove(b'-').remove(b'.').remove(b'_').remove(b'~').remove(b':').remove(b'[').remove(b']');

impl fmt::Display for Magnet {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut between = SCHEME;
        let mut put = |key: &str, value: &str| {
            write!(f, "{between}{key}={value}")?;
            between = "&";
            fmt::Result::Ok(())
        };
        if let Some(v1) = self.info_hashes.v1 {
            put("xt", &format!("urn:btih:{v1}"))?;
        }
        if let Some(v2) = self.info_hashes.v2 {
            put("xt", &format!("urn:btmh:1220{v2}"))?;
        }
        for (key, values) in [
            ("dn", self.name.as_slice()),
            ("tr", &self.trackers),
            ("ws", &self.web_seeds),
            ("xs", &self.sources),
            ("as", &self.fallback_sources),
            ("x.pe", &self.peers),
        ] {
            for value in values {
                put(key, &utf8_percent_encode(value, ESCAPED).to_string())?;
            }
        }
        if let Some(length) = self.length {
            put("xl", &length.to_string())?;
        }
        if !self.files.is_empty() {
            let part = |range: &RangeInclusive<u32>| match (range.start(), range.end()) {
                (first, last) if first == last => first.to_string(),
                (first, last) => format!("{first}-{last}"),
            };
            put("so", &self.files.iter().map(part).collect::<Vec<_>>().join(","))?;
        }
        Ok(())
    }
}

impl std::str::FromStr for Magnet {
    type Err = MagnetError;

    fn from_str(link: &str) -> Result<Self, MagnetError> {
        Self::parse(link)
    }
}

#[cfg(test)]
mod tests {
    use data_encoding::BASE32;
    use proptest::prelude::*;

    use super::*;

    const HEX: &str = "0123456789abcdef0123456789abcdef01234567";

    fn v1() -> InfoHashV1 {
        InfoHashV1::from_hex(HEX).unwrap()
    }
    fn parse(rest: &str) -> Result<Magnet, MagnetError> {
        Magnet::parse(&format!("magnet:?xt=urn:btih:{HEX}{rest}"))
    }

    #[test]
    fn everything_a_link_can_say() {
        let v2 = "ab".repeat(32);
        let magnet = parse(&format!(
            "&xt=urn:btmh:1220{v2}&xt=urn:ed2k:whatever&dn=My+file%20%c3%bc&xl=12345&tr=http%3A%2F%2Ft%2Fannounce%3Fa%3D1%262\
             &tr.1=udp://u:1&TR.22=udp://u:1&ws=http://w/&x.pe=1.2.3.4:5&x.pe=[2001:db8::1]:6881&x.pe=host.example:7\
             &so=0,2-5,7&xs=http://x/a.torrent&as=http://y&unknown=1&novalue&=&x.pe=nonsense&x.pe=h:0&x.pe=:5"
        ))
        .unwrap();
        assert_eq!(magnet.info_hashes, InfoHashes { v1: Some(v1()), v2: InfoHashV2::from_hex(&v2) });
        assert_eq!(magnet.name.as_deref(), Some("My file ü"));
        assert_eq!(magnet.length, Some(12345));
        assert_eq!(magnet.trackers, ["http://t/announce?a=1&2", "udp://u:1"]);
        assert_eq!(magnet.web_seeds, ["http://w/"]);
        assert_eq!(magnet.peers, ["1.2.3.4:5", "[2001:db8::1]:6881", "host.example:7"]);
        assert_eq!(magnet.files, [0..=0, 2..=5, 7..=7]);
        assert_eq!((magnet.sources.len(), magnet.fallback_sources.len()), (1, 1));
        assert!(magnet.selects(4) && !magnet.selects(6) && Magnet::new(InfoHashes::v1(v1())).selects(6));
        assert_eq!(Magnet::parse(&magnet.to_string()), Ok(magnet));
    }

    #[test]
    fn hashes_in_every_form() {
        let base32 = BASE32.encode(&v1().0);
        for text in [HEX.to_owned(), HEX.to_uppercase(), base32.clone(), base32.to_lowercase()] {
            assert_eq!(parse_info_hash(&text), Some(InfoHashes::v1(v1())), "{text}");
            let link = format!(" MAGNET:?dn=x&amp;xt.1=urn%3Abtih%3A{text}\n");
            assert_eq!(Magnet::parse(&link).unwrap().info_hashes, InfoHashes::v1(v1()), "{link}");
        }
        let v2 = "0f".repeat(32);
        for text in [v2.clone(), format!("1220{v2}")] {
            assert_eq!(parse_info_hash(&text), Some(InfoHashes { v1: None, v2: InfoHashV2::from_hex(&v2) }));
        }
        for bad in ["", "xyz", &HEX[1..], &format!("1221{v2}"), "é".repeat(20).as_str(), &"1".repeat(32)] {
            assert_eq!(parse_info_hash(bad), None, "{bad}");
        }
    }

    #[test]
    fn refusals_say_why() {
        use MagnetError::*;
        assert_eq!(Magnet::parse("http://x"), Err(NotMagnet));
        assert_eq!(Magnet::parse("magné"), Err(NotMagnet));
        assert_eq!(Magnet::parse("magnet:?dn=x"), Err(NoInfoHash));
        assert_eq!(Magnet::parse("magnet:?xt=urn:btih:abc"), Err(BadInfoHash("abc".into())));
        assert_eq!(parse(&format!("&xt=urn:btih:{}", "00".repeat(20))), Err(TwoTorrents));
        assert_eq!(parse("&so=5-2"), Err(BadSelection("5-2".into())));
        assert_eq!(parse("&so=1,+2"), Err(BadSelection("+2".into())));
        assert_eq!(parse("&so=-"), Err(BadSelection("-".into())));
        assert_eq!(parse(&format!("&so={}", "1,".repeat(MOST_RANGES + 1))), Err(TooManyRanges));
        assert_eq!(parse(&"&tr=x".repeat(LONGEST_LINK / 5)), Err(TooLong));
        assert_eq!(parse("&so=0-4294967295").unwrap().files, [0..=u32::MAX]);
        assert_eq!(parse("&xl=-1").unwrap().length, None);
    }

    proptest! {
        #[test]
        fn arbitrary_links_never_panic_and_read_back_the_same(
            link in "magnet:\\?xt=urn:btih:[0-9a-f]{40}(&(dn|tr|ws|xs|as|x\\.pe|so|xl|tr\\.[0-9]|[a-z.]{0,3})=(\\PC{0,12}|[0-9,-]{0,6}|[a-z]{1,3}:[0-9]{1,3}|(%[0-9a-f]{2}){0,4})){0,6}"
        ) {
            if let Ok(magnet) = Magnet::parse(&link) {
                prop_assert_eq!(Magnet::parse(&magnet.to_string()), Ok(magnet));
            }
        }

        #[test]
        fn arbitrary_text_never_panics(text in "\\PC{0,60}", cut in any::<prop::sample::Index>()) {
            let _ = (Magnet::parse(&text), parse_info_hash(&text), Magnet::parse(&format!("magnet:?{text}")));
            let link = format!("magnet:?xt=urn:btih:{HEX}&dn=ü");
            let cut = link.floor_char_boundary(cut.index(link.len()));
            let _ = Magnet::parse(&link[..cut]);
        }
    }
}
