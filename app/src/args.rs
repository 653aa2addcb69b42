//! The command line as clap reads it. Values are in `values`, what commands do in `commands`.

use std::{
    net::SocketAddr,
    path::{Path, PathBuf},
    time::Duration,
};

use castanet::{MappingMethod, Priority};
use clap::{ArgAction, Args, CommandFactory as _, Parser, Subcommand, ValueEnum, error::ErrorKind};
use globset::Glob;

use crate::values::{self, PluginSetting};

/// Downloads and seeds torrents.
#[derive(Debug, Parser)]
#[command(
    name = "castanet",
    version,
    arg_required_else_help = true,
    after_help = "Exit codes: 0 done, 1 failed, 2 wrong usage, 130 interrupted (the same command resumes)."
)]
pub(crate) struct Cli {
    #[command(flatten)]
    pub(crate) common: Common,
    #[command(subcommand)]
    pub(crate) command: Command,
}

/// What every command takes.
#[derive(Debug, Args)]
pub(crate) struct Common {
    /// Configuration file (TOML) [default: castanet/config.toml in the XDG config folder, if it is there]
    #[arg(
        long,
        global = true,
        value_name = "FILE",
        env = "CASTANET_CONFIG",
        hide_env = true,
        help_heading = "General"
    )]
    pub(crate) config: Option<PathBuf>,
    /// Where resume data are kept [default: castanet in the XDG state folder]
    #[arg(long, global = true, value_name = "DIR", env = "CASTANET_STATE", hide_env = true, help_heading = "General")]
    pub(crate) state: Option<PathBuf>,
    /// Log what happens inside (-vv, -vvv: more); RUST_LOG chooses finer
    #[arg(short, long, global = true, action = ArgAction::Count, help_heading = "General")]
    pub(crate) verbose: u8,
}

#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// Download torrents; ends once they are complete and verified on disk
    Get(Get),
    /// Serve complete torrents to others until interrupted
    Seed(Seed),
    /// Make a .torrent file
    Create(Create),
    /// Show what a .torrent file or magnet link says
    Show(Show),
    /// Compare files on disk with their torrent, piece by piece
    Verify(Verify),
    /// Find peers, and show which plugin found whom after how long
    Discover(Discover),
    /// A whole swarm on this machine: tracker, two seeds and one download, made on the spot
    Demo(Demo),
    /// Replay a whole swarm in simulation from a seed, to compare ways of finding peers
    Lab(castanet_integration::lab::command::Lab),
    /// List the discovery plugins, or try one
    Plugins(Plugins),
    /// Print a documented configuration file
    Config,
    /// Print completions for a shell
    Completions {
        /// The shell
        shell: clap_complete::Shell,
    },
    /// Print a manual page (roff)
    Man,
}

#[derive(Debug, Args)]
pub(crate) struct Plugins {
    #[command(subcommand)]
    pub(crate) action: Option<PluginsAction>,
}

#[derive(Debug, Subcommand)]
pub(crate) enum PluginsAction {
    /// Put a plugin through all that the engine may do to it; needs no network and takes about twenty seconds
    Check {
        /// A program with its arguments, as one word for the shell, or the name of a built-in plugin
        #[arg(value_name = "'PROGRAM ARGUMENTS'")]
        plugin: String,
        /// One JSON object a line on stdout
        #[arg(long)]
        json: bool,
    },
}

