//! A million pieces: operations are counted, not timed.

use super::*;

const MILLION: u32 = 1_000_000;

fn million() -> Picker {
    let geometry = Geometry::new(u64::from(MILLION) * u64::from(BLOCK_LENGTH), BLOCK_LENGTH).unwrap();
    Picker::with_config(geometry, Bitfield::new(MILLION), 3, config())
}

#[test]
fn seeds_come_and_go_for_nothing() {
    let mut p = million();
    let before = p.rarity.steps;
    for peer in 0..1000 {
        join(&mut p, PeerKey(peer), &Haves::All);
    }
    let mut out = Vec::new();
    for peer in 0..1000 {
        p.pick(PeerKey(peer), 10, FAST, &mut out);
    }
    assert_eq!(out.len(), 10_000);
    for peer in 0..1000 {
        p.peer_left(PeerKey(peer));
    }
    assert_eq!(p.partials().count(), 0);
    // Each piece that was begun and given back was put into its bucket once.
    assert_eq!(p.rarity.steps - before, 10_000);
}

#[test]
fn a_have_is_one_move() {
    let mut p = million();
    p.peer_joined(A);
    let before = p.rarity.steps;
    for piece in 0..1000 {
        p.peer_has(A, &pieces(&[piece * 999]));
    }
    assert_eq!(p.rarity.steps - before, 1000);
}

#[test]
fn a_peer_with_few_pieces_is_not_searched_for_among_all() {
    let mut p = million();
    let mut most = Bitfield::full(MILLION);
    let few = [5, 70_000, 999_999];
    few.iter().for_each(|&piece| assert!(most.clear(PieceIndex(piece))));
    join(&mut p, A, &pieces(&few));
    join(&mut p, B, &Haves::Bitfield(most));
    let before = p.rarity.steps;
    let mut out = Vec::new();
    for _ in 0..1000 {
        p.pick(A, 2, FAST, &mut out);
    }
    let mut found: Vec<u32> = out.iter().map(|block| block.piece.0).collect();
    found.sort_unstable();
    assert_eq!(found, few);
    let steps = p.rarity.steps - before;
    assert!(steps < 10_000, "{steps} steps: nothing open for this peer must be known after one search");
}

#[test]
fn empty_buckets_keep_no_memory() {
    const PIECES: u32 = 10_000;
    let mut p = picker(PIECES, 1);
    let mut nearly_all = Bitfield::full(PIECES);
    nearly_all.clear(PieceIndex(0));
    for peer in 0..100 {
        join(&mut p, PeerKey(peer), &Haves::Bitfield(nearly_all.clone()));
    }
    let capacity = p.rarity.bucket_capacity();
    assert!(capacity < 4 * PIECES as usize + 100 * 64, "{capacity} for {PIECES} pieces that went through 100 buckets");
}
