//! `castanet show --json` and libtorrent read the same in every `.torrent` file: of five programs that make them, of
//! the wild, and damaged on purpose.

use std::collections::BTreeMap;
use std::ffi::OsStr;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, ensure};
use serde_json::Value;

use crate::castanet;
use crate::payload::{self, Shape, Torrent, run};
use crate::programs::{libtorrent, peers_folder};
use crate::world::{self, World};

/// Damaged files made of each undamaged small one.
const MUTANTS: usize = 40;
/// Files of which mutants are made are at most so long, so that a change rarely hits a piece's hash.
const SMALL: usize = 6_000;

#[test]
fn agrees_with_libtorrent() {
    world::test(|world| {
        let folder = world.folder("torrents")?;
        let sound = collect(world, &folder)?;
        mutate(&folder)?;
        let theirs: BTreeMap<String, Value> =
            serde_json::from_slice(&run(libtorrent::script("describe.py").arg(&folder))?)?;
        ensure!(theirs.len() >= 500 && sound >= 40, "only {} files, {sound} of them sound", theirs.len());

        let (mut wrong, mut accepted) = (Vec::new(), 0);
        for (name, theirs) in &theirs {
            let file = folder.join(name);
            let ours = show(&file)?;
            accepted += usize::from(ours.is_ok());
            if let Some(difference) = difference(theirs, &ours) {
                wrong.push(format!("{name}: {difference}"));
            }
        }
        ensure!(accepted >= 100, "only {accepted} of {} were accepted: too few to compare", theirs.len());
        ensure!(wrong.is_empty(), "{} of {} differ:\n{}", wrong.len(), theirs.len(), wrong.join("\n"));
        Ok(())
    });
}

/// What Castanet prints of a file, or the sentence with which it refuses it.
fn show(file: &Path) -> Result<Result<Value, String>> {
    let output = castanet::command(&["show", "--json"]).arg(file).output()?;
    let said = String::from_utf8_lossy(&output.stderr).trim().to_owned();
    Ok(match output.status.code() {
        Some(0) => Ok(serde_json::from_slice(&output.stdout)?),
        Some(1) => {
            ensure!(said.lines().count() == 1, "{}: not one sentence: {said}", file.display());
            Err(said)
        }
        _ => anyhow::bail!("{}: {}: {said}", file.display(), output.status),
    })
}

/// What libtorrent refuses of a torrent with a v2 half and Castanet does not, with libtorrent's reason.
const LENIENT: [&str; 2] = [
    // Numbers with leading zeros and such: accepted with a note, as libtorrent does in v1 torrents.
    "invalid bencoding",
    // The hashes beside the info dictionary, which only a v2 download reads.
    "a piece layer is invalid",
];

/// What Castanet refuses of a torrent with a v2 half and libtorrent does not: a hybrid whose v1 half lacks its hashes.
const STRICT: [&str; 1] = ["`pieces` is missing"];

/// Why the two do not agree, if they do not and may not.
fn difference(theirs: &Value, ours: &Result<Value, String>) -> Option<String> {
    let v2 = |facts: &Value| !facts["info_hash_v2"].is_null();
    match (theirs["refused"].as_str(), ours) {
        (Some(_), Err(_)) => None,
        (Some(why), Ok(ours)) if v2(ours) && LENIENT.iter().any(|known| why.contains(known)) => None,
        (Some(why), Ok(ours)) => Some(format!("only libtorrent refuses it: {why}: {ours}")),
        (None, Err(why)) if v2(theirs) && STRICT.iter().any(|known| why.contains(known)) => None,
        (None, Err(why)) => Some(format!("only Castanet refuses it: {why}")),
        (None, Ok(ours)) => {
            let facts = ["length", "piece_length", "info_hash", "info_hash_v2"];
            let facts = facts.iter().find(|fact| theirs[**fact] != ours[**fact]);
            let names = ["name", "files"].iter().find(|fact| is_safe(&ours[**fact]) && theirs[**fact] != ours[**fact]);
            let fact = facts.or(names)?;
            Some(format!("{fact} is {}, libtorrent says {}", ours[*fact], theirs[*fact]))
        }
    }
}

/// Whether every name in here is one that no program needs to change before it makes a file of it.
fn is_safe(names: &Value) -> bool {
    let name = |name: &str| {
        let plain = |letter: char| letter.is_alphanumeric() || " ._-,+()'".contains(letter);
        !name.is_empty() && name.len() <= 200 && name.trim() == name && !name.ends_with('.') && name.chars().all(plain)
    };
    match names {
        Value::String(text) => text.split('/').all(name),
        Value::Array(files) => files.iter().all(|file| is_safe(&file["path"])),
        _ => false,
    }
}

