//! Over the network in memory: a proxy that does what it should, and ones that do not.

use std::{
    net::IpAddr,
    sync::atomic::{AtomicUsize, Ordering},
};

use castanet_core::seams::datagrams::{DatagramFactory, Datagrams};
use castanet_protocol::tracker::udp::connect_request;
use futures_util::{FutureExt as _, StreamExt as _};
use tokio::time::sleep;

use super::*;
use crate::{
    memory::{MemoryNet, MemoryTransport},
    resolver::FixedResolver,
    udp_mux::UdpMux,
};

const US: [u8; 4] = [10, 0, 0, 1];
const PROXY: [u8; 4] = [10, 0, 0, 2];
const THERE: [u8; 4] = [10, 0, 0, 3];

fn at(host: [u8; 4], port: u16) -> SocketAddr {
    SocketAddr::from((host, port))
}

/// The wrapper of a host, which knows the proxy by its name; and its book.
fn socks(net: &MemoryNet, login: &str) -> (Arc<SocksTransport>, Arc<NameBook>) {
    let book = Arc::new(NameBook::new(1));
    let names = FixedResolver([("proxy.test".to_owned(), vec![IpAddr::from(PROXY)])].into());
    let proxy = format!("socks5://{login}proxy.test:1080").parse().unwrap();
    let inner = Arc::new(net.host(US.into()));
    (Arc::new(SocksTransport::new(proxy, inner, Arc::new(names), book.clone())), book)
}

/// A proxy by the book that takes who comes, or `me:pass` alone; it knows `there.test`.
#[derive(Clone)]
struct Server {
    host: MemoryTransport,
    needs_login: bool,
}

impl Server {
    /// Serves until what is returned is dropped.
    async fn start(net: &MemoryNet, needs_login: bool) -> tokio::task::JoinSet<()> {
        let server = Self { host: net.host(PROXY.into()), needs_login };
        let mut listener = server.host.listen(at(PROXY, 1080)).await.unwrap();
        let mut tasks = tokio::task::JoinSet::new();
        tasks.spawn(async move {
            let mut served = tokio::task::JoinSet::new();
            while let Some(found) = listener.incoming.next().await {
                let server = server.clone();
                served.spawn(async move { drop(server.serve(found.unwrap()).await) });
            }
        });
        tasks
    }

    async fn address(io: &mut (impl tokio::io::AsyncRead + Unpin)) -> io::Result<SocketAddr> {
        let ip: IpAddr = match io.read_u8().await? {
            1 => IpAddr::from(io.read_u32().await?.to_be_bytes()),
            3 => {
                let mut name = vec![0; usize::from(io.read_u8().await?)];
                io.read_exact(&mut name).await?;
                assert_eq!(name, b"there.test", "the proxy is asked for names");
                THERE.into()
            }
            kind => panic!("no such kind of address: {kind}"),
        };
        Ok(SocketAddr::new(ip, io.read_u16().await?))
    }

    async fn serve(self, mut client: Connection) -> io::Result<()> {
        let io = &mut client.io;
        assert_eq!(io.read_u8().await?, 5);
        let mut methods = vec![0; usize::from(io.read_u8().await?)];
        io.read_exact(&mut methods).await?;
        let method = if self.needs_login { 2 } else { 0 };
        if !methods.contains(&method) {
            return io.write_all(&[5, 0xff]).await;
        }
        io.write_all(&[5, method]).await?;
        if self.needs_login {
            let mut said = vec![0; 9];
            io.read_exact(&mut said).await?;
            let is_right = said == b"\x01\x02me\x04pass";
            io.write_all(&[1, u8::from(!is_right)]).await?;
        }
        let mut head = [0; 3];
        io.read_exact(&mut head).await?;
        let to = Self::address(io).await?;
        if head == [5, 3, 0] {
            return self.relay(client).await;
        }
        assert_eq!(head, [5, 1, 0]);
        match self.host.dial(to, DialOptions::default()).await {
            Ok(mut far) => {
                // The first bytes of what is carried come with the answer.
                let mut first = vec![5, 0, 0, 1, 0, 0, 0, 0, 0, 0];
                let mut greeting = [0; 5];
                far.io.read_exact(&mut greeting).await?;
                first.extend(greeting);
                io.write_all(&first).await?;
                tokio::io::copy_bidirectional(io, &mut far.io).await.map(drop)
            }
            Err(_) => io.write_all(&[5, 5, 0, 1, 0, 0, 0, 0, 0, 0]).await,
        }
    }