#[derive(Debug, Args)]
pub(crate) struct Get {
    /// A .torrent file, the http(s) URL of one, a magnet link or an info-hash (repeatable)
    #[arg(required = true, value_name = "SOURCE")]
    pub(crate) sources: Vec<String>,
    /// Download into this folder
    #[arg(short, long, value_name = "DIR", env = "CASTANET_OUTPUT", hide_env = true)]
    pub(crate) output: Option<PathBuf>,
    /// Only files whose path matches; may be given several times
    #[arg(long, value_name = "GLOB", value_parser = values::glob)]
    pub(crate) select: Vec<Glob>,
    /// Files that come first or last: GLOB=high, GLOB=normal, GLOB=low
    #[arg(long, value_name = "GLOB=PRIORITY", value_parser = values::glob_priority)]
    pub(crate) priority: Vec<(Glob, Priority)>,
    /// Fetch the pieces in order
    #[arg(long)]
    pub(crate) sequential: bool,
    /// Whether disk space is reserved beforehand [default: sparse]
    #[arg(long, value_enum, env = "CASTANET_ALLOCATE", hide_env = true)]
    pub(crate) allocate: Option<Allocate>,
    /// Go on as a seed when complete
    #[arg(long)]
    pub(crate) seed: bool,
    #[command(flatten)]
    pub(crate) limits: SeedLimits,
    /// Give up when nothing arrives for so long, such as 90s or 10m [default: never]
    #[arg(long, value_name = "DURATION", value_parser = values::duration, env = "CASTANET_STALL_TIMEOUT", hide_env = true)]
    pub(crate) stall_timeout: Option<Duration>,
    /// One JSON object a line on stdout instead of progress for people
    #[arg(long)]
    pub(crate) json: bool,
    #[command(flatten)]
    pub(crate) network: Network,
}

