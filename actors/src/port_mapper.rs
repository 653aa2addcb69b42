//! The port mapper: asks the router to let peers in, for the port where the session listens by IPv4 (RFC 6886, 6887, UPnP).
//!
//! A shell around [`Mapper`]. Owns a datagram socket at our address on the way to the world, so a bound interface holds for
//! it; web servers of routers are asked through the seam [`Web`]. Tells the session where the world reaches us. Does
//! nothing at all where no router is in between: on loopback, at an address of the world, and without a way out. Ends on
//! `ClosePortMapper`, after what is open was taken back.

use std::{
    net::{IpAddr, SocketAddr},
    sync::Arc,
    time::Duration,
};

use actix::prelude::*;
use bytes::Bytes;
use castanet_core::{
    Moment,
    addr::canonical,
    seams::{
        datagrams::Datagrams,
        means::Means,
        web::{Question, Web, WebError},
    },
};
use castanet_protocol::portmap::{
    Ask, Input, LARGEST_ANSWER, LARGEST_DATAGRAM, Mapper, Output, Place, PortMapping, is_global,
};
use futures_util::future::{BoxFuture, FutureExt, OptionFuture};
use tokio::{
    sync::{mpsc, oneshot},
    time::sleep,
};

use crate::{
    lifecycle::{Child, ChildStopped, ExitReason},
    mail::tell,
    messages::port_mapper::{ClosePortMapper, MapAnew, PortReported},
};

/// Orders that may wait: more would say nothing new.
const MOST_ORDERS: usize = 4;
/// The pause when there is no socket to be had.
const NO_SOCKET: Duration = Duration::from_secs(30);

/// What it works with.
#[derive(Debug, Clone)]
pub struct PortMapperMeans {
    /// Sockets, time, dice, and where the session listens.
    pub means: Means,
    /// Asks web servers of routers.
    pub web: Arc<dyn Web>,
    /// How it is done.
    pub settings: PortMapping,
}

/// The actor.
#[derive(Debug)]
pub struct PortMapper {
    tools: PortMapperMeans,
    reported: Recipient<PortReported>,
    parent: Recipient<ChildStopped>,
    orders: Option<mpsc::Sender<Order>>,
    exit: Option<ExitReason>,
}

#[derive(Debug)]
enum Order {
    Anew,
    Leave(oneshot::Sender<()>),
}

impl PortMapper {
    /// A mapper that reports to the session.
    pub fn new(tools: PortMapperMeans, reported: Recipient<PortReported>, parent: Recipient<ChildStopped>) -> Self {
        Self { tools, reported, parent, orders: None, exit: None }
    }
}

/// What is to be mapped; `None` if no router needs to be asked.
fn place(means: &Means) -> Option<Place> {
    let [Some(IpAddr::V4(way)), _] = means.datagrams.ways_out().from else { return None };
    let (listening, port) = means.listening().iter().map(|addr| canonical(*addr)).find_map(|addr| match addr.ip() {
        IpAddr::V4(ip) if !ip.is_loopback() && addr.port() != 0 => Some((ip, addr.port())),
        _ => None,
    })?;
    let client = if listening.is_unspecified() { way } else { listening };
    let needs_router = !client.is_loopback() && !is_global(client);
    needs_router.then(|| Place { client, gateway: means.datagrams.gateway(client), port })
}

/// Maps, in one network after another, until it shall leave.
async fn run(tools: PortMapperMeans, reported: Recipient<PortReported>, mut orders: mpsc::Receiver<Order>) {
    let mut last = None;
    loop {
        let place = place(&tools.means);
        if last.is_some() && last != Some(place) {
            tell(&reported, PortReported(None));
        }
        last = Some(place);
        let socket = match place {
            Some(place) => {
                tools.means.datagrams.bind(SocketAddr::new(place.client.into(), 0)).await.ok().zip(Some(place))
            }
            None => None,
        };
        let order = match socket {
            Some((socket, place)) => match live(&tools, place, &*socket, &reported, &mut orders).await {
                Some(order) => Some(order),
                None => return,
            },
            None if place.is_none() => orders.recv().await,
            None => pause(&mut orders).await,
        };
        match order {
            Some(Order::Anew) => {}
            Some(Order::Leave(left)) => {
                let _ = left.send(());
                return;
            }
            None => return,
        }
    }
}

/// Waits until a socket may be tried again, or there is an order.
async fn pause(orders: &mut mpsc::Receiver<Order>) -> Option<Order> {
    tokio::select! {
        biased;
        order = orders.recv() => order,
        () = sleep(NO_SOCKET) => Some(Order::Anew),
    }
}

