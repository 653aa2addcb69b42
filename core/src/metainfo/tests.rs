use std::path::Path;

use proptest::prelude::*;

use super::{
    write::{NewContent, NewFile, NewTorrent, encode, good_piece_length},
    *,
};
use crate::{bencode::OddityKind, ids::PieceIndex, seams::storage::Allocation};

/// A torrent of zeroed digests.
fn torrent(content: NewContent, piece_length: u32) -> NewTorrent {
    let length = match &content {
        NewContent::File(length) => *length,
        NewContent::Folder(files) => files.iter().map(|file| file.length).sum(),
    };
    let pieces = vec![7; length.div_ceil(piece_length.into()) as usize * 20];
    NewTorrent { name: "name".into(), content, piece_length, pieces, ..NewTorrent::default() }
}
fn folder(files: &[(&str, u64)]) -> NewContent {
    let new = |(path, length): &(&str, u64)| NewFile {
        path: path.split('/').map(String::from).collect(),
        length: *length,
        pad: path.starts_with("pad"),
    };
    NewContent::Folder(files.iter().map(new).collect())
}
fn parse(text: impl AsRef<[u8]>) -> Metainfo {
    Metainfo::parse(text.as_ref()).unwrap()
}
/// A file whose `info` has this text before its `name`, and that goes on with `after`.
fn with_info(info: &str, after: &str) -> Vec<u8> {
    format!("d4:infod{info}4:name1:x12:piece lengthi16384ee{after}e").into_bytes()
}
fn refusal(text: impl AsRef<[u8]>) -> String {
    Metainfo::parse(text.as_ref()).unwrap_err().to_string()
}
const PIECE: &str = "6:pieces20:aaaaaaaaaaaaaaaaaaaa";

#[test]
fn a_file_with_everything_comes_back() {
    let new = NewTorrent {
        private: true,
        trackers: vec![vec!["http://a/".into(), "udp://b:1".into()], vec![], vec!["http://c/".into()]],
        web_seeds: vec!["http://w/".into()],
        comment: Some("hello".into()),
        created_by: Some("Castanet".into()),
        creation_date: Some(1_700_000_000),
        ..torrent(folder(&[("a/b", 20_000), ("pad/1", 12_768), ("c", 0), ("d", 5)]), 16_384)
    };
    let bytes = encode(&new);
    let metainfo = parse(&bytes);
    assert_eq!(metainfo.notes, []);
    assert_eq!(metainfo.trackers, [vec!["http://a/", "udp://b:1"], vec!["http://c/"]]);
    assert_eq!(metainfo.web_seeds, ["http://w/"]);
    assert_eq!((metainfo.comment.as_deref(), metainfo.created_by.as_deref()), (Some("hello"), Some("Castanet")));
    assert_eq!(metainfo.creation_date, Some(1_700_000_000));
    let info = &metainfo.info;
    assert!(info.private && !info.single_file && !info.is_v2());
    assert_eq!((info.length, info.content_length(), info.geometry().pieces()), (32_773, 20_005, 3));
    let files: Vec<_> = info.files.iter().map(|f| (f.path.join("/"), f.range(), f.pad)).collect();
    assert_eq!(files[1], ("pad/1".into(), 20_000..32_768, true));
    assert_eq!(files[3], ("d".into(), 32_768..32_773, false));
    let pieces = info.pieces.as_ref().unwrap();
    assert_eq!((pieces.count(), pieces.digest(PieceIndex(2)).map(|d| d.0)), (3, Some([7; 20])));
    assert_eq!(pieces.digest(PieceIndex(3)), None);
    let layout = info.layout(Path::new("/down"), Allocation::Full);
    assert_eq!((layout.length(), layout.files[0].path.as_path()), (32_773, Path::new("name/a/b")));
    assert!(layout.files[1].pad);

    let start = bytes.windows(6).position(|w| w == b"4:info").unwrap() + 6;
    let raw = &bytes[start..start + metainfo.info_bytes.len()];
    assert_eq!(metainfo.info_bytes, raw);
    assert_eq!(metainfo.info_hashes, InfoHashes::v1(InfoHashV1(digest::sha1(raw).0)));
    let from_peers = Metainfo::from_info(metainfo.info_bytes.clone()).unwrap();
    assert_eq!((from_peers.info_hashes, from_peers.info.files), (metainfo.info_hashes, metainfo.info.files));
    let longer = [&metainfo.info_bytes[..], b"x"].concat();
    assert!(Metainfo::from_info(longer.into()).is_err());
}