/// Fills `folder` with sound `.torrent` files and says how many.
fn collect(world: &World, folder: &Path) -> Result<usize> {
    let fixtures = peers_folder().join("node_modules/webtorrent-fixtures/fixtures");
    for entry in fs::read_dir(&fixtures).with_context(|| format!("{}", fixtures.display()))? {
        let path = entry?.path();
        if path.extension() == Some(OsStr::new("torrent")) {
            fs::copy(&path, folder.join(path.file_name().context("an entry has a name")?))?;
        }
    }

    let tracker = "http://tracker.example/announce";
    let mut seed = 100;
    for shape in [Shape::OneFile, Shape::ManyFiles] {
        for format in ["v1", "v2", "hybrid"] {
            for piece_length in [16 * 1024, 256 * 1024, 4 * 1024 * 1024] {
                seed += 1;
                let torrent = payload::make_as(world, format, shape, seed, piece_length, &[tracker])?;
                fs::copy(&torrent.file, folder.join(format!("libtorrent-{format}-{seed}.torrent")))?;
            }
        }
        seed += 1;
        others(&payload::make(world, shape, seed, 16 * 1024, &[])?, folder, tracker)?;
    }
    Ok(fs::read_dir(folder)?.count())
}

/// Torrents of one payload by the programs that are no libtorrent, Castanet among them.
fn others(torrent: &Torrent, folder: &Path, tracker: &str) -> Result<()> {
    let payload = torrent.folder.join(&torrent.name);
    let out =
        |program: &str, kind: &str| -> PathBuf { folder.join(format!("{program}-{kind}-{}.torrent", torrent.length)) };
    for (kind, more) in [("plain", &["-s", "64"][..]), ("private", &["-s", "1024", "-p", "-c", "Ein Kommentar"])] {
        let mut create = Command::new("transmission-create");
        run(create.args(["-t", tracker, "-o"]).arg(out("transmission", kind)).args(more).arg(&payload))?;
    }
    for (kind, more) in
        [("plain", &["-l", "15"][..]), ("private", &["-l", "18", "-p", "-s", "elsewhere", "-w", tracker])]
    {
        run(Command::new("mktorrent")
            .args(["-a", tracker, "-o"])
            .arg(out("mktorrent", kind))
            .args(more)
            .arg(&payload))?;
    }
    for (kind, more) in [("plain", &[][..]), ("private", &["--private", "--pieceLength", "32768", "--comment", "κάτι"])]
    {
        let mut create = Command::new("node");
        create.arg(peers_folder().join("node_modules/create-torrent/bin/cmd.js"));
        run(create.arg(&payload).arg("-o").arg(out("create-torrent", kind)).args(more))?;
    }
    for (kind, more) in [("plain", &[][..]), ("private", &["--private", "--piece-length", "32768"])] {
        let mut create = castanet::command(&["create", "--tracker", tracker, "-o"]);
        run(create.arg(out("castanet", kind)).args(more).arg(&payload))?;
    }
    Ok(())
}

/// Adds damaged copies of the small files: the same ones each time, since a file's name is its seed.
fn mutate(folder: &Path) -> Result<()> {
    let sound: Vec<PathBuf> = fs::read_dir(folder)?.map(|entry| Ok(entry?.path())).collect::<Result<_>>()?;
    for path in sound {
        let bytes = fs::read(&path)?;
        let name = path.file_stem().and_then(OsStr::to_str).context("a name in UTF-8")?;
        if bytes.len() > SMALL {
            continue;
        }
        let seed = name.bytes().fold(0, |seed: u64, byte| seed.wrapping_mul(31).wrapping_add(byte.into()));
        let mut random = fastrand::Rng::with_seed(seed);
        for number in 0..MUTANTS {
            fs::write(folder.join(format!("{name}-mutant-{number}.torrent")), mutant(&bytes, number % 8, &mut random))?;
        }
    }
    Ok(())
}

/// A copy of `bytes` with one kind of damage.
fn mutant(bytes: &[u8], kind: usize, random: &mut fastrand::Rng) -> Vec<u8> {
    let mut bytes = bytes.to_vec();
    let at = random.usize(1..bytes.len());
    match kind {
        0 => bytes.truncate(at),
        1 => bytes[at] ^= 1 << random.u8(0..8),
        2 => bytes.insert(at, random.choice(*b"0123456789deil:").unwrap_or(b'0')),
        3 => {
            bytes.remove(at);
        }
        4 => bytes.push(b'\n'),
        5 => {
            // A digit somewhere: a length, a number or a part of a name.
            let digits: Vec<usize> = (0..bytes.len()).filter(|at| bytes[*at].is_ascii_digit()).collect();
            if let Some(at) = random.choice(digits) {
                bytes[at] = random.choice(*b"0123456789-").unwrap_or(b'0');
            }
        }
        6 => {
            let to = (at + random.usize(1..20)).min(bytes.len());
            let twice = bytes[at..to].to_vec();
            bytes.splice(at..at, twice);
        }
        _ => {
            // A key that is somebody's, spelt as nobody does.
            for key in [&b"6:length"[..], b"4:name", b"12:piece length", b"4:path", b"5:files"] {
                if random.bool()
                    && let Some(at) = bytes.windows(key.len()).position(|window| window == key)
                {
                    let last = at + key.len() - 1;
                    bytes[last] = b'X';
                }
            }
        }
    }
    bytes
}
