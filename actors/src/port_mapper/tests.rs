use std::{
    io,
    net::{Ipv4Addr, SocketAddrV4},
    ops::Range,
    sync::Mutex,
};

use async_trait::async_trait;
use castanet_core::seams::{
    datagrams::{DatagramFactory, WaysOut},
    means::{Resolve, ResolveError, Scratchpad},
};
use castanet_protocol::portmap::{Method, Report};
use castanet_transports::memory::{MemoryNet, MemoryTransport};
use tokio::sync::mpsc::UnboundedReceiver;

use super::*;
use crate::{
    mail::probe::probe,
    testing::{clock, drain, hear, settle},
};

const CLIENT: Ipv4Addr = Ipv4Addr::new(192, 168, 0, 2);
const ROUTER: Ipv4Addr = Ipv4Addr::new(192, 168, 0, 1);
const WORLD: Ipv4Addr = Ipv4Addr::new(11, 2, 3, 4);

/// A host that knows its router.
#[derive(Debug)]
struct Behind(MemoryTransport);

#[async_trait]
impl DatagramFactory for Behind {
    async fn bind(&self, local: SocketAddr) -> io::Result<Arc<dyn Datagrams>> {
        self.0.bind(local).await
    }
    fn ways_out(&self) -> WaysOut {
        self.0.ways_out()
    }
    fn gateway(&self, from: Ipv4Addr) -> Option<Ipv4Addr> {
        (from == CLIENT).then_some(ROUTER)
    }
}

#[derive(Debug)]
struct NoNames;

#[async_trait]
impl Resolve for NoNames {
    async fn resolve(&self, host: &str) -> Result<Vec<IpAddr>, ResolveError> {
        Err(ResolveError { host: host.to_owned(), reason: "no such name".to_owned() })
    }
}

/// A router's web server: what it was asked, and it says yes to everything.
#[derive(Debug, Default)]
struct Pages(Mutex<Vec<String>>);

const DESCRIPTION: &str = "<root><service><serviceType>urn:schemas-upnp-org:service:WANIPConnection:1</serviceType>\
                           <controlURL>/ctl</controlURL></service></root>";

#[async_trait]
impl Web for Pages {
    async fn get(&self, _: &str, _: Range<u64>) -> Result<Bytes, WebError> {
        Err(WebError::Useless("no".into()))
    }
    async fn ask(&self, to: SocketAddr, question: Question<'_>, _: usize) -> Result<(u16, Bytes), WebError> {
        let what = question.action.map_or(question.path, |(name, _)| name.rsplit('#').next().unwrap_or_default());
        self.0.lock().unwrap().push(format!("{to} {}", what.trim_matches('"')));
        let answer = match question.action {
            None => DESCRIPTION.to_owned(),
            Some(_) => format!("<NewExternalIPAddress>{WORLD}</NewExternalIPAddress>"),
        };
        Ok((200, answer.into()))
    }
}

struct Lan {
    net: MemoryNet,
    means: Means,
    web: Arc<Pages>,
    reports: UnboundedReceiver<PortReported>,
    ended: UnboundedReceiver<ChildStopped>,
    mapper: Addr<PortMapper>,
}

impl Lan {
    fn with(methods: &[Method], listening: &str) -> Self {
        let net = MemoryNet::new(1);
        let host = net.host(CLIENT.into());
        let means = Means {
            datagrams: Arc::new(Behind(host.clone())),
            dialer: Arc::new(host),
            resolver: Arc::new(NoNames),
            clock: clock(),
            seed: 7,
            bind: Vec::new(),
            listening: Arc::new(vec![listening.parse().unwrap()].into()),
            mapped: Arc::default(),
            notebook: Arc::new(Scratchpad::default()),
            user_agent: "test".into(),
        };
        let web = Arc::new(Pages::default());
        let settings = PortMapping { methods: methods.to_vec(), ..PortMapping::default() };
        let tools = PortMapperMeans { means: means.clone(), web: web.clone(), settings };
        let ((reported, reports), (parent, ended)) = (probe(), probe());
        let mapper = PortMapper::new(tools, reported, parent).start();
        Self { net, means, web, reports, ended, mapper }
    }

