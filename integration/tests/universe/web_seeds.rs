//! Web seeds (BEP 19): a download from web servers alone, beside peers, and from servers that lie, fail or are limited.

use std::{cell::RefCell, net::SocketAddr, rc::Rc, time::Duration};

use castanet::{Happening, Metainfo, Torrent, TorrentHandle, seams::transport::Transport};
use castanet_integration::{payload::Payload, universe::universe};
use castanet_transports::memory::MemoryTransport;
use futures_util::StreamExt;
use tokio::io::{AsyncReadExt, AsyncWriteExt};

use crate::{KIB, MIB, complete, discovery::worth, seconds};

const PIECE: u32 = 64 * KIB as u32;

/// How a web server answers a request for bytes of a file: with status and body.
type Answer = dyn Fn(&str, &[u8]) -> (u16, Vec<u8>);

/// Serves the payload's files under their paths, parts of them as they are asked for. Notes what is asked for.
async fn serve(at: MemoryTransport, payload: Payload, answer: Rc<Answer>, asked: Rc<RefCell<Vec<String>>>) {
    let mut listener = at.listen(SocketAddr::new(at.ip(), 80)).await.expect("it listens once");
    while let Some(Ok(mut connection)) = listener.incoming.next().await {
        let (payload, answer, asked) = (payload.clone(), answer.clone(), asked.clone());
        actix_rt::spawn(async move {
            let mut request = Vec::new();
            while !request.ends_with(b"\r\n\r\n") && connection.io.read_buf(&mut request).await.is_ok_and(|n| n > 0) {}
            let request = String::from_utf8_lossy(&request).to_lowercase();
            let path = request.split(' ').nth(1).unwrap_or_default().trim_start_matches('/').to_owned();
            let range = request.lines().find_map(|line| line.strip_prefix("range: bytes=")?.split_once('-'));
            let range = range.and_then(|(first, last)| Some(first.parse().ok()?..last.parse::<usize>().ok()? + 1));
            let file = payload.files.iter().find(|(name, _)| *name == path);
            asked.borrow_mut().push(format!("{path} {range:?}"));
            let (status, body) = match (file, range) {
                (Some((_, data)), Some(range)) if range.end <= data.len() => answer(&path, &data[range]),
                (Some(_), _) => (416, Vec::new()),
                (None, _) => (404, Vec::new()),
            };
            let head = format!("HTTP/1.1 {status} So\r\nContent-Length: {}\r\n\r\n", body.len());
            let _ = connection.io.write_all(&[head.as_bytes(), &body].concat()).await;
        });
    }
}

fn honest() -> Rc<Answer> {
    Rc::new(|_, bytes| (206, bytes.to_vec()))
}

/// The payload's torrent with these web seeds.
fn torrent(payload: &Payload, seeds: &[&MemoryTransport]) -> Torrent {
    let web_seeds = seeds.iter().map(|seed| format!("http://{}/", seed.ip())).collect();
    Torrent::new(Metainfo { web_seeds, ..Metainfo::clone(&payload.metainfo) }, "/downloads")
}

/// What was said of the web seeds.
fn notices(events: &mut tokio::sync::broadcast::Receiver<castanet::TorrentEvent>) -> Vec<String> {
    let told = std::iter::from_fn(|| events.try_recv().ok()).filter_map(|event| match event.what {
        Happening::Notice(text) => Some(text),
        _ => None,
    });
    told.collect()
}

fn given(handle: &TorrentHandle) -> u64 {
    worth(handle, "web-seed").3
}

#[test]
fn a_folder_comes_from_a_web_server_alone() {
    let payload = Payload::folder("ship", &[("a", 3 * MIB + 5), ("b", 0), ("c/d", 100_000), ("e", MIB)], PIECE, 1);
    universe(81, async |world| {
        let (server, asked) = (world.stranger(), Rc::default());
        world.let_live(serve(server.clone(), payload.clone(), honest(), Rc::clone(&asked)));
        let host = world.host().await;
        let mut leeching = host.add(torrent(&payload, &[&server])).await;
        complete(&mut leeching).await;
        assert_eq!(host.difference(&payload), None);
        seconds(2).await;
        assert_eq!(worth(&leeching, "web-seed"), (1, 1, 1, payload.metainfo.info.length));
        assert_eq!(leeching.state().downloaded, payload.metainfo.info.length, "nothing twice");
        let asked = asked.borrow().len();
        assert!(asked < 100, "what lies together is asked for together: {asked} questions");
    });
}