    /// Relays until the client hangs up, or says something.
    async fn relay(self, mut client: Connection) -> io::Result<()> {
        let (near, far) = (self.host.bind(at(PROXY, 0)).await?, self.host.bind(at(PROXY, 0)).await?);
        let mut reply = vec![5, 0, 0, 1, 0, 0, 0, 0];
        reply.extend(near.local_addr().port().to_be_bytes());
        client.io.write_all(&reply).await?;
        let (mut ours, mut theirs, mut known) = ([0; 2000], [0; 2000], None);
        loop {
            tokio::select! {
                _ = client.io.read_u8() => return Ok(()),
                received = near.recv_from(&mut ours) => {
                    let (length, from) = received?;
                    known = Some(from);
                    let mut rest = &ours[3..length];
                    let to = Self::address(&mut rest).await?;
                    far.send_to(rest, to).await?;
                }
                received = far.recv_from(&mut theirs) => {
                    let (length, from) = received?;
                    let mut datagram = vec![0, 0, 0, 1];
                    let IpAddr::V4(ip) = from.ip() else { panic!("IPv6") };
                    datagram.extend(ip.octets());
                    datagram.extend(from.port().to_be_bytes());
                    datagram.extend(&theirs[..length]);
                    near.send_to(&datagram, known.unwrap()).await?;
                }
            }
        }
    }
}

/// Someone to reach: greets, then sends back what comes.
async fn echo(net: &MemoryNet) -> tokio::task::JoinSet<()> {
    let host = net.host(THERE.into());
    let mut listener = host.listen(at(THERE, 80)).await.unwrap();
    let datagrams = host.bind(at(THERE, 80)).await.unwrap();
    let mut tasks = tokio::task::JoinSet::new();
    tasks.spawn(async move {
        while let Some(found) = listener.incoming.next().await {
            let (mut read, mut write) = found.unwrap().io.split();
            write.write_all(b"hello").await.unwrap();
            let _ = tokio::io::copy(&mut read, &mut write).await;
        }
    });
    tasks.spawn(async move {
        let mut buffer = [0; 2000];
        loop {
            let (length, from) = datagrams.recv_from(&mut buffer).await.unwrap();
            datagrams.send_to(&answer(&buffer[..length]), from).await.unwrap();
        }
    });
    tasks
}

/// A tracker's connection id for a question, for anything else the same again.
fn answer(question: &[u8]) -> Vec<u8> {
    match question {
        [.., 0, 0, 0, 0, a, b, c, d] if question.len() == 16 => [&[0; 4], &[*a, *b, *c, *d][..], &[9; 8]].concat(),
        other => other.to_vec(),
    }
}

async fn talk(connection: Connection) {
    let (mut read, mut write) = connection.io.split();
    let mut greeting = [0; 5];
    read.read_exact(&mut greeting).await.unwrap();
    assert_eq!(&greeting, b"hello", "nothing of what came with the answer is lost");
    let sent = vec![7; 100_000];
    let writing = async { write.write_all(&sent).await.unwrap() };
    let mut back = vec![0; sent.len()];
    let (_, read) = tokio::join!(writing, read.read_exact(&mut back));
    read.unwrap();
    assert!(back == sent);
}

#[tokio::test(start_paused = true)]
async fn streams_to_addresses_and_names_with_and_without_a_login() {
    for (needs_login, login) in [(false, ""), (true, "me:pass@")] {
        let net = MemoryNet::new(1);
        let _tasks = (Server::start(&net, needs_login).await, echo(&net).await);
        let (socks, book) = socks(&net, login);
        let name = ProxyNames(book).resolve("there.test").await.unwrap()[0];
        for to in [at(THERE, 80), SocketAddr::new(name, 80)] {
            let connection = socks.dial(to, DialOptions::default()).await.unwrap();
            assert_eq!((connection.remote, connection.via), (to, "memory"));
            talk(connection).await;
        }
        let error = socks.dial(at(THERE, 9), DialOptions::default()).await.unwrap_err();
        assert_eq!(error.to_string(), "the proxy proxy.test:1080 was refused by that host");
        assert!(matches!(error, TransportError::Io(error) if error.kind() == io::ErrorKind::ConnectionRefused));
    }
}

#[tokio::test(start_paused = true)]
async fn what_a_proxy_cannot_carry_is_refused_at_once() {
    let net = MemoryNet::new(1);
    let (socks, _) = socks(&net, "");
    assert!(matches!(socks.listen(at(US, 1)).await, Err(TransportError::Unsupported { .. })));
    let stranger = socks.dial("250.0.0.1:80".parse().unwrap(), DialOptions::default()).await;
    assert!(matches!(stranger, Err(TransportError::Unsupported { .. })));
    let datagrams = SocksDatagrams::new(socks, Arc::new(net.host(US.into())));
    let joined = datagrams.join("239.1.1.1:1".parse().unwrap(), US.into()).await;
    assert_eq!(joined.unwrap_err().to_string(), "there is no multicast through a proxy");
    assert_eq!(datagrams.ways_out().from, [Some(US.into()), None], "looked for without a word to anybody");
}

