//! The operations between the matrix products: norms, sums, activations, rotary positions, softmax, routing.
//!
//! Arrays are row-major; shapes in brackets. What each computes, to the bit, is written in [`crate::naive::ops`].

mod blend;
mod elementwise;
mod hyper;
pub(crate) mod math;
mod norm;
mod rope;
mod route;

pub use blend::blend;
pub(crate) use elementwise::Softcap;
pub use elementwise::{activate, add, add_bias, add_channels, clamp, copy_channels, gate, glu, scale, scale_by, softcap, xielu};
pub use hyper::{Hyper, STRANDS, hyper_add, hyper_mix, hyper_weights};
pub use norm::{layer_norm, rescale, rms_norm, rms_norm_in_place, softmax, sparsify, weights};
pub use rope::rope;
pub use route::{add_expert_bias, combine, group_by_expert, route, route_fixed, spread};

/// The non-linear function of a feed-forward block.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Activation {
    /// x·σ(x)
    Silu,
    /// x·½(1 + tanh(√(2/π)(x + 0.044715 x³)))
    GeluTanh,
    /// x·Φ(x), by the error function.
    Gelu,
    /// max(x, 0)
    Relu,
    /// max(x, 0)²
    ReluSquared,
    /// g·σ(1.702 g), g = min(x, 7); where it gates, by 1 + up, up within ±7 (gpt-oss).
    SwigluOai,
    /// σ(x)
    Sigmoid,
    /// x
    Identity,
    /// x·σ(x) of x up to 10; in a gated block, up is kept within ±10 (DeepSeek-V4).
    SwigluLimited,
}

impl Activation {
    /// All of them, for tables and tests.
    pub const ALL: [Activation; 9] = [
        Activation::Silu,
        Activation::GeluTanh,
        Activation::Gelu,
        Activation::Relu,
        Activation::ReluSquared,
        Activation::SwigluOai,
        Activation::SwigluLimited,
        Activation::Sigmoid,
        Activation::Identity,
    ];
}

/// The activation xIELU, whose shape is trained (Huang 2024, <https://arxiv.org/abs/2411.13010>):
/// `x > 0 ? (above·x + slope)·x : below·(exp(min(x, edge)) - 1 - x) + slope·x`.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Xielu {
    /// How steeply it bends above 0.
    pub above: f32,
    /// The same below.
    pub below: f32,
    /// Its slope at 0.
    pub slope: f32,
    /// A little less than 0.
    pub edge: f32,
}

/// Which channels of a head a rotation turns together.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Pairing {
    /// 2i and 2i + 1, as in the RoPE paper (ggml: norm).
    Adjacent,
    /// i and i + rotary/2 (ggml: neox).
    Halves,
}

/// How a router makes probabilities of its logits.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Gate {
    /// Softmax over all experts, then the best k.
    Softmax,
    /// The best k, then softmax over them.
    SoftmaxTopK,
    /// A sigmoid for each, then the best k.
    Sigmoid,
    /// √ln(1 + eˣ) for each, then the best k (DeepSeek-V4).
    SqrtSoftplus,
}

/// Whether the weights of the chosen experts are divided by their sum.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Renormalize {
    /// They stay as they are.
    No,
    /// They sum to one.
    Yes,
}

/// Experts in groups of equals, of which a token takes the best ones only (DeepSeek-V2, section 2.2.2: so that its experts
/// sit on few machines).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct GroupLimit {
    /// Groups; the experts are shared equally by them.
    pub count: usize,
    /// Groups a token may choose from.
    pub used: usize,
    /// What makes a group good.
    pub score: GroupScore,
}

/// By what groups of experts are compared.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum GroupScore {
    /// The best expert's score (DeepSeek-V2).
    Best,
    /// The sum of the best two's (DeepSeek-V3).
    BestTwo,
}

/// How tokens choose experts.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Router {
    /// Logits to probabilities.
    pub gate: Gate,
    /// Experts for each token.
    pub k: usize,
    /// Whether only the best groups of experts may be chosen from.
    pub groups: Option<GroupLimit>,
    /// What becomes of the sum of weights.
    pub renormalize: Renormalize,
    /// Every weight is multiplied by it at the end.
    pub scale: f32,
}

/// Elements that keep a thread busy for long enough to be worth waking it: a few operations each.
pub(crate) const CHEAP: usize = 8192;
/// The same where each costs an exp.
pub(crate) const DEAR: usize = 2048;

/// Elements of a piece of `len`: whole rows of `width`, at least `grain` elements, few enough for all threads to get some.
pub(crate) fn piece(cpu: crate::Cpu<'_>, len: usize, width: usize, grain: usize) -> usize {
    let (rows, least) = (len.div_ceil(width), grain.div_ceil(width));
    let fair = if cpu.threads() == 1 { rows } else { rows.div_ceil(4 * cpu.threads()) };
    fair.max(least) * width
}
