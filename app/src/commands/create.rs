//! `castanet create`: make a .torrent file, hashing on all cores.

use std::{
    io::Write as _,
    path::{Path, PathBuf},
    process::ExitCode,
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use anyhow::{Context as _, Result, bail, ensure};
use castanet::{
    Geometry, Metainfo,
    metainfo::write::{NewContent, NewFile, NewTorrent, encode, good_piece_length},
};

use crate::{
    args::{Create, Format},
    commands::show,
    hashing::{self, Part},
    interrupt::{INTERRUPTED, Interrupt},
    output::{self, bars::Work, human::escaped},
    source,
};

/// Runs the command.
pub(crate) fn run(create: &Create, interrupt: &Interrupt) -> Result<ExitCode> {
    ensure!(create.format == Format::V1, "making BitTorrent v2 and hybrid torrents is not built yet: use --format v1");
    let path = create.path.canonicalize().with_context(|| format!("cannot open {}", shown(&create.path)))?;
    let name = path.file_name().with_context(|| format!("{} has no name to share it by", shown(&path)))?;
    let name = utf8(Path::new(name))?;
    let out = out_path(&create.output)?;
    ensure_free(&out, &path)?;

    let (parts, content) = content(&path, &out)?;
    let length: u64 = parts.iter().map(|part| part.length).sum();
    ensure!(length > 0, "{} holds no data: there is nothing to share", shown(&create.path));
    let piece_length = create.piece_length.unwrap_or_else(|| good_piece_length(length));
    let geometry = Geometry::new(length, piece_length).context("there would be too many pieces: use longer ones")?;

    let mut work = Work::begin("Hashing", length, false);
    let threads = std::thread::available_parallelism().map_or(1, usize::from);
    let pieces = hashing::hash(&parts, geometry, threads, |done| {
        work.at(done);
        std::thread::sleep(Duration::from_millis(20));
        !interrupt.happened()
    })?;
    drop(work);
    let Some(pieces) = pieces else {
        output::say("Interrupted: no torrent was made.");
        return Ok(ExitCode::from(INTERRUPTED));
    };

    let torrent = encode(&NewTorrent {
        name,
        content,
        piece_length,
        pieces,
        private: create.private,
        trackers: create.tracker.iter().map(|url| vec![url.clone()]).collect(),
        web_seeds: create.webseed.clone(),
        comment: create.comment.clone(),
        created_by: Some(concat!("Castanet/", env!("CARGO_PKG_VERSION")).into()),
        creation_date: now(),
    });
    let metainfo = Metainfo::parse(&torrent).context("other programs could not read this torrent")?;
    write(&out, &torrent)?;
    let hash = metainfo.info_hashes.v1.map(|hash| hash.to_hex()).unwrap_or_default();
    output::print(&format!("info-hash  {hash}\nmagnet     {}", show::magnet(&metainfo)))?;
    Ok(ExitCode::SUCCESS)
}

/// The files behind `path` in the order they are shared, without the torrent file itself if it lies among them.
fn content(path: &Path, out: &Path) -> Result<(Vec<Part>, NewContent)> {
    let metadata = path.metadata().with_context(|| format!("cannot open {}", shown(path)))?;
    if !metadata.is_dir() {
        ensure!(metadata.is_file(), "{} is neither a file nor a folder", shown(path));
        let part = Part { path: path.to_owned(), length: metadata.len() };
        return Ok((vec![part], NewContent::File(metadata.len())));
    }
    let mut found = Vec::new();
    walk(path, &mut Vec::new(), &mut found)?;
    found.retain(|(part, _)| part.path != out);
    found.sort_by(|(_, a), (_, b)| a.path.cmp(&b.path));
    let (parts, files) = found.into_iter().unzip();
    Ok((parts, NewContent::Folder(files)))
}

fn walk(folder: &Path, above: &mut Vec<String>, found: &mut Vec<(Part, NewFile)>) -> Result<()> {
    let cannot = || format!("cannot read the folder {}", shown(folder));
    for entry in std::fs::read_dir(folder).with_context(cannot)? {
        let entry = entry.with_context(cannot)?;
        let path = entry.path();
        let name = utf8(Path::new(&entry.file_name())).with_context(|| format!("in the folder {}", shown(folder)))?;
        let kind = entry.file_type().with_context(cannot)?;
        above.push(name);
        if kind.is_dir() {
            walk(&path, above, found)?;
        } else if kind.is_file() {
            let length = entry.metadata().with_context(|| format!("cannot open {}", shown(&path)))?.len();
            found.push((Part { path, length }, NewFile { path: above.clone(), length, pad: false }));
        } else {
            output::say(&format!("{} is left out: it is a link or a device", shown(&path)));
        }
        above.pop();
    }
    Ok(())
}

fn utf8(name: &Path) -> Result<String> {
    match name.to_str() {
        Some(name) => Ok(name.to_owned()),
        None => bail!("the name {} is not valid UTF-8, which torrents need: rename it", shown(name)),
    }
}

/// The place of the torrent file, its folder resolved so that it can be recognised among the files that are shared.
fn out_path(out: &Path) -> Result<PathBuf> {
    let name = out.file_name().with_context(|| format!("{} is no name for a file", shown(out)))?;
    let folder = match out.parent() {
        Some(parent) if parent != Path::new("") => parent,
        _ => Path::new("."),
    };
    Ok(folder.canonicalize().with_context(|| format!("cannot write into the folder {}", shown(folder)))?.join(name))
}

/// Refuses a place where the torrent file would replace data of the user; an older torrent file may be replaced.
fn ensure_free(out: &Path, content: &Path) -> Result<()> {
    let is_data = out.metadata().is_ok_and(|metadata| metadata.is_file() && metadata.len() > 0)
        && source::read_torrent(out).is_err();
    ensure!(!is_data, "{} exists and is no torrent file: choose another name with -o", shown(out));
    ensure!(out != content, "{} is what is to be shared: choose another name with -o", shown(out));
    Ok(())
}

/// Writes the torrent file: all of it or, if anything goes wrong, nothing.
fn write(out: &Path, torrent: &[u8]) -> Result<()> {
    let cannot = || format!("cannot write {}", shown(out));
    let folder = out.parent().unwrap_or(Path::new("."));
    let mut builder = tempfile::Builder::new();
    #[cfg(unix)]
    builder.permissions(std::os::unix::fs::PermissionsExt::from_mode(0o666));
    let mut file = builder.prefix(".castanet-").suffix(".tmp").tempfile_in(folder).with_context(cannot)?;
    file.write_all(torrent).with_context(cannot)?;
    file.as_file().sync_all().with_context(cannot)?;
    file.persist(out).map_err(|error| error.error).with_context(cannot)?;
    Ok(())
}

/// Seconds since 1970; SOURCE_DATE_EPOCH replaces the clock, so that the same content makes the same file.
fn now() -> Option<i64> {
    let fixed = std::env::var("SOURCE_DATE_EPOCH").ok().and_then(|text| text.parse().ok());
    let clock = || i64::try_from(SystemTime::now().duration_since(UNIX_EPOCH).ok()?.as_secs()).ok();
    fixed.or_else(clock)
}

fn shown(path: &Path) -> String {
    escaped(&path.to_string_lossy()).into_owned()
}
