//! How names that strangers chose become paths that are safe on every file system.
//!
//! The rules are the same everywhere, so that a folder filled on Linux can be copied to Windows or macOS: nothing leads
//! out of the download folder, no name means something to a system, no two files meet in one place (whatever the case
//! of their letters), and nothing is too long. A name that is fine stays as it is; a change is stable from run to run.

use std::{
    borrow::Cow,
    collections::{BTreeMap, BTreeSet},
};

/// Bytes of a name before it is cut. File systems end at 255; the rest is room for an extension or a number.
pub const MOST_NAME: usize = 240;
/// Bytes of a whole path before folders are left out: what macOS takes with a little room for the download folder.
pub const MOST_PATH: usize = 900;
/// Bytes of an extension, dot included, that is kept when a name is cut.
const MOST_EXTENSION: usize = 9;

/// A file that wants a path.
#[derive(Debug, Clone, Copy)]
pub struct Wish<'a> {
    /// The path as the torrent says it.
    pub path: &'a [String],
    /// Will the file exist on disk? Pad files will not, and may share a path.
    pub on_disk: bool,
}

/// Safe and distinct paths for the files of one torrent, in their order; `None` where the wish is fine as it is.
/// Takes O(n log n) steps. Of several files that want one path, the first gets it.
pub fn safe_paths<'a>(wishes: impl IntoIterator<Item = Wish<'a>>) -> Vec<Option<Vec<String>>> {
    let wishes: Vec<Wish<'a>> = wishes.into_iter().collect();
    let mut safe: Vec<_> = wishes.iter().map(|wish| safe_path(wish.path)).collect();
    for (file, path) in separate(&wishes, &safe) {
        safe[file] = Some(path);
    }
    safe
}

/// New paths for the files whose path another file has, or is a folder of another file.
fn separate(wishes: &[Wish<'_>], safe: &[Option<Vec<String>>]) -> Vec<(usize, Vec<String>)> {
    let path_of = |file: usize| safe[file].as_deref().unwrap_or(wishes[file].path);
    let mut keys: Vec<(String, usize)> =
        (0..wishes.len()).filter(|file| wishes[*file].on_disk).map(|file| (key(path_of(file)), file)).collect();
    keys.sort_unstable();
    let is_folder_of = |folder: &str, path: &str| path.strip_prefix(folder).is_some_and(|rest| rest.starts_with('\0'));
    let is_taken = |wanted: &str| {
        let at = keys.partition_point(|(key, _)| key.as_str() < wanted);
        keys.get(at).is_some_and(|(key, _)| key == wanted || is_folder_of(wanted, key))
    };

    let mut moved = Vec::new();
    let mut given = BTreeSet::new();
    // The number that was tried last for a stem, so that many equal names do not start over at 1.
    let mut numbers: BTreeMap<String, u32> = BTreeMap::new();
    for group in keys.chunk_by(|(a, _), (b, _)| a == b) {
        let wanted = group[0].0.as_str();
        let after = keys.partition_point(|(key, _)| key.as_str() <= wanted);
        // NUL sorts before all that names may hold: what lies in a folder follows right after it.
        let is_folder = keys.get(after).is_some_and(|(key, _)| is_folder_of(wanted, key));
        for (_, file) in &group[usize::from(!is_folder)..] {
            let mut path = path_of(*file).to_vec();
            let name = path.pop().unwrap_or_default();
            let (stem, extension) = split_extension(&name);
            let stem = &stem[..stem.floor_char_boundary(MOST_NAME - extension.len())];
            path.push(format!("{stem}{extension}"));
            let number = numbers.entry(key(&path)).or_default();
            let new_key = loop {
                *number += 1;
                path.pop();
                path.push(format!("{stem}.{number}{extension}"));
                let new_key = key(&path);
                if !is_taken(&new_key) && !given.contains(&new_key) {
                    break new_key;
                }
            };
            given.insert(new_key);
            moved.push((*file, path));
        }
    }
    moved
}

/// By which paths are compared: case does not count.
fn key(path: &[String]) -> String {
    path.join("\0").to_lowercase()
}

/// One path made safe by itself; `None` if it is safe.
fn safe_path(path: &[String]) -> Option<Vec<String>> {
    let names: Vec<_> = path.iter().filter_map(|name| safe_name(name)).collect();
    let length = names.iter().map(|name| name.len() + 1).sum::<usize>();
    let changed = names.len() != path.len() || names.iter().any(|name| matches!(name, Cow::Owned(_)));
    if !changed && length <= MOST_PATH && !names.is_empty() {
        return None;
    }
    let mut safe: Vec<String> = names.into_iter().map(Cow::into_owned).collect();
    let last = safe.pop().unwrap_or_else(|| "_".into());
    let mut room = MOST_PATH.saturating_sub(last.len() + 1);
    let fitting =
        safe.iter().take_while(|name| room.checked_sub(name.len() + 1).map(|left| room = left).is_some()).count();
    safe.truncate(fitting);
    safe.push(last);
    Some(safe)
}

/// One name of a file or folder made safe: borrowed if it is so already, `None` if nothing is left of it (`..`).
pub fn safe_name(name: &str) -> Option<Cow<'_, str>> {
    if name.is_empty() {
        return Some(Cow::Owned("_".into()));
    }
    let mut safe = Cow::Borrowed(name);
    if name.contains(|c| is_direction_mark(c) || is_unsafe(c)) {
        let replaced = name.chars().filter(|c| !is_direction_mark(*c)).map(|c| if is_unsafe(c) { '_' } else { c });
        safe = replaced.collect::<String>().into();
    }
    if matches!(&*safe, "" | "." | "..") {
        return None;
    }
    replace_last(&mut safe);
    if let Some(at) = reserved_stem(&safe) {
        safe.to_mut().insert(at, '_');
    }
    if let Some(short) = shorten(&safe) {
        safe = short.into();
        replace_last(&mut safe);
    }
    Some(safe)
}

