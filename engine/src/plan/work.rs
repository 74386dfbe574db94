//! What a model has to do for a token: products by type, attention, states, and the small things between.
//!
//! ```text
//! answer    Σ weights that a token passes · seconds(type, 1) + attention + states + regions + between    weights are read once a token
//! prompt    the same by batches: Σ weights · seconds(type, tokens) ...; the head once           weights are read once a batch
//! between   numbers that go into products, that come out of them, and that norms take in: each is written by some and read by others
//! experts   E experts of which a token takes k: n tokens reach E · (1 - (1 - k/E)ⁿ) of them, n · k / that many tokens each
//! ```

use hob_kernels::Format;

use super::Profile;
use crate::block::Looks;
use crate::cache::StateSpec;
use crate::config::Config;
use crate::decoder::MixerFacts;
use crate::gguf::{Gguf, TensorInfo};

/// A product that every token takes part in, or one of experts.
#[derive(Clone, Copy, Debug)]
struct Product {
    format: Format,
    /// Weights of it; of one expert.
    weights: f64,
    /// Outputs of it, and inputs.
    rows: f64,
    cols: f64,
    /// Experts, and how many a token takes.
    experts: Option<(f64, f64)>,
    layer: Option<usize>,
    /// What goes into it.
    input: Input,
}

/// Where a product's input is made.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Input {
    /// For it; experts take the token's.
    Own,
    /// For it, by each expert of its own.
    OfEach,
    /// For another: keys and values take that of the queries, `up` that of `gate`.
    Shared,
}

/// What a model has to do.
#[derive(Clone, Debug)]
pub(super) struct Work {
    products: Vec<Product>,
    looks: Vec<Looks>,
    /// Numbers of recurrent states.
    states: f64,
    layers: f64,
    /// Numbers that the norms of a token take in.
    normed: f64,
}

/// Parallel regions of a layer: products that do not share an input, and attention; experts add a choice.
const REGIONS: f64 = 6.0;
const REGIONS_OF_EXPERTS: f64 = 2.0;
/// Positions that attention takes together, whether a query sees them all or not.
pub(super) const BLOCK: usize = hob_kernels::attention::BLOCK;
/// Products that take the input of another, where there is that one.
const SHARED: [(&str, &str); 4] =
    [(".attn_k.", ".attn_q."), (".attn_v.", ".attn_q."), (".attn_kv_a_mqa.", ".attn_q_a."), (".ffn_up", ".ffn_gate")];

impl Work {
    pub(super) fn of(gguf: &Gguf, config: &Config, mixers: &[MixerFacts]) -> Work {
        let tied = gguf.tensor("output.weight").is_none();
        let matrices = gguf.tensors().filter(|t| t.dims.len() > 1 && t.dims[1] > 1 && t.name.contains("weight") && !config.drafts(&t.name));
        let products = matrices.filter_map(|t| {
            let head = t.name == "output.weight" || tied && t.name == "token_embd.weight";
            if !head && t.name.contains("token_embd") || t.name.contains("conv") || t.name.contains("_norm") {
                return None;
            }
            let (cols, rows) = (t.dims[0] as f64, t.dims[1] as f64);
            let experts = config.experts.filter(|_| t.name.contains("_exps.")).map(|e| (e.count as f64, e.used as f64));
            // Heads with a matrix each (latent attention) are all of them used.
            let heads = if experts.is_some() { 1.0 } else { t.dims.get(2).map_or(1.0, |n| *n as f64) };
            let layer = t.name.strip_prefix("blk.").and_then(|rest| rest.split('.').next()).and_then(|n| n.parse().ok());
            let input = match &t.name {
                name if SHARED.iter().any(|(this, of)| name.contains(this) && gguf.tensor(&name.replace(this, of)).is_some()) => {
                    Input::Shared
                }
                name if name.contains(".ffn_down_exps.") => Input::OfEach,
                _ => Input::Own,
            };
            Some(Product { format: t.kind.format()?, weights: cols * rows * heads, rows: rows * heads, cols, experts, layer, input })
        });
        let states = mixers.iter().map(|m| match m.state {
            Some(StateSpec::Recurrent(size)) => (size.heads * size.keys * size.values) as f64,
            Some(StateSpec::KeyValue { .. } | StateSpec::Latent { .. } | StateSpec::Entries { .. }) | None => 0.0,
        });
        let looks = mixers.iter().filter_map(|m| m.looks).collect();
        // A norm of heads is as wide as what the product of the same name gives.
        let normed = |t: &TensorInfo| gguf.tensor(&t.name.replace("_norm.", ".")).map_or(t.dims[0], |product| product.dims[1]) as f64;
        let norms = gguf.tensors().filter(|t| t.name.starts_with("blk.") && t.name.ends_with("_norm.weight") && !config.drafts(&t.name));
        Work { products: products.collect(), looks, states: states.sum(), layers: config.layers as f64, normed: norms.map(normed).sum() }
    }