#[test]
fn a_single_file_lies_in_the_download_folder_itself() {
    let metainfo = parse(encode(&torrent(NewContent::File(100), 16_384)));
    assert!(metainfo.info.single_file && metainfo.trackers.is_empty());
    let layout = metainfo.info.layout(Path::new("/down"), Allocation::Sparse);
    assert_eq!(layout.files[0].path, Path::new("name"));
}

#[test]
fn sloppy_files_are_accepted_with_a_note() {
    let sloppy =
        with_info(&format!("{PIECE}6:lengthi5e"), "8:announce3: u 8:url-list1:w13:announce-listl2:u1l2:u12:u2e1: i5ee")
            .into_iter()
            .chain(*b"\r\n");
    let metainfo = parse(sloppy.collect::<Vec<_>>());
    assert_eq!(metainfo.trackers, [["u1"], ["u2"]]);
    assert_eq!(metainfo.web_seeds, ["w"]);
    let kinds: Vec<_> =
        metainfo.notes.iter().map(|n| if let Note::Oddity(o) = n { o.kind } else { panic!("{n}") }).collect();
    use OddityKind::*;
    assert_eq!(kinds, [UnorderedKey, UnorderedKey, UnorderedKey, TrailingSpace]);

    let fields = "5:nodesll1:hi80eel1:hi70000eeli1eei3ee13:creation datei-5e10:created byi1e";
    let metainfo = parse(with_info(&format!("6:lengthi5e{PIECE}7:privatei0e"), fields));
    assert_eq!(metainfo.nodes, [("h".to_string(), 80)]);
    assert!(!metainfo.info.private && metainfo.created_by.is_none());
}

#[test]
fn the_order_of_keys_counts_for_the_hash_alone() {
    let one = parse(with_info(&format!("6:lengthi5e{PIECE}"), ""));
    let other = parse(with_info(&format!("{PIECE}6:lengthi5e"), ""));
    assert_eq!(one.info.files, other.info.files);
    assert_ne!(one.info_hashes, other.info_hashes);
}

#[test]
fn utf8_names_win_and_bad_ones_are_replaced() {
    let file = "d6:lengthi5e4:pathl1:\u{1}e10:path.utf-8l2:\u{fc}ee";
    let metainfo = parse(with_info(&format!("5:filesl{file}e10:name.utf-82:\u{e9}{PIECE}"), ""));
    assert_eq!((metainfo.info.name.as_str(), &metainfo.info.files[0].path[..]), ("é", &["ü".to_string()][..]));
    let latin = with_info(&format!("10:name.utf-82:#!6:lengthi5e{PIECE}"), "");
    let latin: Vec<u8> = latin.into_iter().map(|b| if b == b'#' { 0xff } else { b }).collect();
    let metainfo = parse(latin);
    assert_eq!(metainfo.info.name, "\u{fffd}!");
    assert!(metainfo.notes.contains(&Note::NotUtf8("\u{fffd}!".into())));
}

