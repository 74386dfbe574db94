//! The shape of a model: the numbers from which the names and dimensions of all its tensors follow.

use serde::Deserialize;
use std::collections::BTreeMap;

/// The numbers of a model, under hob's names for them. What a key leaves out the model does not have.
#[derive(Clone, Debug, PartialEq, Deserialize)]
#[serde(deny_unknown_fields)]
#[non_exhaustive]
pub struct Shape {
    /// Transformer layers.
    pub layers: u64,
    /// Width of the residual stream.
    pub width: u64,
    /// Tokens.
    pub vocab: u64,
    /// Positions, as the makers' configuration has them.
    pub context: u64,
    /// Whether the head shares the embedding's weights.
    #[serde(default)]
    pub tied: bool,
    /// Query heads; 0 in a model without attention.
    #[serde(default)]
    pub heads: u64,
    /// Key/value heads.
    #[serde(default)]
    pub kv_heads: u64,
    /// Width of a head.
    #[serde(default)]
    pub head_dim: u64,
    /// Width of the dense feed-forward blocks.
    #[serde(default)]
    pub ffn: u64,
    /// Whether feed-forward blocks, experts too, have a gate.
    #[serde(default = "yes")]
    pub gated: bool,
    /// Norms of queries and keys.
    pub qk_norm: Option<QkNorm>,
    /// Whether queries have a gate for attention's output beside them (Qwen3-Next).
    #[serde(default)]
    pub output_gate: bool,
    /// Biases of attention: `qkv` or `qkvo`.
    pub bias: Option<String>,
    /// Whether attention has sinks.
    #[serde(default)]
    pub sinks: bool,
    /// Which norms a layer has.
    #[serde(default)]
    pub norms: Norms,
    /// Whether they take the mean off (LayerNorm).
    #[serde(default)]
    pub mean_norm: bool,
    /// Maps that lie in one tensor: `qkv`, `gate_up`.
    #[serde(default)]
    pub fused: Vec<String>,
    /// Mixture of experts.
    pub experts: Option<Experts>,
    /// Latent attention.
    pub latent: Option<Latent>,
    /// Compressed attention, with hyper-connections around it (DeepSeek-V4).
    pub compressed: Option<CompressedShape>,
    /// Layers that look through a window.
    pub window: Option<WindowShape>,
    /// Layers that are no attention.
    pub recurrent: Option<Recurrent>,
    /// What each layer is, a letter each, repeated until all have one: `*` attention, `R` recurrent, `B` both side by side,
    /// `-` a feed-forward block alone, `E` experts alone.
    pub pattern: Option<String>,
    /// Width of the vector that each layer has of every token (Gemma 4 E2B).
    pub per_layer: Option<u64>,
    /// So many of the last layers look at the keys and values of earlier ones.
    #[serde(default)]
    pub shared_kv: u64,
    /// Width of the dense feed-forward block in those, where it differs.
    pub shared_kv_ffn: Option<u64>,
    /// Rotary positions.
    pub rope: Option<RopeShape>,
    /// Further metadata of its files, without the architecture before the key.
    #[serde(default)]
    pub metadata: BTreeMap<String, Fact>,
}

fn yes() -> bool {
    true
}

/// A value of metadata.
#[derive(Clone, Debug, PartialEq, Deserialize)]
#[serde(untagged)]
pub enum Fact {
    /// A truth.
    Bool(bool),
    /// A count.
    Count(u32),
    /// A number.
    Number(f32),
    /// A word.
    Text(String),
    /// A count a layer.
    Counts(Vec<u32>),
}

/// Norms of queries and keys.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum QkNorm {
    /// Head by head.
    Head,
    /// All heads together (OLMo 2).
    Wide,
    /// Head by head, each with weights of its own (Command R+).
    Each,
}

/// Which norms a layer has; see `decoder.rs`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Norms {
    /// Before attention and before the feed-forward block.
    #[default]
    Pre,
    /// The same, the second under its other name.
    Second,
    /// Before and behind both.
    Sandwich,
    /// Behind both.
    Post,
    /// One for both.
    Parallel,
}

