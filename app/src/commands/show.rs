//! `castanet show`: what a .torrent file or a magnet link says.

use std::{fmt::Write as _, process::ExitCode};

use anyhow::Result;
use castanet::{Metainfo, magnet::Magnet};
use serde::Serialize;

use crate::{
    args::{Common, Show},
    config::Settings,
    network,
    output::{
        self,
        human::{count, escaped, size},
    },
    source::Source,
};

/// What `--json` prints. What a magnet link does not say is null.
#[derive(Debug, Serialize)]
struct Description {
    name: Option<String>,
    info_hash: Option<String>,
    info_hash_v2: Option<String>,
    piece_length: Option<u32>,
    /// Bytes of the files: pad files are left out here as they are in `files`.
    length: Option<u64>,
    files: Option<Vec<File>>,
    trackers: Option<Vec<Vec<String>>>,
    web_seeds: Option<Vec<String>>,
    private: Option<bool>,
    comment: Option<String>,
    created_by: Option<String>,
    creation_date: Option<i64>,
    magnet: String,
    notes: Vec<String>,
}

#[derive(Debug, Serialize)]
struct File {
    path: String,
    length: u64,
}

/// Runs the command.
pub(crate) async fn run(mut show: Show, common: &Common) -> Result<ExitCode> {
    Settings::read(common)?.complete_way(&mut show.way);
    let description = match Source::read(&show.source, &network::web(&show.way)?).await? {
        Source::Torrent(metainfo) => of_torrent(&metainfo),
        Source::Magnet(magnet) => of_magnet(*magnet),
    };
    if show.json {
        output::print(&serde_json::to_string(&description)?)?;
    } else {
        output::print(in_words(&description).trim_end())?;
    }
    Ok(ExitCode::SUCCESS)
}

fn of_torrent(metainfo: &Metainfo) -> Description {
    let info = &metainfo.info;
    let files = info.files.iter().filter(|file| !file.pad);
    Description {
        name: Some(info.name.clone()),
        info_hash: metainfo.info_hashes.v1.map(|hash| hash.to_hex()),
        info_hash_v2: metainfo.info_hashes.v2.map(|hash| hash.to_hex()),
        piece_length: Some(info.piece_length),
        length: Some(info.content_length()),
        files: Some(files.map(|file| File { path: file.path.join("/"), length: file.length }).collect()),
        trackers: Some(metainfo.trackers.clone()),
        web_seeds: Some(metainfo.web_seeds.clone()),
        private: Some(info.private),
        comment: metainfo.comment.clone(),
        created_by: metainfo.created_by.clone(),
        creation_date: metainfo.creation_date,
        magnet: magnet(metainfo).to_string(),
        notes: metainfo.notes.iter().map(ToString::to_string).collect(),
    }
}

/// A link to the torrent.
pub(crate) fn magnet(metainfo: &Metainfo) -> Magnet {
    Magnet {
        name: Some(metainfo.info.name.clone()).filter(|name| !name.is_empty()),
        length: Some(metainfo.info.content_length()),
        trackers: metainfo.trackers.iter().flatten().cloned().collect(),
        web_seeds: metainfo.web_seeds.clone(),
        ..Magnet::new(metainfo.info_hashes)
    }
}

fn of_magnet(magnet: Magnet) -> Description {
    let text = magnet.to_string();
    let said = |all: Vec<String>| (!all.is_empty()).then_some(all);
    Description {
        name: magnet.name,
        info_hash: magnet.info_hashes.v1.map(|hash| hash.to_hex()),
        info_hash_v2: magnet.info_hashes.v2.map(|hash| hash.to_hex()),
        piece_length: None,
        length: magnet.length,
        files: None,
        trackers: said(magnet.trackers).map(|all| all.into_iter().map(|tracker| vec![tracker]).collect()),
        web_seeds: said(magnet.web_seeds),
        private: None,
        comment: None,
        created_by: None,
        creation_date: None,
        magnet: text,
        notes: Vec::new(),
    }
}

fn in_words(this: &Description) -> String {
    let mut text = String::new();
    let mut line = |label: &str, value: &str| {
        let _ = writeln!(text, "{label:<14} {}", escaped(value));
    };
    let optional = [
        ("name", this.name.clone()),
        ("info-hash", this.info_hash.clone()),
        ("info-hash v2", this.info_hash_v2.clone()),
        ("size", this.length.map(|length| format!("{} ({})", size(length), count(length, "byte")))),
        ("piece length", this.piece_length.map(|length| size(length.into()))),
        ("private", this.private.filter(|private| *private).map(|_| "yes: peers by its trackers only".into())),
        ("comment", this.comment.clone()),
        ("made by", this.created_by.clone()),
        ("made on", this.creation_date.map(date)),
    ];
    for (label, value) in optional {
        if let Some(value) = value {
            line(label, &value);
        }
    }
    for (tier, trackers) in this.trackers.iter().flatten().enumerate() {
        line(if tier == 0 { "trackers" } else { "" }, &trackers.join(", "));
    }
    for (at, seed) in this.web_seeds.iter().flatten().enumerate() {
        line(if at == 0 { "web seeds" } else { "" }, seed);
    }
    line("magnet", &this.magnet);
    for note in &this.notes {
        line("note", note);
    }
    if let Some(files) = &this.files {
        let _ = writeln!(text, "\n{}:", count(files.len() as u64, "file"));
        for file in files {
            let _ = writeln!(text, "{:>12}  {}", size(file.length), escaped(&file.path));
        }
    }
    text
}

/// Seconds since 1970 as a date in UTC.
fn date(seconds: i64) -> String {
    let (days, in_day) = (seconds.div_euclid(86400), seconds.rem_euclid(86400));
    // Days are counted from 1 March of the year 0, so that the leap day comes last; 400 years have 146097 days.
    let days = days.saturating_add(719_468);
    let (era, in_era) = (days.div_euclid(146_097), days.rem_euclid(146_097));
    let year_of_era = (in_era - in_era / 1460 + in_era / 36524 - in_era / 146_096) / 365;
    let day_of_year = in_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let month = (5 * day_of_year + 2) / 153;
    let day = day_of_year - (153 * month + 2) / 5 + 1;
    let (month, carry) = if month < 10 { (month + 3, 0) } else { (month - 9, 1) };
    let year = year_of_era + era * 400 + carry;
    format!("{year:04}-{month:02}-{day:02} {:02}:{:02} UTC", in_day / 3600, in_day / 60 % 60)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn dates() {
        for (seconds, text) in [
            (0, "1970-01-01 00:00 UTC"),
            (951_782_400, "2000-02-29 00:00 UTC"),
            (1_709_251_199, "2024-02-29 23:59 UTC"),
            (4_107_542_400, "2100-03-01 00:00 UTC"),
            (-1, "1969-12-31 23:59 UTC"),
        ] {
            assert_eq!(date(seconds), text);
        }
        assert!(!date(i64::MAX).is_empty() && !date(i64::MIN).is_empty());
    }

    #[test]
    fn what_a_magnet_link_does_not_say_is_null() {
        let magnet = Magnet::parse("magnet:?xt=urn:btih:0123456789abcdef0123456789abcdef01234567&dn=a%1bb").unwrap();
        let description = of_magnet(magnet);
        let json = serde_json::to_value(&description).unwrap();
        assert_eq!(json["name"], "a\u{1b}b");
        for key in ["length", "files", "trackers", "piece_length", "private", "info_hash_v2"] {
            assert!(json[key].is_null(), "{key}");
        }
        assert!(!in_words(&description).contains('\u{1b}'));
    }
}
