//! Attention of queries over cached keys and values.
//!
//! What it computes, to the bit, is written in [`crate::naive::attention`]: blocks of 64 and chunks of 1024 positions, counted
//! from position 0 of the sequence, fix the order of every sum. So the answer does not depend on how a context was fed, on
//! what else is in the batch, or on how many threads share a head.

mod coded;
mod joined;
mod kernel;
mod kind;
mod pages;
mod shared;
mod store;
mod stored;
mod tile;
mod turn;

pub use joined::{Index, attend_joined, choose};
pub use kind::{GROUP, KvType};
pub use pages::AllocError;
pub use store::KvStore;

use crate::Cpu;
use crate::pool::Disjoint;
use kernel::ROWS;
use smallvec::SmallVec;
use std::cell::Cell;
use tile::{Part, Tile};

/// Which of the earlier positions a query sees.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Window {
    /// All of them.
    None,
    /// The last n, its own among them: at p, positions `max(0, p - n + 1) ..= p`.
    Sliding(usize),
    /// Those of its own chunk of n: at p, positions `p - p mod n ..= p` (Llama 4).
    Chunked(usize),
}

impl Window {
    /// The first position that a query at `position` sees.
    pub fn first(self, position: usize) -> usize {
        match self {
            Window::None => 0,
            Window::Sliding(n) => (position + 1).saturating_sub(n),
            Window::Chunked(n) => position - position % n,
        }
    }

    /// Positions that a query sees at most; `None` where there is no limit.
    pub fn reach(self) -> Option<usize> {
        match self {
            Window::None => None,
            Window::Sliding(n) | Window::Chunked(n) => Some(n),
        }
    }
}

/// What stays the same over a layer.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Attend<'a> {
    /// Query heads; a multiple of the store's heads.
    pub heads: usize,
    /// Queries are multiplied by it.
    pub scale: f32,
    /// Scores become `cap · tanh(score / cap)`.
    pub softcap: Option<f32>,
    /// What a query sees.
    pub window: Window,
    /// `[heads]`: a score that takes part in the softmax and brings no value (Xiao et al. 2023; gpt-oss).
    pub sinks: Option<&'a [f32]>,
}

/// A run of consecutive tokens of one sequence, whose keys and values are in the store already.
#[derive(Clone, Copy, Debug)]
pub struct Lane<'a> {
    /// Keys and values of the sequence.
    pub store: &'a KvStore,
    /// Position of the first query.
    pub position: usize,
    /// Number of queries.
    pub tokens: usize,
}

/// Query rows (query × head of a group) of a tile, where one query has no more.
const TILE_ROWS: usize = 8 * ROWS;

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

/// Heads of a tile where all look at the same keys: few where threads would go without, else enough for the kernel to be at its
/// best. Each tile widens its keys for itself.
fn panel(heads: usize, lanes: &[Lane<'_>], threads: usize) -> usize {
    let tokens: usize = lanes.iter().map(|lane| lane.tokens).sum();
    let shares = |n: usize| heads / n * tokens >= threads;
    [48, 32, 16, 8].into_iter().filter(|n| heads.is_multiple_of(*n)).find(|n| *n == 8 || shares(*n)).unwrap_or(heads)
}

/// One call, cut into tiles.
struct Work<'a> {
    attend: &'a Attend<'a>,
    q: &'a [f32],
    tokens: usize,
    /// Groups of query heads.
    panels: usize,
    /// Query heads that look at the same head of the store, or some of them where all do.
    group: usize,
    key_dim: usize,
    value_dim: usize,
    /// Channels of a key, and of a value, that the stores turn together.
    turned: (usize, usize),
    tiles: SmallVec<[Tile<'a>; 4]>,
}

impl<'a> Work<'a> {
    fn new(attend: &'a Attend<'a>, q: &'a [f32], lanes: &[Lane<'a>], threads: usize) -> Option<Work<'a>> {
        let first = lanes.first()?.store;
        let turned = first.turned();
        let (kv_heads, key_dim, value_dim) = (first.kv_heads(), first.key_dim(), first.value_dim());
        assert!(attend.heads > 0 && attend.heads.is_multiple_of(kv_heads), "{} heads over {kv_heads}", attend.heads);
        assert!(attend.window.reach() != Some(0), "a window of nothing");
        assert!(attend.sinks.is_none_or(|s| s.len() == attend.heads), "a sink for each of {} heads", attend.heads);
        let group = if first.is_shared() { panel(attend.heads, lanes, threads) } else { attend.heads / kv_heads };
        let per = (TILE_ROWS / group).max(1);
        let (mut tiles, mut tokens) = (SmallVec::new(), 0);
        for &Lane { store, position, tokens: n } in lanes {
            assert!(store.shape() == (kv_heads, key_dim, value_dim), "stores of different shapes");
            assert!(store.types() == first.types(), "stores of different types");
            assert!(position + n <= store.capacity(), "positions {position} to {} of {}", position + n, store.capacity());
            let seen = attend.window.first(position);
            assert!(n == 0 || store.oldest() <= seen, "positions from {seen} on, held from {} on", store.oldest());
            for t in (0..n).step_by(per) {
                tiles.push(Tile::new(store, attend.window, position + t, tokens + t, per.min(n - t)));
            }
            tokens += n;
        }
        assert!(q.len() == tokens * attend.heads * key_dim, "{tokens} queries, {} values", q.len());
        Some(Work { attend, q, tokens, panels: attend.heads / group, group, key_dim, value_dim, turned, tiles })
    }

    /// `value_dim` up to a whole number of vectors and of groups of codes.
    fn stride(&self) -> usize {
        self.value_dim.next_multiple_of(GROUP)
    }

    /// Query rows of the largest tile.
    fn most_rows(&self) -> usize {
        self.tiles.iter().map(|tile| tile.tokens).max().unwrap_or(0) * self.group
    }

    /// Numbers of the parts of all tiles, each of `chunks`.
    fn parts_len(&self, chunks: usize) -> usize {
        self.tiles.len() * self.panels * chunks * self.most_rows() * self.part_len()
    }

    /// The sink of a query head.
    fn sink(&self, head: usize) -> Option<f32> {
        self.attend.sinks.map(|sinks| sinks[head])
    }

    /// Numbers of a [`Part`].
    fn part_len(&self) -> usize {
        Part::HEAD + self.stride()
    }
}