/// Marks that change the direction of text: they make `gpj.exe` look like `exe.jpg`.
fn is_direction_mark(c: char) -> bool {
    matches!(c, '\u{200e}' | '\u{200f}' | '\u{202a}'..='\u{202e}' | '\u{2066}'..='\u{2069}')
}

/// Separators, what Windows forbids, and what would confuse a terminal.
fn is_unsafe(c: char) -> bool {
    c.is_control() || matches!(c, '/' | '\\' | '<' | '>' | ':' | '"' | '|' | '?' | '*')
}

/// Windows drops a dot or blank at the end, so that two names become one.
fn replace_last(name: &mut Cow<'_, str>) {
    if name.ends_with(['.', ' ']) {
        let name = name.to_mut();
        name.pop();
        name.push('_');
    }
}

/// Where the stem ends if Windows takes the name for a device, whatever follows the first dot.
fn reserved_stem(name: &str) -> Option<usize> {
    let end = name.find('.').unwrap_or(name.len());
    let stem = name[..end].trim_end();
    let device =
        ["con", "prn", "aux", "nul", "conin$", "conout$", "clock$"].iter().any(|d| stem.eq_ignore_ascii_case(d));
    let mut chars = stem.chars();
    let last = chars.next_back();
    let port = ["com", "lpt"].iter().any(|port| chars.as_str().eq_ignore_ascii_case(port));
    let numbered = port && matches!(last, Some('0'..='9' | '¹' | '²' | '³'));
    (device || numbered).then_some(end)
}

/// The name cut at a character after [`MOST_NAME`] bytes, with its extension if that is short; `None` if it is not too long.
fn shorten(name: &str) -> Option<String> {
    let cut = name.ceil_char_boundary(MOST_NAME.min(name.len()));
    let (stem, extension) = split_extension(name);
    let extension = if stem.len() >= cut && extension.len() <= MOST_EXTENSION { extension } else { "" };
    (cut + extension.len() < name.len()).then(|| format!("{}{extension}", &name[..cut]))
}

