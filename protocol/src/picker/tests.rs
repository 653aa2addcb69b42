//! What the picker promises, one test each; `model` runs everything at random.

mod model;
mod scale;

use castanet_core::{BLOCK_LENGTH, Bitfield, BlockRef, Geometry, PeerKey, PieceIndex};

use super::{Picker, PickerConfig, Priority, Received};
use crate::peer::Haves;

const A: PeerKey = PeerKey(1);
const B: PeerKey = PeerKey(2);
const C: PeerKey = PeerKey(3);
/// Fast and slow for every geometry here, in bytes a second.
const FAST: Option<u64> = Some(100_000_000);
const SLOW: Option<u64> = Some(1);

fn config() -> PickerConfig {
    PickerConfig { random_first: 0, ..PickerConfig::default() }
}

/// `pieces` pieces of `blocks` blocks.
fn geometry(pieces: u32, blocks: u32) -> Geometry {
    Geometry::new(u64::from(pieces * blocks * BLOCK_LENGTH), blocks * BLOCK_LENGTH).unwrap()
}

fn picker(pieces: u32, blocks: u32) -> Picker {
    Picker::with_config(geometry(pieces, blocks), Bitfield::new(pieces), 7, config())
}

fn join(picker: &mut Picker, peer: PeerKey, haves: &Haves) {
    picker.peer_joined(peer);
    picker.peer_has(peer, haves);
}

fn pieces(of: &[u32]) -> Haves {
    Haves::Pieces(of.iter().copied().map(PieceIndex).collect())
}

fn pick(picker: &mut Picker, peer: PeerKey, room: usize, rate: Option<u64>) -> Vec<BlockRef> {
    let mut out = Vec::new();
    picker.pick(peer, room, rate, &mut out);
    picker.check_invariants();
    assert!(out.len() <= room);
    out
}

/// Piece and index of each block.
fn slots(blocks: &[BlockRef]) -> Vec<(u32, u32)> {
    blocks.iter().map(|block| (block.piece.0, block.begin / BLOCK_LENGTH)).collect()
}

fn receive(picker: &mut Picker, peer: PeerKey, block: BlockRef) -> (Received, Vec<(PeerKey, BlockRef)>) {
    let mut cancels = Vec::new();
    let received = picker.received(peer, block, &mut cancels);
    picker.check_invariants();
    (received, cancels)
}

const FRESH: Received = Received::Fresh { piece_complete: false };
const LAST: Received = Received::Fresh { piece_complete: true };

#[test]
fn the_rarest_piece_goes_first() {
    let mut p = picker(6, 1);
    join(&mut p, A, &Haves::All);
    join(&mut p, B, &pieces(&[0, 1, 2, 4, 5]));
    join(&mut p, C, &pieces(&[0, 2, 5]));
    join(&mut p, PeerKey(4), &pieces(&[2]));
    // Besides the seed's: piece 3 has no copy, 1 and 4 have one, 0 and 5 two, 2 three.
    let order: Vec<u32> = (0..6).map(|_| pick(&mut p, A, 1, FAST)[0].piece.0).collect();
    assert_eq!(order[0], 3);
    assert!(order[1..3] == [1, 4] || order[1..3] == [4, 1], "{order:?}");
    assert!(order[3..5] == [0, 5] || order[3..5] == [5, 0], "{order:?}");
    assert_eq!(order[5], 2);
}

#[test]
fn a_peer_gets_the_rarest_of_what_it_has() {
    let mut p = picker(6, 1);
    join(&mut p, A, &pieces(&[2, 4, 5]));
    join(&mut p, B, &pieces(&[0, 1, 4, 5]));
    join(&mut p, C, &pieces(&[5]));
    let order: Vec<u32> = (0..3).map(|_| pick(&mut p, A, 1, FAST)[0].piece.0).collect();
    assert_eq!(order, [2, 4, 5]);
    assert_eq!(pick(&mut p, A, 9, FAST), []);
}

#[test]
fn the_first_pieces_are_random() {
    let first = |seed| {
        let mut p = Picker::new(geometry(50, 1), Bitfield::new(50), seed);
        join(&mut p, A, &Haves::All);
        let all = (0..50).filter(|&piece| piece != 9).map(PieceIndex).collect();
        join(&mut p, B, &Haves::Pieces(all));
        pick(&mut p, A, 1, FAST)[0].piece.0
    };
    assert_eq!(first(1), first(1), "the same seed picks the same");
    let firsts: Vec<u32> = (0..20).map(first).collect();
    assert!(firsts.iter().filter(|&&piece| piece != 9).count() > 15, "not simply the rarest: {firsts:?}");
}