    /// A router that speaks NAT-PMP: what it is asked, and it grants everything but that it has another port.
    async fn router(&self) -> Arc<Mutex<Vec<Vec<u8>>>> {
        let socket = self.net.host(ROUTER.into()).bind(SocketAddr::new(ROUTER.into(), 5351)).await.unwrap();
        let asked = Arc::<Mutex<Vec<Vec<u8>>>>::default();
        let (log, start) = (asked.clone(), tokio::time::Instant::now());
        actix_rt::spawn(async move {
            let mut buffer = [0; 100];
            while let Ok((length, from)) = socket.recv_from(&mut buffer).await {
                let question = &buffer[..length];
                log.lock().unwrap().push(question.to_vec());
                let mut answer = vec![0, question[1] | 0x80, 0, 0];
                answer.extend((start.elapsed().as_secs() as u32).to_be_bytes());
                match question[1] {
                    0 => answer.extend(WORLD.octets()),
                    _ => {
                        answer.extend(&question[4..6]);
                        answer.extend(7000u16.to_be_bytes());
                        answer.extend(&question[8..12]);
                    }
                }
                socket.send_to(&answer, from).await.unwrap();
            }
        });
        asked
    }

    async fn close(&self) -> Duration {
        let before = tokio::time::Instant::now();
        self.mapper.send(ClosePortMapper { within: Duration::from_secs(1) }).await.unwrap();
        before.elapsed()
    }
}

fn open(report: PortReported) -> String {
    match report.0 {
        Some(Report::Open(open)) => open.to_string(),
        other => panic!("{other:?}"),
    }
}

#[actix::test]
async fn a_port_is_opened_kept_and_closed() {
    tokio::time::pause();
    let mut lan = Lan::with(&[Method::NatPmp], "0.0.0.0:6881");
    let asked = lan.router().await;
    let said = open(hear(&mut lan.reports).await);
    assert_eq!(said, "Port 6881 is open to the world as 11.2.3.4:7000 by NAT-PMP");
    settle().await;
    assert_eq!(asked.lock().unwrap().len(), 3, "its address, TCP, UDP");
    sleep(Duration::from_secs(3000)).await;
    let renewed = asked.lock().unwrap().iter().filter(|question| question[1] == 2).count();
    assert_eq!(renewed, 2, "after half an hour");
    assert!(drain(&mut lan.reports).is_empty(), "nothing is new");
    asked.lock().unwrap().clear();
    assert!(lan.close().await < Duration::from_secs(1));
    let last: Vec<_> = asked.lock().unwrap().iter().map(|question| (question[1], question[8..12].to_vec())).collect();
    assert_eq!(last, [(2, vec![0; 4]), (1, vec![0; 4])], "a lifetime of zero for both");
    assert_eq!(hear(&mut lan.ended).await.reason, ExitReason::Asked);
}

#[actix::test]
async fn another_network_is_asked_anew() {
    tokio::time::pause();
    let mut lan = Lan::with(&[Method::NatPmp], "192.168.0.2:6881");
    let asked = lan.router().await;
    open(hear(&mut lan.reports).await);
    settle().await;
    asked.lock().unwrap().clear();
    lan.mapper.send(MapAnew).await.unwrap();
    open(hear(&mut lan.reports).await);
    assert!(!asked.lock().unwrap().is_empty());
    *lan.means.listening.write().unwrap() = vec!["[::1]:6881".parse().unwrap()];
    lan.mapper.send(MapAnew).await.unwrap();
    assert_eq!(hear(&mut lan.reports).await.0, None, "there is nothing to map any more");
    lan.close().await;
}