/// When seeding ends by itself.
#[derive(Debug, Clone, Args)]
pub(crate) struct SeedLimits {
    /// Seed until so many times the torrent's size were sent, such as 1.5
    #[arg(long, value_name = "RATIO", value_parser = values::ratio)]
    pub(crate) seed_ratio: Option<f64>,
    /// Seed for so long, such as 30m or 2d
    #[arg(long, value_name = "DURATION", value_parser = values::duration)]
    pub(crate) seed_time: Option<Duration>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum Allocate {
    /// Files grow as pieces arrive
    Sparse,
    /// All space is reserved at the start
    Full,
}

#[derive(Debug, Args)]
#[command(override_usage = "castanet seed [OPTIONS] <TORRENT>... <DIR>")]
pub(crate) struct Seed {
    /// .torrent files, or folders of them; at the end the folder that holds the torrents' files
    #[arg(required = true, value_name = "TORRENT... DIR")]
    paths: Vec<PathBuf>,
    #[command(flatten)]
    pub(crate) limits: SeedLimits,
    /// One JSON object a line on stdout instead of progress for people
    #[arg(long)]
    pub(crate) json: bool,
    #[command(flatten)]
    pub(crate) network: Network,
}

impl Seed {
    /// The torrents and the folder. Ends the program, as wrong usage does, if there are not at least two paths.
    pub(crate) fn paths(&self) -> (&[PathBuf], &Path) {
        match self.paths.split_last() {
            Some((folder, torrents)) if !torrents.is_empty() => (torrents, folder),
            _ => {
                let missing = "the folder that holds the torrents' files is missing: seed TORRENT... DIR";
                Cli::command().error(ErrorKind::MissingRequiredArgument, missing).exit()
            }
        }
    }
}

#[derive(Debug, Args)]
pub(crate) struct Discover {
    /// A .torrent file, the http(s) URL of one, a magnet link or an info-hash
    pub(crate) source: String,
    /// End after so long, such as 10s or 5m
    #[arg(long = "for", value_name = "DURATION", value_parser = values::duration, default_value = "30s")]
    pub(crate) duration: Duration,
    /// One JSON object a line on stdout
    #[arg(long)]
    pub(crate) json: bool,
    #[command(flatten)]
    pub(crate) network: Network,
}

/// How peers are found and reached.
#[derive(Debug, Args)]
#[command(next_help_heading = "Network")]
pub(crate) struct Network {
    /// Where peers may connect; repeatable [default: all interfaces, port 6881 or the next free one]
    #[arg(long, value_name = "ADDR:PORT", env = "CASTANET_LISTEN", hide_env = true, value_delimiter = ',')]
    pub(crate) listen: Vec<SocketAddr>,
    /// A peer to dial at once (repeatable)
    #[arg(long, value_name = "HOST:PORT", value_parser = values::host_and_port)]
    pub(crate) peer: Vec<String>,
    /// A tracker besides the torrent's own (repeatable)
    #[arg(long, value_name = "URL", value_parser = values::url)]
    pub(crate) tracker: Vec<String>,
    /// Only these discovery plugins; `castanet plugins` lists them
    #[arg(long, value_name = "A,B,C", value_delimiter = ',', env = "CASTANET_PLUGINS", hide_env = true)]
    pub(crate) plugins: Option<Vec<String>>,
    /// Ask no trackers
    #[arg(long)]
    pub(crate) no_trackers: bool,
    /// Do without the DHT
    #[arg(long)]
    pub(crate) no_dht: bool,
    /// Do not exchange peers with peers
    #[arg(long)]
    pub(crate) no_pex: bool,
    /// Do not look for peers on the local network
    #[arg(long)]
    pub(crate) no_lsd: bool,
    /// A discovery plugin that is another program (repeatable); `castanet plugins check` tries one
    #[arg(long, value_name = "NAME=COMMAND", value_parser = values::plugin)]
    pub(crate) plugin: Vec<(String, String)>,
    /// A setting of a discovery plugin (repeatable); its page or source lists them
    #[arg(long, value_name = "NAME.KEY=VALUE", value_parser = values::plugin_setting)]
    pub(crate) plugin_setting: Vec<PluginSetting>,
    /// A DHT node to begin with, instead of the well-known ones (repeatable)
    #[arg(long, value_name = "HOST:PORT", value_parser = values::host_and_port)]
    pub(crate) dht_bootstrap: Vec<String>,
    /// Reach peers only so (repeatable)
    #[arg(long, value_enum)]
    pub(crate) transport: Vec<TransportName>,
    /// Encrypt connections to peers: if they can, or else have none, or never [default: prefer]
    #[arg(long, value_enum, env = "CASTANET_ENCRYPTION", hide_env = true)]
    pub(crate) encryption: Option<Encryption>,
    /// Download limit per second: bytes, or 500K, 2.5M; 0 is unlimited
    #[arg(long, value_name = "RATE", value_parser = values::bytes, env = "CASTANET_MAX_DOWN", hide_env = true)]
    pub(crate) max_down: Option<u64>,
    /// Upload limit per second
    #[arg(long, value_name = "RATE", value_parser = values::bytes, env = "CASTANET_MAX_UP", hide_env = true)]
    pub(crate) max_up: Option<u64>,
    /// Peers on the local network neither count towards the limits nor wait for them
    #[arg(long)]
    pub(crate) exempt_lan: bool,
    /// Ask the router to let peers in, by PCP, NAT-PMP or UPnP, or by one of them alone; never on loopback [default: on]
    #[arg(long, value_enum, env = "CASTANET_PORT_MAPPING", hide_env = true)]
    pub(crate) port_mapping: Option<PortMapping>,
    /// How long a router is asked to keep the port open, such as 1h
    #[arg(long, hide = true, value_name = "DURATION", value_parser = values::duration)]
    pub(crate) port_mapping_lifetime: Option<Duration>,
    #[command(flatten)]
    pub(crate) way: Way,
}

/// By which way: for every command that reaches out.
#[derive(Args)]
#[command(next_help_heading = "Network")]
pub(crate) struct Way {
    /// Everything leaves by it, or nothing does [default: the system chooses]
    #[arg(long, value_name = "NAME|ADDRESS", env = "CASTANET_INTERFACE", hide_env = true)]
    pub(crate) interface: Option<String>,
    /// Send everything through a SOCKS5 proxy, names included; what it cannot carry is off. CASTANET_PROXY hides a
    /// password from those who list processes
    // A text, since an error of clap's would show the password.
    #[arg(long, value_name = "socks5://[USER:PASSWORD@]HOST:PORT", env = "CASTANET_PROXY", hide_env = true)]
    pub(crate) proxy: Option<String>,
}

impl std::fmt::Debug for Way {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let proxy = if self.proxy.is_some() { "a proxy" } else { "no proxy" };
        write!(f, "Way({proxy}, {:?})", self.interface)
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum TransportName {
    Tcp,
    Utp,
}

impl TransportName {
    /// The transport's own name.
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Tcp => "tcp",
            Self::Utp => "utp",
        }
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum, serde::Deserialize)]
#[serde(rename_all = "kebab-case")]
pub(crate) enum PortMapping {
    /// By whatever the router understands
    On,
    Off,
    /// By PCP alone
    Pcp,
    /// By NAT-PMP alone
    NatPmp,
    /// By UPnP alone
    Upnp,
}

