use proptest::prelude::*;

use super::*;

const ASKER: NodeId = NodeId(*b"abcdefghij0123456789");
const OTHER: NodeId = NodeId(*b"mnopqrstuvwxyz123456");

fn query(ask: Ask) -> Message {
    let query = Query { from: ASKER, read_only: false, want: Want::default(), ask };
    Message::new(*b"aa", Body::Query(query))
}
fn answer(response: Response) -> Message {
    Message::new(*b"aa", Body::Response(Box::new(response)))
}
/// The message has these very bytes, and they are read as this message.
fn same(message: &Message, bytes: &[u8]) {
    assert_eq!(message.encode().escape_ascii().to_string(), bytes.escape_ascii().to_string());
    assert_eq!(Message::decode(bytes).as_ref(), Ok(message));
}
fn read(bytes: &[u8]) -> Message {
    Message::decode(bytes).unwrap_or_else(|error| panic!("{error} in {}", bytes.escape_ascii()))
}
fn response(results: &[u8]) -> Response {
    let bytes = [b"d1:rd2:id20:abcdefghij0123456789", results, b"e1:t2:aa1:y1:re"].concat();
    match read(&bytes).body {
        Body::Response(response) => *response,
        other => panic!("{other:?}"),
    }
}

#[test]
fn the_queries_of_bep_5() {
    same(&query(Ask::Ping), b"d1:ad2:id20:abcdefghij0123456789e1:q4:ping1:t2:aa1:y1:qe");
    same(
        &query(Ask::FindNode { target: OTHER }),
        b"d1:ad2:id20:abcdefghij01234567896:target20:mnopqrstuvwxyz123456e1:q9:find_node1:t2:aa1:y1:qe",
    );
    same(
        &query(Ask::GetPeers { info_hash: OTHER, noseed: false, scrape: false }),
        b"d1:ad2:id20:abcdefghij01234567899:info_hash20:mnopqrstuvwxyz123456e1:q9:get_peers1:t2:aa1:y1:qe",
    );
    let announce =
        |port| query(Ask::AnnouncePeer { info_hash: OTHER, port, token: (*b"aoeusnth").into(), seed: false });
    same(
        &announce(Some(6881)),
        b"d1:ad2:id20:abcdefghij01234567899:info_hash20:mnopqrstuvwxyz1234564:porti6881e5:token8:aoeusnthe\
          1:q13:announce_peer1:t2:aa1:y1:qe",
    );
    // The example has a port beside `implied_port`, which is to be ignored.
    let implied = b"d1:ad2:id20:abcdefghij012345678912:implied_porti1e9:info_hash20:mnopqrstuvwxyz1234564:porti6881e\
                    5:token8:aoeusnthe1:q13:announce_peer1:t2:aa1:y1:qe";
    assert_eq!(read(implied), announce(None));
    assert_eq!(read(&announce(None).encode()), announce(None));
}

#[test]
fn the_answers_of_bep_5() {
    let bare = |from| Response { from, ..Response::default() };
    same(&answer(bare(OTHER)), b"d1:rd2:id20:mnopqrstuvwxyz123456e1:t2:aa1:y1:re");
    let token: Option<Box<[u8]>> = Some((*b"aoeusnth").into());
    let values = vec!["97.120.106.101:11893".parse().unwrap(), "105.100.104.116:28269".parse().unwrap()];
    same(
        &answer(Response { values, token: token.clone(), ..bare(ASKER) }),
        b"d1:rd2:id20:abcdefghij01234567895:token8:aoeusnth6:valuesl6:axje.u6:idhtnmee1:t2:aa1:y1:re",
    );
    let node = Node { id: OTHER, addr: "97.120.106.101:11893".parse().unwrap() };
    same(
        &answer(Response { nodes: vec![node], token, ..bare(ASKER) }),
        b"d1:rd2:id20:abcdefghij01234567895:nodes26:mnopqrstuvwxyz123456axje.u5:token8:aoeusnthe1:t2:aa1:y1:re",
    );
    same(
        &Message::new(*b"aa", Body::error(error_code::GENERIC, "A Generic Error Ocurred")),
        b"d1:eli201e23:A Generic Error Ocurrede1:t2:aa1:y1:ee",
    );
}