#[test]
fn a_web_server_that_lies_is_left_and_the_rest_comes_from_peers() {
    let payload = Payload::one_file("cargo", 4 * MIB, PIECE, 1);
    universe(82, async |world| {
        let (liar, asked) = (world.stranger(), Rc::<RefCell<Vec<String>>>::default());
        let lie = Rc::new(|_: &str, bytes: &[u8]| (206, bytes.iter().map(|byte| byte ^ 1).collect()));
        world.let_live(serve(liar.clone(), payload.clone(), lie, asked.clone()));
        let seed = world.host().await;
        seed.set_uplink(Some(256 * KIB as u64));
        seed.seed(&payload).await;
        let host = world.host().await;
        let mut leeching = host.add(torrent(&payload, &[&liar]).peers([seed.addr().to_string()])).await;
        let mut events = leeching.events();
        complete(&mut leeching).await;
        assert_eq!(host.difference(&payload), None);
        let told = notices(&mut events);
        assert!(told.iter().any(|told| told.contains("does not match the torrent's hash")), "{told:?}");
        assert!(asked.borrow().len() < 5, "{:?}", asked.borrow());
    });
}

#[test]
fn a_web_server_that_fails_is_asked_again_and_one_without_the_file_is_not() {
    let payload = Payload::one_file("cargo", MIB, PIECE, 1);
    universe(83, async |world| {
        let servers = [world.stranger(), world.stranger(), world.stranger()];
        let asked: [Rc<RefCell<Vec<String>>>; 3] = Default::default();
        let left = Rc::new(RefCell::new(3));
        let busy = move |_: &str, bytes: &[u8]| {
            let mut left = left.borrow_mut();
            *left -= i32::from(*left > 0);
            if *left > 0 { (503, Vec::new()) } else { (206, bytes.to_vec()) }
        };
        let whole = payload.files[0].1.clone();
        let answers: [Rc<Answer>; 3] =
            [Rc::new(busy), Rc::new(|_, _| (404, Vec::new())), Rc::new(move |_, _| (200, whole.clone()))];
        for ((server, answer), asked) in servers.iter().zip(answers).zip(&asked) {
            world.let_live(serve(server.clone(), payload.clone(), answer, asked.clone()));
        }
        let host = world.host().await;
        let mut leeching = host.add(torrent(&payload, &servers.each_ref())).await;
        let mut events = leeching.events();
        complete(&mut leeching).await;
        assert_eq!(host.difference(&payload), None);
        let told = notices(&mut events);
        for words in ["fails: it answers 503", "is not used: it answers 404", "is not used: it gives no parts of files"]
        {
            assert_eq!(told.iter().filter(|told| told.contains(words)).count(), 1, "{words} in {told:?}");
        }
        assert_eq!([asked[1].borrow().len(), asked[2].borrow().len()], [1, 1]);
        assert!(world.elapsed() > Duration::from_secs(10 + 20), "it rests in between");
    });
}

#[test]
fn a_limit_holds_for_web_servers_and_a_pause_stops_them() {
    let payload = Payload::one_file("cargo", 4 * MIB, PIECE, 1);
    universe(84, async |world| {
        let (server, asked) = (world.stranger(), Rc::<RefCell<Vec<String>>>::default());
        world.let_live(serve(server.clone(), payload.clone(), honest(), asked.clone()));
        let host = world.host_with(|engine| engine.max_down(Some(128 * KIB as u64))).await;
        let mut leeching = host.add(torrent(&payload, &[&server])).await;
        seconds(10).await;
        let got = given(&leeching) as usize;
        assert!((MIB..2 * MIB).contains(&got), "{got} bytes in ten seconds at 128 KiB/s");
        assert!(host.engine().pause(leeching.id()).await);
        seconds(2).await;
        let before = asked.borrow().len();
        seconds(60).await;
        assert_eq!(asked.borrow().len(), before);
        assert!(host.engine().resume(leeching.id()).await);
        complete(&mut leeching).await;
        assert_eq!(host.difference(&payload), None);
    });
}
