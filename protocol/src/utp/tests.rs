//! Transfers over links with delay, jitter, loss, doubling, bandwidth, narrowness and sleepy receivers; strangers and floods.

mod world;

use std::time::Duration;

use proptest::prelude::*;

use self::world::{Link, PERFECT, Side, World, addr, rate_of, transfer};
use super::*;

#[test]
fn bytes_both_ways_over_a_perfect_link() {
    let world = transfer(PERFECT, [3_000_000, 1_000_000], 1);
    assert_eq!(world.longest, LARGEST_V4, "the largest packet is found");
}

#[test]
fn loss_doubling_and_disorder_change_nothing() {
    for (seed, lost, doubled, jitter) in [(1, 0.01, 0.0, 0), (2, 0.05, 0.1, 5), (3, 0.2, 0.2, 30), (4, 0.0, 0.5, 50)] {
        let link = Link { lost, doubled, jitter: Duration::from_millis(jitter), ..PERFECT };
        transfer(link, [400_000, 300_000], seed);
    }
}

#[test]
fn a_receiver_that_sleeps_loses_hundreds_at_once_and_they_are_sent_again_at_the_pace_of_the_way() {
    let rate = 30e6;
    for (seed, nap) in [10, 110, 310].into_iter().enumerate() {
        for sack in [packet::LONGEST_SACK, 12] {
            let naps = Some((Duration::from_millis(nap), 90));
            let link = Link { delay: Duration::from_micros(100), rate: Some((rate, 1e6)), naps, sack, ..PERFECT };
            let (got, _) = rate_of(link, 60_000_000, seed as u64);
            let awake = rate * (1.0 - nap as f64 / 1000.0);
            println!("{:.0} % of what arrives awake, naps of {nap} ms, {sack} bytes", 100.0 * got / awake);
            assert!(got > 0.75 * awake, "{got}");
        }
    }
}

#[test]
fn numbers_that_wrap_change_nothing() {
    // 120 MB are more than 65,536 packets.
    transfer(Link { delay: Duration::from_millis(1), ..PERFECT }, [120_000_000, 0], 5);
}

#[test]
fn a_narrow_way_is_found_out_without_losing_bytes() {
    let world = transfer(Link { widest: 1400, ..PERFECT }, [2_000_000, 0], 6);
    assert!((1380..=1400).contains(&world.longest), "{}", world.longest);
}

#[test]
fn an_idle_link_is_filled() {
    // 10 Mbit/s with room for half a second in its queue.
    let rate = 1_250_000.0;
    let link = Link { delay: Duration::from_millis(25), rate: Some((rate, rate / 2.0)), ..PERFECT };
    let (got, _) = rate_of(link, 60_000_000, 7);
    println!("{:.1} % of an idle link of 10 Mbit/s, 50 ms", 100.0 * got / rate);
    assert!(got > 0.9 * rate, "{got}");
}

#[test]
fn one_percent_of_loss_at_fifty_milliseconds() {
    let link = Link { delay: Duration::from_millis(25), lost: 0.01, ..PERFECT };
    let (got, _) = rate_of(link, 20_000_000, 8);
    println!("{:.0} KiB/s at 50 ms and 1 % of loss", got / 1024.0);
    assert!(got > 150.0 * 1024.0, "{got}");
}