#[test]
fn both_families_of_bep_32() {
    let mut both = query(Ask::FindNode { target: OTHER });
    let Body::Query(asked) = &mut both.body else { unreachable!() };
    asked.want = Want { v4: true, v6: true };
    same(
        &both,
        b"d1:ad2:id20:abcdefghij01234567896:target20:mnopqrstuvwxyz1234564:wantl2:n42:n6ee\
          1:q9:find_node1:t2:aa1:y1:qe",
    );
    let v6 = b"\x20\x01\x0d\xb8\0\0\0\0\0\0\0\0\0\0\0\x01\x1a\xe1";
    let text = [b"6:nodes638:mnopqrstuvwxyz123456", &v6[..], b"6:valuesl18:", v6, b"6:axje.ue"].concat();
    let got = response(&text);
    let addr = "[2001:db8::1]:6881".parse().unwrap();
    assert_eq!(got.nodes6, [Node { id: OTHER, addr }]);
    assert_eq!(got.values, [addr, "97.120.106.101:11893".parse().unwrap()], "hybrid lists are read");
    assert_eq!(response(b"4:wantl3:n10e").nodes6, []);
}

#[test]
fn scrapes_of_bep_33_and_read_only_of_bep_43() {
    let mut scrape = query(Ask::GetPeers { info_hash: OTHER, noseed: true, scrape: true });
    let Body::Query(asked) = &mut scrape.body else { unreachable!() };
    asked.read_only = true;
    same(
        &scrape,
        b"d1:ad2:id20:abcdefghij01234567899:info_hash20:mnopqrstuvwxyz1234566:noseedi1e6:scrapei1ee\
          1:q9:get_peers2:roi1e1:t2:aa1:y1:qe",
    );
    let mut seeds = Bloom::default();
    seeds.insert("192.168.1.1".parse().unwrap());
    let filters =
        Response { from: ASKER, seeds: Some(seeds), downloaders: Some(Bloom::default()), ..Response::default() };
    let bytes = answer(filters.clone()).encode();
    assert!(bytes.starts_with(b"d1:rd4:BFpe256:\0"));
    assert_eq!(read(&bytes), answer(filters));
    assert_eq!(response(b"4:BFpe3:abc").downloaders, None);
}

#[test]
fn items_of_bep_44() {
    let (token, value): (Box<[u8]>, Box<[u8]>) = ((*b"tk").into(), (*b"12:Hello World!").into());
    let put = |item, cas| query(Ask::Put { token: token.clone(), item, cas });
    same(
        &put(Item::Immutable(value.clone()), None),
        b"d1:ad2:id20:abcdefghij01234567895:token2:tk1:v12:Hello World!e1:q3:put1:t2:aa1:y1:qe",
    );
    let mutable = |salt: &[u8]| Item::Mutable {
        key: [b'k'; 32],
        salt: salt.into(),
        seq: 4,
        signature: [b's'; 64],
        value: value.clone(),
    };
    let (key, sig) = ("k".repeat(32), "s".repeat(64));
    let text = format!(
        "d1:ad3:casi3e2:id20:abcdefghij01234567891:k32:{key}4:salt6:foobar3:seqi4e3:sig64:{sig}5:token2:tk\
         1:v12:Hello World!e1:q3:put1:t2:aa1:y1:qe"
    );
    same(&put(mutable(b"foobar"), Some(3)), text.as_bytes());
    let text =
        format!("d1:rd2:id20:abcdefghij01234567891:k32:{key}3:seqi4e3:sig64:{sig}1:v12:Hello World!e1:t2:aa1:y1:re");
    same(&answer(Response { from: ASKER, item: Some(mutable(b"")), ..Response::default() }), text.as_bytes());
    same(
        &query(Ask::Get { target: OTHER, seq: Some(4) }),
        b"d1:ad2:id20:abcdefghij01234567893:seqi4e6:target20:mnopqrstuvwxyz123456e1:q3:get1:t2:aa1:y1:qe",
    );
    assert_eq!(response(b"3:seqi4e").seq, Some(4));
    assert_eq!(response(b"1:k3:abc3:seqi4e1:vi1e").item, None, "half a mutable item is none");
}

#[test]
fn samples_of_bep_51() {
    same(
        &query(Ask::SampleInfohashes { target: OTHER }),
        b"d1:ad2:id20:abcdefghij01234567896:target20:mnopqrstuvwxyz123456e1:q17:sample_infohashes1:t2:aa1:y1:qe",
    );
    let samples = Samples { interval: Duration::from_secs(60), total: 9, hashes: vec![OTHER] };
    same(
        &answer(Response { from: ASKER, samples: Some(samples), ..Response::default() }),
        b"d1:rd2:id20:abcdefghij01234567898:intervali60e3:numi9e7:samples20:mnopqrstuvwxyz123456e1:t2:aa1:y1:re",
    );
    let lies = response(b"8:intervali99999999e3:numi-1e7:samples21:mnopqrstuvwxyz123456x").samples.unwrap();
    assert_eq!(lies, Samples { interval: LONGEST_INTERVAL, total: 0, hashes: vec![OTHER] });
    assert_eq!(response(b"7:samples0:").samples, Some(Samples::default()));
}

