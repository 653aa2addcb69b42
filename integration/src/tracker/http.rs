//! The tracker over HTTP: one request and one response a connection.

use std::{borrow::Cow, collections::BTreeMap, io, net::IpAddr, sync::Arc, time::Duration};

use bendy::encoding::{AsString, Encoder, Error, SingleItemEncoder};
use castanet_core::{
    PeerId,
    addr::write_compact,
    seams::transport::{Connection, Listener},
};
use castanet_protocol::tracker::{Announce, Answer, Event};
use futures_util::StreamExt;
use percent_encoding::percent_decode_str;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    task::JoinSet,
    time::{sleep, timeout},
};

use super::{Counts, Desk, MOST_TORRENTS, REQUEST_LIMIT, USUAL_PEERS};

/// The longest head of a request in bytes.
pub(super) const LONGEST_HEAD: usize = 8 * 1024;

pub(super) async fn serve(mut http: Listener, desk: Arc<Desk>) {
    let mut connections = JoinSet::new();
    loop {
        tokio::select! {
            biased;
            Some(_) = connections.join_next(), if !connections.is_empty() => {}
            accepted = http.incoming.next(), if connections.len() < desk.config.most_connections => match accepted {
                Some(Ok(connection)) => {
                    let (desk, limit) = (desk.clone(), REQUEST_LIMIT + desk.config.answers_after);
                    connections.spawn(async move {
                        let _ = timeout(limit, converse(connection, &desk)).await;
                    });
                }
                // Out of sockets, most likely: the listener rests by itself, and some will be closed soon.
                Some(Err(error)) => tracing::debug!(%error, "the tracker cannot accept"),
                // Its host was killed, and its connections with it.
                None => return,
            },
        }
    }
}

/// One request, one response.
async fn converse(connection: Connection, desk: &Desk) -> io::Result<()> {
    let (mut stream, from) = (connection.io, connection.remote.ip());
    let mut head = Vec::new();
    while !head.windows(4).any(|end| end == b"\r\n\r\n") {
        if head.len() > LONGEST_HEAD || stream.read_buf(&mut head).await? == 0 {
            return Ok(());
        }
    }
    let head = String::from_utf8_lossy(&head);
    let mut words = head.split(' ');
    let (status, body) = match (words.next(), words.next()) {
        (Some("GET"), Some(target)) => respond(target, from, desk),
        _ => ("405 Method Not Allowed", Vec::new()),
    };
    // Even a sleep of nothing may last until the timer's next millisecond.
    if !desk.config.answers_after.is_zero() {
        sleep(desk.config.answers_after).await;
    }
    let head = format!(
        "HTTP/1.1 {status}\r\nContent-Type: text/plain\r\nContent-Length: {}\r\nConnection: close\r\n\r\n",
        body.len()
    );
    stream.write_all(&[head.as_bytes(), &body].concat()).await?;
    stream.shutdown().await
}

fn respond(target: &str, from: IpAddr, desk: &Desk) -> (&'static str, Vec<u8>) {
    let (path, query) = target.split_once('?').unwrap_or((target, ""));
    let body = match path {
        "/announce" => {
            let announced = announce_in(query).map_err(Cow::Borrowed).and_then(|(announce, compact)| {
                desk.with(|swarms, now| swarms.announce(now, from, &announce)).map(|answer| (answer, compact))
            });
            match announced {
                Ok((answer, compact)) => write_answer(&answer, compact),
                Err(reason) => write_refusal(&reason),
            }
        }
        "/scrape" => {
            let hashes = parameters(query).filter(|(key, _)| *key == "info_hash");
            let hashes = hashes.filter_map(|(_, value)| value.try_into().ok()).take(MOST_TORRENTS);
            let files = desk.with(|swarms, now| hashes.map(|hash| (hash, swarms.counts(now, hash))).collect());
            write_scrape(files)
        }
        _ => return ("404 Not Found", Vec::new()),
    };
    // A dictionary of ours always encodes; an empty body would be seen by every test.
    ("200 OK", body.unwrap_or_default())
}

fn parameters(query: &str) -> impl Iterator<Item = (&str, Vec<u8>)> {
    query.split('&').filter_map(|pair| pair.split_once('=')).map(|(key, value)| {
        // Some programs write a blank as a plus sign.
        (key, percent_decode_str(&value.replace('+', " ")).collect())
    })
}