    /// Seconds of one more token behind `depth` others.
    pub(super) fn token(&self, profile: &Profile, depth: usize) -> f64 {
        let mut seconds = 0.0;
        let mut regions = REGIONS * self.layers + 1.0;
        for p in &self.products {
            seconds += match p.experts {
                Some((_, used)) => profile.product_of_experts(p.format, p.weights * used, 1.0),
                None => profile.product(p.format, p.weights, 1.0),
            };
            if p.experts.is_some() {
                regions += REGIONS_OF_EXPERTS / 3.0;
            }
        }
        for look in &self.looks {
            let (all, first) = (pairs(look, depth, 1), BLOCK as f64);
            seconds += per_pair(look) * (first * profile.attend_first + (all - first) * profile.attend_one);
        }
        let head: f64 = self.products.iter().filter(|p| p.layer.is_none()).map(|p| p.rows + p.cols).sum();
        let between = (self.between() + head) * profile.between_one;
        seconds + self.states * profile.recurrent + regions * profile.region + between
    }

    /// Seconds of a prompt of so many tokens, `batch` of them at a time.
    pub(super) fn prompt(&self, profile: &Profile, tokens: usize, batch: usize) -> f64 {
        let (mut seconds, mut done) = (0.0, 0);
        while done < tokens {
            let n = batch.max(1).min(tokens - done);
            seconds += self.batch(profile, done, n, done + n == tokens);
            done += n;
        }
        seconds
    }

    fn batch(&self, profile: &Profile, depth: usize, n: usize, last: bool) -> f64 {
        let count = n as f64;
        let mut seconds = 0.0;
        for p in &self.products {
            seconds += match (p.experts, p.layer) {
                (Some((all, used)), _) => {
                    let reached = all * (1.0 - (1.0 - used / all).powf(count));
                    profile.product_of_experts(p.format, p.weights * reached, count * used / reached)
                }
                (None, Some(_)) => profile.product(p.format, p.weights, count),
                // The head.
                (None, None) if last => profile.product(p.format, p.weights, 1.0),
                (None, None) => 0.0,
            };
        }
        let looked: f64 = self.looks.iter().map(|l| pairs(l, depth, n) * per_pair(l)).sum();
        let regions = REGIONS * self.layers * profile.region;
        seconds + looked * profile.attend_many + count * (self.states * profile.recurrent + self.between() * profile.between_many) + regions
    }

    /// Numbers of a token that lie between the products of all layers.
    fn between(&self) -> f64 {
        let of = |p: &Product| {
            let used = p.experts.map_or(1.0, |(_, used)| used);
            let inputs = match p.input {
                Input::Own => p.cols,
                Input::OfEach => used * p.cols,
                Input::Shared => 0.0,
            };
            used * p.rows + inputs
        };
        self.products.iter().filter(|p| p.layer.is_some()).map(of).sum::<f64>() + self.normed
    }
}

/// Multiplications for a query and a position.
fn per_pair(l: &Looks) -> f64 {
    (l.heads * (l.key_dim + l.value_dim)) as f64
}

/// Queries times positions that are looked at for each of them, for `n` queries behind `depth` positions.
fn pairs(l: &Looks, depth: usize, n: usize) -> f64 {
    let looked = |position: usize| {
        let far = (position + 1).checked_div(l.ratio).unwrap_or(0);
        (seen(l.window.first(position), position) + far.next_multiple_of(BLOCK)) as f64
    };
    (depth..depth + n).map(looked).sum()
}

/// Positions of the blocks from that of `first` to that of `last`.
pub(super) fn seen(first: usize, last: usize) -> usize {
    (last / BLOCK + 1 - first / BLOCK) * BLOCK
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::backend::Window;

    #[test]
    fn queries_look_at_the_blocks_that_their_window_shows() {
        let mut l = Looks { heads: 1, key_dim: 1, value_dim: 1, window: Window::None, ratio: 0 };
        assert_eq!(pairs(&l, 0, 4), 4.0 * 64.0);
        assert_eq!(pairs(&l, 63, 2), 64.0 + 128.0);
        l.window = Window::Sliding(2);
        assert_eq!(pairs(&l, 64, 2), 128.0 + 64.0);
        l.ratio = 4;
        assert_eq!(pairs(&l, 2, 2), 64.0 + (64.0 + 64.0));
    }

    #[test]
    fn a_model_in_the_shape_of_the_measured_layer_counts_as_it_does() {
        let entry = crate::catalogue::find("llama-3.2-1b").unwrap();
        let header = entry.header(crate::quantize::FileType::Q4_K_M, Some(1)).unwrap();
        let plan = crate::plan::Plan::of(&header, &crate::plan::Ask::default()).unwrap();
        // q, o, down 2048, k and v 512, gate and up 8192; into q, o, gate 2048, into down 8192; two norms.
        assert_eq!(plan.work.between(), (3 * 2048 + 2 * 512 + 2 * 8192 + 3 * 2048 + 8192 + 2 * 2048) as f64);
    }
}