#[test]
fn a_fast_peer_gets_whole_pieces_in_order() {
    let mut p = picker(5, 8);
    join(&mut p, A, &Haves::All);
    join(&mut p, B, &Haves::All);
    let mut seen: Vec<(u32, u32)> = Vec::new();
    let mut other: Vec<(u32, u32)> = Vec::new();
    for _ in 0..8 {
        seen.extend(slots(&pick(&mut p, A, 3, FAST)));
        other.extend(slots(&pick(&mut p, B, 1, FAST)));
    }
    assert_eq!(seen.len(), 24);
    for (n, (piece, block)) in seen.iter().enumerate() {
        assert_eq!((*piece, *block), (seen[n / 8 * 8].0, n as u32 % 8), "{seen:?}");
    }
    assert_eq!(other, (0..8).map(|block| (other[0].0, block)).collect::<Vec<_>>());
}

#[test]
fn slow_peers_share_a_piece() {
    let mut p = picker(5, 8);
    join(&mut p, A, &Haves::All);
    join(&mut p, B, &Haves::All);
    let a = slots(&pick(&mut p, A, 3, SLOW));
    let b = slots(&pick(&mut p, B, 3, SLOW));
    assert_eq!(b, [(a[0].0, 3), (a[0].0, 4), (a[0].0, 5)]);
    // A peer that became slow shares what it had for itself.
    let c = {
        join(&mut p, C, &Haves::All);
        slots(&pick(&mut p, C, 4, FAST))
    };
    assert_eq!(c[..2], [(a[0].0, 6), (a[0].0, 7)], "begun pieces are finished first");
    let own = c[2].0;
    assert_ne!(own, a[0].0);
    let away = slots(&pick(&mut p, A, 1, SLOW))[0].0;
    assert_ne!(away, own, "the fast peer has it for itself");
    assert_eq!(slots(&pick(&mut p, C, 1, SLOW))[0].0, own.min(away));
}

#[test]
fn an_idle_peer_helps_at_the_end_of_an_owned_piece() {
    let mut p = picker(1, 8);
    join(&mut p, A, &Haves::All);
    join(&mut p, B, &Haves::All);
    assert_eq!(slots(&pick(&mut p, A, 2, FAST)), [(0, 0), (0, 1)]);
    assert_eq!(slots(&pick(&mut p, B, 9, FAST)), [(0, 5), (0, 6), (0, 7)]);
    assert_eq!(slots(&pick(&mut p, A, 9, FAST))[..3], [(0, 2), (0, 3), (0, 4)]);
}

#[test]
fn a_much_faster_peer_takes_all_that_the_owner_of_a_piece_has_not_asked_for() {
    for (rate, taken) in [(FAST, 6), (Some(1_999_999), 3), (None, 3)] {
        let mut p = picker(1, 8);
        join(&mut p, A, &Haves::All);
        join(&mut p, B, &Haves::All);
        assert_eq!(pick(&mut p, A, 2, Some(1_000_000)).len(), 2);
        let b = slots(&pick(&mut p, B, 6, rate));
        assert_eq!(b.len(), taken, "{rate:?}: {b:?}");
        assert!(b.iter().all(|(_, block)| *block >= 2), "what is on its way is left alone");
    }
}

#[test]
fn the_last_block_may_be_short() {
    let geometry = Geometry::new(u64::from(BLOCK_LENGTH) * 3 + 5, BLOCK_LENGTH * 2).unwrap();
    let mut p = Picker::with_config(geometry, Bitfield::new(2), 1, config());
    p.set_sequential(true);
    join(&mut p, A, &Haves::All);
    let lengths: Vec<u32> = pick(&mut p, A, 9, FAST).iter().map(|block| block.length).collect();
    assert_eq!(lengths, [BLOCK_LENGTH, BLOCK_LENGTH, BLOCK_LENGTH, 5]);
}

