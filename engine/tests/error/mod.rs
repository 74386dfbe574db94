//! How far results are from others that come by another way.

/// Σ(x - y)² / Σ(y - mean)², over all rows.
pub(crate) fn relative(x: &[f32], y: &[f32]) -> f64 {
    assert_eq!(x.len(), y.len());
    let mean = y.iter().map(|y| f64::from(*y)).sum::<f64>() / y.len() as f64;
    let sum = |f: &dyn Fn(f64, f64) -> f64| x.iter().zip(y).map(|(x, y)| f(f64::from(*x), f64::from(*y)).powi(2)).sum::<f64>();
    sum(&|x, y| x - y) / sum(&|_, y| y - mean)
}
