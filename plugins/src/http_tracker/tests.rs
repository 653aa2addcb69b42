//! The plugin against web servers in memory, in virtual time.

use std::{
    io::Write,
    sync::{
        Mutex,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use castanet_core::{
    Moment,
    seams::{
        discovery::{Found, FoundStream, Progress, SwarmEvent},
        web::Question,
    },
};
use flate2::{Compression, write::GzEncoder};
use futures_util::StreamExt;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio_rustls::{
    TlsAcceptor,
    rustls::{RootCertStore, ServerConfig, crypto::ring},
};

use super::*;
use crate::testing::{Torrent, World};

type Heads = Arc<Mutex<Vec<String>>>;

/// Reads a request's head and writes the response.
async fn answer(mut io: impl AsyncRead + AsyncWrite + Unpin, heads: Heads, respond: impl Fn(&str) -> Vec<u8>) {
    let mut head = Vec::new();
    while !head.ends_with(b"\r\n\r\n") {
        match io.read_u8().await {
            Ok(byte) => head.push(byte),
            Err(_) => return,
        }
    }
    let head = String::from_utf8(head).unwrap();
    let response = respond(&head);
    heads.lock().unwrap().push(head);
    let _ = io.write_all(&response).await;
    let _ = io.shutdown().await;
}

/// A web server; returns the heads of the requests that it gets.
fn web(world: &World, addr: &str, respond: impl Fn(&str) -> Vec<u8> + Clone + Send + Sync + 'static) -> Heads {
    let heads = Heads::default();
    let asked = heads.clone();
    world.listen(addr, move |io| {
        tokio::spawn(answer(io, asked.clone(), respond.clone()));
    });
    heads
}

fn ok(body: &[u8]) -> Vec<u8> {
    page("200 OK", "", body)
}
fn page(status: &str, headers: &str, body: &[u8]) -> Vec<u8> {
    let mut out = format!("HTTP/1.1 {status}\r\n{headers}Content-Length: {}\r\n\r\n", body.len()).into_bytes();
    out.extend_from_slice(body);
    out
}
/// An answer with the peer 10.0.0.1:80.
fn peers(interval: u32) -> Vec<u8> {
    let mut body = format!("d8:intervali{interval}e5:peers6:").into_bytes();
    body.extend_from_slice(&[10, 0, 0, 1, 0, 80, b'e']);
    body
}
fn gzip(plain: &[u8]) -> Vec<u8> {
    let mut encoder = GzEncoder::new(Vec::new(), Compression::best());
    encoder.write_all(plain).unwrap();
    encoder.finish().unwrap()
}

/// The next thing that the plugin has to say, as text; when it goes idle is left out.
async fn next(stream: &mut FoundStream) -> String {
    loop {
        match stream.next().await {
            Some(Ok(Found::Idle { .. } | Found::Reached(_) | Found::SwarmSize { .. })) => {}
            Some(Ok(Found::Peers(peers))) => {
                let peers: Vec<_> = peers.iter().map(|peer| peer.addr.to_string()).collect();
                return peers.join(" ");
            }
            Some(Ok(Found::Notice(text))) => return text,
            Some(Ok(Found::ExternalAddress(ip))) => return format!("we are {ip}"),
            Some(Ok(other)) => return format!("{other:?}"),
            Some(Err(error)) => return error.to_string(),
            None => return "the end".to_owned(),
        }
    }
}

/// What the plugin says first about a tracker at 127.0.0.1 that responds like this.
async fn first(response: Vec<u8>) -> String {
    let world = World::new();
    web(&world, "127.0.0.1:80", move |_| response.clone());
    let (swarm, _engine) = Torrent::new(&["http://127.0.0.1/a"]).swarm();
    let plugin = build(&world.means(), &Settings::default()).unwrap();
    next(&mut plugin.discover(swarm).await.unwrap()).await
}

#[tokio::test(start_paused = true)]
async fn a_torrents_life() {
    let world = World::new();
    let heads = web(&world, "127.0.0.1:8080", |_| {
        ok(b"d8:completei1e11:external ip4:\x01\x02\x03\x048:intervali1000e5:peers6:\x0a\0\0\x01\0\x5010:tracker id2:t/15:warning message2:hme")
    });
    let url = "http://us%40er:pw@127.0.0.1:8080/x/announce?passkey=abc";
    let torrent = Torrent::new(&[url]);
    let plugin = build(&world.means(), &Settings::default()).unwrap();
    assert!(plugin.serves(&torrent.info));
    let (swarm, engine) = torrent.swarm();
    let mut stream = plugin.discover(swarm).await.unwrap();
    for said in ["10.0.0.1:80", "we are 1.2.3.4", &format!("{url} says: hm")] {
        assert_eq!(next(&mut stream).await, said);
    }
    engine.events.send(SwarmEvent::Completed).await.unwrap();
    next(&mut stream).await;
    assert!(world.now() < Moment::from_secs(1), "an event does not wait");
    next(&mut stream).await;
    next(&mut stream).await;
    next(&mut stream).await;
    assert!(world.now() >= Moment::from_secs(1000));
    drop(stream);
    let last = Progress { uploaded: 9, left: Some(0), ..Progress::default() };
    plugin.leave(torrent.info.clone(), torrent.me.clone(), last.clone(), Duration::from_secs(5)).await.unwrap();
    plugin.leave(torrent.info, torrent.me, last, Duration::from_secs(5)).await.unwrap();

    let heads = heads.lock().unwrap();
    let heads: Vec<_> = heads.iter().map(|head| head.as_str()).collect();
    let [started, completed, regular, stopped] = heads[..] else { panic!("{heads:?}") };
    let hash = "%AB".repeat(20);
    assert!(started.starts_with(&format!("GET /x/announce?passkey=abc&info_hash={hash}&peer_id=pppp")), "{started}");
    assert!(started.contains("&left=3&compact=1&no_peer_id=1&numwant=1&key=0000beef&event=started HTTP/1.1\r\n"));
    for header in ["host: 127.0.0.1:8080", "user-agent: Castanet/test", "authorization: Basic dXNAZXI6cHc="] {
        assert!(started.contains(&format!("{header}\r\n")), "{started}");
    }
    assert!(completed.contains("&event=completed&trackerid=t%2F HTTP"), "{completed}");
    assert!(regular.contains("&key=0000beef&trackerid=t%2F HTTP"), "{regular}");
    assert!(stopped.contains("&uploaded=9&") && stopped.contains("&numwant=0&"), "{stopped}");
    assert!(stopped.contains("&event=stopped&trackerid=t%2F"), "{stopped}");
}

#[tokio::test(start_paused = true)]
async fn both_families_are_asked_and_one_is_enough() {
    let world = World::new();
    world.name("both.test", &["::1", "127.0.0.1"]);
    world.name("half.test", &["::2", "127.0.0.1"]);
    let v4 = web(&world, "127.0.0.1:80", |_| ok(&peers(1800)));
    let v6 = web(&world, "[::1]:80", |_| ok(b"d6:peers618:\x20\x01\x0d\xb8\0\0\0\0\0\0\0\0\0\0\0\x01\0\x51e"));
    let (swarm, _engine) = Torrent::new(&["http://both.test/a", "http://half.test/b"]).swarm();
    let plugin = build(&world.means(), &Settings::default()).unwrap();
    let mut stream = plugin.discover(swarm).await.unwrap();
    let mut said = [next(&mut stream).await, next(&mut stream).await, next(&mut stream).await];
    said.sort();
    assert_eq!(said, ["10.0.0.1:80", "10.0.0.1:80", "[2001:db8::1]:81"]);
    assert_eq!((v4.lock().unwrap().len(), v6.lock().unwrap().len()), (2, 1));
    assert!(v6.lock().unwrap()[0].contains("host: both.test\r\n"));
}

#[tokio::test(start_paused = true)]
async fn who_sees_us_by_the_routers_address_is_told_the_port_of_the_router() {
    let world = World::new();
    world.name("both.test", &["2001:db8::7", "8.8.8.8"]);
    let (beyond, v6) =
        (web(&world, "8.8.8.8:80", |_| ok(&peers(1800))), web(&world, "[2001:db8::7]:80", |_| ok(&peers(1800))));
    let nearby = web(&world, "192.168.1.9:80", |_| ok(&peers(1800)));
    let (swarm, _engine) = Torrent::new(&["http://both.test/a", "http://192.168.1.9/b"]).swarm();
    let means = world.means();
    *means.mapped.write().unwrap() = Some("11.2.3.4:7000".parse().unwrap());
    let plugin = build(&means, &Settings::default()).unwrap();
    let local = format!("port={}&", swarm.me.port);
    let mut stream = plugin.discover(swarm).await.unwrap();
    for _ in 0..3 {
        next(&mut stream).await;
    }
    for (heads, port) in [(beyond, "port=7000&"), (v6, &local), (nearby, &local)] {
        let heads = heads.lock().unwrap();
        assert!(heads.len() == 1 && heads[0].contains(port), "{port} in {heads:?}");
    }
}

#[tokio::test(start_paused = true)]
async fn a_question_to_a_router_is_one_exchange_with_a_limit() {
    let world = World::new();
    let heads = web(&world, "192.168.1.1:5000", |head| match head.split(' ').nth(1) {
        Some("/long") => ok(&[b'x'; 70_000]),
        Some("/elsewhere") => page("302 Found", "Location: http://8.8.8.8/\r\n", b""),
        _ => page("500 Internal Server Error", "", b"<errorCode>718</errorCode>"),
    });
    let router = "192.168.1.1:5000".parse().unwrap();
    let client = Client::new(&world.means());
    let ask = async |path, action| client.ask(router, Question { path, action }, 64 << 10).await;
    let page = ask("/ctl", Some(("\"a#b\"", "<body/>"))).await.unwrap();
    assert_eq!((page.status.as_u16(), &page.body[..]), (500, &b"<errorCode>718</errorCode>"[..]));
    let head = heads.lock().unwrap()[0].to_lowercase();
    for part in
        ["post /ctl http/1.1\r\n", "host: 192.168.1.1:5000\r\n", "soapaction: \"a#b\"\r\n", "content-length: 7\r\n"]
    {
        assert!(head.contains(part), "{part} in {head}");
    }
    assert_eq!(ask("/long", None).await.unwrap_err().to_string(), "more than 64 KiB");
    assert_eq!(ask("/elsewhere", None).await.unwrap_err().to_string(), "it redirects where it should not");
}

#[tokio::test(start_paused = true)]
async fn a_slow_tracker_or_name_delays_no_other() {
    let world = World::new();
    world.silent_name("slow.test");
    // It accepts and never answers.
    let held = Mutex::new(Vec::new());
    world.listen("127.0.0.2:80", move |io| held.lock().unwrap().push(io));
    web(&world, "127.0.0.1:80", |_| ok(&peers(1800)));
    let urls = ["http://slow.test/", "http://127.0.0.2/", "http://127.0.0.3/", "http://127.0.0.1/"];
    let (swarm, _engine) = Torrent::new(&urls).swarm();
    let plugin = build(&world.means(), &Settings::default()).unwrap();
    let mut stream = plugin.discover(swarm).await.unwrap();
    let mut said = [next(&mut stream).await, next(&mut stream).await];
    said.sort();
    assert_eq!(said, ["10.0.0.1:80", "http://127.0.0.3/ cannot be reached: connection refused"]);
    assert!(world.now() < Moment::from_secs(1));
    let mut said = Vec::new();
    while world.now() < Moment::from_secs(40) {
        said.push(next(&mut stream).await);
    }
    for sentence in [
        "http://slow.test/ cannot be reached: looking up slow.test took too long",
        "http://127.0.0.2/ cannot be reached: no answer within 30 s",
    ] {
        assert!(said.iter().any(|said| said == sentence), "{said:?}");
    }
}

#[tokio::test(start_paused = true)]
async fn numbers_are_scraped_by_the_convention() {
    let world = World::new();
    let hash = [0xab; 20];
    let mut body = b"d5:filesd20:".to_vec();
    body.extend(hash);
    body.extend(b"d8:completei5e10:downloadedi7e10:incompletei6eeee");
    let heads = web(&world, "127.0.0.1:80", move |head| match head.contains("/scrape") {
        true => ok(&body),
        false => ok(&peers(1800)),
    });
    // The announce brings no numbers. The second tracker does not follow the convention.
    let (swarm, _engine) = Torrent::new(&["http://127.0.0.1/x/announce?k=1", "http://127.0.0.1/y/a"]).swarm();
    let mut stream = build(&world.means(), &Settings::default()).unwrap().discover(swarm).await.unwrap();
    let size = loop {
        if let Found::SwarmSize { instance, size } = stream.next().await.unwrap().unwrap() {
            break (instance.to_string(), size);
        }
    };
    let expected = SwarmSize { seeds: 5, leeches: 6, completed: Some(7) };
    assert_eq!(size, ("http://127.0.0.1/x/announce?k=1".to_owned(), expected));
    let heads = heads.lock().unwrap();
    let scrapes: Vec<_> = heads.iter().filter(|head| head.contains("scrape")).collect();
    assert_eq!(scrapes.len(), 1);
    let get = format!("GET /x/scrape?k=1&info_hash={} HTTP/1.1\r\n", "%AB".repeat(20));
    assert!(scrapes[0].starts_with(&get), "{}", scrapes[0]);
}

#[tokio::test(start_paused = true)]
async fn compressed_and_chunked_bodies() {
    let zipped = gzip(&peers(1800));
    assert_eq!(first(page("200 OK", "Content-Encoding: gzip\r\n", &zipped)).await, "10.0.0.1:80");
    let mut chunked = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n".to_vec();
    for byte in peers(1800) {
        chunked.extend_from_slice(b"1\r\n");
        chunked.extend_from_slice(&[byte, b'\r', b'\n']);
    }
    chunked.extend_from_slice(b"0\r\n\r\n");
    assert_eq!(first(chunked).await, "10.0.0.1:80");
    let mut until_close = b"HTTP/1.0 200 OK\r\n\r\n".to_vec();
    until_close.extend(peers(1800));
    assert_eq!(first(until_close).await, "10.0.0.1:80");
}

#[tokio::test(start_paused = true)]
async fn hostile_answers_end_in_a_sentence() {
    let says = |what: &str| format!("http://127.0.0.1/a {what}");
    let bad = |what: &str| says(&format!("sent a bad answer: {what}"));
    assert_eq!(first(ok(&vec![b'x'; 10 << 20])).await, bad("more than 2 MiB"));
    let bomb = gzip(&vec![0; 100 << 20]);
    assert!(bomb.len() < 1 << 20);
    assert_eq!(first(page("200 OK", "Content-Encoding: gzip\r\n", &bomb)).await, bad("more than 2 MiB"));
    let cut = &gzip(&peers(1))[..20];
    let cut = first(page("200 OK", "Content-Encoding: gzip\r\n", cut)).await;
    assert!(cut.starts_with(&bad("a body that cannot be decoded")), "{cut}");
    let br = first(page("200 OK", "Content-Encoding: br\r\n", b"x")).await;
    assert_eq!(br, bad("a body that cannot be decoded: we asked for gzip"));
    assert!(first(ok(b"<html>")).await.starts_with(&bad("not a tracker's answer")));
    assert_eq!(first(ok(b"d14:failure reason5:no\x1b[2e")).await, says("says: no\\u{1b}[2"));
    assert_eq!(first(page("400 Bad Request", "", b"d14:failure reason2:noe")).await, says("says: no"));
    assert_eq!(first(page("404 Not Found", "", b"<html>")).await, says("says: 404 Not Found"));
    for broken in [&b""[..], b"\xff\x00 nonsense", b"HTTP/1.1 200 OK\r\nContent-Length: 99\r\n\r\nd"] {
        let said = first(broken.to_vec()).await;
        assert!(said.starts_with(&says("cannot be reached: ")), "{said}");
    }
    let mut endless = b"HTTP/1.1 200 OK\r\n".to_vec();
    endless.extend(std::iter::repeat_n(b'a', 1 << 20));
    assert!(first(endless).await.starts_with(&says("cannot be reached: ")));
    let lies = first(ok(b"d8:intervali-5e5:peers7:\x0a\0\0\x01\0\x50\x0612:min intervali-99999999999999999999e")).await;
    assert!(lies.starts_with(&bad("")), "{lies}");
}

#[tokio::test(start_paused = true)]
async fn redirects_are_followed_up_to_a_point() {
    let redirect = |to: &str| page("302 Found", &format!("Location: {to}\r\n"), b"");
    let said = |what: &str| format!("http://127.0.0.1/a cannot be reached: it redirects {what}");
    assert_eq!(first(redirect("/a")).await, said("too often"));
    assert_eq!(first(redirect("udp://127.0.0.1:80")).await, said("to something that is not http"));
    assert_eq!(first(redirect("http://[oops")).await, said("to something that is no URL"));

    let world = World::new();
    world.name("other.test", &["127.0.0.1", "::1"]);
    let hops = Arc::new(AtomicUsize::new(0));
    let heads = web(&world, "127.0.0.1:80", move |_| match hops.fetch_add(1, Ordering::Relaxed) {
        0 => redirect("b?k=1"),
        1 => redirect("http://other.test/c?info_hash=theirs"),
        _ => ok(&peers(1800)),
    });
    let (swarm, _engine) = Torrent::new(&["http://127.0.0.1/x/a?k=0"]).swarm();
    let plugin = build(&world.means(), &Settings::default()).unwrap();
    assert_eq!(next(&mut plugin.discover(swarm).await.unwrap()).await, "10.0.0.1:80");
    let heads = heads.lock().unwrap();
    assert!(heads[1].starts_with("GET /x/b?k=1&info_hash=%AB"), "{}", heads[1]);
    assert!(heads[2].starts_with("GET /c?info_hash=theirs HTTP"), "{}", heads[2]);
    assert!(heads[2].contains("host: other.test\r\n"));
}

#[tokio::test(start_paused = true)]
async fn urls_that_lead_nowhere() {
    let world = World::new();
    let long = format!("http://127.0.0.1/{}", "x".repeat(5000));
    for (url, says) in [
        ("http://", "http:// is no tracker's URL: empty host"),
        ("http://\u{1b}[2J/", "http://\\u{1b}[2J/ is no tracker's URL: invalid international domain name"),
        ("http://127.0.0.1:0/", "http://127.0.0.1:0/ is no tracker's URL: it has no port"),
        ("http://nowhere.test/", "http://nowhere.test/ cannot be reached: cannot resolve nowhere.test: no such name"),
        (&*long, &*format!("{}… is too long for a tracker's URL", &long[..200])),
    ] {
        let (swarm, _engine) = Torrent::new(&[url]).swarm();
        let plugin = build(&world.means(), &Settings::default()).unwrap();
        assert_eq!(next(&mut plugin.discover(swarm).await.unwrap()).await, says);
    }
    let (swarm, _engine) = Torrent::new(&["udp://127.0.0.1:1"]).swarm();
    let plugin = build(&world.means(), &Settings::default()).unwrap();
    assert!(!plugin.serves(&swarm.info));
    assert_eq!(next(&mut plugin.discover(swarm).await.unwrap()).await, "the end");
    let settings = Settings([("x".to_owned(), "y".to_owned())].into());
    assert!(build(&world.means(), &settings).unwrap_err().to_string().contains("no setting x"));
}

#[tokio::test]
async fn https_with_a_certificate_that_fits_and_one_that_does_not() {
    let world = World::new();
    world.name("secure.test", &["127.0.0.1"]);
    world.name("other.test", &["127.0.0.1"]);
    let config = ServerConfig::builder_with_provider(Arc::new(ring::default_provider()))
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_no_client_auth()
        .with_single_cert(vec![certificates::certificate()], certificates::key())
        .unwrap();
    let tls = TlsAcceptor::from(Arc::new(config));
    world.listen("127.0.0.1:443", move |io| {
        let tls = tls.clone();
        tokio::spawn(async move {
            let Ok(io) = tls.accept(io).await else { return };
            answer(io, Heads::default(), |_| page("302 Found", "Location: http://secure.test/\r\n", b"")).await;
        });
    });
    web(&world, "127.0.0.1:80", |head| match head.contains("GET /up") {
        true => page("301 Moved Permanently", "Location: https://secure.test/\r\n", b""),
        false => ok(&peers(1800)),
    });
    let mut roots = RootCertStore::empty();
    roots.add(certificates::authority()).unwrap();
    let client = Client::trusting(&world.means(), roots);
    let at = |port| [SocketAddr::from(([127, 0, 0, 1], port))];
    let get = async |client: &Client, url: &str| {
        let url = Url::parse(url).unwrap();
        let page = client.get(&url, &at(url.port_or_known_default().unwrap()), |url| url.path().to_owned()).await;
        page.unwrap_err().to_string()
    };
    // The handshake succeeds, and what is said inside is understood; and that a plain page may lead to a safe one.
    assert_eq!(get(&client, "https://secure.test/").await, "it redirects from https to http");
    assert_eq!(get(&client, "http://secure.test/up").await, "it redirects from https to http");
    let wrong_name = get(&client, "https://other.test/").await;
    assert!(
        wrong_name.starts_with("TLS failed: invalid peer certificate: certificate not valid for name"),
        "{wrong_name}"
    );
    let stranger = get(&Client::new(&world.means()), "https://secure.test/").await;
    assert_eq!(stranger, "TLS failed: invalid peer certificate: UnknownIssuer");
}