#[test]
fn endgame_asks_twice_and_cancels() {
    let mut p = picker(1, 4);
    for peer in [A, B, C] {
        join(&mut p, peer, &Haves::All);
    }
    let a = pick(&mut p, A, 2, Some(20));
    let b = pick(&mut p, B, 2, Some(10));
    assert!(p.is_endgame());
    assert_eq!(pick(&mut p, C, 3, SLOW), [b[1]], "the last of who needs most time");
    assert_eq!(pick(&mut p, C, 9, SLOW), [], "who owes something is not asked for more");
    assert_eq!(receive(&mut p, C, b[1]), (FRESH, vec![(B, b[1])]));
    assert_eq!(receive(&mut p, B, b[1]), (Received::Duplicate, vec![]), "it crossed the cancel");
    assert_eq!(receive(&mut p, B, b[1]), (Received::Unexpected, vec![]));
    assert_eq!(pick(&mut p, C, 9, SLOW), [a[1]]);
    assert_eq!(receive(&mut p, A, a[1]), (FRESH, vec![(C, a[1])]));
    for _ in 0..3 {
        assert_eq!(pick(&mut p, C, 9, SLOW), [], "what may be on its way is left alone");
    }
    assert_eq!(pick(&mut p, C, 9, SLOW), [b[0]], "but not for ever");
    assert_eq!(receive(&mut p, B, b[0]), (FRESH, vec![(C, b[0])]));
    assert_eq!(receive(&mut p, A, a[0]), (LAST, vec![]));
    assert_eq!(p.contributors(PieceIndex(0)), [(A, 2), (B, 1), (C, 1)]);
    assert_eq!(p.piece_passed(PieceIndex(0)), [A, B, C]);
    assert!(p.is_complete());
}

#[test]
fn endgame_is_bounded_and_waits_for_the_rest() {
    let mut p = picker(2, 1);
    for peer in 1..=9 {
        join(&mut p, PeerKey(peer), &pieces(&[0]));
    }
    join(&mut p, PeerKey(10), &pieces(&[1]));
    assert_eq!(pick(&mut p, A, 1, SLOW).len(), 1);
    assert_eq!(pick(&mut p, B, 1, SLOW).len(), 0, "piece 1 is not asked for yet");
    p.peer_left(PeerKey(10));
    assert!(p.is_endgame(), "what nobody has is not waited for");
    let picks = (2..=9).flat_map(|peer| [peer; 9]);
    let copies: usize = picks.map(|peer| pick(&mut p, PeerKey(peer), 1, SLOW).len()).sum();
    assert_eq!(copies, config().endgame_copies - 1);
}

#[test]
fn lost_blocks_are_asked_of_others() {
    let mut p = picker(1, 4);
    join(&mut p, A, &Haves::All);
    join(&mut p, B, &Haves::All);
    let a = pick(&mut p, A, 4, FAST);
    assert_eq!(receive(&mut p, A, a[0]).0, FRESH);
    p.lost(A, &a[1..3]);
    p.check_invariants();
    assert_eq!(p.outstanding(A), 1);
    assert_eq!(pick(&mut p, B, 2, FAST), a[1..3]);
    p.peer_left(A);
    p.check_invariants();
    assert_eq!(pick(&mut p, B, 9, FAST), a[3..]);
    for (n, &block) in a[1..].iter().enumerate() {
        assert_eq!(receive(&mut p, B, block).0, Received::Fresh { piece_complete: n == 2 });
    }
    assert_eq!(p.contributors(PieceIndex(0)), [(A, 1), (B, 3)], "also of those who left");
}

#[test]
fn a_late_block_is_welcome() {
    let mut p = picker(1, 2);
    join(&mut p, A, &Haves::All);
    join(&mut p, B, &Haves::All);
    let a = pick(&mut p, A, 1, SLOW);
    p.lost(A, &a);
    assert_eq!(p.partials().count(), 0, "nothing is left of it");
    assert_eq!(receive(&mut p, A, a[0]).0, FRESH);
    assert_eq!(receive(&mut p, A, a[0]).0, Received::Unexpected);
    let a = pick(&mut p, A, 1, SLOW);
    p.lost(A, &a);
    let b = pick(&mut p, B, 1, SLOW);
    assert_eq!(a, b);
    assert_eq!(receive(&mut p, A, a[0]), (LAST, vec![(B, b[0])]));
}

