//! What people type, read: rates, durations, sizes, HOST:PORT, and files chosen by glob.

use castanet::{Metainfo, Priority};
pub(crate) use castanet_core::units::{bytes, duration};
use globset::{Glob, GlobSet, GlobSetBuilder};

/// A ratio of bytes given to bytes of the torrent: a number from 0 on.
pub(crate) fn ratio(text: &str) -> Result<f64, String> {
    let wrong = || format!("`{}` is no ratio: write a number such as 1.5", text.escape_debug());
    text.parse::<f64>().ok().filter(|ratio| ratio.is_finite() && *ratio >= 0.0).ok_or_else(wrong)
}

/// A length of pieces: a power of two from 16 KiB to 256 MiB.
pub(crate) fn piece_length(text: &str) -> Result<u32, String> {
    let length = u32::try_from(bytes(text)?).unwrap_or(u32::MAX);
    if length.is_power_of_two() && (16 << 10..=256 << 20).contains(&length) {
        Ok(length)
    } else {
        Err("a piece length is a power of two from 16K to 256M".into())
    }
}

/// HOST:PORT, where HOST is a name, an IPv4 address, or an IPv6 address in brackets.
pub(crate) fn host_and_port(text: &str) -> Result<String, String> {
    let wrong = || format!("`{}` is not HOST:PORT (an IPv6 address needs brackets: [::1]:6881)", text.escape_debug());
    let (host, port) = text.rsplit_once(':').ok_or_else(wrong)?;
    let bracketed = host.strip_prefix('[').and_then(|host| host.strip_suffix(']'));
    let host_is_fine = match bracketed {
        Some(v6) => v6.parse::<std::net::Ipv6Addr>().is_ok(),
        None => !host.is_empty() && !host.contains([':', ' ', '/']) && !host.contains(char::is_control),
    };
    let port_is_fine = port.parse::<u16>().is_ok_and(|port| port != 0);
    if host_is_fine && port_is_fine { Ok(text.to_owned()) } else { Err(wrong()) }
}

/// A discovery plugin in another program: `NAME=COMMAND`. Names are made of small letters, digits and `-`.
pub(crate) fn plugin(text: &str) -> Result<(String, String), String> {
    let wrong = || format!("`{}` is not NAME=COMMAND, such as friends='python3 friends.py'", text.escape_debug());
    let (name, command) = text.split_once('=').ok_or_else(wrong)?;
    let is_name = !name.is_empty() && name.chars().all(|c| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '-');
    let is_taken = castanet::BUILTIN_PLUGINS.iter().any(|(builtin, _)| *builtin == name);
    match (is_name && !command.trim().is_empty(), is_taken) {
        (false, _) => Err(wrong()),
        (true, true) => Err(format!("there is a built-in plugin called `{name}`: give yours another name")),
        (true, false) => Ok((name.to_owned(), command.to_owned())),
    }
}

/// A setting of a discovery plugin.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct PluginSetting {
    pub(crate) plugin: String,
    pub(crate) key: String,
    pub(crate) value: String,
}

/// `NAME.KEY=VALUE`. Which keys there are is the plugin's own matter.
pub(crate) fn plugin_setting(text: &str) -> Result<PluginSetting, String> {
    let wrong = || format!("`{}` is not NAME.KEY=VALUE, such as dht.always=true", text.escape_debug());
    let (setting, value) = text.split_once('=').ok_or_else(wrong)?;
    let (plugin, key) = setting.split_once('.').ok_or_else(wrong)?;
    if plugin.is_empty() || key.is_empty() {
        return Err(wrong());
    }
    Ok(PluginSetting { plugin: plugin.to_owned(), key: key.to_owned(), value: value.to_owned() })
}

/// A URL of a tracker or a web seed.
pub(crate) fn url(text: &str) -> Result<String, String> {
    let is_url = text.split_once("://").is_some_and(|(scheme, rest)| {
        scheme.chars().all(|c| c.is_ascii_alphanumeric() || "+.-".contains(c)) && !scheme.is_empty() && !rest.is_empty()
    });
    if is_url && !text.contains(|c: char| c.is_control() || c == ' ') {
        Ok(text.to_owned())
    } else {
        Err(format!("`{}` is no URL", text.escape_debug()))
    }
}

/// A glob over the paths of a torrent's files.
pub(crate) fn glob(text: &str) -> Result<Glob, String> {
    Glob::new(text).map_err(|error| format!("`{}` is no glob: {}", text.escape_debug(), error.kind()))
}

/// `GLOB=high|normal|low`.
pub(crate) fn glob_priority(text: &str) -> Result<(Glob, Priority), String> {
    let (pattern, priority) = text.rsplit_once('=').ok_or("write GLOB=high, GLOB=normal or GLOB=low")?;
    let priority = match priority {
        "high" => Priority::High,
        "normal" => Priority::Normal,
        "low" => Priority::Low,
        _ => return Err(format!("`{}` is no priority: high, normal or low", priority.escape_debug())),
    };
    Ok((glob(pattern)?, priority))
}