#[test]
fn unsafe_names_are_changed_and_told() {
    let mut new = torrent(folder(&[("../../etc/passwd", 1), ("con", 1), ("CON", 1), ("a", 1), ("a/b", 1)]), 16_384);
    new.name = "../x".into();
    let metainfo = parse(encode(&new));
    let info = &metainfo.info;
    let paths: Vec<_> = info.files.iter().map(|f| info.path_of(f).display().to_string()).collect();
    assert_eq!(paths, [".._x/etc/passwd", ".._x/con_", ".._x/CON_.1", ".._x/a.1", ".._x/a/b"]);
    assert_eq!(info.files[0].path.join("/"), "../../etc/passwd", "shown as it is");
    assert_eq!(metainfo.notes.len(), 5);
    assert_eq!(metainfo.notes[0].to_string(), "`../x` is stored as `.._x`");

    for (name, single) in [("..", true), ("", true), ("..", false), ("", false)] {
        let content = if single { NewContent::File(1) } else { folder(&[("f", 1)]) };
        let metainfo = parse(encode(&NewTorrent { name: name.into(), ..torrent(content, 16_384) }));
        let hash = metainfo.info_hashes.v1.unwrap().to_hex();
        let path = metainfo.info.path_of(&metainfo.info.files[0]);
        assert_eq!(path, if single { Path::new(&hash).to_owned() } else { Path::new(&hash).join("f") });
        assert_eq!(metainfo.notes.len(), 1);
    }
}

#[test]
fn pad_files_and_links() {
    let files = |list: &str, pieces: usize| {
        let pieces = format!("6:pieces{}:{}", pieces * 20, "a".repeat(pieces * 20));
        parse(with_info(&format!("5:filesl{list}e{pieces}"), ""))
    };
    let bit_comet = "_____padding_file_0_if you see this";
    let named = |name: &str, rest: u64| {
        format!("d6:lengthi{}e4:pathl1:aeed6:lengthi{rest}e4:pathl{}:{name}ee", 16_384 - 100, name.len())
    };
    assert!(files(&named(bit_comet, 100), 1).info.files[1].pad);
    assert!(!files(&named(bit_comet, 99), 1).info.files[1].pad, "it fills nothing up");
    let old = |n: &str| format!("d6:lengthi16284e4:pathl1:aeed6:lengthi100e4:pathl4:.pad{n}ee");
    assert!(files(&old("3:100"), 1).info.files[1].pad);
    assert!(!files(&old("2:99"), 1).info.files[1].pad);
    let metainfo = files("d4:attr1:p6:lengthi10eed6:lengthi10e4:pathl1:aee", 1);
    assert_eq!(metainfo.info.files[0].safe_path(), [".pad", "10"]);
    assert_eq!(metainfo.info.content_length(), 10);

    let link = "d4:attr1:l6:lengthi10e4:pathl1:le12:symlink pathl2:..eed6:lengthi10e4:pathl1:aee";
    let metainfo = files(link, 1);
    assert_eq!((metainfo.info.files[0].length, metainfo.info.length), (0, 10));
    assert!(metainfo.info.files[0].link && metainfo.info.layout(Path::new("/"), Allocation::Sparse).files[0].pad);
    assert!(metainfo.notes.contains(&Note::LinkSkipped("l".into())));
}

