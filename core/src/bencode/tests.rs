use bendy::decoding::Object;
use proptest::prelude::*;

use super::{Value, *};

fn root(text: &[u8]) -> Value<'_> {
    scan(text, Limits::TORRENT).unwrap().root
}
fn problem(text: &[u8]) -> (Problem, usize) {
    let error = scan(text, Limits::TORRENT).unwrap_err();
    (error.problem, error.offset)
}
fn oddities(text: &[u8]) -> Vec<(OddityKind, usize)> {
    scan(text, Limits::TORRENT).unwrap().oddities.iter().map(|o| (o.kind, o.offset)).collect()
}

#[test]
fn values_know_their_bytes() {
    let dict = root(b"d4:infod1:ai1ee4:listl1:x0:i-7eli3eeee").as_dict().unwrap();
    assert_eq!(dict.get("info").unwrap().raw(), b"d1:ai1ee");
    assert_eq!(dict.dict("info").unwrap().int("a"), Some(1));
    let list: Vec<_> = dict.list("list").unwrap().collect();
    assert_eq!(list.len(), 4);
    assert_eq!((list[0].as_str(), list[1].as_bytes(), list[2].as_int()), (Some("x"), Some(&b""[..]), Some(-7)));
    assert_eq!(list[3].raw(), b"li3ee");
    assert_eq!(list[3].as_int(), None);
    assert!(dict.get("nothing").is_none() && dict.int("info").is_none());
    assert_eq!(root(b"3:i1e").as_int(), None);
}

#[test]
fn departures_are_forgiven_and_reported() {
    use OddityKind::*;
    assert_eq!(oddities(b"d1:a0:1:b0:e"), []);
    assert_eq!(oddities(b"d1:b0:1:a0:e"), [(UnorderedKey, 6)]);
    assert_eq!(oddities(b"d1:a1:x1:a1:ye"), [(DuplicateKey, 7)]);
    assert_eq!(root(b"d1:a1:x1:a1:ye").as_dict().unwrap().str("a"), Some("x"), "the first counts");
    assert_eq!(oddities(b"le\r\n"), [(TrailingSpace, 2)]);
    assert_eq!(oddities(b"leX"), [(TrailingBytes, 2)]);
    assert_eq!(oddities(b"li007ei-0ei0e01:ae"), [(LeadingZero, 1), (LeadingZero, 6), (LeadingZero, 13)]);
    assert_eq!(root(b"i007e").as_int(), Some(7));
    assert_eq!(oddities(&[b"l", &b"01:a".repeat(100)[..], b"e"].concat()).len(), MOST_ODDITIES);
    let (scanned, rest) = scan_prefix(b"d1:a0:ePAYLOAD", Limits::MESSAGE).unwrap();
    assert!(scanned.oddities.is_empty());
    assert_eq!(rest, b"PAYLOAD");
}

#[test]
fn errors_say_what_and_where() {
    use Problem::*;
    assert_eq!(problem(b""), (Truncated, 0));
    assert_eq!(problem(b"l1:a"), (Truncated, 4));
    assert_eq!(problem(b"l5:abc"), (Truncated, 1));
    assert_eq!(problem(b"i12"), (Truncated, 0));
    assert_eq!(problem(b"12"), (Truncated, 0));
    assert_eq!(problem(b"<html>"), (UnexpectedByte(b'<'), 0));
    assert_eq!(problem(b"e"), (UnexpectedByte(b'e'), 0));
    assert_eq!(problem(b"lie"), (BadInteger, 1));
    assert_eq!(problem(b"i-e"), (BadInteger, 0));
    assert_eq!(problem(b"i1-2e"), (BadInteger, 0));
    assert_eq!(problem(b"1x:a"), (BadLength, 0));
    assert_eq!(problem(b"99999999999999999999999:a"), (BadLength, 0));
    assert_eq!(problem(b"18446744073709551615:a"), (Truncated, 0));
    assert_eq!(problem(b"di1e0:e"), (KeyNotString, 1));
    assert_eq!(problem(b"d1:ae"), (MissingValue, 4));
    assert_eq!(scan(b"le", Limits { size: 1, ..Limits::TORRENT }).unwrap_err().problem, TooLarge(1));
    assert_eq!(scan(b"li1ei2ee", Limits { items: 2, ..Limits::TORRENT }).unwrap_err().problem, TooMany(2));
    assert_eq!(scan(b"<", Limits::TORRENT).unwrap_err().to_string(), "unexpected byte 0x3c (at byte 0)");
}

#[test]
fn depth_is_capped() {
    let nested = |depth: usize| [b"l".repeat(depth), b"e".repeat(depth)].concat();
    assert!(scan(&nested(DEEPEST), Limits::TORRENT).is_ok());
    assert_eq!(problem(&nested(DEEPEST + 1)), (Problem::TooDeep(DEEPEST), DEEPEST));
    assert_eq!(problem(&b"d1:a".repeat(1 << 20)), (Problem::TooDeep(DEEPEST), 4 * DEEPEST));
}

