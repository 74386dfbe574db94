//! What a model has to do for a token: products by type, attention, states, and the small things between.
//!
//! ```text
//! answer    Σ weights that a token passes · seconds(type, 1) + attention + states + regions     weights are read once a token
//! prompt    the same by batches: Σ weights · seconds(type, tokens) ...; the head once           weights are read once a batch
//! experts   E experts of which a token takes k: n tokens reach E · (1 - (1 - k/E)ⁿ) of them, n · k / that many tokens each
//! ```

use hob_kernels::Format;

use super::Profile;
use crate::block::Looks;
use crate::cache::StateSpec;
use crate::config::Config;
use crate::decoder::MixerFacts;
use crate::gguf::Gguf;

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
}

/// What a model has to do.
#[derive(Clone, Debug)]
pub(super) struct Work {
    products: Vec<Product>,
    looks: Vec<Looks>,
    /// Numbers of recurrent states.
    states: f64,
    layers: f64,
    width: f64,
}

/// Parallel regions of a layer: products that do not share an input, and attention; experts add a choice.
const REGIONS: f64 = 6.0;
const REGIONS_OF_EXPERTS: f64 = 2.0;

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
            Some(Product { format: t.kind.format()?, weights: cols * rows * heads, rows: rows * heads, cols, experts, layer })
        });
        let states = mixers.iter().map(|m| match m.state {
            Some(StateSpec::Recurrent(size)) => (size.heads * size.keys * size.values) as f64,
            Some(StateSpec::KeyValue { .. } | StateSpec::Latent { .. } | StateSpec::Entries { .. }) | None => 0.0,
        });
        let looks = mixers.iter().filter_map(|m| m.looks).collect();
        Work { products: products.collect(), looks, states: states.sum(), layers: config.layers as f64, width: config.width as f64 }
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
        let looked: f64 = self.looks.iter().map(|l| pairs(l, depth, 1) * per_pair(l)).sum();
        // What lies between the products of one token is too little to be shared among threads.
        let elements = self.elements() * profile.element * profile.of.threads as f64;
        seconds + looked * profile.attend_one + self.states * profile.recurrent + regions * profile.region + elements
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
        let regions = 3.0 * REGIONS * self.layers * profile.region;
        seconds + looked * profile.attend_many + count * (self.states * profile.recurrent + self.elements() * profile.element) + regions
    }

    /// Numbers that a token's work between products touches.
    fn elements(&self) -> f64 {
        let of = |p: &Product| match (p.experts, p.layer) {
            (Some((_, used)), _) => used * (p.rows + p.cols / 2.0),
            (None, Some(_)) => p.rows + p.cols / 3.0,
            (None, None) => 0.0,
        };
        self.products.iter().map(of).sum::<f64>() + 4.0 * self.layers * self.width
    }
}

/// Multiplications for a query and a position.
fn per_pair(l: &Looks) -> f64 {
    (l.heads * (l.key_dim + l.value_dim)) as f64
}

/// Queries times positions that each of them sees, for `n` queries behind `depth` positions.
fn pairs(l: &Looks, depth: usize, n: usize) -> f64 {
    let seen = |position: usize| {
        let near = position + 1 - l.window.first(position);
        let far = (position + 1).checked_div(l.ratio).unwrap_or(0);
        (near + far) as f64
    };
    (depth..depth + n).map(seen).sum()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::backend::Window;

    #[test]
    fn queries_see_what_their_window_shows() {
        let mut l = Looks { heads: 1, key_dim: 1, value_dim: 1, window: Window::None, ratio: 0 };
        assert_eq!(pairs(&l, 0, 4), 10.0);
        assert_eq!(pairs(&l, 100, 1), 101.0);
        l.window = Window::Sliding(2);
        assert_eq!(pairs(&l, 0, 4), 7.0);
        l.ratio = 4;
        assert_eq!(pairs(&l, 0, 4), 8.0);
    }
}
