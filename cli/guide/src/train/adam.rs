//! AdamW with clipped gradients, its state where a checkpoint can save it.
//!
//! ```text
//! g *= min(1, 1/‖g‖);  m = β₁m + (1-β₁)g;  v = β₂v + (1-β₂)g²;  w -= lr·(m̂/(√v̂ + ε) + decay·w)     m̂, v̂: divided by 1-βᵗ
//! ```
//! Source: Kingma & Ba 2015; Loshchilov & Hutter 2019. Norms do not decay.

use candle_core::{Result, Tensor, Var, backprop::GradStore};

const BETA: (f32, f32) = (0.9, 0.98);
const EPSILON: f32 = 1e-8;
const DECAY: f32 = 0.05;
/// The longest gradient that is taken as it is.
const LONGEST: f32 = 1.0;

/// Both moments of every weight.
pub(crate) struct Adam {
    pub(crate) first: Vec<Vec<f32>>,
    pub(crate) second: Vec<Vec<f32>>,
}

impl Adam {
    pub(crate) fn new(weights: &[&Var]) -> Adam {
        let zeros = || weights.iter().map(|weight| vec![0f32; weight.elem_count()]).collect();
        Adam { first: zeros(), second: zeros() }
    }

    /// Step number `step`, from 0. Gives the length that the gradient had.
    pub(crate) fn step(&mut self, weights: &[&Var], grads: &GradStore, step: usize, rate: f32) -> Result<f32> {
        let of = |weight: &&Var| match grads.get(weight) {
            Some(grad) => grad.flatten_all()?.to_vec1::<f32>(),
            None => Ok(vec![0.0; weight.elem_count()]),
        };
        let grads: Vec<Vec<f32>> = weights.iter().map(of).collect::<Result<_>>()?;
        let length = grads.iter().flatten().map(|g| f64::from(*g) * f64::from(*g)).sum::<f64>().sqrt() as f32;
        let clip = if length > LONGEST { LONGEST / length } else { 1.0 };
        let power = step as i32 + 1;
        let (one, two) = (1.0 - BETA.0.powi(power), 1.0 - BETA.1.powi(power));
        for (index, weight) in weights.iter().enumerate() {
            let mut numbers: Vec<f32> = weight.flatten_all()?.to_vec1()?;
            let decay = if weight.dims().len() > 1 { DECAY } else { 0.0 };
            let moments = self.first[index].iter_mut().zip(&mut self.second[index]);
            for ((w, g), (m, v)) in numbers.iter_mut().zip(&grads[index]).zip(moments) {
                let g = g * clip;
                *m = BETA.0 * *m + (1.0 - BETA.0) * g;
                *v = BETA.1 * *v + (1.0 - BETA.1) * g * g;
                *w -= rate * (*m / one / ((*v / two).sqrt() + EPSILON) + decay * *w);
            }
            weight.set(&Tensor::from_vec(numbers, weight.shape(), weight.device())?)?;
        }
        Ok(length)
    }
}