/// Mixture of experts.
#[derive(Clone, Debug, PartialEq, Deserialize)]
#[serde(deny_unknown_fields)]
#[non_exhaustive]
pub struct Experts {
    /// Experts of a layer.
    pub count: u64,
    /// Experts that a token passes.
    pub used: u64,
    /// Width of one.
    pub ffn: u64,
    /// Width of what all tokens pass beside them; 0 where there is nothing.
    #[serde(default)]
    pub shared: u64,
    /// Whether that has a gate of its own.
    #[serde(default)]
    pub shared_gate: bool,
    /// So many of the first layers have a dense block instead.
    #[serde(default)]
    pub dense: u64,
    /// Every so many layers have experts, the others a dense block.
    #[serde(default = "one")]
    pub every: u64,
    /// Whether the choice has a bias (DeepSeek-V3).
    #[serde(default)]
    pub choice_bias: bool,
    /// Whether router and experts have biases (gpt-oss).
    #[serde(default)]
    pub bias: bool,
    /// Whether a dense block works beside them in each layer (Gemma 4).
    #[serde(default)]
    pub beside: bool,
    /// Whether gate and up of the experts lie in one tensor.
    #[serde(default)]
    pub fused: bool,
}

fn one() -> u64 {
    1
}

/// Latent attention (DeepSeek-V2).
#[derive(Clone, Debug, PartialEq, Deserialize)]
#[serde(deny_unknown_fields)]
#[non_exhaustive]
pub struct Latent {
    /// Rank of the queries, where they go through one.
    pub q_rank: Option<u64>,
    /// Width of the latent.
    pub kv_rank: u64,
    /// Channels of a key head that do not turn.
    pub plain: u64,
    /// Channels that turn.
    pub rotary: u64,
    /// Width of a value head.
    pub value: u64,
}

/// Compressed attention (DeepSeek-V4).
#[derive(Clone, Debug, PartialEq, Deserialize)]
#[serde(deny_unknown_fields)]
#[non_exhaustive]
pub struct CompressedShape {
    /// Positions of an entry in each of the first layers; the last two go on in turns. 0 where there are none.
    pub ratios: Vec<u64>,
    /// Rank of the queries.
    pub q_rank: u64,
    /// Groups of heads with an output map each, and its rank.
    pub groups: u64,
    /// Rank of an output map.
    pub output_rank: u64,
    /// Heads that choose among entries.
    pub index_heads: u64,
    /// Width of one.
    pub index_dim: u64,
    /// Entries that they choose.
    pub index_most: u64,
    /// Layers whose experts are chosen by the token alone.
    pub hashed: u64,
    /// Strands of the residual stream.
    pub strands: u64,
}

impl CompressedShape {
    /// Positions of an entry in layer `i`.
    pub fn ratio(&self, i: u64) -> u64 {
        let (i, n) = (i as usize, self.ratios.len());
        match self.ratios.get(i) {
            Some(ratio) => *ratio,
            None if n < 2 => self.ratios.first().copied().unwrap_or(0),
            None => self.ratios[n - 2 + (i - n) % 2],
        }
    }
}

/// Layers that look through a window.
#[derive(Clone, Debug, PartialEq, Deserialize)]
#[serde(deny_unknown_fields)]
#[non_exhaustive]
pub struct WindowShape {
    /// Positions that are seen.
    pub size: u64,
    /// The last of every so many layers sees all; 0 where none does.
    pub every: u64,
    /// Width of a head in layers that see all, where it differs (Gemma 4).
    pub full_head_dim: Option<u64>,
    /// Key/value heads there, where they differ.
    pub full_kv_heads: Option<u64>,
    /// Whether the keys are the values there.
    #[serde(default)]
    pub full_shared: bool,
}