#[test]
fn integers_of_any_size_are_kept_as_text() {
    assert_eq!(root(b"i9223372036854775807e").as_int(), Some(i64::MAX));
    assert_eq!(root(b"i-9223372036854775808e").as_int(), Some(i64::MIN));
    assert_eq!(root(b"i9223372036854775808e").as_int(), None);
    let huge = [&b"i"[..], &[b'9'; 500], b"e"].concat();
    assert_eq!((root(&huge).as_int(), root(&huge).digits()), (None, Some(&[b'9'; 500][..])));
}

/// Is this value of ours what bendy's strict decoder sees?
fn same(ours: Value<'_>, theirs: Object<'_, '_>) -> bool {
    match theirs {
        Object::Integer(digits) => ours.digits() == Some(digits.as_bytes()),
        Object::Bytes(bytes) => ours.as_bytes() == Some(bytes),
        Object::List(mut theirs) => {
            let mut ours = ours.as_list().unwrap();
            while let Some(value) = theirs.next_object().unwrap() {
                if !ours.next().is_some_and(|ours| same(ours, value)) {
                    return false;
                }
            }
            ours.next().is_none()
        }
        Object::Dict(mut theirs) => {
            let mut ours = ours.as_dict().unwrap();
            while let Some((key, value)) = theirs.next_pair().unwrap() {
                if !ours.next().is_some_and(|(k, v)| k == key && same(v, value)) {
                    return false;
                }
            }
            ours.next().is_none()
        }
    }
}

/// Does bendy's strict decoder accept all of it, as one value?
fn bendy_accepts(text: &[u8]) -> bool {
    fn walk(object: Object<'_, '_>) -> Result<(), bendy::decoding::Error> {
        match object {
            Object::List(mut list) => {
                while let Some(value) = list.next_object()? {
                    walk(value)?;
                }
            }
            Object::Dict(mut dict) => {
                while let Some((_, value)) = dict.next_pair()? {
                    walk(value)?;
                }
            }
            _ => {}
        }
        Ok(())
    }
    let mut decoder = bendy::decoding::Decoder::new(text).with_max_depth(DEEPEST);
    let first = match decoder.next_object() {
        Ok(Some(object)) => walk(object).is_ok(),
        _ => false,
    };
    first && matches!(decoder.next_object(), Ok(None))
}

/// Walks over everything, through the public API.
fn visit(value: Value<'_>) -> usize {
    let _ = (value.as_int(), value.as_str(), format!("{value:?}"));
    let inside: usize = match (value.as_list(), value.as_dict()) {
        (Some(list), _) => list.map(visit).sum(),
        (_, Some(dict)) => dict.map(|(_, value)| visit(value)).sum(),
        _ => 0,
    };
    1 + inside
}

/// Any byte, preferably one that means something.
fn byte() -> impl Strategy<Value = u8> {
    prop_oneof![any::<u8>(), prop::sample::select(&b"0129:ilde-"[..])]
}

/// Well-formed bencode, canonical.
fn document() -> impl Strategy<Value = Vec<u8>> {
    let string = |s: &[u8]| [s.len().to_string().as_bytes(), b":", s].concat();
    let leaf = prop_oneof![
        any::<i64>().prop_map(|n| format!("i{n}e").into_bytes()),
        prop::collection::vec(any::<u8>(), 0..20).prop_map(move |s| string(&s)),
    ];
    leaf.prop_recursive(6, 60, 6, move |inner| {
        prop_oneof![
            prop::collection::vec(inner.clone(), 0..6).prop_map(|v| [b"l", &v.concat()[..], b"e"].concat()),
            prop::collection::btree_map(prop::collection::vec(any::<u8>(), 0..4), inner, 0..6).prop_map(move |m| {
                let pairs: Vec<u8> = m.into_iter().flat_map(|(k, v)| [string(&k), v].concat()).collect();
                [b"d", &pairs[..], b"e"].concat()
            }),
        ]
    })
}

proptest! {
    #[test]
    fn what_bendy_decodes_we_decode_equally(text in document()) {
        prop_assert!(bendy_accepts(&text));
        let scanned = scan(&text, Limits::TORRENT).unwrap();
        prop_assert!(scanned.oddities.is_empty());
        prop_assert_eq!(scanned.root.raw(), &text[..]);
        let mut decoder = bendy::decoding::Decoder::new(&text);
        prop_assert!(same(scanned.root, decoder.next_object().unwrap().unwrap()));
    }

    #[test]
    fn mutations_never_panic_and_bendy_is_never_more_lenient(
        text in document(),
        edits in prop::collection::vec((any::<prop::sample::Index>(), byte()), 1..4),
    ) {
        let mut text = text;
        for (at, byte) in edits {
            let at = at.index(text.len());
            text[at] = byte;
        }
        let ours = scan(&text, Limits::TORRENT);
        if bendy_accepts(&text) {
            let ours = ours.as_ref().unwrap();
            prop_assert!(ours.oddities.is_empty());
            let mut decoder = bendy::decoding::Decoder::new(&text);
            prop_assert!(same(ours.root, decoder.next_object().unwrap().unwrap()));
        }
        if let Ok(scanned) = ours {
            visit(scanned.root);
        }
    }

    #[test]
    fn arbitrary_bytes_never_panic(text in prop::collection::vec(byte(), 0..200)) {
        if let Ok(scanned) = scan(&text, Limits::MESSAGE) {
            visit(scanned.root);
        }
    }
}
