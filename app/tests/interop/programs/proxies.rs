//! SOCKS5 proxies as Debian builds them: microsocks, which has users and no datagrams, and dante, which has datagrams.
//!
//! Each has a hosts file of its own, in a mount namespace: what it says, nobody else can look up.

use std::fs;
use std::net::SocketAddrV4;
use std::path::Path;
use std::process::Command;

use anyhow::Result;

use super::peers_folder;
use crate::world::{Process, World, wait_for_listener};

/// A running proxy.
pub(crate) struct Proxy {
    _process: Process,
    /// Where it listens.
    pub(crate) address: SocketAddrV4,
}

/// Runs a program that finds these names, each with its address.
fn knowing(hosts: &Path, names: &[(&str, &str)], program: &Path) -> Result<Command> {
    let lines: String = names.iter().map(|(name, address)| format!("{address} {name}\n")).collect();
    fs::write(hosts, format!("127.0.0.1 localhost\n{lines}"))?;
    let mut command = Command::new("unshare");
    command.args(["--mount", "sh", "-c", "mount --bind \"$0\" /etc/hosts && exec \"$@\""]).args([hosts, program]);
    Ok(command)
}

fn started(process: Process, address: SocketAddrV4) -> Result<Proxy> {
    wait_for_listener(address)?;
    Ok(Proxy { _process: process, address })
}

/// Starts microsocks at `address`, for this user with this password alone.
pub(crate) fn microsocks(
    world: &World,
    address: SocketAddrV4,
    [user, password]: [&str; 2],
    names: &[(&str, &str)],
) -> Result<Proxy> {
    let program = peers_folder().canonicalize()?.join("proxies/usr/bin/microsocks");
    let mut command = knowing(&world.folder("microsocks")?.join("hosts"), names, &program)?;
    command.args(["-i", &address.ip().to_string(), "-p", &address.port().to_string(), "-u", user, "-P", password]);
    started(world.start("microsocks", &mut command)?, address)
}

/// Starts dante at `address`, for everyone, with datagrams.
pub(crate) fn dante(world: &World, address: SocketAddrV4, names: &[(&str, &str)]) -> Result<Proxy> {
    let (folder, proxies) = (world.folder("dante")?, peers_folder().canonicalize()?.join("proxies"));
    let config = folder.join("danted.conf");
    fs::write(
        &config,
        format!(
            "logoutput: stderr\n\
             internal: {} port = {}\n\
             external: {}\n\
             clientmethod: none\n\
             socksmethod: none\n\
             user.privileged: root\n\
             user.unprivileged: root\n\
             client pass {{ from: 0/0 to: 0/0 }}\n\
             socks pass {{ from: 0/0 to: 0/0 }}\n",
            address.ip(),
            address.port(),
            address.ip()
        ),
    )?;
    let mut command = knowing(&folder.join("hosts"), names, &proxies.join("usr/sbin/danted"))?;
    // libwrap, where it was unpacked to.
    let libraries = fs::read_dir(proxies.join("usr/lib"))?.filter_map(|entry| Some(entry.ok()?.path()));
    let libraries: Vec<_> = libraries.map(|path| path.to_string_lossy().into_owned()).collect();
    command.env("LD_LIBRARY_PATH", libraries.join(":")).args(["-f"]).arg(&config).args(["-p"]).arg(folder.join("pid"));
    started(world.start("dante", &mut command)?, address)
}
