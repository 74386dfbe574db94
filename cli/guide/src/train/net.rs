//! The guide's network: Llama's, small. Weights as GGUF has them, `[outputs, inputs]`, those that share an input side by side.
//!
//! ```text
//! x = E[token];  per layer:  x += O·attention(QKV·norm(x));  x += D·gate(GU·norm(x));  logits = E·norm(x)
//! ```

use candle_core::{Device, Result, Tensor, Var};
use hob_guide::dice::Dice;

use crate::data::Batch;
use crate::ops::{Attention, Gate, Loss, Norm};

/// The shape of the network.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) struct Shape {
    pub(crate) vocabulary: usize,
    pub(crate) layers: usize,
    pub(crate) width: usize,
    pub(crate) heads: usize,
    pub(crate) kv_heads: usize,
    pub(crate) head_dim: usize,
    pub(crate) ffn: usize,
    pub(crate) base: f32,
    pub(crate) epsilon: f32,
}

/// One layer's weights.
pub(crate) struct Layer {
    pub(crate) attention_norm: Var,
    pub(crate) qkv: Var,
    pub(crate) output: Var,
    pub(crate) ffn_norm: Var,
    pub(crate) gate_up: Var,
    pub(crate) down: Var,
}

impl Layer {
    fn weights(&self) -> [&Var; 6] {
        [&self.attention_norm, &self.qkv, &self.output, &self.ffn_norm, &self.gate_up, &self.down]
    }
}

/// The network.
pub(crate) struct Net {
    pub(crate) shape: Shape,
    pub(crate) embedding: Var,
    pub(crate) layers: Vec<Layer>,
    pub(crate) norm: Var,
}

/// What a look at held-out questions shows.
pub(crate) struct Seen {
    pub(crate) loss: f32,
    /// The share of answers whose every token is the likeliest one: what greedy decoding says is right to the last letter.
    pub(crate) right: f64,
    /// The share of answers that tell the right fact.
    pub(crate) chosen: f64,
}

fn normal(shape: (usize, usize), deviation: f64, dice: &mut Dice) -> Result<Var> {
    let mut one = || {
        let (radius, angle) = ((-2.0 * (1.0 - dice.unit()).ln()).sqrt(), std::f64::consts::TAU * dice.unit());
        (deviation * radius * angle.cos()) as f32
    };
    Var::from_vec((0..shape.0 * shape.1).map(|_| one()).collect(), shape, &Device::Cpu)
}

fn ones(n: usize) -> Result<Var> {
    Var::from_vec(vec![1f32; n], n, &Device::Cpu)
}

impl Net {
    /// A network that knows nothing yet.
    pub(crate) fn new(shape: Shape, dice: &mut Dice) -> Result<Net> {
        let (width, inner) = (shape.width, shape.heads * shape.head_dim);
        let qkv = (shape.heads + 2 * shape.kv_heads) * shape.head_dim;
        let last = 0.02 / (2.0 * shape.layers as f64).sqrt();
        let embedding = normal((shape.vocabulary, width), 0.02, dice)?;
        let layer = |dice: &mut Dice| {
            Ok(Layer {
                attention_norm: ones(width)?,
                qkv: normal((qkv, width), 0.02, dice)?,
                output: normal((width, inner), last, dice)?,
                ffn_norm: ones(width)?,
                gate_up: normal((2 * shape.ffn, width), 0.02, dice)?,
                down: normal((width, shape.ffn), last, dice)?,
            })
        };
        let layers = (0..shape.layers).map(|_| layer(dice)).collect::<Result<_>>()?;
        Ok(Net { shape, embedding, layers, norm: ones(width)? })
    }

    /// All weights, always in this order.
    pub(crate) fn weights(&self) -> Vec<&Var> {
        [&self.embedding, &self.norm].into_iter().chain(self.layers.iter().flat_map(Layer::weights)).collect()
    }

    /// The logits of the positions that are learned.
    fn logits(&self, batch: &Batch) -> Result<Tensor> {
        let shape = &self.shape;
        let norm = |x: &Tensor, w: &Var| x.apply_op2(w, Norm { epsilon: shape.epsilon });
        let ids = |ids: &[u32]| Tensor::from_slice(ids, ids.len(), &Device::Cpu);
        let mut x = self.embedding.index_select(&ids(&batch.tokens)?, 0)?;
        for layer in &self.layers {
            let attention = Attention {
                starts: batch.starts.clone(),
                heads: shape.heads,
                kv_heads: shape.kv_heads,
                head_dim: shape.head_dim,
                base: shape.base,
            };
            let mixed = norm(&x, &layer.attention_norm)?.matmul(&layer.qkv.t()?)?.apply_op1(attention)?;
            x = (x + mixed.matmul(&layer.output.t()?)?)?;
            let inner = norm(&x, &layer.ffn_norm)?.matmul(&layer.gate_up.t()?)?.apply_op1(Gate)?;
            x = (x + inner.matmul(&layer.down.t()?)?)?;
        }
        let rows = x.index_select(&ids(&batch.learned)?, 0)?;
        norm(&rows, &self.norm)?.matmul(&self.embedding.t()?)
    }

    /// The loss of a batch.
    pub(crate) fn loss(&self, batch: &Batch) -> Result<Tensor> {
        self.logits(batch)?.apply_op1(Loss { targets: batch.targets.clone() })
    }

    /// How it does on a batch.
    pub(crate) fn look(&self, batch: &Batch) -> Result<Seen> {
        let logits = self.logits(batch)?.detach();
        let loss = logits.apply_op1(Loss { targets: batch.targets.clone() })?.to_scalar::<f32>()?;
        let likeliest: Vec<u32> = logits.argmax(1)?.to_vec1()?;
        let share = |most: usize| {
            let answers = batch.answers.windows(2).map(|pair| pair[0]..pair[1].min(pair[0] + most));
            let right = answers.clone().filter(|answer| likeliest[answer.clone()] == batch.targets[answer.clone()]).count();
            right as f64 / answers.count().max(1) as f64
        };
        Ok(Seen { loss, right: share(usize::MAX / 2), chosen: share(1) })
    }
}
