//! The configuration file and the folders of the XDG base directory specification.
//!
//! Order: option, environment (`CASTANET_…`, read by clap), file, default.

use std::{env, error::Error as _, ffi::OsStr, fmt, net::SocketAddr, path::PathBuf, time::Duration};

use anyhow::{Context as _, Result, ensure};
use confique::{Config, File, FileFormat, toml};
use serde::{Deserializer, de::Visitor};

use crate::{
    args::{Common, Encryption, Get, Network, PortMapping, SeedLimits, Way},
    values,
};

/// Castanet's configuration. Options on the command line and CASTANET_… in the environment come before it.
#[derive(Debug, Config)]
#[config(layer_attr(serde(deny_unknown_fields)))]
pub(crate) struct Settings {
    /// Where resume data are kept. Default: castanet in the XDG state folder. Example: "/var/lib/castanet"
    state: Option<PathBuf>,

    /// Where `castanet get` puts downloads. Default: the current folder. Example: "/home/me/Downloads"
    output: Option<PathBuf>,

    /// Where peers may connect. Default: all interfaces, port 6881 or the next free one. Example: ["0.0.0.0:6881"]
    listen: Option<Vec<SocketAddr>>,

    /// Whether connections to peers are encrypted: "prefer", "require" or "disable". Default: "prefer".
    encryption: Option<Encryption>,

    /// Send everything through this SOCKS5 proxy, names included; what it cannot carry is off. Default: none.
    /// Example: "socks5://me:password@proxy.example:1080"
    proxy: Option<String>,

    /// Everything leaves by this network interface, or nothing does. Default: the system chooses. Example: "wg0"
    interface: Option<String>,

    /// Download limit per second: bytes, or "500K", "2.5M"; "0" is unlimited. Default: unlimited.
    #[config(deserialize_with = number_or_text)]
    max_down: Option<String>,

    /// Upload limit per second. Default: unlimited.
    #[config(deserialize_with = number_or_text)]
    max_up: Option<String>,

    /// Whether peers on the local network are free of these limits: this machine, private networks, the subnets of its interfaces.
    /// Default: false.
    exempt_lan: Option<bool>,

    /// Only these discovery plugins; `castanet plugins` lists them. Default: all. Example: ["http-tracker", "fixed"]
    plugins: Option<Vec<String>>,

    /// Discovery plugins in other programs. Default: none. Example: ["friends=python3 friends.py"]
    plugin: Option<Vec<String>>,

    /// Settings of discovery plugins. Default: none. Example: ["dht.always=true"]
    plugin_setting: Option<Vec<String>>,

    /// Whether the router is asked to let peers in: "on" (by PCP, NAT-PMP or UPnP), "off", or by "pcp", "nat-pmp" or "upnp"
    /// alone. Default: "on".
    port_mapping: Option<PortMapping>,

    /// DHT nodes to begin with, instead of the well-known ones. Example: ["dht.example.org:6881"]
    dht_bootstrap: Option<Vec<String>>,

    /// Seed until so many times the torrent's size were sent. Default: no limit. Example: 1.5
    #[config(env = "CASTANET_SEED_RATIO")]
    seed_ratio: Option<f64>,

    /// Seed for so long. Default: no limit. Example: "2d"
    #[config(env = "CASTANET_SEED_TIME", deserialize_with = number_or_text)]
    seed_time: Option<String>,

    /// Give up when nothing arrives for so long. Default: never. Example: "30m"
    #[config(deserialize_with = number_or_text)]
    stall_timeout: Option<String>,
}

impl Settings {
    /// Reads the file that the user named, or the one in its usual place if there is one.
    pub(crate) fn read(common: &Common) -> Result<Self> {
        let usual = folder("XDG_CONFIG_HOME", ".config").map(|folder| folder.join("config.toml"));
        let Some(path) = common.config.clone().or(usual) else { return Self::from_layers(None) };
        let is_there = path.try_exists().unwrap_or(true);
        ensure!(is_there || common.config.is_none(), "the configuration file {} does not exist", path.display());
        if !is_there {
            return Self::from_layers(None);
        }
        let layer = File::with_format(&path, FileFormat::Toml).load().map_err(one_line);
        Self::from_layers(Some(
            layer.with_context(|| format!("the configuration file {} cannot be used", path.display()))?,
        ))
    }

    fn from_layers(file: Option<<Self as Config>::Layer>) -> Result<Self> {
        let layers = Self::builder().env();
        let layers = if let Some(file) = file { layers.preloaded(file) } else { layers };
        layers.load().map_err(one_line)
    }