#[test]
fn after_a_failure_one_peer_gets_the_piece() {
    let mut p = picker(1, 4);
    for peer in [A, B, C] {
        join(&mut p, peer, &Haves::All);
    }
    for (peer, room) in [(A, 3), (B, 1)] {
        for block in pick(&mut p, peer, room, SLOW) {
            receive(&mut p, peer, block);
        }
    }
    assert_eq!(p.piece_failed(PieceIndex(0)), [(A, 3), (B, 1)]);
    p.check_invariants();
    assert_eq!(p.failures(PieceIndex(0)), 1);
    assert_eq!(p.blocks_received(PieceIndex(0)), 0);
    let b = pick(&mut p, B, 1, FAST);
    assert_eq!(b.len(), 1);
    assert_eq!(pick(&mut p, A, 4, FAST), [], "it is for B alone");
    let rest = pick(&mut p, B, 9, FAST);
    assert_eq!(pick(&mut p, A, 4, FAST), [], "in endgame too");
    for block in b.into_iter().chain(rest) {
        receive(&mut p, B, block);
    }
    assert_eq!(p.piece_failed(PieceIndex(0)), [(B, 4)], "now we know who lies");
}

#[test]
fn skipped_pieces_are_not_picked_and_high_ones_first() {
    let mut p = picker(6, 1);
    p.set_priority(0..3, Priority::Skip);
    p.set_priority(4..5, Priority::High);
    p.set_priority(3..4, Priority::Low);
    join(&mut p, A, &Haves::All);
    join(&mut p, B, &pieces(&[0, 1, 2]));
    assert!(!p.is_interesting(B) && p.is_interesting(A));
    assert_eq!(p.left_bytes(), 3 * u64::from(BLOCK_LENGTH));
    let picked = pick(&mut p, A, 9, FAST);
    assert_eq!(slots(&picked), [(4, 0), (5, 0), (3, 0)]);
    for &block in &picked {
        assert_eq!(receive(&mut p, A, block).0, LAST);
    }
    assert_eq!(p.piece_passed(PieceIndex(3)), []);
    assert_eq!(p.piece_passed(PieceIndex(4)), []);
    assert_eq!(p.piece_passed(PieceIndex(5)), [A]);
    assert!(p.is_complete() && p.left_bytes() == 0);
    p.set_priority(1..9, Priority::Normal);
    p.check_invariants();
    assert!(!p.is_complete() && p.is_interesting(B));
    assert_eq!(pick(&mut p, B, 9, FAST).len(), 2);
}

#[test]
fn sequential_takes_pieces_in_order() {
    let mut p = picker(200, 1);
    p.set_sequential(true);
    join(&mut p, A, &Haves::All);
    join(&mut p, B, &pieces(&[1, 70, 199]));
    assert_eq!(slots(&pick(&mut p, A, 2, FAST)), [(0, 0), (1, 0)]);
    assert_eq!(slots(&pick(&mut p, B, 2, FAST)), [(70, 0), (199, 0)]);
    p.set_priority(150..151, Priority::High);
    assert_eq!(slots(&pick(&mut p, A, 2, SLOW)), [(150, 0), (2, 0)]);
}

#[test]
fn allowed_fast_pieces_only() {
    let geometry = picker(9, 2).geometry;
    let mut p = Picker::with_config(geometry, Bitfield::new(9), 1, PickerConfig { random_first: 1, ..config() });
    join(&mut p, A, &pieces(&[1, 2, 3]));
    let allowed = [7, 3, 1, 999].map(PieceIndex);
    let mut out = Vec::new();
    p.pick_from(A, &allowed, 3, &mut out);
    p.check_invariants();
    assert_eq!(slots(&out), [(3, 0), (3, 1), (1, 0)]);
    p.pick_from(PeerKey(99), &allowed, 3, &mut out);
    assert_eq!(out.len(), 3, "a stranger gets nothing");
    drop(p.piece_passed(PieceIndex(0)));
    p.pick_from(A, &allowed, 3, &mut out);
    assert_eq!(out.len(), 3, "there is something to trade");
}

#[test]
fn begun_pieces_are_bounded() {
    let config = PickerConfig { partials: 3, partials_per_peer: 0, ..config() };
    let mut p = Picker::with_config(geometry(20, 2), Bitfield::new(20), 1, config);
    for piece in 0..20 {
        join(&mut p, PeerKey(piece), &pieces(&[piece as u32]));
    }
    let picked: usize = (0..20).map(|peer| pick(&mut p, PeerKey(peer), 1, SLOW).len()).sum();
    assert_eq!(picked, 3);
    assert_eq!(pick(&mut p, PeerKey(19), 1, SLOW).len(), 0);
    assert_eq!(slots(&pick(&mut p, PeerKey(0), 1, SLOW)), [(0, 1)]);
    assert_eq!(pick(&mut p, PeerKey(19), 1, SLOW).len(), 1, "one is fully asked for, so another may begin");
}