impl PortMapping {
    /// The ways of asking; `None`: nobody is asked.
    pub(crate) fn methods(self) -> Option<Vec<MappingMethod>> {
        match self {
            Self::On => Some(MappingMethod::ALL.to_vec()),
            Self::Off => None,
            Self::Pcp => Some(vec![MappingMethod::Pcp]),
            Self::NatPmp => Some(vec![MappingMethod::NatPmp]),
            Self::Upnp => Some(vec![MappingMethod::Upnp]),
        }
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum, serde::Deserialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum Encryption {
    /// Handshakes are, if the peer knows how; what follows only if the peer insists
    Prefer,
    /// Everything is, or there is no connection
    Require,
    /// Nothing is
    Disable,
}

impl From<Encryption> for castanet::Encryption {
    fn from(encryption: Encryption) -> Self {
        match encryption {
            Encryption::Prefer => Self::Prefer,
            Encryption::Require => Self::Require,
            Encryption::Disable => Self::Disable,
        }
    }
}

#[derive(Debug, Args)]
pub(crate) struct Create {
    /// The file or folder to share
    pub(crate) path: PathBuf,
    /// The .torrent file to write
    #[arg(short, long, value_name = "OUT")]
    pub(crate) output: PathBuf,
    /// A tracker; further ones are asked if the first cannot be reached (repeatable)
    #[arg(long, value_name = "URL", value_parser = values::url)]
    pub(crate) tracker: Vec<String>,
    /// A web seed (repeatable)
    #[arg(long, value_name = "URL", value_parser = values::url)]
    pub(crate) webseed: Vec<String>,
    /// Bytes of a piece: a power of two, such as 256K [default: by the size]
    #[arg(long, value_name = "BYTES", value_parser = values::piece_length)]
    pub(crate) piece_length: Option<u32>,
    /// Peers are found by the trackers only
    #[arg(long)]
    pub(crate) private: bool,
    /// A remark
    #[arg(long, value_name = "TEXT")]
    pub(crate) comment: Option<String>,
    /// The version of BitTorrent
    #[arg(long, value_enum, default_value = "v1")]
    pub(crate) format: Format,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum Format {
    V1,
    #[value(hide = true)]
    V2,
    #[value(hide = true)]
    Hybrid,
}

#[derive(Debug, Args)]
pub(crate) struct Show {
    /// A .torrent file, the http(s) URL of one, a magnet link or an info-hash
    pub(crate) source: String,
    /// One JSON object on stdout
    #[arg(long)]
    pub(crate) json: bool,
    #[command(flatten)]
    pub(crate) way: Way,
}

#[derive(Debug, Args)]
pub(crate) struct Verify {
    /// The .torrent file, or the http(s) URL of one
    pub(crate) torrent: String,
    /// The folder that holds the torrent's file or folder
    pub(crate) folder: PathBuf,
    /// One JSON object on stdout
    #[arg(long)]
    pub(crate) json: bool,
    #[command(flatten)]
    pub(crate) way: Way,
}

#[derive(Debug, Args)]
pub(crate) struct Demo {
    /// Size of what is downloaded
    #[arg(long, value_name = "SIZE", value_parser = values::bytes, default_value = "64M")]
    pub(crate) size: u64,
    /// What the payload is made from
    #[arg(long, value_name = "N", default_value_t = 1)]
    pub(crate) seed: u64,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_definition_is_sound() {
        Cli::command().debug_assert();
    }

    #[test]
    fn the_last_of_seed_is_the_folder() {
        let cli = Cli::try_parse_from(["castanet", "seed", "a.torrent", "b.torrent", "--no-dht", "dir"]).unwrap();
        let Command::Seed(seed) = cli.command else { panic!("not seed: {cli:?}") };
        let torrents = [PathBuf::from("a.torrent"), PathBuf::from("b.torrent")];
        assert_eq!(seed.paths(), (&torrents[..], Path::new("dir")));
    }
}