#[actix::test]
async fn a_router_with_upnp_alone_is_found_and_asked() {
    tokio::time::pause();
    let mut lan = Lan::with(&Method::ALL, "0.0.0.0:6881");
    let router = lan.net.host(ROUTER.into());
    let group: SocketAddrV4 = "239.255.255.250:1900".parse().unwrap();
    let socket = router.join(group.into(), ROUTER.into()).await.unwrap();
    actix_rt::spawn(async move {
        let mut buffer = [0; 1000];
        while let Ok((_, from)) = socket.recv_from(&mut buffer).await {
            let st = "urn:schemas-upnp-org:device:InternetGatewayDevice:1";
            let answer = format!("HTTP/1.1 200 OK\r\nST: {st}\r\nLOCATION: http://{ROUTER}:5000/rootDesc.xml\r\n\r\n");
            socket.send_to(answer.as_bytes(), from).await.unwrap();
        }
    });
    assert_eq!(open(hear(&mut lan.reports).await), "Port 6881 is open to the world as 11.2.3.4:6881 by UPnP");
    let asked = |pages: &Pages| std::mem::take(&mut *pages.0.lock().unwrap());
    let opening = ["/rootDesc.xml", "AddPortMapping", "AddPortMapping", "GetExternalIPAddress"];
    assert_eq!(asked(&lan.web), opening.map(|what| format!("{ROUTER}:5000 {what}")));
    sleep(Duration::from_secs(700)).await;
    assert_eq!(asked(&lan.web), opening[1..].iter().map(|what| format!("{ROUTER}:5000 {what}")).collect::<Vec<_>>());
    lan.close().await;
    assert_eq!(asked(&lan.web), ["DeletePortMapping"; 2].map(|what| format!("{ROUTER}:5000 {what}")));
}

#[actix::test]
async fn a_silent_router_holds_up_nothing() {
    tokio::time::pause();
    let mut lan = Lan::with(&Method::ALL, "0.0.0.0:6881");
    let Some(Report::Closed(reason)) = hear(&mut lan.reports).await.0 else { panic!("nobody is there") };
    let words = "PCP: it does not answer; NAT-PMP: it does not answer; UPnP: no router answers";
    assert_eq!(reason, format!("No router opens port 6881: {words}"));
    assert_eq!(lan.close().await, Duration::ZERO);

    // One that dies with our mapping.
    let mut lan = Lan::with(&[Method::NatPmp], "0.0.0.0:6881");
    lan.router().await;
    open(hear(&mut lan.reports).await);
    lan.net.kill(ROUTER.into());
    assert!(lan.close().await < Duration::from_millis(1100), "a second, and what a timer is late");
    assert_eq!(hear(&mut lan.ended).await.reason, ExitReason::Asked);
}

/// A host whose sockets nobody may open.
#[derive(Debug)]
struct Mute(Option<IpAddr>);

#[async_trait]
impl DatagramFactory for Mute {
    async fn bind(&self, local: SocketAddr) -> io::Result<Arc<dyn Datagrams>> {
        panic!("a socket at {local}")
    }
    fn ways_out(&self) -> WaysOut {
        WaysOut { from: [self.0, None], only: None }
    }
}

#[actix::test]
async fn where_no_router_is_in_between_nothing_is_sent() {
    tokio::time::pause();
    let nowhere: [(Option<&str>, &str); 5] = [
        (Some("192.168.0.2"), "127.0.0.1:6881"),
        (Some("192.168.0.2"), "[::]:6881"),
        (Some("8.8.4.4"), "0.0.0.0:6881"),
        (Some("192.168.0.2"), "8.8.4.4:6881"),
        (None, "0.0.0.0:6881"),
    ];
    for (way, listening) in nowhere {
        let lan = Lan::with(&[], "127.0.0.1:1");
        let way = way.map(|way| way.parse().unwrap());
        let listening = Arc::new(vec![listening.parse().unwrap()].into());
        let means = Means { datagrams: Arc::new(Mute(way)), listening, ..lan.means.clone() };
        let tools = PortMapperMeans { means, web: lan.web.clone(), settings: PortMapping::default() };
        let ((reported, mut reports), (parent, mut ended)) = (probe(), probe());
        let mapper = PortMapper::new(tools, reported, parent).start();
        mapper.send(MapAnew).await.unwrap();
        sleep(Duration::from_secs(3600)).await;
        assert!(drain(&mut ended).is_empty() && drain(&mut reports).is_empty());
        mapper.send(ClosePortMapper { within: Duration::from_secs(1) }).await.unwrap();
        assert_eq!(hear(&mut ended).await.reason, ExitReason::Asked);
    }
}
