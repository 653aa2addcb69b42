//! Mapping by UPnP: searches, descriptions and answers, and those of liars.

use super::*;

const FOUND: &str = "HTTP/1.1 200 OK\r\nCACHE-CONTROL: max-age=120\r\n\
                     ST: urn:schemas-upnp-org:device:InternetGatewayDevice:1\r\n\
                     Location: http://192.168.1.1:5000/a/root.xml\r\n\r\n";
const DESCRIPTION: &str = "<?xml version=\"1.0\"?><!DOCTYPE x [<!ENTITY a \"&b;&b;\">]><root><!-- <service> -->\
    <service><serviceType>urn:schemas-upnp-org:service:WANCommonInterfaceConfig:1</serviceType>\
    <controlURL>/no</controlURL></service><service><controlURL>ctl?a=1&amp;b=2</controlURL>\
    <serviceType>urn:schemas-upnp-org:service:WANIPConnection:1</serviceType></service></root>";

fn found(mapper: &mut Mapper) {
    let from = at(1900);
    mapper.handle(Input::Datagram { from, payload: FOUND.as_bytes() }, Moment::ZERO);
}

fn asked(mapper: &mut Mapper) -> (String, String) {
    match drain(mapper, Moment::ZERO).as_slice() {
        [Output::Ask(Ask { to, path, action })] => {
            let action = action.as_ref().map_or("", |(name, _)| name.rsplit('#').next().unwrap().trim_matches('"'));
            (format!("{to}{path}"), action.to_owned())
        }
        other => panic!("{other:?}"),
    }
}

fn answer(mapper: &mut Mapper, status: u16, body: &str) {
    mapper.handle(Input::Answered(Ok((status, body))), Moment::ZERO);
}

/// A router that has described itself.
fn described() -> Mapper {
    let mut mapper = mapper(&[Method::Upnp]);
    assert_eq!(drain(&mut mapper, Moment::ZERO).len(), 3);
    found(&mut mapper);
    assert_eq!(asked(&mut mapper), ("192.168.1.1:5000/a/root.xml".to_owned(), String::new()));
    answer(&mut mapper, 200, DESCRIPTION);
    mapper
}

fn fault(code: u16) -> String {
    format!("<s:Fault><detail><UPnPError><errorCode>{code}</errorCode></UPnPError></detail></s:Fault>")
}

const ADDRESS: &str = "<u:R><NewExternalIPAddress>11.2.3.4</NewExternalIPAddress></u:R>";

#[test]
fn a_port_is_opened_and_taken_back() {
    let mut mapper = described();
    for _ in Layer::BOTH {
        assert_eq!(asked(&mut mapper), ("192.168.1.1:5000/a/ctl?a=1&b=2".to_owned(), "AddPortMapping".to_owned()));
        answer(&mut mapper, 200, "<ok/>");
    }
    assert_eq!(asked(&mut mapper).1, "GetExternalIPAddress");
    answer(&mut mapper, 200, ADDRESS);
    let external = SocketAddrV4::new(WORLD, 6881);
    let open = OpenPort { port: 6881, external, method: Method::Upnp, udp: true };
    assert_eq!(drain(&mut mapper, Moment::ZERO), [Output::Report(Report::Open(open))]);
    assert_eq!(mapper.deadline(), Moment::from_secs(600));
    mapper.handle(Input::Leave, Moment::ZERO);
    for _ in Layer::BOTH {
        assert_eq!(asked(&mut mapper).1, "DeletePortMapping");
        answer(&mut mapper, 200, "");
    }
    assert!(drain(&mut mapper, Moment::ZERO).is_empty() && mapper.is_over());
}

#[test]
fn what_is_granted_while_we_leave_is_taken_back_too() {
    let mut mapper = described();
    asked(&mut mapper);
    mapper.handle(Input::Leave, Moment::ZERO);
    assert!(drain(&mut mapper, Moment::ZERO).is_empty() && !mapper.is_over());
    answer(&mut mapper, 200, "");
    assert_eq!(asked(&mut mapper).1, "DeletePortMapping");
    answer(&mut mapper, 500, "");
    assert!(drain(&mut mapper, Moment::ZERO).is_empty() && mapper.is_over());
}

#[test]
fn a_router_that_maps_for_ever_or_has_given_the_port_away_is_asked_otherwise() {
    let mut mapper = described();
    asked(&mut mapper);
    answer(&mut mapper, 500, &fault(725));
    let outputs = drain(&mut mapper, Moment::ZERO);
    let [Output::Ask(Ask { action: Some((_, body)), .. })] = &outputs[..] else { panic!("{outputs:?}") };
    assert!(body.contains("<NewLeaseDuration>0<") && body.contains("<NewExternalPort>6881<"), "{body}");
    for _ in 0..4 {
        answer(&mut mapper, 500, &fault(718));
        let outputs = drain(&mut mapper, Moment::ZERO);
        let [Output::Ask(Ask { action: Some((_, body)), .. })] = &outputs[..] else { panic!("{outputs:?}") };
        assert!(!body.contains("<NewExternalPort>6881<") && body.contains("<NewInternalPort>6881<"), "{body}");
    }
    answer(&mut mapper, 500, &fault(718));
    let reason = "No router opens port 6881: UPnP: the port belongs to somebody else".to_owned();
    assert_eq!(drain(&mut mapper, Moment::ZERO), [Output::Report(Report::Closed(reason))]);
}

