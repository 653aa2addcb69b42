//! Those who lie in the DHT: a crowd with ids next to the torrent's, which names itself and peers that are not there.

use std::net::SocketAddr;

use castanet::seams::datagrams::DatagramFactory as _;
use castanet_protocol::dht::{Body, Message, Node, NodeId, Response};
use castanet_transports::memory::MemoryTransport;

/// Nodes that one answer names.
const NAMED: usize = 16;
/// Peers that one answer makes up.
const MADE_UP: u32 = 50;

/// One of the crowd, the `number`-th. Whatever it is asked, it names its friends and peers that are not there.
pub(super) async fn lie(at: MemoryTransport, port: u16, number: u8, target: [u8; 20], friends: Vec<SocketAddr>) {
    let Ok(socket) = at.bind(SocketAddr::new(at.ip(), port)).await else { return };
    let near = |number: u8| {
        let mut id = target;
        id[19] ^= number.wrapping_add(1);
        NodeId(id)
    };
    let crowd = (0..).zip(&friends).map(|(friend, addr)| Node { id: near(friend), addr: *addr });
    let crowd: Vec<Node> = crowd.take(NAMED).collect();
    let mut buffer = [0; 2048];
    let mut made_up = u32::from(number) << 16;
    while let Ok((length, from)) = socket.recv_from(&mut buffer).await {
        let Ok(Message { transaction, body: Body::Query(_), .. }) = Message::decode(&buffer[..length]) else {
            continue;
        };
        made_up = made_up.wrapping_add(MADE_UP);
        let values = (0..MADE_UP).map(|n| nobody(made_up.wrapping_add(n))).collect();
        let response = Response { from: near(number), nodes: crowd.clone(), values, ..Response::default() };
        let response = Response { token: Some(Box::from(&b"false"[..])), ..response };
        let message = Message::new(transaction, Body::Response(Box::new(response)));
        let _ = socket.send_to(&message.encode(), from).await;
    }
}

/// An address at which there is nobody: in the range for benchmarks (RFC 2544), where the lab puts no host.
fn nobody(number: u32) -> SocketAddr {
    let [_, second, third, fourth] = number.to_be_bytes();
    SocketAddr::from(([198, 18 | second & 1, third, fourth], 6881))
}
