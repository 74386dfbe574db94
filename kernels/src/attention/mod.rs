//! Attention of queries over cached keys and values.
//!
//! What it computes, to the bit, is written in [`crate::naive::attention`]: blocks of 64 and chunks of 1024 positions, counted
//! from position 0 of the sequence, fix the order of every sum. So the answer does not depend on how a context was fed, on
//! what else is in the batch, or on how many threads share a head.

mod call;
mod coded;
mod joined;
mod kernel;
mod kind;
mod pages;
mod shape;
mod shared;
mod store;
mod stored;
mod tile;
mod turn;

pub use call::Lane;
pub use joined::{Index, attend_joined, choose};
pub use kind::{GROUP, KvType};
pub use pages::AllocError;
pub use shape::{Attend, BLOCK, CHUNK, Window};
pub use store::KvStore;

use crate::Cpu;
use crate::pool::Disjoint;
use call::{Part, Work};
use std::cell::Cell;

/// Numbers that [`split`] may keep at a time: 32 MB. Beyond, tiles stay whole.
const PARTS_MOST: usize = 8 << 20;

/// Attention of q `[tokens, heads, key_dim]`, the lanes' tokens one after the other, to out `[tokens, heads, value_dim]`.
///
/// # Panics
/// If shapes do not fit together or a lane goes beyond its store.
pub fn attend(cpu: Cpu<'_>, attend: &Attend<'_>, q: &[f32], lanes: &[Lane<'_>], out: &mut [f32]) {
    let Some(work) = Work::new(attend, q, lanes, cpu.threads()) else { return };
    assert!(out.len() == work.tokens * work.attend.heads * work.value_dim, "{} queries, {} results", work.tokens, out.len());
    let items = work.tiles.len() * work.panels;
    let chunks = work.tiles.iter().map(|tile| tile.chunks().len()).max().unwrap_or(0);
    let (width, panel) = (attend.heads * work.value_dim, work.group * work.value_dim);
    if chunks < 2 || items >= 4 * cpu.threads() || work.parts_len(chunks) > PARTS_MOST {
        let rows = Disjoint::new(out, width, panel);
        cpu.parallel(items, &|i| {
            // The last tiles of a prompt see the most: they go first.
            let (tile, head) = (&work.tiles[work.tiles.len() - 1 - i / work.panels], i % work.panels);
            tile.whole(cpu, &work, head, rows.take(tile.row..tile.row + tile.tokens, head));
        });
    } else {
        split(cpu, &work, chunks, out);
    }
}

thread_local! {
    /// What [`split`] keeps, from call to call.
    static PARTS: Cell<Vec<f32>> = const { Cell::new(Vec::new()) };
}

/// Every chunk of a tile is an item of its own; then the chunks of each row merge, in their order.
fn split(cpu: Cpu<'_>, work: &Work<'_>, chunks: usize, out: &mut [f32]) {
    let most = work.most_rows();
    let (mut kept, len) = (PARTS.take(), work.parts_len(chunks));
    if kept.len() < len {
        kept.resize(len, 0.0);
    }
    let parts = &mut kept[..len];
    cpu.parallel_chunks(parts, most * work.part_len(), &|i, parts| {
        let (tile, head, chunk) = (&work.tiles[i / (work.panels * chunks)], i / chunks % work.panels, i % chunks);
        if chunk < tile.chunks().len() {
            tile.part(cpu, work, head, tile.chunks().start + chunk, parts);
        }
    });
    let rows = Disjoint::new(out, work.attend.heads * work.value_dim, work.value_dim);
    cpu.parallel(work.tiles.len() * work.attend.heads, &|i| {
        let (index, head) = (i / work.attend.heads, i % work.attend.heads);
        let tile = &work.tiles[index];
        for t in 0..tile.tokens {
            let row = t * work.group + head % work.group;
            let part = |chunk: usize| {
                let item = (index * work.panels + head / work.group) * chunks + chunk - tile.chunks().start;
                Part::read(&parts[(item * most + row) * work.part_len()..][..work.part_len()])
            };
            tile.merge(cpu, work, (t, head), part, rows.take(tile.row + t..tile.row + t + 1, head).row(0));
        }
    });
    PARTS.set(kept);
}
