//! What UPnP's Internet Gateway Device is told and what it answers: SOAP over HTTP, and its description of itself.

use std::{
    net::{Ipv4Addr, SocketAddrV4},
    time::Duration,
};

use super::{
    Layer, is_host,
    ssdp::Page,
    xml::{Piece, pieces, text_of, unescaped},
};

/// The services that map ports, the better ones first.
const SERVICES: [&str; 3] = [
    "urn:schemas-upnp-org:service:WANIPConnection:2",
    "urn:schemas-upnp-org:service:WANIPConnection:1",
    "urn:schemas-upnp-org:service:WANPPPConnection:1",
];

/// A question to a web server of the local network.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Ask {
    /// The server.
    pub to: SocketAddrV4,
    /// The path, and the query.
    pub path: String,
    /// To be posted: the value of `SOAPAction` and the body. `None`: the page is read.
    pub action: Option<(String, String)>,
}

impl Ask {
    /// Reads a page.
    pub(super) fn page(Page { at, path }: Page) -> Self {
        Self { to: at, path, action: None }
    }
}

/// A service that maps ports.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Service {
    kind: &'static str,
    control: Page,
}

/// What a service is told.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Action {
    /// To tell the address that the world sees.
    Address,
    /// To map a port; a lifetime of zero is for ever.
    Map { layer: Layer, external: u16, port: u16, client: Ipv4Addr, lifetime: Duration },
    /// To do so no more.
    Unmap { layer: Layer, external: u16 },
}

/// Finds the best service in a device's description, which was read at `page`.
pub(super) fn service(description: &str, page: &Page) -> Option<Service> {
    let base = text_of(description, "URLBase").and_then(|base| page.join(&unescaped(base)));
    let page = base.as_ref().unwrap_or(page);
    let (mut inside, mut kind, mut url) = ("", None, None);
    let mut best: Option<(usize, Page)> = None;
    for piece in pieces(description) {
        match piece {
            Piece::Begin("service") => (kind, url) = (None, None),
            Piece::Begin(name) => inside = name,
            Piece::Text(text) if inside == "serviceType" => kind = SERVICES.iter().position(|known| *known == text),
            Piece::Text(text) if inside == "controlURL" => url = page.join(&unescaped(text)),
            Piece::End("service") => {
                if let (Some(kind), Some(url)) = (kind.take(), url.take())
                    && best.as_ref().is_none_or(|(other, _)| kind < *other)
                {
                    best = Some((kind, url));
                }
            }
            Piece::End(_) => inside = "",
            Piece::Text(_) => {}
        }
    }
    let (kind, control) = best?;
    Some(Service { kind: SERVICES.get(kind)?, control })
}

impl Service {
    /// The question for an action.
    pub(super) fn ask(&self, action: Action) -> Ask {
        let protocol = |layer| match layer {
            Layer::Tcp => "TCP",
            Layer::Udp => "UDP",
        };
        let (name, arguments) = match action {
            Action::Address => ("GetExternalIPAddress", String::new()),
            Action::Map { layer, external, port, client, lifetime } => {
                let arguments = format!(
                    "<NewRemoteHost></NewRemoteHost><NewExternalPort>{external}</NewExternalPort>\
                     <NewProtocol>{}</NewProtocol><NewInternalPort>{port}</NewInternalPort>\
                     <NewInternalClient>{client}</NewInternalClient><NewEnabled>1</NewEnabled>\
                     <NewPortMappingDescription>Castanet</NewPortMappingDescription>\
                     <NewLeaseDuration>{}</NewLeaseDuration>",
                    protocol(layer),
                    lifetime.as_secs()
                );
                ("AddPortMapping", arguments)
            }
            Action::Unmap { layer, external } => {
                let arguments = format!(
                    "<NewRemoteHost></NewRemoteHost><NewExternalPort>{external}</NewExternalPort>\
                     <NewProtocol>{}</NewProtocol>",
                    protocol(layer)
                );
                ("DeletePortMapping", arguments)
            }
        };
        let kind = self.kind;
        let body = format!(
            "<?xml version=\"1.0\"?>\r\n<s:Envelope xmlns:s=\"http://schemas.xmlsoap.org/soap/envelope/\" \
             s:encodingStyle=\"http://schemas.xmlsoap.org/soap/encoding/\"><s:Body>\
             <u:{name} xmlns:u=\"{kind}\">{arguments}</u:{name}></s:Body></s:Envelope>\r\n"
        );
        let Page { at, path } = self.control.clone();
        Ask { to: at, path, action: Some((format!("\"{kind}#{name}\""), body)) }
    }
}

/// The external address in an answer.
pub(super) fn address(answer: &str) -> Option<Ipv4Addr> {
    text_of(answer, "NewExternalIPAddress")?.parse().ok().filter(|ip| is_host(*ip))
}

/// The number of the error in an answer.
pub(super) fn error(answer: &str) -> Option<u16> {
    text_of(answer, "errorCode")?.parse().ok()
}

/// The errors of WANIPConnection and of UPnP, in words.
pub(super) fn reason(code: u16) -> String {
    match code {
        401 | 402 => "it does not understand the question".to_owned(),
        606 | 729 => "it does not allow this".to_owned(),
        715 | 716 | 724 | 726 | 727 => "it wants a mapping of another kind".to_owned(),
        718 => "the port belongs to somebody else".to_owned(),
        728 => "it has no port to give".to_owned(),
        code => format!("it refuses with error {code}"),
    }
}