#[tokio::test(start_paused = true)]
async fn a_login_that_is_wrong_or_missing_is_named_and_not_shown() {
    let net = MemoryNet::new(1);
    let _server = Server::start(&net, true).await;
    for (login, reason) in [("", "wants a user and a password"), ("me:word@", "does not accept the user and password")]
    {
        let (socks, _) = socks(&net, login);
        let error = socks.dial(at(THERE, 80), DialOptions::default()).await.unwrap_err();
        assert_eq!(error.to_string(), format!("the proxy proxy.test:1080 {reason}"));
        assert!(!format!("{socks:?} {error:?}").contains("word@"));
    }
}

/// What becomes of a dial by way of a proxy that says this, and hangs up then if it is told to.
async fn against(script: &'static [u8], hangs_up: bool) -> TransportError {
    let net = MemoryNet::new(1);
    let mut listener = net.host(PROXY.into()).listen(at(PROXY, 1080)).await.unwrap();
    let task = tokio::spawn(async move {
        let mut connection = listener.incoming.next().await.unwrap().unwrap();
        connection.io.write_all(script).await.unwrap();
        if !hangs_up {
            let _ = connection.io.read_to_end(&mut Vec::new()).await;
        }
    });
    let (socks, _) = socks(&net, "me:pass@");
    let error = socks.dial(at(THERE, 80), DialOptions::default()).await.unwrap_err();
    drop(socks);
    task.await.unwrap();
    assert_eq!(net.open_connections(), 0);
    error
}

#[tokio::test(start_paused = true)]
async fn proxies_that_lie_hang_up_or_are_silent() {
    for script in [&b"HTTP/1.1 400 Bad Request\r\n"[..], &[4, 90], &[5, 9], &[5, 0, 5, 0, 0, 9], &[5, 0, 9, 0, 0, 1]] {
        for hangs_up in [false, true] {
            let error = against(script, hangs_up).await.to_string();
            assert_eq!(error, "the proxy proxy.test:1080 does not speak SOCKS5", "{script:?}");
        }
    }
    for script in
        [&b""[..], &[5], &[5, 2, 1], &[5, 0, 5, 0, 0], &[5, 0, 5, 0, 0, 1, 1, 2], &[5, 0, 5, 0, 0, 3, 200, b'x']]
    {
        let error = against(script, true).await.to_string();
        assert_eq!(error, "the proxy proxy.test:1080 hung up", "{script:?}");
        assert!(matches!(against(script, false).await, TransportError::Timeout(_)), "{script:?}");
    }
}

#[tokio::test(start_paused = true)]
async fn a_proxy_that_is_not_there_is_not_mistaken_for_the_peer() {
    let net = MemoryNet::new(1);
    net.host(PROXY.into());
    let (socks, _) = socks(&net, "");
    let error = socks.dial(at(THERE, 80), DialOptions::default()).await.unwrap_err();
    assert!(error.to_string().starts_with("the proxy proxy.test:1080 cannot be reached: "), "{error}");
    assert!(matches!(error, TransportError::Io(error) if error.kind() == io::ErrorKind::Other));
    net.unplug(PROXY.into());
    let options = DialOptions { timeout: Duration::from_secs(3), ..DialOptions::default() };
    let error = socks.dial(at(THERE, 80), options).await.unwrap_err().to_string();
    assert!(error.contains("no answer within"), "{error}");
}

async fn datagrams(net: &MemoryNet) -> (Arc<dyn Datagrams>, Arc<NameBook>) {
    let (socks, book) = socks(net, "");
    let factory = UdpMux::new(Arc::new(SocksDatagrams::new(socks, Arc::new(net.host(US.into())))));
    (factory.bind("0.0.0.0:0".parse().unwrap()).await.unwrap(), book)
}

#[tokio::test(start_paused = true)]
async fn datagrams_to_addresses_and_names_and_back() {
    let net = MemoryNet::new(1);
    let _tasks = (Server::start(&net, false).await, echo(&net).await);
    let (datagrams, book) = datagrams(&net).await;
    assert_eq!(datagrams.local_addr(), "0.0.0.0:0".parse().unwrap());
    let name = SocketAddr::new(ProxyNames(book).resolve("there.test").await.unwrap()[0], 80);
    let mut buffer = [0; 100];
    for (to, question) in
        [(at(THERE, 80), b"anything".to_vec()), (name, connect_request(5)), (at(THERE, 80), connect_request(6))]
    {
        datagrams.send_to(&question, to).await.unwrap();
        let (length, from) = datagrams.recv_from(&mut buffer).await.unwrap();
        assert_eq!((&buffer[..length], from), (&answer(&question)[..], to));
    }
    let unknown = datagrams.send_to(b"x", "250.0.0.1:80".parse().unwrap()).await.unwrap_err();
    assert_eq!(unknown.kind(), io::ErrorKind::Unsupported);
}

