//! Mapping by PCP and NAT-PMP, with a router played by hand.

use super::*;

#[test]
fn a_question_is_sent_three_times() {
    let mut mapper = mapper(&[Method::Pcp]);
    for (at, wait) in [(0, 250), (250, 500), (750, 1000)] {
        let now = Moment::ZERO + Duration::from_millis(at);
        sent(&mut mapper, now);
        assert_eq!(mapper.deadline(), now + Duration::from_millis(wait));
    }
    let end = mapper.deadline();
    let reason = "No router opens port 6881: PCP: it does not answer".to_owned();
    assert_eq!(drain(&mut mapper, end), [Output::Report(Report::Closed(reason))]);
    assert_eq!(mapper.deadline(), end + Duration::from_secs(60), "and all is tried again later");
    sent(&mut mapper, end + Duration::from_secs(60));
}

#[test]
fn who_does_not_speak_pcp_is_asked_by_nat_pmp() {
    let mut mapper = mapper(&Method::ALL);
    assert_eq!(sent(&mut mapper, Moment::ZERO)[..2], [2, 1]);
    hear(&mut mapper, &[0, 0x81, 0, 1, 0, 0, 0, 0], Moment::ZERO);
    assert_eq!(sent(&mut mapper, Moment::ZERO), [0, 0]);
}

#[test]
fn strangers_and_other_mappings_are_not_believed() {
    let mut mapper = mapper(&[Method::Pcp]);
    let question = sent(&mut mapper, Moment::ZERO);
    let answer = granted(&question, 7000, 3600, 1);
    for from in ["192.168.1.3:5351", "192.168.1.1:5352", "8.8.8.8:5351"] {
        let from = from.parse().unwrap();
        mapper.handle(Input::Datagram { from, payload: &answer }, Moment::ZERO);
    }
    let other_port = [&answer[..40], &[1, 2], &answer[42..]].concat();
    let other_layer = [&answer[..36], &[17], &answer[37..]].concat();
    for payload in [other_port, other_layer, granted(&question, 7000, 0, 1)] {
        hear(&mut mapper, &payload, Moment::ZERO);
    }
    assert_eq!(drain(&mut mapper, Moment::ZERO), []);
    hear(&mut mapper, &answer, Moment::ZERO);
    assert_eq!(sent(&mut mapper, Moment::ZERO)[36], 17, "UDP comes next");
}

#[test]
fn what_is_granted_is_renewed_after_half_of_its_time() {
    let mut mapper = opened(5);
    let mut asked = Vec::new();
    let mut now = Moment::ZERO;
    while now < Moment::from_secs(1800) {
        now = mapper.deadline();
        let question = sent(&mut mapper, now);
        asked.push((now.since(Moment::ZERO).as_secs(), question[1]));
        let epoch = 5 + now.since(Moment::ZERO).as_secs() as u32;
        let answer = match question[1] {
            0 => [&question[..1], &[0x80, 0, 0, 0, 0, 0, 0], &epoch.to_be_bytes(), &[0; 12]].concat(),
            _ => granted(&question, 7000, 3600, epoch),
        };
        hear(&mut mapper, &answer, now);
    }
    let looks: Vec<_> = (1..15).map(|n| (n * 120, 0)).collect();
    assert_eq!(asked[..14], looks, "every two minutes it is looked whether the router still knows us");
    assert_eq!(asked[14..], [(1800, 1)]);
    assert_eq!(sent(&mut mapper, now)[36], 17);
}

#[test]
fn a_router_that_has_forgotten_us_is_asked_anew() {
    let mut mapper = opened(5000);
    let now = mapper.deadline();
    assert_eq!(sent(&mut mapper, now)[1], 0);
    let answer = [&[2, 0x80, 0, 0, 0, 0, 0, 0][..], &3u32.to_be_bytes(), &[0; 12]].concat();
    hear(&mut mapper, &answer, now);
    let (then, now) = (now, mapper.deadline());
    assert_eq!(now.since(then).as_secs(), 1);
    for layer in [6, 17] {
        let question = sent(&mut mapper, now);
        assert_eq!((question[1], question[36]), (1, layer));
        hear(&mut mapper, &granted(&question, 7001, 3600, 3), now);
    }
    let outputs = drain(&mut mapper, now);
    assert!(
        matches!(outputs[..], [Output::Report(Report::Open(OpenPort { external, .. }))] if external.port() == 7001)
    );
}