#[test]
fn refusals_name_the_field() {
    let start = "not a usable torrent file: ";
    for (text, why) in [
        (b"d1:a0:e".to_vec(), "`info` is missing"),
        (b"d4:infoi1ee".to_vec(), "`info` is not a dictionary"),
        (b"d4:infod12:piece lengthi1eee".to_vec(), "`name` is missing"),
        (with_info("", ""), "`length` is missing"),
        (with_info("6:lengthi5e", ""), "`pieces` is missing"),
        (with_info("6:lengthi5e6:piecesi1e", ""), "`pieces` is not a string"),
        (with_info("6:lengthi5e6:pieces3:abc", ""), "`pieces` has 3 bytes where 1 pieces need 20 each"),
        (with_info(&format!("6:lengthi16385e{PIECE}"), ""), "`pieces` has 20 bytes where 2 pieces need 20 each"),
        (with_info("6:lengthi-1e", ""), "`length` is negative"),
        (with_info(&format!("6:lengthi{}e", "9".repeat(300)), ""), "`length` is not a number that fits 64 bits"),
        (with_info("6:length1:5", ""), "`length` is not a number that fits 64 bits"),
        (with_info("6:lengthi0e6:pieces0:", ""), "`length` is 0 bytes in all: there is nothing to share"),
        (with_info("5:filesd1:a0:e", ""), "`files` is not a list"),
        (with_info("5:filesle", ""), "`files` is empty"),
        (with_info("5:filesl1:ae", ""), "`files[0]` is not a dictionary"),
        (with_info("5:filesld6:lengthi0e4:pathl1:aeee", ""), "`files` is 0 bytes in all: there is nothing to share"),
        (with_info("5:filesld6:lengthi1eee", ""), "`files[0].path` is missing"),
        (with_info("5:filesld6:lengthi1e4:pathleee", ""), "`files[0].path` is missing"),
        (with_info("5:filesld6:lengthi1e4:pathli1eeee", ""), "`files[0].path` is not a list of strings"),
        (with_info("5:filesld4:pathl1:aeee", ""), "`files[0].length` is missing"),
        (
            with_info("6:lengthi9223372036854775807e", ""),
            "`piece length` is too small for the files: there would be too many pieces",
        ),
        (with_info("12:piece lengthi0e", ""), "`piece length` is not a number from 1 to 536870912"),
        (with_info("12:piece lengthi-1e", ""), "`piece length` is not a number from 1 to 536870912"),
        (with_info("12:piece lengthi536870913e", ""), "`piece length` is not a number from 1 to 536870912"),
        (with_info("12:meta versioni3e", ""), "`meta version` is neither 1 nor 2: a kind of torrent from the future"),
        (with_info("12:meta versioni2e", ""), "`file tree` is missing"),
        (with_info("9:file treede", ""), "`meta version` is missing"),
    ] {
        assert_eq!(refusal(&text), format!("{start}{why}"), "{}", text.escape_ascii());
    }
    let big = "d6:lengthi9223372036854775807e4:pathl1:aee";
    let why = "`files[1].length` makes the torrent larger than any disk";
    assert_eq!(refusal(with_info(&format!("5:filesl{big}{big}e"), "")), format!("{start}{why}"));
    assert_eq!(refusal("<html>"), "not a torrent file: unexpected byte 0x3c (at byte 0)");
    assert_eq!(refusal("i1e"), "not a torrent file: it holds no dictionary");
    let whole = encode(&torrent(NewContent::File(5), 16_384));
    for cut in 0..whole.len() {
        assert!(refusal(&whole[..cut]).contains("ends too early"), "cut at {cut}");
    }
    assert!(refusal("d1:al".repeat(1 << 16)).contains("nested deeper than 100 levels"));
}

#[test]
fn trackers_are_counted() {
    let tiers: Vec<_> = (0..MOST_TRACKERS + 5).map(|n| vec![format!("udp://t{n}:1"), "udp://t0:1".into()]).collect();
    let metainfo = parse(encode(&NewTorrent { trackers: tiers, ..torrent(NewContent::File(5), 16_384) }));
    assert_eq!(metainfo.trackers.len(), MOST_TRACKERS);
    assert_eq!(metainfo.trackers[1], ["udp://t1:1"]);
    assert_eq!(metainfo.notes, [Note::TooManyTrackers]);
}

#[test]
fn twenty_thousand_files() {
    let names: Vec<String> = (0..20_000).map(|n| format!("folder {}/file {n}", n % 100)).collect();
    let files: Vec<_> = names.iter().map(|name| (name.as_str(), 10)).collect();
    let metainfo = parse(encode(&torrent(folder(&files), 16_384)));
    assert_eq!((metainfo.info.files.len(), metainfo.notes.len()), (20_000, 0));
    assert_eq!(metainfo.info.files[19_999].offset, 199_990);
}