#[test]
fn nobody_leads_us_to_others() {
    let page = |text: &str| ssdp::parse(text.as_bytes(), ROUTER);
    assert!(page(FOUND).is_some());
    for (wrong, right) in [
        ("http://192.168.1.1:5000", "http://192.168.1.9:5000"),
        ("http://192.168.1.1:5000", "https://192.168.1.1:5000"),
        ("http://192.168.1.1:5000", "http://router.example:5000"),
        ("http://192.168.1.1:5000", "http://192.168.1.1:0"),
        ("/root.xml", "/root.xml HTTP/1.1"),
        ("200 OK", "404 Not Found"),
        ("HTTP/1.1 200 OK", "NOTIFY * HTTP/1.1"),
        ("InternetGatewayDevice:1", "MediaServer:1"),
    ] {
        assert_eq!(page(&FOUND.replace(wrong, right)), None, "{right}");
    }
    let at = Page { at: at(5000), path: "/a/root.xml?x=/y".into() };
    let joined = |url: &str| at.join(url).map(|page| format!("{}{}", page.at, page.path));
    assert_eq!(joined("b/c").as_deref(), Some("192.168.1.1:5000/a/b/c"));
    assert_eq!(joined("http://192.168.1.1:6000/d").as_deref(), Some("192.168.1.1:6000/d"));
    for url in ["http://127.0.0.1/d", "http://192.168.1.1:5000@evil/", "/a b", "/\r\nX: y", "ftp://192.168.1.1/"] {
        assert_eq!(joined(url), None, "{url}");
    }
    assert_eq!(joined(&format!("/{}", "x".repeat(600))), None);

    // Only the router is listened to, and only so often.
    let mut mapper = mapper(&[Method::Upnp]);
    drain(&mut mapper, Moment::ZERO);
    let from = SocketAddrV4::new(CLIENT, 1900);
    mapper.handle(
        Input::Datagram { from, payload: FOUND.replace("192.168.1.1", "192.168.1.2").as_bytes() },
        Moment::ZERO,
    );
    assert_eq!(drain(&mut mapper, Moment::ZERO), []);
    for n in 0..100 {
        let payload = FOUND.replace("root", &n.to_string());
        mapper.handle(Input::Datagram { from: super::at(1900), payload: payload.as_bytes() }, Moment::ZERO);
    }
    let mut pages = 0;
    while let [Output::Ask(_)] = &drain(&mut mapper, Moment::ZERO)[..] {
        pages += 1;
        mapper.handle(Input::Answered(Err("it is gone")), Moment::ZERO);
    }
    assert_eq!(pages, 8);
}

#[test]
fn nobody_answers() {
    let mut mapper = mapper(&[Method::Upnp]);
    let mut searches = 0;
    let end = loop {
        let now = mapper.deadline();
        match drain(&mut mapper, now).as_slice() {
            [Output::Report(Report::Closed(reason))] => {
                assert!(reason.ends_with("UPnP: no router answers"), "{reason}");
                break now;
            }
            sent => searches += sent.len(),
        }
    };
    assert_eq!((searches, end), (9, Moment::ZERO + Duration::from_millis(4500)));
}

#[test]
fn the_better_service_is_chosen() {
    let service = |kind: &str| {
        format!(
            "<service><serviceType>urn:schemas-upnp-org:service:{kind}</serviceType><controlURL>/{kind}</controlURL></service>"
        )
    };
    let page = Page { at: at(5000), path: "/".into() };
    let all = ["WANPPPConnection:1", "WANIPConnection:2", "WANIPConnection:1"].map(service).concat();
    let action = Action::Unmap { layer: Layer::Udp, external: 9 };
    assert_eq!(soap::service(&all, &page).unwrap().ask(action).path, "/WANIPConnection:2");
    assert_eq!(soap::service(&service("Layer3Forwarding:1"), &page), None);
    assert_eq!(soap::service(&all[..all.len() / 5], &page), None, "cut off");
    let (name, body) = soap::service(&all, &page).unwrap().ask(action).action.unwrap();
    assert_eq!(name, "\"urn:schemas-upnp-org:service:WANIPConnection:2#DeletePortMapping\"");
    assert!(body.contains("<NewExternalPort>9</NewExternalPort><NewProtocol>UDP</NewProtocol></u:DeletePortMapping>"));
}

#[test]
fn a_bomb_of_xml_stays_what_it_is() {
    let bomb = "<!DOCTYPE lolz [<!ENTITY lol \"lol\"><!ENTITY lol1 \"&lol;&lol;\">]><errorCode>&lol1;</errorCode>";
    assert_eq!(text_of(bomb, "errorCode"), Some("&lol1;"));
    assert_eq!(soap::error(bomb), None);
    let deep = "<a>".repeat(20_000);
    assert_eq!(pieces(&deep).count(), 20_000);
    assert_eq!(text_of("<x:a y='1'><![CDATA[ b ]]></x:a><a/>", "a"), Some("b"));
    assert_eq!(pieces("<a/>").collect::<Vec<_>>(), [Piece::Begin("a"), Piece::End("a")]);
    assert_eq!(unescaped("&amp;lt;&lt;&quot;"), "&lt;<\"");
}
