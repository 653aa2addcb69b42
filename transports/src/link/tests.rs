//! Lines by hand: every number of a link shows in the fates, and the same seed gives the same ones.

use proptest::prelude::*;

use super::*;

const MS: Duration = Duration::from_millis(1);

fn at(millis: u64) -> Moment {
    Moment::ZERO + MS * u32::try_from(millis).unwrap()
}

fn line(link: Link, seed: u64) -> Line {
    Line::new(link, fastrand::Rng::with_seed(seed))
}

/// The fates of so many packets of 1000 bytes, one each millisecond.
fn fates(link: Link, seed: u64, count: u64) -> Vec<Fate> {
    let mut line = line(link, seed);
    (0..count).map(|n| line.carry(at(n), 1000)).collect()
}

fn arrivals(fates: &[Fate]) -> Vec<Moment> {
    fates
        .iter()
        .filter_map(|fate| match fate {
            Fate::Arrives { at, .. } => Some(*at),
            Fate::Lost(_) => None,
        })
        .collect()
}

fn lost(fates: &[Fate], why: Loss) -> usize {
    fates.iter().filter(|fate| **fate == Fate::Lost(why)).count()
}

#[test]
fn packets_arrive_after_the_latency() {
    let fates = fates(Link::default(), 1, 3);
    assert_eq!(arrivals(&fates), [at(10), at(11), at(12)]);
}

#[test]
fn chance_takes_doubles_and_holds_back_its_share() {
    let link = Link { loss: 0.1, doubled: 0.2, overtaken: 0.05, ..Link::default() };
    let fates = fates(link, 7, 10_000);
    let doubled = fates.iter().filter(|fate| matches!(fate, Fate::Arrives { again: Some(_), .. })).count();
    let times = arrivals(&fates);
    let overtaken = times.windows(2).filter(|pair| pair[0] > pair[1]).count();
    assert!((900..1100).contains(&lost(&fates, Loss::Chance)), "{}", lost(&fates, Loss::Chance));
    assert!((1600..1900).contains(&doubled), "{doubled}");
    assert!((300..500).contains(&overtaken), "{overtaken}");
}

#[test]
fn jitter_is_within_its_bounds_and_keeps_the_order() {
    let link = Link { latency: MS * 50, jitter: MS * 20, ..Link::default() };
    let mut line = line(link, 3);
    let delays: Vec<_> = (0..200).map(|n| arrivals(&[line.carry(at(n * 100), 1)])[0].since(at(n * 100))).collect();
    assert!(delays.iter().all(|delay| (MS * 50..=MS * 70).contains(delay)));
    assert!(delays.iter().any(|delay| *delay < MS * 52) && delays.iter().any(|delay| *delay > MS * 68));
    let dense = arrivals(&fates(link, 3, 1000));
    assert!(dense.is_sorted());
}

#[test]
fn a_full_queue_drops_what_comes_last() {
    // A packet each millisecond is 1 MB/s: ten times as much as goes through.
    let link = Link { latency: MS, bandwidth: Some(100_000), queue: 10_000, ..Link::default() };
    let fates = fates(link, 1, 1000);
    let times = arrivals(&fates);
    assert_eq!(times.len() + lost(&fates, Loss::QueueFull), 1000);
    assert!((105..=115).contains(&times.len()), "a second's worth and what waits: {}", times.len());
    assert!(times.windows(2).all(|pair| pair[1].since(pair[0]) >= MS * 10), "at the bandwidth");
    assert!(fates[..10].iter().all(|fate| matches!(fate, Fate::Arrives { .. })), "the queue has room at first");
    let mut line = line(Link { queue: 10, ..link }, 1);
    assert_eq!(line.carry(at(0), 1000), Fate::Arrives { at: at(11), again: None }, "an idle line takes any packet");
}

#[test]
fn what_does_not_fit_vanishes() {
    let mut line = line(Link { largest: 1500, ..Link::default() }, 1);
    assert!(matches!(line.carry(at(0), 1500), Fate::Arrives { .. }));
    assert_eq!(line.carry(at(0), 1501), Fate::Lost(Loss::TooLarge));
    assert_eq!(line.pour(at(0), 1501), at(10), "a stream is cut into what fits");
}