    /// What applies to the network after file and options are joined.
    pub(crate) fn complete_network(&self, network: &mut Network) -> Result<()> {
        if network.listen.is_empty() {
            network.listen = self.listen.clone().unwrap_or_default();
        }
        network.encryption = network.encryption.or(self.encryption);
        network.port_mapping = network.port_mapping.or(self.port_mapping);
        self.complete_way(&mut network.way);
        network.plugins = network.plugins.take().or_else(|| self.plugins.clone());
        network.exempt_lan |= self.exempt_lan.unwrap_or_default();
        fill_all(&mut network.plugin, "plugin", self.plugin.as_deref(), values::plugin)?;
        let settings = self.plugin_setting.as_deref();
        fill_all(&mut network.plugin_setting, "plugin_setting", settings, values::plugin_setting)?;
        fill_all(&mut network.dht_bootstrap, "dht_bootstrap", self.dht_bootstrap.as_deref(), values::host_and_port)?;
        fill(&mut network.max_down, "max_down", self.max_down.as_deref(), values::bytes)?;
        fill(&mut network.max_up, "max_up", self.max_up.as_deref(), values::bytes)
    }

    /// What applies to whatever leaves.
    pub(crate) fn complete_way(&self, way: &mut Way) {
        way.proxy = way.proxy.take().or_else(|| self.proxy.clone());
        way.interface = way.interface.take().or_else(|| self.interface.clone());
    }

    /// The discovery plugins in other programs, by name and command.
    pub(crate) fn programs(&self) -> Result<Vec<(String, String)>> {
        let mut programs = Vec::new();
        fill_all(&mut programs, "plugin", self.plugin.as_deref(), values::plugin)?;
        Ok(programs)
    }

    /// What applies to seeding.
    pub(crate) fn complete_limits(&self, limits: &mut SeedLimits) -> Result<()> {
        limits.seed_ratio = limits.seed_ratio.or(self.seed_ratio);
        fill(&mut limits.seed_time, "seed_time", self.seed_time.as_deref(), values::duration)
    }

    /// What applies to a download.
    pub(crate) fn complete_get(&self, get: &mut Get) -> Result<()> {
        get.output = get.output.take().or_else(|| self.output.clone());
        fill(&mut get.stall_timeout, "stall_timeout", self.stall_timeout.as_deref(), values::duration)?;
        self.complete_limits(&mut get.limits)?;
        self.complete_network(&mut get.network)
    }

    /// Where state is kept; `None` if nobody says and there is no home folder.
    pub(crate) fn state_folder(&self, common: &Common) -> Option<PathBuf> {
        let chosen = common.state.clone().or_else(|| self.state.clone());
        chosen.or_else(|| folder("XDG_STATE_HOME", ".local/state"))
    }
}

fn fill<T>(option: &mut Option<T>, key: &str, text: Option<&str>, read: fn(&str) -> Result<T, String>) -> Result<()> {
    if let (None, Some(text)) = (&option, text) {
        let value = read(text).map_err(anyhow::Error::msg);
        *option = Some(value.with_context(|| format!("`{key}` in the configuration file or the environment"))?);
    }
    Ok(())
}

fn fill_all<T>(
    option: &mut Vec<T>,
    key: &str,
    texts: Option<&[String]>,
    read: fn(&str) -> Result<T, String>,
) -> Result<()> {
    if let (true, Some(texts)) = (option.is_empty(), texts) {
        let values: Result<Vec<T>, String> = texts.iter().map(|text| read(text)).collect();
        *option = values.map_err(anyhow::Error::msg).with_context(|| format!("`{key}` in the configuration file"))?;
    }
    Ok(())
}

/// Errors of the file format come with drawings of the line over several lines.
fn one_line(error: confique::Error) -> anyhow::Error {
    let text = error.source().map_or_else(|| error.to_string(), ToString::to_string);
    let is_drawing = |line: &str| line.trim_start_matches(|c: char| c.is_ascii_digit() || c == ' ').starts_with('|');
    let words: Vec<_> = text.lines().filter(|line| !is_drawing(line)).map(str::trim).collect();
    anyhow::Error::msg(words.join(": "))
}

/// Sizes and time spans may be written without their unit, as numbers.
fn number_or_text<'de, D: Deserializer<'de>>(value: D) -> Result<String, D::Error> {
    struct Either;
    impl Visitor<'_> for Either {
        type Value = String;
        fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
            f.write_str("a number or a text")
        }
        fn visit_str<E>(self, text: &str) -> Result<String, E> {
            Ok(text.to_owned())
        }
        fn visit_i64<E>(self, number: i64) -> Result<String, E> {
            Ok(number.to_string())
        }
        fn visit_u64<E>(self, number: u64) -> Result<String, E> {
            Ok(number.to_string())
        }
        fn visit_f64<E>(self, number: f64) -> Result<String, E> {
            Ok(number.to_string())
        }
    }
    value.deserialize_any(Either)
}

/// `castanet` in an XDG base folder; relative paths in the environment do not count, as the specification says.
fn folder(variable: &str, beneath_home: &str) -> Option<PathBuf> {
    let absolute = |name: &OsStr| env::var_os(name).map(PathBuf::from).filter(|path| path.is_absolute());
    let base = absolute(OsStr::new(variable)).or_else(|| Some(absolute(OsStr::new("HOME"))?.join(beneath_home)))?;
    Some(base.join("castanet"))
}

/// The documented template.
pub(crate) fn template() -> String {
    toml::template::<Settings>(toml::FormatOptions::default())
}

/// How long an orderly end may take.
pub(crate) const GOOD_BYE: Duration = Duration::from_secs(5);
