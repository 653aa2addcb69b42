//! Situations and their sentences.

use super::*;

fn source(plugin: &str, answered: usize, failing: &[&str], condition: Option<&str>) -> SourceFacts {
    let failing = failing.iter().enumerate().map(|(at, why)| (at.to_string().into(), why.to_string())).collect();
    SourceFacts { plugin: plugin.into(), answered, failing, condition: condition.map(str::to_owned) }
}

/// Facts, the kinds of the reasons found, and the sentence.
type Situation = (Facts, &'static [&'static str], &'static str);

fn check(situations: &[Situation]) {
    for (facts, names, sentence) in situations {
        let diagnosis = diagnose(facts);
        assert_eq!(diagnosis.to_string(), *sentence);
        assert_eq!(diagnosis.names(), *names, "{sentence}");
    }
}

fn dht() -> SourceFacts {
    source("dht", 0, &[], Some("has no nodes"))
}

/// A source about which there is nothing to say, once a peer is known.
fn fixed() -> Vec<SourceFacts> {
    vec![source("fixed", 1, &[], None)]
}

#[test]
fn few_peers_lead_back_to_where_they_come_from() {
    let none = Facts::default();
    let silent = || vec![source("udp-tracker", 0, &["timeout"; 3], None), dht()];
    check(&[
        (
            none.clone(),
            &["no_peers", "no_sources"],
            "no peers have been found yet; no discovery plugin serves this torrent",
        ),
        (
            Facts { known: 42, refused: 40, connected: 2, choking: 2, sources: silent(), ..none.clone() },
            &["choked", "trackers", "source"],
            "42 peers known: 40 refused, 2 choke us; no tracker answered (timeout, 3 tried); the DHT has no nodes",
        ),
        (
            Facts { known: 3, refused: 1, timed_out: 2, banned: 1, sources: fixed(), ..none.clone() },
            &["not_connected", "banned"],
            "3 peers known: 2 did not answer, 1 refused; 1 address is banned",
        ),
        (
            Facts { known: 1, not_this_torrent: 1, sources: fixed(), ..none.clone() },
            &["not_connected"],
            "1 peer known: it hung up or has another torrent",
        ),
        (
            Facts { known: 4, half_open: 3, unreachable: 1, banned: 2, sources: fixed(), ..none.clone() },
            &["not_connected", "banned"],
            "4 peers known: 3 are being dialled, 1 cannot be reached from here; 2 addresses are banned",
        ),
        (
            Facts { known: 4, half_open: 3, timed_out: 4, sources: fixed(), ..none.clone() },
            &["not_connected"],
            "4 peers known: none answered",
        ),
        (Facts { known: 1, sources: fixed(), ..none.clone() }, &["not_connected"], "1 peer known, but not connected"),
        (
            Facts { known: 7, sources: fixed(), ..none.clone() },
            &["not_connected"],
            "7 peers known, none of them connected",
        ),
        (
            Facts { known: 2, timed_out: 2, sources: fixed(), ..none.clone() },
            &["not_connected"],
            "2 peers known: neither answered",
        ),
        (
            Facts { sources: vec![source("http-tracker", 2, &[], None), source("lsd", 0, &[], None)], ..none },
            &["no_peers", "trackers", "source"],
            "no peers have been found yet; 2 trackers answered and named nobody; lsd has found nobody",
        ),
    ]);
}

#[test]
fn connected_peers_answer_for_themselves() {
    let none = Facts { sources: fixed(), ..Facts::default() };
    check(&[
        (Facts { known: 9, connected: 2, choking: 2, ..none.clone() }, &["choked"], "2 peers connected: both choke us"),
        (Facts { known: 9, connected: 1, choking: 1, ..none.clone() }, &["choked"], "1 peer connected: it chokes us"),
        (
            Facts { known: 99, refused: 80, connected: 8, choking: 2, snubbed: 5, banned: 3, ..none.clone() },
            &["snubbed"],
            "8 peers connected: 5 have stopped sending, 2 choke us, 1 sends little",
        ),
        (
            Facts { known: 9, connected: 6, choking: 6, snubbed: 6, ..none.clone() },
            &["choked"],
            "6 peers connected: all choke us",
        ),
        (
            Facts { known: 9, connected: 6, without_use: 6, missing_everywhere: 1, ..none.clone() },
            &["nothing_new", "missing_pieces"],
            "6 peers connected: none has a piece that is missing; nobody connected has one of the pieces",
        ),
        (
            Facts { connected: 9, missing_everywhere: 7, is_disk_busy: true, ..none.clone() },
            &["disk", "little_to_give", "missing_pieces"],
            "the disk is slower than what arrives; 9 peers connected: all send little; \
             nobody connected has 7 of the pieces",
        ),
        (
            Facts { is_metadata: true, known: 1, connected: 1, without_metadata: 1, ..none.clone() },
            &["no_metadata"],
            "1 peer connected: it cannot tell what the torrent is",
        ),
        (
            Facts { is_metadata: true, known: 3, connected: 3, without_metadata: 2, choking: 3, ..none.clone() },
            &["no_metadata"],
            "3 peers connected: 2 cannot tell what the torrent is, 1 has not told what the torrent is yet",
        ),
        (
            Facts { known: 99, connected: 50, rate: 9_900, rate_limit: Some(10_240), ..none.clone() },
            &["rate_limit", "little_to_give"],
            "the download limit of 10 KiB/s is reached; 50 peers connected: all send little",
        ),
        (
            Facts { known: 9, connected: 9, rate: 1, rate_limit: Some(10_240), is_held: true, ..none.clone() },
            &["rate_limit", "little_to_give"],
            "the download limit of 10 KiB/s is reached; 9 peers connected: all send little",
        ),
        (
            Facts { known: 99, connected: 50, rate: 5_000, rate_limit: Some(10_240), ..none },
            &["little_to_give"],
            "50 peers connected: all send little",
        ),
    ]);
}

#[test]
fn trackers_are_summed_up_and_quoted_in_measure() {
    let trackers = |sources: Vec<SourceFacts>| diagnose(&Facts { known: 1, sources, ..Facts::default() });
    let second = |sources| trackers(sources).reasons[1].text.clone();
    assert_eq!(
        second(vec![source("http-tracker", 0, &["not registered"], None)]),
        "the tracker fails (not registered)"
    );
    let both = vec![source("http-tracker", 1, &["refused"], None), source("udp-tracker", 2, &[], None)];
    assert_eq!(second(both), "1 of 4 trackers fails (refused)");
    let both = vec![source("http-tracker", 1, &["refused"], None), source("udp-tracker", 0, &["timeout"; 2], None)];
    assert_eq!(second(both), "3 of 4 trackers fail (timeout)");
    let long = second(vec![source("friends", 0, &["é".repeat(500).as_str()], None)]);
    assert_eq!(long, format!("friends fails ({}…)", "é".repeat(LONGEST_QUOTE)));
}

#[test]
fn absurd_numbers_do_no_harm() {
    let most = usize::MAX / 8;
    let facts = Facts {
        refused: most,
        connected: 1,
        choking: most,
        snubbed: most,
        rate: u64::MAX,
        rate_limit: Some(u64::MAX),
        ..Facts::default()
    };
    assert_eq!(diagnose(&facts).names(), ["rate_limit", "choked", "no_sources"]);
}