#[test]
fn piece_lengths_suit_sizes() {
    for (total, length) in
        [(0, 16 << 10), (32_768_000, 16 << 10), (32_768_001, 32 << 10), (4 << 30, 4 << 20), (u64::MAX, 16 << 20)]
    {
        assert_eq!(good_piece_length(total), length, "{total}");
    }
}

/// Bencode of a v2 tree: `("folder/file", length)`, sorted; roots are 32 times `r`.
fn tree(files: &[(&str, u64)]) -> String {
    let root = "r".repeat(32);
    let leaf = |length: &u64| match length {
        0 => "d0:d6:lengthi0eee".to_owned(),
        _ => format!("d0:d6:lengthi{length}e11:pieces root32:{root}ee"),
    };
    let entries = files.iter().map(|(path, length)| {
        let parts: Vec<_> = path.split('/').collect();
        let inner = format!("{}:{}{}", parts[parts.len() - 1].len(), parts[parts.len() - 1], leaf(length));
        parts[..parts.len() - 1].iter().rev().fold(inner, |inner, part| format!("{}:{part}d{inner}e", part.len()))
    });
    format!("9:file treed{}e12:meta versioni2e", entries.collect::<String>())
}

#[test]
fn v2_only_torrents_are_shown() {
    let metainfo = parse(with_info(&tree(&[("a/b", 5), ("c", 0), ("d", 16_384)]), ""));
    let info = &metainfo.info;
    assert!(info.is_v2() && info.pieces.is_none() && !info.single_file);
    assert_eq!(
        metainfo.info_hashes,
        InfoHashes { v1: None, v2: Some(InfoHashV2(digest::sha256(&metainfo.info_bytes))) }
    );
    let files: Vec<_> = info.files.iter().map(|f| (f.path.join("/"), f.range(), f.pad)).collect();
    assert_eq!(
        files,
        [
            ("a/b".into(), 0..5, false),
            (".pad/16379".into(), 5..16_384, true),
            ("c".into(), 16_384..16_384, false),
            ("d".into(), 16_384..32_768, false)
        ]
    );
    assert_eq!(info.files[3].pieces_root, Some([b'r'; 32]));
    assert_eq!((info.content_length(), info.geometry().pieces()), (16_389, 2));
    assert!(parse(with_info(&tree(&[("x", 5)]), "")).info.single_file);
    let deep = format!("{}x", "d/".repeat(90));
    assert_eq!(parse(with_info(&tree(&[(&deep, 5)]), "")).info.files[0].path.len(), 91);
    for (bad, why) in [
        ("9:file treede12:meta versioni2e", "`file tree` is empty"),
        ("9:file treed1:ad0:d6:lengthi5eeee12:meta versioni2e", "`file tree: a: pieces root` is missing"),
        ("9:file treed1:ad0:d6:lengthi5e11:pieces root1:aeee12:meta versioni2e", "pieces root` is not 32 bytes"),
        ("9:file treed1:ad0:d6:lengthi0ee1:bdeee12:meta versioni2e", "`file tree: a` is both a file and a folder"),
        ("9:file treed0:d6:lengthi0eee12:meta versioni2e", "has a file where a folder should be"),
        ("9:file treed1:ai1ee12:meta versioni2e", "`file tree: a` is not a dictionary"),
    ] {
        assert!(refusal(with_info(bad, "")).ends_with(why), "{}", refusal(with_info(bad, "")));
    }
}