#[test]
fn a_flow_that_only_loss_holds_back_keeps_the_link() {
    // A model of TCP (Reno: one packet more a round trip, half at a loss) shares the way with uTP.
    let rate = 1_250_000.0;
    let link = Link { delay: Duration::from_millis(25), rate: Some((rate, rate / 4.0)), ..PERFECT };
    let mut world = World::new(link, 9);
    let mut sides = [Side::new(200_000_000, 9), Side::new(0, 9)];
    sides[0].id = Some(world.connect());
    let (mut window, mut under_way) = (10.0_f64, VecDeque::<(Moment, bool)>::new());
    let (mut tcp, mut utp, mut last_halved) = (0.0, 0, Moment::ZERO);
    let (began, packet) = (world.now, 1500.0);
    let half = Duration::from_secs(60);
    while world.now.since(began) < 2 * half {
        assert!(world.step());
        sides[1].id = sides[1].id.or(world.incoming());
        for (side, end) in sides.iter_mut().zip(&mut world.ends) {
            side.act(end, world.now);
        }
        let is_counted = world.now.since(began) > half;
        while under_way.front().is_some_and(|(at, _)| *at <= world.now) {
            match under_way.pop_front() {
                Some((_, true)) => {
                    window += 1.0 / window;
                    tcp += if is_counted { packet } else { 0.0 };
                }
                _ if world.now.since(last_halved) > Duration::from_millis(300) => {
                    (window, last_halved) = ((window / 2.0).max(2.0), world.now);
                }
                _ => {}
            }
        }
        while (under_way.len() as f64) < window {
            let waits = world.free[0].since(world.now).as_secs_f64();
            let arrives = waits * rate <= rate / 4.0;
            if arrives {
                world.free[0] = world.free[0].max(world.now) + Duration::from_secs_f64(packet / rate);
            }
            let known = world.free[0].max(world.now) + 2 * link.delay;
            under_way.push_back((known, arrives));
        }
        if !is_counted {
            utp = sides[1].got.len();
        }
    }
    let utp = (sides[1].got.len() - utp) as f64;
    println!(
        "TCP keeps {:.1} % of the link, uTP has {:.1} %",
        100.0 * tcp / (rate * 60.0),
        100.0 * utp / (rate * 60.0)
    );
    assert!(tcp > 0.8 * rate * 60.0, "{tcp} {utp}");
}

#[test]
fn nobody_there_ends_and_nobody_listening_refuses() {
    let mut world = World::new(Link { lost: 1.0, ..PERFECT }, 10);
    let id = world.connect();
    while world.step() {}
    assert_eq!(world.events[0], [Event::Ended(id, End::TimedOut)]);
    let mut world = World::new(PERFECT, 11);
    world.ends[1].set_accept(false);
    let id = world.connect();
    while world.step() {}
    assert_eq!(world.events[0], [Event::Ended(id, End::Refused)]);
    world.ends[0].close(id, world.now);
    assert!(world.ends.iter().all(Utp::is_idle));
}

#[test]
fn who_vanishes_is_missed_and_who_is_told_off_knows() {
    let mut world = World::new(PERFECT, 12);
    let id = world.connect();
    world.ends[0].write(id, b"hello", world.now);
    while world.incoming().is_none() {
        world.step();
    }
    // The other side forgets everything, as a program that begins anew.
    let old = std::mem::replace(&mut world.ends[1], Utp::new(Settings::default(), 1));
    assert!(!old.is_idle());
    while world.step() {}
    world.ends[0].write(id, b"are you there?", world.now);
    while world.step() {}
    assert_eq!(world.events[0].last(), Some(&Event::Ended(id, End::Reset)));
    let mut world = World::new(PERFECT, 13);
    let id = world.connect();
    world.ends[0].write(id, &[0; 100_000], world.now);
    while world.incoming().is_none() {
        world.step();
    }
    world.link.lost = 1.0;
    while world.step() {}
    assert_eq!(world.events[0].last(), Some(&Event::Ended(id, End::TimedOut)));
}

#[test]
fn a_reader_that_rests_stops_the_writer_and_nothing_is_lost() {
    let mut world = World::new(PERFECT, 14);
    let mut side = Side::new(5_000_000, 14);
    side.id = Some(world.connect());
    for _ in 0..20_000 {
        world.step();
        side.act(&mut world.ends[0], world.now);
    }
    let at_rest = side.sent;
    assert!(at_rest < 4_000_000, "{at_rest} bytes are believed to have a place");
    let mut reader = Side::new(0, 0);
    reader.id = world.incoming();
    while !reader.is_finished {
        assert!(world.step(), "the window never opens again");
        side.act(&mut world.ends[0], world.now);
        reader.act(&mut world.ends[1], world.now);
    }
    assert!(reader.got == side.sends);
}

