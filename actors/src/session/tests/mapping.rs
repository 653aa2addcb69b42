//! The port mapper: what it says reaches plugins and peers, and it is made anew when it dies.

use castanet_protocol::portmap::{Method, OpenPort, PortMapping, Report};

use super::*;
use crate::{messages::port_mapper::PortReported, port_mapper::PortMapper};

fn open(port: u16) -> Option<Report> {
    let external = format!("11.2.3.4:{port}").parse().unwrap();
    Some(Report::Open(OpenPort { port: 6881, external, method: Method::Upnp, udp: true }))
}

#[actix::test]
async fn the_world_is_told_where_the_router_lets_it_in() {
    tokio::time::pause();
    let world = Machine::new(1).start(0, Config::default());
    settle().await;
    let beyond = "8.8.8.8".parse().unwrap();
    let closed = Some(Report::Closed("it is closed".into()));
    for (report, told, news) in
        [(open(6881), 6881, 0), (open(7000), 7000, 1), (open(7000), 7000, 1), (closed.clone(), 6881, 2)]
    {
        world.session.send(PortReported(report)).await.unwrap();
        settle().await;
        assert_eq!((world.shared.port_for(beyond), world.script.heard.load(Ordering::Relaxed)), (told, news));
        assert_eq!(world.shared.port_for(host(2).ip()), 6881, "the local network is on this side of the router");
    }
    assert_eq!(world.session.send(GetSession).await.unwrap().port_report, closed);
    world.shut_down().await;
}

#[derive(Message)]
#[rtype(result = "()")]
struct Crash;

impl Handler<Crash> for PortMapper {
    type Result = ();
    fn handle(&mut self, _: Crash, _: &mut Context<Self>) {
        panic!("as the test wants it");
    }
}

/// Lets the port mapper crash, if there is one: was there?
#[derive(Message)]
#[rtype(result = "bool")]
struct CrashMapper;

impl Handler<CrashMapper> for Session {
    type Result = bool;
    fn handle(&mut self, _: CrashMapper, _: &mut Context<Self>) -> bool {
        let Some(mapper) = self.mapping.running() else { return false };
        tell(&mapper.clone().recipient(), Crash);
        true
    }
}

#[actix::test]
async fn a_port_mapper_that_dies_is_made_anew() {
    tokio::time::pause();
    let world = Machine::new(1).start(0, Config { port_mapping: Some(PortMapping::default()), ..Config::default() });
    for pause in [2, 4] {
        assert!(world.session.send(CrashMapper).await.unwrap());
        settle().await;
        assert!(!world.session.send(CrashMapper).await.unwrap(), "it is gone");
        tokio::time::sleep(Duration::from_secs(pause)).await;
    }
    assert!(world.session.send(CrashMapper).await.unwrap());
    world.shut_down().await;

    let without = Machine::new(1).start(0, Config::default());
    assert!(!without.session.send(CrashMapper).await.unwrap(), "nobody wants one");
    without.shut_down().await;
}
