//! Which files of a torrent suffer from pieces that are missing or bad.

use castanet::{Bitfield, Metainfo, PieceIndex, metainfo::FileEntry};

use crate::output::human::{count, escaped};

/// Files named in a sentence before the rest is only counted.
const MOST_NAMED: usize = 3;

/// Every file that is to be on disk, with the pieces that touch it and how many of these are missing or bad.
pub(crate) fn per_file<'a>(
    metainfo: &'a Metainfo,
    have: &'a Bitfield,
) -> impl Iterator<Item = (&'a FileEntry, u32, u32)> {
    let geometry = metainfo.info.geometry();
    metainfo.info.files.iter().filter(|file| file.on_disk()).map(move |file| {
        let pieces = geometry.pieces_of(file.range());
        let bad = pieces.clone().filter(|piece| !have.has(PieceIndex(*piece))).count();
        (file, pieces.len() as u32, bad as u32)
    })
}

/// One sentence on what is missing: `3 of 95 pieces are missing or bad, in a.bin and b.bin`.
pub(crate) fn sentence(metainfo: &Metainfo, have: &Bitfield) -> String {
    let all = metainfo.info.geometry().pieces();
    if have.is_none() {
        let (pieces, name) = (count(all.into(), "piece"), escaped(&metainfo.info.name));
        return format!("none of its {pieces} is in that folder, which has to be the one that holds `{name}`");
    }
    let files: Vec<_> = per_file(metainfo, have).filter(|(_, _, bad)| *bad > 0).map(|(file, ..)| file).collect();
    let mut names: Vec<String> =
        files.iter().take(MOST_NAMED).map(|file| escaped(&file.path.join("/")).into_owned()).collect();
    if files.len() > MOST_NAMED {
        names.push(count((files.len() - MOST_NAMED) as u64, "other file"));
    }
    let names = match names.split_last() {
        Some((last, [])) => format!(", in {last}"),
        Some((last, before)) => format!(", in {} and {last}", before.join(", ")),
        None => String::new(),
    };
    let bad = all - have.count();
    let are = if bad == 1 { "is" } else { "are" };
    format!("{bad} of {} {are} missing or bad{names}", count(all.into(), "piece"))
}

#[cfg(test)]
mod tests {
    use castanet::metainfo::write::{NewContent, NewFile, NewTorrent, encode};

    use super::*;

    #[test]
    fn a_bad_piece_hurts_every_file_it_touches() {
        let file = |name: &str, length| NewFile { path: vec![name.into()], length, pad: false };
        let torrent = NewTorrent {
            name: "x".into(),
            content: NewContent::Folder(vec![file("a", 10), file("b", 10), file("none", 0), file("c", 25)]),
            piece_length: 16,
            pieces: vec![0; 60],
            ..NewTorrent::default()
        };
        let metainfo = Metainfo::parse(&encode(&torrent)).unwrap();
        let mut have = Bitfield::full(3);
        assert!(per_file(&metainfo, &have).all(|(_, _, bad)| bad == 0));
        let none = sentence(&metainfo, &Bitfield::new(3));
        assert_eq!(none, "none of its 3 pieces is in that folder, which has to be the one that holds `x`");
        have.clear(PieceIndex(0));
        let bad: Vec<_> = per_file(&metainfo, &have).map(|(_, pieces, bad)| (pieces, bad)).collect();
        assert_eq!(bad, [(1, 1), (2, 1), (0, 0), (2, 0)]);
        assert_eq!(sentence(&metainfo, &have), "1 of 3 pieces is missing or bad, in a and b");
    }
}
