//! The HTTP tracker protocol: the query of an announce or a scrape (BEP 48), and the bencoded answer to it (BEP 3).
//!
//! Compact peers (BEP 23) of both families (BEP 7), our address as the tracker sees it (BEP 24), and when to come back
//! after a refusal (BEP 31). Carrying them over a connection is the plugin's work.

use std::{
    fmt::Write,
    net::{IpAddr, Ipv6Addr, SocketAddr},
    time::Duration,
};

use castanet_core::{
    addr::{canonical, is_dialable, parse_compact_v4, parse_compact_v6},
    bencode::{Dict, Limits, Value, scan},
    ids::PeerId,
    seams::discovery::SwarmSize,
};

use super::{Announce, Answer, AnswerError, Event, LONGEST_TRACKER_ID, MOST_PEERS, Retry, larger, plain};

/// The largest body that is read, before and after decompression.
pub const LARGEST_BODY: usize = 2 << 20;

/// The query of an announce, to be put behind the `?` or `&` of the tracker's URL. `tracker_id` is what the tracker
/// gave us last time.
pub fn query(announce: &Announce, tracker_id: Option<&[u8]>) -> String {
    let mut out = String::with_capacity(320);
    out.push_str("info_hash=");
    escape(&announce.info_hash, &mut out);
    out.push_str("&peer_id=");
    escape(&announce.peer_id.0, &mut out);
    // Writing to a String does not fail.
    let _ = write!(
        out,
        "&port={}&uploaded={}&downloaded={}&left={}&compact=1&no_peer_id=1&numwant={}&key={:08x}",
        announce.port, announce.uploaded, announce.downloaded, announce.left, announce.wanted, announce.key
    );
    out.push_str(match announce.event {
        Event::Regular => "",
        Event::Started => "&event=started",
        Event::Completed => "&event=completed",
        Event::Stopped => "&event=stopped",
    });
    if let Some(id) = tracker_id {
        out.push_str("&trackerid=");
        escape(id, &mut out);
    }
    out
}

/// Percent-encodes all but the unreserved characters (RFC 3986).
pub fn escape(bytes: &[u8], out: &mut String) {
    for byte in bytes {
        if byte.is_ascii_alphanumeric() || b"-._~".contains(byte) {
            out.push(char::from(*byte));
        } else {
            let _ = write!(out, "%{byte:02X}");
        }
    }
}

/// Reads the body of an answer.
pub fn parse_answer(body: &[u8]) -> Result<Answer, AnswerError> {
    let answer = dictionary(body)?;
    let seconds = |key| answer.int(key).and_then(|n| u64::try_from(n).ok()).map(Duration::from_secs);
    Ok(Answer {
        interval: seconds("interval"),
        min_interval: seconds("min interval"),
        seeds: count(answer, "complete"),
        leeches: count(answer, "incomplete"),
        peers: peers(answer),
        external: answer.bytes("external ip").and_then(address),
        warning: answer.bytes("warning message").map(plain),
        tracker_id: answer.bytes("tracker id").filter(|id| id.len() <= LONGEST_TRACKER_ID).map(<[u8]>::to_vec),
    })
}

/// The path at which the numbers are had (BEP 48): `announce` at the beginning of the last part of the path becomes
/// `scrape`. `None` if the URL does not follow this convention, and the tracker cannot be asked.
pub fn scrape_path(path: &str) -> Option<String> {
    let (folder, file) = path.rsplit_once('/')?;
    Some(format!("{folder}/scrape{}", file.strip_prefix("announce")?))
}

/// The query of a scrape for the names of one torrent, to be put behind the `?` or `&` of the URL.
pub fn scrape_query(names: &[[u8; 20]]) -> String {
    let mut out = String::new();
    for name in names {
        out.push_str(if out.is_empty() { "info_hash=" } else { "&info_hash=" });
        escape(name, &mut out);
    }
    out
}

/// Reads the body of an answer to a scrape: the numbers of the torrent with these names, if the tracker has any.
///
/// # Errors
/// If the tracker refuses, or the answer is none.
pub fn parse_scrape(body: &[u8], names: &[[u8; 20]]) -> Result<Option<SwarmSize>, AnswerError> {
    let files = dictionary(body)?.dict("files");
    let sizes = names.iter().filter_map(|name| files?.dict(name)).map(|numbers| SwarmSize {
        seeds: count(numbers, "complete").unwrap_or(0),
        leeches: count(numbers, "incomplete").unwrap_or(0),
        completed: count(numbers, "downloaded"),
    });
    Ok(sizes.reduce(larger))
}

/// An answer that is no refusal.
fn dictionary(body: &[u8]) -> Result<Dict<'_>, AnswerError> {
    let document = scan(body, Limits { size: LARGEST_BODY, ..Limits::MESSAGE });
    let document = document.map_err(|error| AnswerError::Malformed(format!("not a tracker's answer: {error}")))?;
    let Some(answer) = document.root.as_dict() else {
        return Err(AnswerError::Malformed("not a tracker's answer: no dictionary".to_owned()));
    };
    if let Some(reason) = answer.get("failure reason") {
        let message = plain(reason.as_bytes().unwrap_or(b"no reason given"));
        return Err(AnswerError::Refused { message, retry: retry(answer) });
    }
    Ok(answer)
}