#[test]
fn outages_swallow_packets_and_stall_streams() {
    let outages = Outages::At(vec![MS * 500..MS * 600, MS * 100..MS * 200]);
    let mut packets = line(Link::default(), 1).with_outages(&outages, at(1000));
    for (now, is_lost) in [(0, false), (1099, false), (1100, true), (1199, true), (1200, false), (1550, true)] {
        assert_eq!(packets.carry(at(now), 1) == Fate::Lost(Loss::Outage), is_lost, "at {now} ms");
    }
    assert_ne!(packets.carry(at(1600), 1), Fate::Lost(Loss::Outage), "the last one ends, too");
    let mut stream = line(Link::default(), 1).with_outages(&outages, at(0));
    assert_eq!([99, 100, 150, 300].map(|now| stream.pour(at(now), 1)), [at(109), at(210), at(210), at(310)]);
}

#[test]
fn outages_can_be_drawn() {
    let outages = Outages::Drawn { up: MS * 100..MS * 200, down: MS * 20..MS * 50 };
    let down = |seed| {
        let mut line = line(Link::default(), seed).with_outages(&outages, at(0));
        (0..100_000).filter(|now| line.carry(at(*now), 1) == Fate::Lost(Loss::Outage)).collect::<Vec<_>>()
    };
    let share = down(1).len() as f64 / 100_000.0;
    assert!((0.15..0.23).contains(&share), "35 of 185 ms, not {share}");
    assert_eq!(down(1), down(1));
    assert_ne!(down(1), down(2));
    // No ranges to draw from are no endless loop.
    let nothing = Outages::Drawn { up: MS..MS, down: Duration::ZERO..Duration::ZERO };
    assert!(matches!(
        line(Link::default(), 1).with_outages(&nothing, at(0)).carry(at(60_000), 1),
        Fate::Arrives { .. }
    ));
}

#[test]
fn what_is_under_way_is_bounded() {
    let mut transit = Transit::new(line(Link { doubled: 0.5, ..Link::default() }, 1));
    let mut taken = 0;
    for n in 0..100_000_u32 {
        taken += u32::from(transit.send(at(0), 1000, n) != Fate::Lost(Loss::QueueFull));
    }
    assert!(transit.held() <= MOST_UNDER_WAY + 2000 && taken > 8_000, "{taken}");
    assert_eq!((transit.due(), transit.receive(at(9))), (Some(at(10)), None));
    let received: Vec<_> = std::iter::from_fn(|| transit.receive(at(10))).collect();
    assert!(received.is_sorted() && received.len() > taken as usize);
    assert_eq!((transit.held(), transit.due()), (0, None));
}

proptest! {
    #[test]
    fn every_line_replays_and_keeps_its_promises(
        seed: u64, latency in 0..100_u32, jitter in 0..50_u32, bandwidth in proptest::option::of(0..1_000_000_u64),
        queue in 0..100_000_u64, shares in prop::array::uniform3(0.0..=1.0), largest in 500..2000_usize,
        steps in prop::collection::vec((0..20_u64, 0..3000_usize), 0..100),
    ) {
        let [loss, doubled, overtaken] = shares;
        let (latency, jitter) = (MS * latency, MS * jitter);
        let link = Link { latency, jitter, bandwidth, queue, loss, doubled, overtaken, largest };
        let run = || {
            let outages = Outages::Drawn { up: MS * 10..MS * 50, down: MS..MS * 9 };
            let mut line = line(link, seed).with_outages(&outages, at(0));
            let mut now = 0;
            steps.iter().map(|(step, size)| { now += step; (at(now), *size, line.carry(at(now), *size)) }).collect::<Vec<_>>()
        };
        prop_assert_eq!(run(), run());
        for (sent, size, fate) in run() {
            match fate {
                Fate::Arrives { at, again } => {
                    prop_assert!(at >= sent + latency && size <= largest && again.is_none_or(|again| again >= at));
                }
                Fate::Lost(why) => prop_assert_eq!(why == Loss::TooLarge, size > largest),
            }
        }
    }
}