#[test]
fn real_clients_differ() {
    // libtorrent: a version, our address, a name that nobody needs, a second family in `ip`.
    let bytes = b"d2:ip6:axje.u1:rd2:id20:abcdefghij01234567891:n3:foo1:pi5e6:values12:axje.uidhtnme1:t1:a1:v4:LT\x01\x021:y1:re";
    let message = read(bytes);
    assert_eq!(message.your_addr, Some("97.120.106.101:11893".parse().unwrap()));
    assert_eq!((message.version, &*message.transaction), (Some(*b"LT\x01\x02"), &b"a"[..]));
    let Body::Response(got) = message.body else { panic!() };
    assert_eq!(got.values.len(), 2, "all peers in one string");
    let ip = |ip: &[u8]| read(&[b"d2:ip", ip, b"1:rd2:id20:abcdefghij0123456789e1:t2:aa1:y1:re"].concat()).your_addr;
    assert_eq!(ip(b"18:\0\0\0\0\0\0\0\0\0\0\xff\xff\x01\x02\x03\x04\0\x05"), Some("1.2.3.4:5".parse().unwrap()));
    assert_eq!((ip(b"4:abcd"), ip(b"i4e")), (None, None));
    // Peers and nodes that cannot be reached, and half ones.
    let got = response(
        b"5:nodes53:mnopqrstuvwxyz123456\0\0\0\0\x01\x02mnopqrstuvwxyz123456axje.ux6:valuesl6:abcd\0\x003:abce",
    );
    assert_eq!((got.nodes.len(), got.values.len()), (1, 0));
    let mapped = b"6:nodes638:mnopqrstuvwxyz123456\0\0\0\0\0\0\0\0\0\0\xff\xff\x01\x02\x03\x04\0\x05";
    assert_eq!(response(mapped).nodes6, []);
    // Keys out of order, an error that is no list, a query of the future.
    read(b"d1:y1:q1:t2:aa1:q4:ping1:ad2:id20:abcdefghij0123456789ee");
    let Body::Error { code, text } = read(b"d1:e3:a\nb1:t2:aa1:y1:ee").body else { panic!() };
    assert_eq!((code, &*text), (error_code::GENERIC, "ab"));
    let future = b"d1:ad2:id20:abcdefghij01234567899:info_hash20:mnopqrstuvwxyz123456e1:q4:vote1:t2:aa1:y1:qe";
    let Body::Query(asked) = read(future).body else { panic!() };
    assert_eq!(asked.ask, Ask::Other { method: "vote".to_owned(), target: Some(OTHER) });
}

/// As libtorrent 2.1 sends them, but for the ids.
#[test]
fn libtorrent_is_understood() {
    let bootstrap = b"d1:ad2:bsi1e2:id20:abcdefghij01234567899:info_hash20:mnopqrstuvwxyz123456e1:q9:get_peers\
                      1:t2:\xde\xd21:v4:LT\x02\x111:y1:qe";
    let expected = query(Ask::GetPeers { info_hash: OTHER, noseed: false, scrape: false });
    assert_eq!(read(bootstrap).body, expected.body);
    let announce =
        b"d1:ad2:id20:abcdefghij01234567899:info_hash20:mnopqrstuvwxyz1234564:porti33301e4:seedi1e5:token4:abcde\
                     1:q13:announce_peer1:t2:\x10k1:v4:LT\x02\x111:y1:qe";
    let token = (*b"abcd").into();
    let expected = query(Ask::AnnouncePeer { info_hash: OTHER, port: Some(33301), token, seed: true });
    assert_eq!(read(announce).body, expected.body);
    let sample =
        b"d2:ip6:\x7f\0\0\x01\xb7\xf31:rd2:id20:abcdefghij01234567898:intervali21600e5:nodes0:3:numi1e1:pi47091e\
                   7:samples20:mnopqrstuvwxyz123456e1:t1:i1:v4:LT\x02\x111:y1:re";
    let samples = Samples { interval: LONGEST_INTERVAL, total: 1, hashes: vec![OTHER] };
    let expected = answer(Response { from: ASKER, samples: Some(samples), ..Response::default() });
    assert_eq!(read(sample).body, expected.body);
    let refusal = b"d1:eli203e13:invalid tokene2:ip6:\x7f\0\0\x01\xb7\xf31:rd2:id20:abcdefghij01234567891:pi47091ee\
                    1:t7:ggggggg1:v4:LT\x02\x111:y1:ee";
    assert_eq!(read(refusal).body, Body::error(error_code::PROTOCOL, "invalid token"));
}

