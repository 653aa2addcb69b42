//! Sizes that hurt careless programs, and disks that refuse: the real program, real files, its own seed.
//!
//! Payloads are sparse files of zeros, which cost no space at the seed; they lie on tmpfs where there is one.

use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, ensure};

use crate::castanet::{LISTEN, command};
use crate::world::{self, Process, World, wait_for_listener, wait_until};

/// Private memory that a download may take, whatever its size, in KiB.
const MOST_PRIVATE: u64 = 32 * 1024;

fn roomy() -> Result<tempfile::TempDir> {
    let shared = Path::new("/dev/shm");
    Ok(if shared.is_dir() { tempfile::tempdir_in(shared)? } else { tempfile::tempdir()? })
}

/// `castanet create`.
fn create(content: &Path, torrent: &Path, piece_length: &str) -> Result<()> {
    let output = command(&["create", "--piece-length", piece_length]).arg(content).arg("-o").arg(torrent).output()?;
    ensure!(output.status.success(), "create: {}", String::from_utf8_lossy(&output.stderr));
    Ok(())
}

/// A seed that has checked its data and listens.
fn seed(world: &World, torrent: &Path, folder: &Path) -> Result<Process> {
    let mut command = command(&["seed", "--no-trackers", "--listen", &LISTEN.to_string()]);
    let mut seed = world.start("castanet-seed", command.arg(torrent).arg(folder))?;
    wait_for_listener(LISTEN)?;
    // It listens from its start and opens its door after the check.
    wait_until("the seed has checked its data", || {
        seed.still_running()?;
        Ok(seed.stderr()?.contains("complete"))
    })?;
    Ok(seed)
}

/// `castanet get` from that seed, perhaps in a wrapper.
fn get(world: &World, wrapper: Option<Command>, torrent: &Path, folder: &Path, state: &Path) -> Result<Process> {
    let mut command = wrapper.unwrap_or_else(|| command(&[]));
    command.args(["get", "--no-trackers", "--listen", "10.77.0.2:6882", "--peer", &LISTEN.to_string()]);
    command.arg("--state").arg(state).arg("-o").arg(folder).arg(torrent);
    world.start("castanet-get", &mut command)
}

/// Downloads to the end; returns the most private memory that was seen, in KiB.
fn download(world: &World, torrent: &Path, folder: &Path) -> Result<u64> {
    let mut get = get(world, None, torrent, folder, &world.folder("state")?)?;
    let (mut most, mut status) = (0, None);
    wait_until("the download ends", || {
        most = most.max(get.private_memory());
        status = get.ended()?;
        Ok(status.is_some())
    })?;
    ensure!(status.is_some_and(|status| status.success()), "get: {}", get.stderr()?);
    Ok(most)
}

fn sparse(folder: &Path, name: &str, length: u64) -> Result<PathBuf> {
    let path = folder.join(name);
    File::create(&path)?.set_len(length)?;
    Ok(path)
}

#[test]
fn four_gib_in_little_memory() {
    world::test(|world| {
        let (here, there) = (roomy()?, roomy()?);
        let torrent = here.path().join("large.torrent");
        create(&sparse(here.path(), "large", 4 << 30)?, &torrent, "1M")?;
        let _seed = seed(world, &torrent, here.path())?;
        let most = download(world, &torrent, there.path())?;
        ensure!(fs::metadata(there.path().join("large"))?.len() == 4 << 30, "the file is not whole");
        ensure!(most < MOST_PRIVATE, "{most} KiB of private memory");
        Ok(())
    });
}

#[test]
fn a_hundred_thousand_pieces() {
    world::test(|world| {
        let (here, there) = (roomy()?, roomy()?);
        let torrent = here.path().join("pieces.torrent");
        create(&sparse(here.path(), "pieces", 100_000 * 16 * 1024 - 5)?, &torrent, "16K")?;
        let _seed = seed(world, &torrent, here.path())?;
        let most = download(world, &torrent, there.path())?;
        ensure!(fs::metadata(there.path().join("pieces"))?.len() == 100_000 * 16 * 1024 - 5, "the file is not whole");
        ensure!(most < 2 * MOST_PRIVATE, "{most} KiB of private memory");
        Ok(())
    });
}

#[test]
fn twenty_thousand_files() {
    world::test(|world| {
        let (here, there) = (roomy()?, roomy()?);
        let folder = here.path().join("many");
        for n in 0..20_000 {
            let below = folder.join(format!("{:03}", n / 100));
            if n % 100 == 0 {
                fs::create_dir_all(&below)?;
            }
            fs::write(below.join(n.to_string()), n.to_string())?;
        }
        let torrent = here.path().join("many.torrent");
        create(&folder, &torrent, "16K")?;
        let _seed = seed(world, &torrent, here.path())?;
        download(world, &torrent, there.path())?;
        for n in 0..20_000 {
            let path = there.path().join(format!("many/{:03}/{n}", n / 100));
            ensure!(fs::read_to_string(&path).with_context(|| path.display().to_string())? == n.to_string());
        }
        Ok(())
    });
}

/// `castanet` with a tmpfs of its own, mounted with these options, at `folder`.
fn on_a_small_disk(folder: &Path, options: &str) -> Command {
    let mut command = Command::new("unshare");
    let script = r#"mount -t tmpfs -o "$0" none "$1" && shift && exec "$@""#;
    command.args(["--mount", "sh", "-c", script, options]).arg(folder).arg(env!("CARGO_BIN_EXE_castanet"));
    command
}

/// Runs a download on such a disk, which must fail with a sentence that says `why`.
fn refused(options: &str, why: &str) {
    world::test(|world| {
        let (here, there) = (roomy()?, roomy()?);
        let torrent = here.path().join("file.torrent");
        create(&sparse(here.path(), "file", 16 << 20)?, &torrent, "256K")?;
        let _seed = seed(world, &torrent, here.path())?;
        let disk = on_a_small_disk(there.path(), options);
        let mut get = get(world, Some(disk), &torrent, there.path(), &world.folder("state")?)?;
        let status = get.wait()?;
        let said = get.stderr()?;
        ensure!(status.code() == Some(1) && said.contains(why), "{status}: {said}");
        ensure!(!said.contains("panicked") && !said.contains("Error {"), "no sentence for people: {said}");
        Ok(())
    });
}

#[test]
fn a_full_disk_is_said() {
    refused("size=4m", "the disk is full");
}

#[test]
fn a_read_only_disk_is_said() {
    refused("ro", "read-only");
}