/// How much each file of a torrent is wanted: only those that a glob of `select` matches (all if there is none), and by
/// the last of `priorities` that matches. Globs are matched with the path in the torrent, with and without its name.
///
/// # Errors
/// If globs select no file at all.
pub(crate) fn priorities(
    metainfo: &Metainfo,
    select: &[Glob],
    priorities: &[(Glob, Priority)],
) -> Result<Vec<Priority>, String> {
    if select.is_empty() && priorities.is_empty() {
        return Ok(Vec::new());
    }
    let set = |globs: &mut dyn Iterator<Item = &Glob>| -> Result<GlobSet, String> {
        let mut set = GlobSetBuilder::new();
        globs.for_each(|glob| {
            set.add(glob.clone());
        });
        set.build().map_err(|error| format!("the globs are too large together: {}", error.kind()))
    };
    let (selected, ranked) = (set(&mut select.iter())?, set(&mut priorities.iter().map(|(glob, _)| glob))?);
    let wanted = metainfo.info.files.iter().map(|file| {
        let path = file.path.join("/");
        let whole = if metainfo.info.single_file { path.clone() } else { format!("{}/{path}", metainfo.info.name) };
        let is_in = |set: &GlobSet| set.is_match(&path) || set.is_match(&whole);
        if !file.on_disk() || (!select.is_empty() && !is_in(&selected)) {
            return Priority::Skip;
        }
        let last = ranked.matches(&path).into_iter().chain(ranked.matches(&whole)).max();
        last.map_or(Priority::Normal, |at| priorities[at].1)
    });
    let wanted: Vec<Priority> = wanted.collect();
    match wanted.iter().all(|priority| *priority == Priority::Skip) {
        true => Err("no file of the torrent matches --select; `castanet show` lists them".into()),
        false => Ok(wanted),
    }
}

#[cfg(test)]
mod tests {
    use castanet::metainfo::write::{NewContent, NewFile, NewTorrent, encode};

    use super::*;

    #[test]
    fn piece_lengths() {
        assert_eq!(piece_length("64K"), Ok(65536));
        assert!(piece_length("65537").is_err() && piece_length("8K").is_err() && piece_length("1T").is_err());
    }

    #[test]
    fn peers_and_urls() {
        for fine in ["a.example:1", "127.0.0.1:6881", "[::1]:6881"] {
            assert_eq!(host_and_port(fine).as_deref(), Ok(fine));
        }
        for bad in ["", "a", "a:", "a:0", "a:70000", "::1:5", ":5", "[x]:5", "a b:5"] {
            assert!(host_and_port(bad).is_err(), "{bad}");
        }
        assert_eq!(plugin("a-1=b c=d"), Ok(("a-1".into(), "b c=d".into())));
        let setting = plugin_setting("dht.bootstrap=a.example:1=").unwrap();
        assert_eq!([setting.plugin, setting.key, setting.value], ["dht", "bootstrap", "a.example:1="]);
        for bad in ["", "dht", "dht=x", "dht.=x", ".x=y", "dht.x"] {
            assert!(plugin_setting(bad).is_err(), "{bad}");
        }
        for bad in ["", "a", "=b", "a=", "A=b", "fixed=b", "a b=c"] {
            assert!(plugin(bad).is_err(), "{bad}");
        }
        assert!(url("http://x/announce").is_ok() && url("udp://x:1").is_ok());
        assert!(url("x").is_err() && url("://x").is_err() && url("http://").is_err() && url("http://a b").is_err());
        assert!(ratio("1.5").is_ok() && ratio("0").is_ok() && ratio("-1").is_err() && ratio("inf").is_err());
    }

    #[test]
    fn globs_choose_files() {
        let file = |path: &str| NewFile { path: path.split('/').map(String::from).collect(), length: 10, pad: false };
        let torrent = NewTorrent {
            name: "show".into(),
            content: NewContent::Folder(vec![file("a.mkv"), file("a.srt"), file("extras/b.mkv")]),
            piece_length: 16384,
            pieces: vec![0; 20],
            ..NewTorrent::default()
        };
        let metainfo = Metainfo::parse(&encode(&torrent)).unwrap();
        let choose = |select: &[&str], ranked: &[&str]| {
            let select: Vec<_> = select.iter().map(|text| glob(text).unwrap()).collect();
            let ranked: Vec<_> = ranked.iter().map(|text| glob_priority(text).unwrap()).collect();
            priorities(&metainfo, &select, &ranked)
        };
        use Priority::{High, Low, Normal, Skip};
        assert_eq!(choose(&[], &[]), Ok(vec![]));
        assert_eq!(choose(&["*.mkv"], &[]), Ok(vec![Normal, Skip, Normal]));
        assert_eq!(choose(&["show/extras/*"], &[]), Ok(vec![Skip, Skip, Normal]));
        assert_eq!(choose(&[], &["*=low", "extras/*=high"]), Ok(vec![Low, Low, High]));
        assert!(choose(&["*.iso"], &[]).is_err());
        assert!(glob("a[").is_err() && glob_priority("x=urgent").is_err() && glob_priority("x").is_err());
    }
}