/// The announce in a query, and whether the peers are wanted in the compact form.
pub(super) fn announce_in(query: &str) -> Result<(Announce, bool), &'static str> {
    let parameters: BTreeMap<&str, Vec<u8>> = parameters(query).collect();
    let twenty = |key| parameters.get(key).and_then(|value: &Vec<u8>| <[u8; 20]>::try_from(&value[..]).ok());
    let text = |key| parameters.get(key).and_then(|value| std::str::from_utf8(value).ok());
    let number = |key| text(key).and_then(|text| text.parse::<u64>().ok());
    let announce = Announce {
        info_hash: twenty("info_hash").ok_or("no info_hash of 20 bytes")?,
        peer_id: PeerId(twenty("peer_id").ok_or("no peer_id of 20 bytes")?),
        port: text("port").and_then(|port| port.parse().ok()).ok_or("no port")?,
        key: text("key").and_then(|key| u32::from_str_radix(key, 16).ok()).unwrap_or(0),
        uploaded: number("uploaded").unwrap_or(0),
        downloaded: number("downloaded").unwrap_or(0),
        left: number("left").ok_or("no left")?,
        wanted: number("numwant").map_or(USUAL_PEERS, |wanted| u32::try_from(wanted).unwrap_or(u32::MAX)),
        event: match text("event") {
            None | Some("" | "empty") => Event::Regular,
            Some("started") => Event::Started,
            Some("completed") => Event::Completed,
            Some("stopped") => Event::Stopped,
            // `paused` (BEP 21) and whatever else there may be.
            Some(_) => Event::Regular,
        },
    };
    Ok((announce, text("compact") != Some("0")))
}

fn write_refusal(reason: &str) -> Result<Vec<u8>, Error> {
    let mut out = Encoder::new();
    out.emit_dict(|mut dict| dict.emit_pair(b"failure reason", reason))?;
    out.get_output()
}

fn write_answer(answer: &Answer, compact: bool) -> Result<Vec<u8>, Error> {
    let seconds = |duration: Option<Duration>| duration.unwrap_or_default().as_secs();
    let (mut v4, mut v6) = (Vec::new(), Vec::new());
    for (peer, _) in &answer.peers {
        write_compact(*peer, if peer.is_ipv4() { &mut v4 } else { &mut v6 });
    }
    let external = answer.external.map_or_else(Vec::new, |ip| match ip {
        IpAddr::V4(ip) => ip.octets().to_vec(),
        IpAddr::V6(ip) => ip.octets().to_vec(),
    });
    let mut out = Encoder::new();
    out.emit_dict(|mut dict| {
        dict.emit_pair(b"complete", answer.seeds.unwrap_or(0))?;
        dict.emit_pair(b"external ip", AsString(&external))?;
        dict.emit_pair(b"incomplete", answer.leeches.unwrap_or(0))?;
        dict.emit_pair(b"interval", seconds(answer.interval))?;
        dict.emit_pair(b"min interval", seconds(answer.min_interval))?;
        if !compact {
            return dict.emit_pair_with(b"peers", |list| write_peers(list, answer));
        }
        dict.emit_pair(b"peers", AsString(&v4))?;
        dict.emit_pair(b"peers6", AsString(&v6))
    })?;
    out.get_output()
}

fn write_peers(list: SingleItemEncoder<'_>, answer: &Answer) -> Result<(), Error> {
    list.emit_list(|list| {
        answer.peers.iter().try_for_each(|(addr, id)| {
            list.emit_dict(|mut peer| {
                peer.emit_pair(b"ip", addr.ip().to_string())?;
                if let Some(id) = id {
                    peer.emit_pair(b"peer id", AsString(&id.0))?;
                }
                peer.emit_pair(b"port", addr.port())
            })
        })
    })
}

fn write_scrape(files: BTreeMap<[u8; 20], Counts>) -> Result<Vec<u8>, Error> {
    let mut out = Encoder::new();
    out.emit_dict(|mut dict| {
        dict.emit_pair_with(b"files", |dict| {
            dict.emit_dict(|mut dict| {
                files.iter().try_for_each(|(hash, counts)| {
                    dict.emit_pair_with(hash, |file| {
                        file.emit_dict(|mut file| {
                            file.emit_pair(b"complete", counts.seeds)?;
                            file.emit_pair(b"downloaded", counts.completed)?;
                            file.emit_pair(b"incomplete", counts.leeches)
                        })
                    })
                })
            })
        })
    })?;
    out.get_output()
}