#[test]
fn hybrid_halves_must_agree() {
    let pieces = |n: usize| format!("6:pieces{}:{}", n * 20, "a".repeat(n * 20));
    let good = "5:filesld6:lengthi5e4:pathl1:aeed4:attr1:p6:lengthi16379eed6:lengthi7e4:pathl1:beee";
    let metainfo = parse(with_info(&format!("{good}{}{}", pieces(2), tree(&[("a", 5), ("b", 7)])), ""));
    assert!(metainfo.info.is_v2() && metainfo.info_hashes.v1.is_some() && metainfo.info_hashes.v2.is_some());
    assert_eq!((metainfo.info.files.len(), metainfo.info.files[2].pieces_root), (3, Some([b'r'; 32])));
    for other in [&[("a", 5), ("c", 7)][..], &[("a", 5), ("b", 8)], &[("a", 5)], &[("a", 5), ("b", 7), ("c", 1)]] {
        let refusal = refusal(with_info(&format!("{good}{}{}", pieces(2), tree(other)), ""));
        assert!(refusal.contains("than the v1 half"), "{refusal}");
    }
    let unpadded = "5:filesld6:lengthi5e4:pathl1:aeed6:lengthi7e4:pathl1:beee";
    let text = with_info(&format!("{unpadded}{}{}", pieces(1), tree(&[("a", 5), ("b", 7)])), "");
    assert!(refusal(text).contains("not padded"));
}

#[test]
fn piece_layers_must_lead_to_the_root() {
    // Three pieces of 32 KiB, the last of one block: the tree above has four leaves of pieces, the last all zeros.
    let join = |a: [u8; 32], b: [u8; 32]| digest::sha256(&[a, b].concat());
    let (zero, piece) = (join([0; 32], [0; 32]), |n: u8| [n; 32]);
    let root = join(join(piece(1), piece(2)), join(piece(3), zero));
    let info = |length: u64| {
        let head = format!("d9:file treed1:xd0:d6:lengthi{length}e11:pieces root32:");
        let tail = b"eee12:meta versioni2e4:name1:x12:piece lengthi32768ee";
        [b"d4:info", head.as_bytes(), &root, tail].concat()
    };
    let layers = |count: u8| {
        let layer: Vec<u8> = (1..=count).flat_map(piece).collect();
        [b"12:piece layersd32:", &root[..], format!("{}:", layer.len()).as_bytes(), &layer, b"ee"].concat()
    };
    assert!(parse([info(70_000), layers(3)].concat()).info.is_v2());
    for bad in
        [[info(70_000), layers(2)].concat(), [info(65_536), layers(2)].concat(), [info(98_305), layers(3)].concat()]
    {
        assert!(refusal(bad).contains("`piece layers`"));
    }
    let empty = b"12:piece layersdee".to_vec();
    assert_eq!(parse([info(32_768), empty.clone()].concat()).notes, [], "one piece needs no layer");
    assert!(refusal([info(70_000), empty].concat()).contains("`piece layers`"));
    assert_eq!(parse([info(70_000), b"e".to_vec()].concat()).notes, [Note::LayersMissing]);
}

proptest! {
    #[test]
    fn mutations_never_panic(
        which in 0..3,
        edits in prop::collection::vec((any::<prop::sample::Index>(), prop_oneof![any::<u8>(), prop::sample::select(&b"0129:ilde-./"[..])]), 1..5),
        cut in any::<prop::sample::Index>(),
    ) {
        let mut bytes = match which {
            0 => encode(&torrent(folder(&[("a/b", 20_000), ("pad/1", 12_768), ("c", 5)]), 16_384)),
            1 => encode(&NewTorrent { trackers: vec![vec!["u".into(), "v".into()]], ..torrent(NewContent::File(70_000), 16_384) }),
            _ => with_info(&tree(&[("a/b", 5), ("c", 0), ("d", 16_384)]), "5:nodesll1:hi80eee12:piece layersdee"),
        };
        for (at, byte) in edits {
            let at = at.index(bytes.len());
            bytes[at] = byte;
        }
        let _ = Metainfo::parse(&bytes[..cut.index(bytes.len())]);
        if let Ok(metainfo) = Metainfo::parse(&bytes) {
            let info = &metainfo.info;
            prop_assert_eq!(info.files.iter().map(|file| file.length).sum::<u64>(), info.length);
            for file in info.layout(Path::new("/root"), Allocation::Sparse).files.iter() {
                prop_assert!(file.path.is_relative());
                prop_assert!(file.path.components().all(|part| matches!(part, std::path::Component::Normal(_))));
            }
        }
    }
}