/// Layers that are no attention.
#[derive(Clone, Debug, PartialEq, Deserialize)]
#[serde(tag = "kind", rename_all = "lowercase", deny_unknown_fields)]
pub enum Recurrent {
    /// Mamba-2.
    Mamba2 {
        /// Width of the values of all heads.
        inner: u64,
        /// Width of a key.
        state: u64,
        /// Heads.
        heads: u64,
        /// Heads of keys and queries.
        groups: u64,
        /// Taps of the convolution.
        taps: u64,
        /// Whether there is a norm before the output.
        norm: bool,
    },
    /// The gated delta rule.
    Delta {
        /// Heads of keys and queries.
        key_heads: u64,
        /// Heads of values.
        heads: u64,
        /// Width of a head of either.
        head_dim: u64,
        /// Taps of the convolution.
        taps: u64,
        /// Whether decay and strength lie in one tensor (Qwen3-Next).
        fused: bool,
    },
    /// A convolution over a few tokens (LFM2).
    Conv {
        /// Its taps.
        taps: u64,
    },
}

/// Rotary positions.
#[derive(Clone, Debug, PartialEq, Deserialize)]
#[serde(deny_unknown_fields)]
#[non_exhaustive]
pub struct RopeShape {
    /// Frequency base.
    pub base: f32,
    /// Channels of a head that turn; all where absent.
    pub dims: Option<u64>,
    /// `linear`, `yarn`, `longrope`, or `llama3` and `proportional`, whose factors lie in a tensor.
    pub scaling: Option<String>,
    /// How far positions are stretched.
    pub factor: Option<f32>,
    /// Context before that.
    pub original: Option<u64>,
}

/// What a layer's mixer is.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Kind {
    Attention,
    Recurrent,
    /// Both on the same input (Falcon-H1).
    Both,
    /// None: the layer is a feed-forward block.
    Dense,
    Experts,
}

impl Shape {
    /// What mixes in layer `layer`, by the pattern.
    pub(super) fn mixer(&self, layer: u64) -> Kind {
        let letters: Vec<char> = self.pattern.as_deref().unwrap_or("*").chars().collect();
        match letters[layer as usize % letters.len().max(1)] {
            'R' => Kind::Recurrent,
            'B' => Kind::Both,
            '-' => Kind::Dense,
            'E' => Kind::Experts,
            _ => Kind::Attention,
        }
    }

    /// Whether layers are one block each: a mixer, or a feed-forward block (Nemotron-H).
    pub(super) fn is_single(&self) -> bool {
        self.pattern.as_deref().is_some_and(|p| p.contains(['-', 'E']))
    }

    /// What layer `i` has for a feed-forward block.
    pub(super) fn feeds(&self, i: u64) -> (bool, Option<&Experts>) {
        let kind = self.mixer(i);
        let sparse = |e: &&Experts| i >= e.dense && (i + 1).is_multiple_of(e.every);
        match kind {
            Kind::Dense => (true, None),
            Kind::Experts => (false, self.experts.as_ref()),
            Kind::Attention | Kind::Recurrent | Kind::Both if self.is_single() => (false, None),
            Kind::Attention | Kind::Recurrent | Kind::Both => match self.experts.as_ref().filter(sparse) {
                Some(experts) => (experts.beside, Some(experts)),
                None => (self.ffn > 0, None),
            },
        }
    }

    /// Whether layer `i` sees all positions, although others look through a window.
    pub(super) fn sees_all(&self, i: u64) -> bool {
        self.window.as_ref().is_none_or(|w| w.every > 0 && (i + 1).is_multiple_of(w.every))
    }

    /// Width of a head and key/value heads of layer `i`, and whether its keys are its values.
    pub(super) fn heads_of(&self, i: u64) -> (u64, u64, bool) {
        match self.window.as_ref().filter(|_| self.sees_all(i)) {
            Some(w) => (w.full_head_dim.unwrap_or(self.head_dim), w.full_kv_heads.unwrap_or(self.kv_heads), w.full_shared),
            None => (self.head_dim, self.kv_heads, false),
        }
    }
}