/// The name up to its last dot and the rest, dot included; a dot at the start begins no extension.
fn split_extension(name: &str) -> (&str, &str) {
    match name.rfind('.') {
        Some(dot) if dot > 0 && name.len() - dot <= MOST_NAME / 2 => name.split_at(dot),
        _ => (name, ""),
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn paths(texts: &[&str]) -> Vec<String> {
        let wanted: Vec<Vec<String>> = texts.iter().map(|text| text.split('/').map(String::from).collect()).collect();
        let safe = safe_paths(wanted.iter().map(|path| Wish { path, on_disk: true }));
        safe.into_iter().zip(&wanted).map(|(new, old)| new.as_ref().unwrap_or(old).join("/")).collect()
    }

    #[test]
    fn names_become_safe() {
        for fine in ["a", "Ünïcode 東京.txt", ".hidden", "a.b.c", " x", "console", "com10", "...a", "-rf", "nu", "l"]
        {
            assert!(matches!(safe_name(fine), Some(Cow::Borrowed(_))), "{fine}");
        }
        for (bad, good) in [
            ("", "_"),
            ("/etc/passwd", "_etc_passwd"),
            ("C:", "C_"),
            ("a\\b", "a_b"),
            ("nul\0byte", "nul_byte"),
            ("tab\tbell\u{7}\u{7f}\u{9b}", "tab_bell___"),
            ("what?*.<>|\"", "what__.____"),
            ("NUL", "NUL_"),
            ("nul.tar.gz", "nul_.tar.gz"),
            ("Con .txt", "Con _.txt"),
            ("COM1", "COM1_"),
            ("lpt³.x", "lpt³_.x"),
            ("dot.", "dot_"),
            ("blank ", "blank_"),
            ("...", ".._"),
            ("exe\u{202e}gpj.exe", "exegpj.exe"),
        ] {
            assert_eq!(safe_name(bad).as_deref(), Some(good), "{bad:?}");
        }
        for gone in [".", "..", "\u{200e}", ".\u{202e}."] {
            assert_eq!(safe_name(gone), None, "{gone:?}");
        }
    }

    #[test]
    fn long_names_are_cut_between_characters() {
        assert_eq!(safe_name(&"x".repeat(240)), Some("x".repeat(240).into()));
        assert_eq!(safe_name(&"x".repeat(300)), Some("x".repeat(240).into()));
        assert_eq!(
            safe_name(&format!("{}.torrent", "x".repeat(300))),
            Some(format!("{}.torrent", "x".repeat(240)).into())
        );
        assert_eq!(safe_name(&"あ".repeat(200)), Some("あ".repeat(80).into()));
        assert!(safe_name(&format!("a{}", "あ".repeat(200))).unwrap().len() <= 255);
        assert_eq!(safe_name(&format!("{}.jpg", "x".repeat(240))).unwrap().len(), 244);
    }

    #[test]
    fn nothing_leads_out() {
        assert_eq!(paths(&["../../x", "..", "a/./b", "a//c", "../a/./b"]), ["x", "_", "a/b", "a/_/c", "a/b.1"]);
    }

    #[test]
    fn no_two_files_meet() {
        assert_eq!(paths(&["A.txt", "a.txt", "a.TXT", "a.1.txt"]), ["A.txt", "a.2.txt", "a.3.TXT", "a.1.txt"]);
        assert_eq!(
            paths(&["Dir/x", "dir/y", "dir", "b"]),
            ["Dir/x", "dir/y", "dir.1", "b"],
            "a file where a folder is"
        );
        assert_eq!(paths(&["a", "a/b", "a", "a!", "a.1"]), ["a.2", "a/b", "a.3", "a!", "a.1"]);
        assert_eq!(paths(&["Ä", "ä"]), ["Ä", "ä.1"]);
        let same = ["x".to_string()];
        let pads = safe_paths([true, false, false].map(|on_disk| Wish { path: &same, on_disk }));
        assert_eq!(pads, [None, None, None]);
    }

    #[test]
    fn deep_paths_lose_folders_not_the_file() {
        let deep = format!("{}file.txt", "folder/".repeat(400));
        let safe = &paths(&[&deep])[0];
        assert!(safe.len() <= MOST_PATH && safe.starts_with("folder/folder/") && safe.ends_with("/file.txt"));
    }

    #[test]
    fn twenty_thousand_equal_names_and_long_ones_that_differ_late() {
        let equal = vec!["a/same.txt"; 20_000];
        let numbers: BTreeSet<_> = paths(&equal).into_iter().collect();
        assert_eq!(numbers.len(), 20_000);
        assert!(numbers.contains("a/same.19999.txt"));
        let late: Vec<String> = (0..20_000).map(|n| format!("{}{n:05}", "x".repeat(238))).collect();
        let late: Vec<&str> = late.iter().map(String::as_str).collect();
        assert_eq!(paths(&late).into_iter().collect::<BTreeSet<_>>().len(), 20_000);
    }

    proptest! {
        #[test]
        fn whatever_comes_is_safe_distinct_and_stable(
            wanted in prop::collection::vec(prop::collection::vec("[a-bA./\\\\ :\u{202e}\u{0}あ]{0,3}|NUL|x{230,260}\\.?y{0,12}", 0..4), 1..12)
        ) {
            let safe = safe_paths(wanted.iter().map(|path| Wish { path, on_disk: true }));
            let safe: Vec<Vec<String>> = safe.into_iter().zip(&wanted).map(|(new, old)| new.unwrap_or(old.clone())).collect();
            let mut keys = BTreeSet::new();
            for path in &safe {
                prop_assert!(!path.is_empty());
                for name in path {
                    prop_assert!(name.len() <= 255);
                    prop_assert!(!name.is_empty() && !name.contains(['/', '\\', '\0']) && name != "..");
                    prop_assert!(matches!(safe_name(name), Some(Cow::Borrowed(_))) || name.len() > MOST_NAME, "{name:?}");
                }
                prop_assert!(keys.insert(key(path)), "{path:?} twice");
            }
            for path in &safe {
                for end in 1..path.len() {
                    prop_assert!(!keys.contains(&key(&path[..end])), "{path:?} lies in a file");
                }
            }
            let again = safe_paths(safe.iter().map(|path| Wish { path, on_disk: true }));
            for (new, old) in again.iter().zip(&safe) {
                prop_assert!(new.is_none() || old.iter().any(|name| name.len() > MOST_NAME), "{old:?} became {new:?}");
            }
        }
    }
}