#[test]
fn a_router_whose_clock_jumps_is_asked_less_and_less_often() {
    let mut mapper = opened(5000);
    let (mut now, mut asked) = (Moment::ZERO, 0);
    while now < Moment::from_secs(1800) {
        now = now.max(mapper.deadline());
        for output in drain(&mut mapper, now) {
            let Output::Send { datagram: question, .. } = output else { continue };
            asked += 1;
            let epoch = if asked % 2 == 0 { 0 } else { 1_000_000 };
            let answer = match question[1] {
                0 => [&question[..1], &[0x80, 0, 0, 0, 0, 0, 0], &u32::to_be_bytes(epoch), &[0; 12]].concat(),
                _ => granted(&question, 7000, 3600, epoch),
            };
            hear(&mut mapper, &answer, now);
        }
    }
    assert!(asked < 100, "asked {asked} times in half an hour");
}

#[test]
fn what_was_asked_for_when_the_end_came_is_taken_back() {
    let mut mapper = mapper(&[Method::Pcp]);
    assert_eq!(sent(&mut mapper, Moment::ZERO)[36], 6);
    mapper.handle(Input::Leave, Moment::ZERO);
    let question = sent(&mut mapper, Moment::ZERO);
    assert_eq!((question[36], &question[4..8]), (6, &[0; 4][..]), "TCP, for no time");
    assert!(!mapper.is_over());
}

#[test]
fn lifetimes_that_are_absurd_cost_nothing() {
    for (lifetime, renewed) in [(u32::MAX, 1800), (1, 5)] {
        let mut mapper = mapper(&[Method::Pcp]);
        for _ in 0..2 {
            let question = sent(&mut mapper, Moment::ZERO);
            hear(&mut mapper, &granted(&question, 7000, lifetime, 1), Moment::ZERO);
        }
        drain(&mut mapper, Moment::ZERO);
        let mut now = Moment::ZERO;
        let at = std::iter::from_fn(|| {
            now = mapper.deadline();
            Some((now, drain(&mut mapper, now)))
        });
        let is_map = |sent: &[Output]| matches!(sent, [Output::Send { datagram, .. }] if datagram[1] == 1);
        let first = at.take(200).find(|(_, sent)| is_map(sent)).map(|(at, _)| at.since(Moment::ZERO).as_secs());
        assert_eq!(first, Some(renewed), "{lifetime}");
    }
}

#[test]
fn a_router_that_falls_silent_is_believed_until_the_time_is_up() {
    let mut mapper = opened(5);
    let (mut now, mut lost) = (Moment::ZERO, None);
    while lost.is_none() {
        now = mapper.deadline();
        lost = drain(&mut mapper, now).into_iter().find_map(|output| match output {
            Output::Report(report) => Some(report),
            _ => None,
        });
    }
    let reason = "Port 6881 is no longer open to the world: PCP: it does not answer".to_owned();
    assert_eq!(lost, Some(Report::Closed(reason)));
    let lasted = now.since(Moment::ZERO);
    assert!(lasted >= HOUR && lasted < HOUR + Duration::from_secs(60), "{lasted:?}");
    assert_eq!(mapper.deadline(), now + Duration::from_secs(5), "and all is tried again soon");
}

#[test]
fn what_is_open_is_taken_back() {
    let mut mapper = opened(5);
    mapper.handle(Input::Leave, Moment::ZERO);
    for layer in [6, 17] {
        let question = sent(&mut mapper, Moment::ZERO);
        assert_eq!((&question[4..8], question[36]), (&[0; 4][..], layer));
        hear(&mut mapper, &granted(&question, 0, 0, 5), Moment::ZERO);
    }
    assert!(drain(&mut mapper, Moment::ZERO).is_empty() && mapper.is_over());
    let mut nothing = self::mapper(&[Method::Pcp]);
    nothing.handle(Input::Leave, Moment::ZERO);
    assert!(nothing.is_over());
}

#[test]
fn tcp_alone_is_better_than_nothing() {
    let mut mapper = mapper(&[Method::Pcp]);
    let question = sent(&mut mapper, Moment::ZERO);
    hear(&mut mapper, &granted(&question, 7000, 3600, 1), Moment::ZERO);
    let question = sent(&mut mapper, Moment::ZERO);
    let mut refused = granted(&question, 0, 0, 1);
    refused[3] = 8;
    hear(&mut mapper, &refused, Moment::ZERO);
    let outputs = drain(&mut mapper, Moment::ZERO);
    assert!(matches!(outputs[..], [Output::Report(Report::Open(OpenPort { udp: false, .. }))]), "{outputs:?}");
}