#[test]
fn what_was_not_asked_is_unexpected() {
    let mut p = picker(2, 2);
    join(&mut p, A, &Haves::All);
    join(&mut p, B, &Haves::All);
    let a = pick(&mut p, A, 1, FAST)[0];
    let odd = [
        (B, a),
        (C, a),
        (A, BlockRef { begin: a.begin + 1, ..a }),
        (A, BlockRef { length: 0, ..a }),
        (A, BlockRef { piece: PieceIndex(u32::MAX), ..a }),
        (A, BlockRef { begin: u32::MAX, length: u32::MAX, ..a }),
    ];
    for (peer, block) in odd {
        assert_eq!(receive(&mut p, peer, block), (Received::Unexpected, vec![]), "{block:?}");
        p.lost(peer, &[block][..usize::from(block != a)]);
        p.check_invariants();
    }
    assert_eq!(receive(&mut p, A, a).0, FRESH);
}

#[test]
fn interest_follows_what_is_missing() {
    let mut p = picker(3, 1);
    join(&mut p, A, &pieces(&[0]));
    join(&mut p, B, &Haves::All);
    p.peer_joined(C);
    assert!(p.is_interesting(A) && p.is_interesting(B) && !p.is_interesting(C));
    assert!(p.peer_has(C, &pieces(&[0, 1, 77])), "pieces beyond the end are ignored");
    assert_eq!(p.add_have(PieceIndex(0)), [A]);
    assert_eq!(p.add_have(PieceIndex(0)), []);
    assert_eq!(p.add_have(PieceIndex(1)), [C]);
    assert_eq!(p.add_have(PieceIndex(2)), [B]);
    assert!(p.is_complete());
    p.forget(PieceIndex(1));
    p.check_invariants();
    assert!(!p.is_interesting(A) && p.is_interesting(B) && p.is_interesting(C));
    assert_eq!(pick(&mut p, C, 9, FAST).len(), 1);
}

#[test]
fn availability_counts_copies() {
    let mut p = picker(4, 1);
    assert_eq!(p.availability().distributed_copies, 0.0);
    join(&mut p, A, &Haves::All);
    join(&mut p, B, &pieces(&[0, 1, 3]));
    let now = p.availability();
    assert_eq!((now.seeds, now.min_copies, now.distributed_copies), (1, 1, 1.75));
    p.peer_has(B, &pieces(&[2]));
    p.check_invariants();
    let now = p.availability();
    assert_eq!((now.seeds, now.min_copies, now.distributed_copies), (2, 2, 2.0), "it became a seed");
    p.peer_left(A);
    p.peer_left(B);
    assert_eq!(p.availability().min_copies, 0);
}

#[test]
fn a_survey_says_what_nobody_has_and_who_is_no_use() {
    let mut picker = picker(4, 1);
    assert_eq!((picker.survey().unheld, picker.survey().useless), (4, vec![]));
    join(&mut picker, A, &pieces(&[0, 1]));
    join(&mut picker, B, &Haves::None);
    assert_eq!((picker.survey().unheld, picker.survey().useless), (2, vec![B]));
    picker.add_have(PieceIndex(0));
    picker.add_have(PieceIndex(1));
    assert_eq!((picker.survey().unheld, picker.survey().useless), (2, vec![A, B]));
    picker.set_priority(2..3, Priority::Skip);
    assert_eq!(picker.survey().unheld, 1);
    join(&mut picker, C, &Haves::All);
    assert_eq!((picker.survey().unheld, picker.survey().useless), (0, vec![A, B]));
}

#[test]
fn empty_and_misfit_torrents_do_no_harm() {
    let mut p = Picker::new(Geometry::new(0, 16).unwrap(), Bitfield::new(99), 1);
    join(&mut p, A, &Haves::All);
    join(&mut p, B, &Haves::Bitfield(Bitfield::full(70)));
    assert!(p.is_complete() && !p.is_interesting(A));
    assert_eq!(pick(&mut p, A, 9, FAST), []);
    p.set_priority(0..9, Priority::High);
    p.forget(PieceIndex(0));
    assert_eq!(p.piece_passed(PieceIndex(0)), []);
    assert_eq!(p.piece_failed(PieceIndex(0)), []);
    assert_eq!(p.availability().distributed_copies, 1.0);
    p.check_invariants();
}