fn count(numbers: Dict<'_>, key: &str) -> Option<u32> {
    numbers.int(key).and_then(|n| u32::try_from(n).ok())
}

/// `retry in` (BEP 31): minutes, or `never`.
fn retry(answer: Dict<'_>) -> Retry {
    match answer.get("retry in") {
        Some(value) if value.as_bytes() == Some(b"never") => Retry::Never,
        Some(value) => match value.as_int().and_then(|minutes| u64::try_from(minutes).ok()) {
            Some(minutes) => Retry::After(Duration::from_secs(minutes.saturating_mul(60))),
            None => Retry::Usual,
        },
        None => Retry::Usual,
    }
}

fn peers(answer: Dict<'_>) -> Vec<(SocketAddr, Option<PeerId>)> {
    let long = |key| answer.list(key).into_iter().flatten().filter_map(long_peer);
    let v4 = answer.bytes("peers").unwrap_or_default();
    let v6 = answer.bytes("peers6").unwrap_or_default();
    let compact = parse_compact_v6(v6).chain(parse_compact_v4(v4)).map(|peer| (peer, None));
    let all = long("peers").chain(long("peers6")).chain(compact);
    all.filter(|(peer, _)| is_dialable(*peer)).take(MOST_PEERS).collect()
}

/// A peer in the long form. A host name in place of an address is allowed by BEP 3, unused in practice, and ignored:
/// a stranger does not get to make us look up names.
fn long_peer(value: Value<'_>) -> Option<(SocketAddr, Option<PeerId>)> {
    let peer = value.as_dict()?;
    let ip: IpAddr = peer.str("ip")?.parse().ok()?;
    let port = u16::try_from(peer.int("port")?).ok()?;
    let id = peer.bytes("peer id").and_then(|id| id.try_into().ok()).map(PeerId);
    Some((canonical(SocketAddr::new(ip, port)), id))
}