#[test]
fn nonsense_is_refused_and_bad_queries_are_told_so() {
    for bytes in [
        &b""[..],
        b"le",
        b"d1:t2:aae",
        b"d1:t0:1:y1:qe",
        b"d1:t17:123456789012345671:y1:qe",
        b"d1:rde1:t2:aa1:y1:re",
        b"d1:t2:aa1:y1:re",
        b"d1:rd2:id3:abce1:t2:aa1:y1:re",
    ] {
        let error = Message::decode(bytes).unwrap_err();
        assert_eq!(error.reply(), None, "{error}");
    }
    assert!(matches!(Message::decode(&[b'0'; LARGEST_READ + 1]), Err(KrpcError::Bencode(_))));
    for (arguments, method, wrong) in [
        ("1:xi1e", "4:ping", "id"),
        ("2:id20:abcdefghij0123456789", "9:find_node", "target"),
        ("2:id20:abcdefghij01234567899:info_hash3:abc", "9:get_peers", "info_hash"),
        ("2:id20:abcdefghij01234567899:info_hash20:mnopqrstuvwxyz1234564:porti0e", "13:announce_peer", "port"),
        ("2:id20:abcdefghij01234567899:info_hash20:mnopqrstuvwxyz1234564:porti1e", "13:announce_peer", "token"),
        ("2:id20:abcdefghij01234567895:token1:x", "3:put", "item"),
    ] {
        let bytes = format!("d1:ad{arguments}e1:q{method}1:t2:aa1:y1:qe");
        let reply = Message::decode(bytes.as_bytes()).unwrap_err().reply().unwrap();
        let expected = Body::error(error_code::PROTOCOL, format!("missing or invalid {wrong}"));
        assert_eq!(reply, Message::new(*b"aa", expected));
    }
}

#[test]
fn what_a_response_brings_is_bounded() {
    let flood: Vec<u8> = std::iter::repeat_n(*b"mnopqrstuvwxyz123456axje.u", 100).flatten().collect();
    let got = response(&[b"5:nodes2600:", &flood[..]].concat());
    assert_eq!(got.nodes.len(), MOST_NODES);
    let flood: Vec<u8> = std::iter::repeat_n(*b"6:axje.u", 400).flatten().collect();
    assert_eq!(response(&[b"6:valuesl", &flood[..], b"e"].concat()).values.len(), MOST_VALUES);
    let long = [b"5:token200:", &[b'x'; 200][..]].concat();
    assert_eq!(response(&long).token, None);
}