#[test]
fn a_flood_of_strangers_keeps_nobody_out_and_is_bounded() {
    let mut utp = Utp::new(Settings::default(), 15);
    utp.set_accept(true);
    let mut out = Vec::new();
    for n in 0..100_000u32 {
        let from = SocketAddr::new(std::net::Ipv4Addr::from(n).into(), 1);
        let syn = Header {
            kind: Kind::Syn,
            connection: n as u16,
            sent: 1,
            delay: 0,
            window: 9,
            number: 1,
            ack: 0,
            sack: Sack::default(),
        };
        out.clear();
        syn.write(0, &mut out);
        utp.hear(from, &out, Moment::ZERO);
    }
    assert!(utp.connections.len() <= 256 && utp.senders.len() <= 100_000 && utp.event().is_none());
    while utp.transmit(Moment::ZERO, &mut out).is_some() {
        out.clear();
    }
    assert!(utp.senders.is_empty() && utp.routes.len() <= 256);
    let due = utp.due().expect("who says no more is given up");
    utp.tick(due);
    assert!(utp.is_idle() && utp.routes.is_empty() && utp.due().is_none());
}

#[test]
fn who_asks_in_anothers_name_gets_no_further() {
    let mut utp = Utp::new(Settings::default(), 16);
    utp.set_accept(true);
    let (from, mut out) = (addr(0), Vec::new());
    let mut packet = Header {
        kind: Kind::Syn,
        connection: 5,
        sent: 1,
        delay: 0,
        window: 9,
        number: 1,
        ack: 0,
        sack: Sack::default(),
    };
    packet.write(0, &mut out);
    utp.hear(from, &out, Moment::ZERO);
    out.clear();
    utp.transmit(Moment::ZERO, &mut out);
    let (answer, _) = Header::read(&out).unwrap();
    (packet.kind, packet.connection, packet.number) = (Kind::Data, 6, 2);
    let mut says = |kind, ack| {
        out.clear();
        Header { kind, ack, ..packet }.write(0, &mut out);
        out.push(0x13);
        utp.hear(from, &out, Moment::ZERO);
        utp.event()
    };
    let known = answer.number.wrapping_sub(1);
    for ack in (0..=u16::MAX).filter(|ack| *ack != known) {
        assert_eq!(says(Kind::Data, ack), None, "{ack} was guessed");
    }
    assert!(matches!(says(Kind::Data, known), Some(Event::Incoming(..))));
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    /// A third party, or a broken way, adds packets of every kind to a connection that lives.
    #[test]
    fn no_packet_panics_or_breaks_a_bound(
        seed in 0u64..1 << 40,
        noise in prop::collection::vec((any::<[u8; 8]>(), 0usize..60, 0u8..6), 1..200),
    ) {
        let mut world = World::new(Link { lost: 0.05, jitter: Duration::from_millis(20), ..PERFECT }, seed);
        let id = world.connect();
        world.ends[0].write(id, &[7; 50_000], world.now);
        let mut seen = Vec::new();
        for (bytes, length, how) in noise {
            world.step();
            if let Some((.., datagram)) = world.way.first() {
                seen = datagram.clone();
            }
            let mut datagram = seen.clone();
            match how {
                0 => datagram = bytes.repeat(length),
                1 => datagram.truncate(length),
                2 if !datagram.is_empty() => {
                    let at = usize::from(bytes[0]) % datagram.len();
                    datagram[at] ^= bytes[1] | 1;
                }
                3 => datagram.extend(bytes.repeat(length * 30)),
                4 if datagram.len() >= 20 => datagram[16..20].copy_from_slice(&bytes[..4]),
                _ => {}
            }
            for end in 0..2 {
                world.ends[end].hear(addr(1 - end), &datagram, world.now);
                prop_assert!(world.ends[end].connections.len() <= 300);
            }
        }
        for end in 0..2 {
            world.ends[end].set_accept(false);
            let ids: Vec<Id> = world.ends[end].connections.keys().copied().collect();
            for id in ids {
                world.ends[end].close(id, world.now);
            }
        }
        for _ in 0..10_000 {
            if !world.step() {
                break;
            }
        }
        prop_assert!(world.ends.iter().all(|end| end.connections.is_empty()));
    }
}