#[tokio::test(start_paused = true)]
async fn nobody_but_the_relay_is_believed() {
    let net = MemoryNet::new(1);
    let _tasks = (Server::start(&net, false).await, echo(&net).await);
    let (datagrams, _) = datagrams(&net).await;
    // A stranger who knows all ports of ours, and even the form.
    let stranger = net.host([10, 0, 0, 4].into()).bind("10.0.0.4:5".parse().unwrap()).await.unwrap();
    for port in 1024..=u16::MAX {
        stranger.send_to(b"\0\0\0\x01\x0a\0\0\x03\0\x50lies", at(US, port)).await.unwrap();
    }
    sleep(Duration::from_secs(1)).await;
    datagrams.send_to(b"truth", at(THERE, 80)).await.unwrap();
    let mut buffer = [0; 100];
    let (length, from) = datagrams.recv_from(&mut buffer).await.unwrap();
    assert_eq!((&buffer[..length], from), (&b"truth"[..], at(THERE, 80)));
}

#[tokio::test(start_paused = true)]
async fn an_association_that_dies_is_made_again_and_until_then_sending_fails() {
    let net = MemoryNet::new(1);
    let (server, _echo) = (Server::start(&net, false).await, echo(&net).await);
    let (datagrams, _) = datagrams(&net).await;
    drop(server);
    net.kill(PROXY.into());
    let mut buffer = [0; 100];
    let mut reading = Box::pin(datagrams.recv_from(&mut buffer));
    for _ in 0..20 {
        sleep(Duration::from_secs(1)).await;
        assert!(reading.as_mut().now_or_never().is_none(), "whoever reads hears nothing of it");
    }
    let error = datagrams.send_to(b"x", at(THERE, 80)).await.unwrap_err();
    assert_eq!(error.kind(), io::ErrorKind::NotConnected);
    assert!(error.to_string().starts_with("the proxy proxy.test:1080 cannot be reached"), "{error}");
    let _server = Server::start(&net, false).await;
    let sent = async {
        while datagrams.send_to(b"again", at(THERE, 80)).await.is_err() {
            sleep(Duration::from_secs(1)).await;
        }
    };
    let (_, received) = tokio::join!(sent, reading);
    assert_eq!(received.unwrap(), (5, at(THERE, 80)));
    drop(datagrams);
    sleep(Duration::from_secs(1)).await;
    assert_eq!(net.open_connections(), 0, "who is no longer needed hangs up");
}

#[tokio::test(start_paused = true)]
async fn a_proxy_without_datagrams_says_so() {
    let net = MemoryNet::new(1);
    let mut listener = net.host(PROXY.into()).listen(at(PROXY, 1080)).await.unwrap();
    let _task = tokio::spawn(async move {
        let mut open = Vec::new();
        for reply in [&[5, 0, 5, 7, 0, 1, 0, 0, 0, 0, 0, 0][..], &[5, 0, 5, 0, 0, 1, 0, 0, 0, 0, 0, 0]] {
            let mut connection = listener.incoming.next().await.unwrap().unwrap();
            connection.io.write_all(reply).await.unwrap();
            open.push(connection);
        }
        std::future::pending::<()>().await;
    });
    let (socks, _) = socks(&net, "");
    let factory = SocksDatagrams::new(socks, Arc::new(net.host(US.into())));
    for reason in ["does not know that command", "does not say where its relay is"] {
        // Only the first of them asks.
        for _ in 0..3 {
            let error = factory.bind("0.0.0.0:0".parse().unwrap()).await.unwrap_err();
            assert_eq!(error.to_string(), format!("the proxy proxy.test:1080 {reason}"));
        }
        sleep(Duration::from_secs(1)).await;
    }
}

#[tokio::test(start_paused = true)]
async fn a_proxy_that_agrees_and_hangs_up_is_asked_less_and_less_often() {
    let net = MemoryNet::new(1);
    let mut listener = net.host(PROXY.into()).listen(at(PROXY, 1080)).await.unwrap();
    let asked = Arc::new(AtomicUsize::new(0));
    let count = asked.clone();
    let _task = tokio::spawn(async move {
        loop {
            let mut connection = listener.incoming.next().await.unwrap().unwrap();
            connection.io.write_all(&[5, 0, 5, 0, 0, 1, 10, 0, 0, 9, 0, 9]).await.unwrap();
            count.fetch_add(1, Ordering::Relaxed);
        }
    });
    let (datagrams, _) = datagrams(&net).await;
    let mut buffer = [0; 100];
    let heard = tokio::time::timeout(Duration::from_secs(600), datagrams.recv_from(&mut buffer)).await;
    assert!(heard.is_err(), "there is nothing to hear");
    let asked = asked.load(Ordering::Relaxed);
    assert!((8..20).contains(&asked), "{asked} times in ten minutes");
}