fn some_id() -> impl Strategy<Value = NodeId> {
    any::<[u8; 20]>().prop_map(NodeId)
}
fn some_addr(v6: bool) -> impl Strategy<Value = SocketAddr> {
    (any::<[u16; 3]>(), 1..=u16::MAX).prop_map(move |([a, b, c], port)| match v6 {
        true => SocketAddr::new([0x2001, a, b, c, 0, 0, 0, 1].into(), port),
        false => SocketAddr::new([1, a as u8, b as u8, c as u8].into(), port),
    })
}
fn some_nodes(v6: bool) -> impl Strategy<Value = Vec<Node>> {
    prop::collection::vec((some_id(), some_addr(v6)).prop_map(|(id, addr)| Node { id, addr }), 0..=8)
}
fn some_bytes(most: usize) -> impl Strategy<Value = Box<[u8]>> {
    prop::collection::vec(any::<u8>(), 0..=most).prop_map(Into::into)
}
fn some_item(salted: bool) -> impl Strategy<Value = Item> {
    let value = prop_oneof![Just("le"), Just("i-5e"), Just("d1:al1:bee")].prop_map(|text| text.as_bytes().into());
    let salt = some_bytes(if salted { 64 } else { 0 });
    (value, any::<Option<([u8; 32], i64)>>(), salt).prop_map(|(value, mutable, salt)| match mutable {
        Some((key, seq)) => Item::Mutable { key, salt, seq, signature: [7; 64], value },
        None => Item::Immutable(value),
    })
}
fn some_ask() -> impl Strategy<Value = Ask> {
    let id = some_id;
    let token = || some_bytes(LONGEST_TOKEN);
    let port = prop::option::of(1..=u16::MAX);
    prop_oneof![
        Just(Ask::Ping),
        id().prop_map(|target| Ask::FindNode { target }),
        (id(), any::<(bool, bool)>()).prop_map(|(info_hash, (noseed, scrape))| Ask::GetPeers {
            info_hash,
            noseed,
            scrape
        }),
        (id(), port, token(), any::<bool>()).prop_map(|(info_hash, port, token, seed)| Ask::AnnouncePeer {
            info_hash,
            port,
            token,
            seed
        }),
        (id(), any::<Option<i64>>()).prop_map(|(target, seq)| Ask::Get { target, seq }),
        (token(), some_item(true), any::<Option<i64>>()).prop_map(|(token, item, cas)| Ask::Put { token, item, cas }),
        id().prop_map(|target| Ask::SampleInfohashes { target }),
        prop::option::of(id()).prop_map(|target| Ask::Other { method: "vote".to_owned(), target }),
    ]
}
fn some_response() -> impl Strategy<Value = Response> {
    let values = prop::collection::vec(any::<bool>().prop_flat_map(some_addr), 0..20);
    let samples = (0..21_600_u64, any::<u32>(), prop::collection::vec(some_id(), 0..5))
        .prop_map(|(seconds, total, hashes)| Samples { interval: Duration::from_secs(seconds), total, hashes });
    let bloom = || {
        prop::option::of(any::<u32>().prop_map(|ip| {
            let mut bloom = Bloom::default();
            bloom.insert(ip.to_be_bytes().into());
            bloom
        }))
    };
    (
        (some_id(), some_nodes(false), some_nodes(true), values, prop::option::of(some_bytes(LONGEST_TOKEN))),
        (bloom(), bloom(), prop::option::of(some_item(false)), any::<Option<i64>>(), prop::option::of(samples)),
    )
        .prop_map(|((from, nodes, nodes6, values, token), (seeds, downloaders, item, seq, samples))| Response {
            from,
            nodes,
            nodes6,
            values,
            token,
            seeds,
            downloaders,
            seq: seq.filter(|_| item.is_none()),
            item,
            samples,
        })
}
fn some_message() -> impl Strategy<Value = Message> {
    let body = prop_oneof![
        (some_id(), any::<(bool, bool, bool)>(), some_ask()).prop_map(|(from, (read_only, v4, v6), ask)| {
            Body::Query(Query { from, read_only, want: Want { v4, v6 }, ask })
        }),
        some_response().prop_map(|response| Body::Response(Box::new(response))),
        (any::<i64>(), "[a-zé ]{0,40}").prop_map(|(code, text)| Body::Error { code, text }),
    ];
    let addr = prop::option::of(any::<bool>().prop_flat_map(some_addr));
    (prop::collection::vec(any::<u8>(), 1..=LONGEST_TRANSACTION), body, any::<Option<[u8; 4]>>(), addr)
        .prop_map(|(transaction, body, version, your_addr)| Message { transaction, body, version, your_addr })
}

proptest! {
    #[test]
    fn what_is_written_is_read_and_canonical(message in some_message()) {
        let bytes = message.encode();
        let scanned = castanet_core::bencode::scan(&bytes, castanet_core::bencode::Limits::MESSAGE);
        prop_assert_eq!(scanned.map(|scanned| scanned.oddities), Ok(vec![]));
        prop_assert_eq!(Message::decode(&bytes), Ok(message));
    }

    #[test]
    fn mutated_messages_never_panic(message in some_message(), changes in prop::collection::vec(any::<(usize, u8)>(), 1..6)) {
        let mut bytes = message.encode();
        for (at, to) in changes {
            let at = at % bytes.len();
            bytes[at] = to;
        }
        if let Ok(message) = Message::decode(&bytes) {
            // What survives can be written and read again.
            prop_assert_eq!(Message::decode(&message.encode()), Ok(message));
        }
    }

    #[test]
    fn noise_never_panics(bytes in prop::collection::vec(prop_oneof![
        any::<u8>(), Just(b'd'), Just(b'l'), Just(b'i'), Just(b'e'), Just(b':'), b'0'..=b'9'], 0..80)) {
        let _ = Message::decode(&bytes);
        let wrapped = [b"d1:ad2:id20:abcdefghij0123456789", &bytes[..], b"e1:q3:put1:t2:aa1:y1:qe"].concat();
        let _ = Message::decode(&wrapped);
    }
}