/// An address of 4 or 16 bytes (BEP 24), or in text, as some trackers send it.
fn address(bytes: &[u8]) -> Option<IpAddr> {
    if let Ok(v4) = <[u8; 4]>::try_from(bytes) {
        return Some(v4.into());
    }
    if let Ok(v6) = <[u8; 16]>::try_from(bytes) {
        return Some(IpAddr::from(Ipv6Addr::from(v6)).to_canonical());
    }
    std::str::from_utf8(bytes).ok()?.parse().ok()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn refusal(body: &[u8]) -> String {
        parse_answer(body).unwrap_err().to_string()
    }
    fn addrs(body: &[u8]) -> Vec<String> {
        parse_answer(body).unwrap().peers.iter().map(|(peer, _)| peer.to_string()).collect()
    }

    #[test]
    fn a_query_carries_raw_bytes_and_everything_else() {
        let mut info_hash = [0; 20];
        info_hash[..6].copy_from_slice(b"\x00 a~&\xff");
        let mut announce = Announce {
            info_hash,
            peer_id: PeerId(*b"-Cn0100-abcdefghijkl"),
            port: 6881,
            key: 0xbeef,
            uploaded: 1,
            downloaded: 2,
            left: 3,
            wanted: 50,
            event: Event::Started,
        };
        let text = query(&announce, Some(b"a=b"));
        let zeros = "%00".repeat(14);
        assert_eq!(
            text,
            format!(
                "info_hash=%00%20a~%26%FF{zeros}&peer_id=-Cn0100-abcdefghijkl&port=6881&uploaded=1&downloaded=2&left=3\
                 &compact=1&no_peer_id=1&numwant=50&key=0000beef&event=started&trackerid=a%3Db"
            )
        );
        announce.event = Event::Regular;
        assert!(!query(&announce, None).contains("event"));
    }

    #[test]
    fn a_full_answer() {
        let body =
            b"d8:completei3e11:external ip4:\x01\x02\x03\x0410:incompletei4e8:intervali1800e12:min intervali900e\
            5:peers12:\x0a\x00\x00\x01\x1a\xe1\x0a\x00\x00\x02\x00\x006:peers618:\x20\x01\x0d\xb8\0\0\0\0\0\0\0\0\0\0\0\
            \x01\x1a\xe110:tracker id2:ab15:warning message2:hme";
        let answer = parse_answer(body).unwrap();
        assert_eq!(answer.interval, Some(Duration::from_secs(1800)));
        assert_eq!(answer.min_interval, Some(Duration::from_secs(900)));
        assert_eq!((answer.seeds, answer.leeches), (Some(3), Some(4)));
        assert_eq!(answer.external, Some("1.2.3.4".parse().unwrap()));
        assert_eq!((answer.warning.as_deref(), answer.tracker_id.as_deref()), (Some("hm"), Some(&b"ab"[..])));
        assert_eq!(addrs(body), ["[2001:db8::1]:6881", "10.0.0.1:6881"], "port 0 is no peer");
    }

    #[test]
    fn peers_in_the_long_form() {
        let body = b"d5:peersld2:ip8:10.0.0.17:peer id20:aaaaaaaaaaaaaaaaaaaa4:porti80eed2:ip3:::14:porti81ee\
            d2:ip11:example.com4:porti80eed2:ip8:10.0.0.14:porti99999ee3:oddd2:ipi5eeee";
        let answer = parse_answer(body).unwrap();
        let id = Some(PeerId([b'a'; 20]));
        assert_eq!(answer.peers, [("10.0.0.1:80".parse().unwrap(), id), ("[::1]:81".parse().unwrap(), None)]);
    }

    #[test]
    fn refusals_say_why_and_until_when() {
        assert_eq!(refusal(b"d14:failure reason3:\x07noe"), "\\u{7}no");
        for (body, meant) in [
            (&b"d14:failure reason1:x8:retry in5:nevere"[..], Retry::Never),
            (b"d14:failure reason1:x8:retry ini3ee", Retry::After(Duration::from_secs(180))),
            (b"d14:failure reason1:x8:retry ini-3ee", Retry::Usual),
            (b"d14:failure reasoni4e8:retry inlee", Retry::Usual),
        ] {
            let error = parse_answer(body).unwrap_err();
            assert!(matches!(error, AnswerError::Refused { retry, .. } if retry == meant), "{error:?}");
        }
    }

    #[test]
    fn nonsense_is_no_answer() {
        for body in [&b""[..], b"<html>", b"i5e", b"le", b"d8:interval", b"d5:peers99999999:abce"] {
            assert!(refusal(body).starts_with("not a tracker's answer"), "{body:?}");
        }
        assert!(refusal(&[b'l'; 100_000]).contains("nested"));
        assert!(refusal(&vec![b'1'; LARGEST_BODY + 1]).contains("larger"));
        // Fields that are lies do not spoil the rest.
        let answer = parse_answer(b"d8:completei-1e8:intervali-9e5:peersi6e6:peers65:abcde10:tracker idlee").unwrap();
        assert_eq!(answer, Answer::default());
        assert_eq!(addrs(b"d5:peers7:\x0a\x00\x00\x01\x1a\xe1\x0ae\n"), ["10.0.0.1:6881"]);
    }

    #[test]
    fn scrapes_follow_the_convention() {
        for (announce, scrape) in [
            ("/announce", Some("/scrape")),
            ("/x/announce", Some("/x/scrape")),
            ("/announce.php", Some("/scrape.php")),
            ("/a", None),
            ("/announce/x", None),
            ("/xannounce", None),
            ("", None),
        ] {
            assert_eq!(scrape_path(announce).as_deref(), scrape, "{announce}");
        }
        let names = [[b'x'; 20], [b'y'; 20]];
        assert_eq!(scrape_query(&names), format!("info_hash={}&info_hash={}", "x".repeat(20), "y".repeat(20)));
        // The example of BEP 48.
        let body = b"d5:filesd20:xxxxxxxxxxxxxxxxxxxxd8:completei11e10:downloadedi13772e10:incompletei19ee\
            20:yyyyyyyyyyyyyyyyyyyyd8:completei21e10:downloadedi206e10:incompletei20eeee";
        let size = |seeds, leeches, completed| SwarmSize { seeds, leeches, completed };
        assert_eq!(parse_scrape(body, &names[..1]), Ok(Some(size(11, 19, Some(13_772)))));
        assert_eq!(parse_scrape(body, &names), Ok(Some(size(21, 20, Some(13_772)))), "a hybrid: the larger ones");
        assert_eq!(parse_scrape(body, &[[b'z'; 20]]), Ok(None));
        let lies = b"d5:filesd20:xxxxxxxxxxxxxxxxxxxxd8:completei-1e10:incompletei99999999999eeee";
        assert_eq!(parse_scrape(lies, &names), Ok(Some(size(0, 0, None))));
        assert_eq!(parse_scrape(b"d5:filesle0:i5ee", &names), Ok(None));
        assert!(parse_scrape(b"<html>", &names).is_err());
        let refused = parse_scrape(b"d14:failure reason2:noe", &names);
        assert!(matches!(refused, Err(AnswerError::Refused { .. })), "{refused:?}");
    }

    #[test]
    fn a_flood_of_peers_is_cut() {
        let mut body = b"d5:peers600000:".to_vec();
        body.extend(std::iter::repeat_n([10, 0, 0, 1, 1, 1], 100_000).flatten());
        body.push(b'e');
        assert_eq!(parse_answer(&body).unwrap().peers.len(), MOST_PEERS);
    }

    proptest! {
        #[test]
        fn noise_never_panics(body in prop::collection::vec(prop_oneof![
            any::<u8>(), Just(b'd'), Just(b'l'), Just(b'i'), Just(b'e'), Just(b':'), b'0'..=b'9'], 0..80)) {
            let _ = parse_answer(&body);
            let _ = parse_scrape(&body, &[[b'0'; 20]]);
            let mut wrapped = b"d5:peers".to_vec();
            wrapped.extend(body);
            wrapped.push(b'e');
            let _ = parse_answer(&wrapped);
        }
    }
}