/// Maps what is to be mapped here. `None` when it is over.
async fn live(
    tools: &PortMapperMeans,
    place: Place,
    socket: &dyn Datagrams,
    reported: &Recipient<PortReported>,
    orders: &mut mpsc::Receiver<Order>,
) -> Option<Order> {
    let clock = &tools.means.clock;
    let mut mapper = Mapper::new(place, tools.settings.clone(), tools.means.seed, clock.now());
    let mut asking: Option<BoxFuture<'static, Result<(u16, Bytes), WebError>>> = None;
    let mut leaving: Option<oneshot::Sender<()>> = None;
    let mut buffer = [0; LARGEST_DATAGRAM];
    loop {
        while let Some(output) = mapper.poll(clock.now()) {
            match output {
                Output::Send { to, datagram } => {
                    if let Err(error) = socket.send_to(&datagram, to.into()).await {
                        tracing::debug!(%to, %error, "a router cannot be asked");
                    }
                }
                Output::Ask(question) => asking = Some(ask(tools.web.clone(), question).boxed()),
                Output::Report(report) => tell(reported, PortReported(Some(report))),
            }
        }
        if mapper.is_over() {
            if let Some(left) = leaving {
                let _ = left.send(());
            }
            return None;
        }
        let (now, wake) = (clock.now(), mapper.deadline());
        tokio::select! {
            biased;
            order = orders.recv(), if leaving.is_none() => match order {
                Some(Order::Leave(left)) => {
                    leaving = Some(left);
                    mapper.handle(Input::Leave, clock.now());
                }
                Some(Order::Anew) => return Some(Order::Anew),
                None => return None,
            },
            Some(answer) = OptionFuture::from(asking.as_mut()) => {
                asking = None;
                match answer {
                    Ok((status, body)) => {
                        let answer = Ok((status, &*String::from_utf8_lossy(&body)));
                        mapper.handle(Input::Answered(answer), clock.now());
                    }
                    Err(error) => mapper.handle(Input::Answered(Err(&error.to_string())), clock.now()),
                }
            }
            () = sleep(wake.since(now)), if wake != Moment::NEVER => {}
            received = socket.recv_from(&mut buffer) => match received {
                Ok((length, SocketAddr::V4(from))) => {
                    let payload = buffer.get(..length).unwrap_or_default();
                    mapper.handle(Input::Datagram { from, payload }, clock.now());
                }
                Ok(_) => {}
                Err(error) => {
                    tracing::debug!(%error, "the socket to the router broke");
                    if leaving.is_some() {
                        return None;
                    }
                    return pause(orders).await;
                }
            },
        }
    }
}

async fn ask(web: Arc<dyn Web>, Ask { to, path, action }: Ask) -> Result<(u16, Bytes), WebError> {
    let action = action.as_ref().map(|(action, body)| (action.as_str(), body.as_str()));
    web.ask(to.into(), Question { path: &path, action }, LARGEST_ANSWER).await
}

impl Actor for PortMapper {
    type Context = Context<Self>;

    fn started(&mut self, ctx: &mut Self::Context) {
        let (orders, queue) = mpsc::channel(MOST_ORDERS);
        self.orders = Some(orders);
        ctx.spawn(run(self.tools.clone(), self.reported.clone(), queue).into_actor(self));
    }

    fn stopped(&mut self, _: &mut Self::Context) {
        let reason = self.exit.take().unwrap_or(ExitReason::Unexplained);
        tell(&self.parent, ChildStopped { child: Child::PortMapper, reason });
    }
}

impl Handler<MapAnew> for PortMapper {
    type Result = ();
    fn handle(&mut self, _: MapAnew, _: &mut Self::Context) {
        if let Some(orders) = &self.orders {
            // What does not fit would say nothing new.
            let _ = orders.try_send(Order::Anew);
        }
    }
}

impl Handler<ClosePortMapper> for PortMapper {
    type Result = ResponseActFuture<Self, ()>;
    fn handle(&mut self, ClosePortMapper { within }: ClosePortMapper, _: &mut Self::Context) -> Self::Result {
        let orders = self.orders.take();
        let leaving = async move {
            let (left, gone) = oneshot::channel();
            if let Some(orders) = orders
                && orders.send(Order::Leave(left)).await.is_ok()
            {
                let _ = gone.await;
            }
        };
        let leaving = async move { drop(tokio::time::timeout(within, leaving).await) };
        Box::pin(leaving.into_actor(self).map(|(), mapper, ctx| {
            mapper.exit = Some(ExitReason::Asked);
            ctx.stop();
        }))
    }
}

#[cfg(test)]
mod tests;
