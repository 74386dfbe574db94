//! What a cache keeps comes back as `naive` says, at every level, and near enough to what it was.

mod oracle;

use hob_kernels::attention::{KvStore, KvType};
use hob_kernels::naive::cache::{keep, turn};
use hob_kernels::{Cpu, Level, Pool};
use oracle::{equal_or_nan, numbers};

/// As keys are known to be: one channel in 32 twenty times as large as the others.
fn outliers(n: usize, dim: usize) -> Vec<f32> {
    numbers(n * dim, 4).iter().enumerate().map(|(i, x)| if i % dim % 32 == 5 { 20.0 * (1.0 + 0.1 * x) } else { *x }).collect()
}

#[test]
fn what_is_kept_is_what_naive_keeps() {
    let (pool, n) = (Pool::new(2), 70);
    for dim in [7, 16, 20, 64, 80, 128, 192, 256] {
        // Among ordinary rows: zeros, very small ones, ties, huge ones, and what is no number.
        let mut x = numbers(n * dim, dim as u64);
        for (row, with) in [0.0, -0.0, 1e-7, -3e-6, 1e-42, 0.5, 4e4, 9e6, -f32::INFINITY, f32::NAN].into_iter().enumerate() {
            let row = &mut x[(3 + 2 * row) * dim..][..dim];
            row.iter_mut().for_each(|x| *x = (*x * 8.0).round() * with);
        }
        for kind in KvType::ALL {
            let mut wanted = x.clone();
            wanted.chunks_mut(dim).for_each(|x| keep(kind, kind.turned(dim), x));
            for level in Level::available() {
                let cpu = Cpu::new(level, &pool);
                let mut apart = KvStore::new(kind, kind, 1, dim, dim, n).unwrap();
                apart.write(cpu, 0, &x, &x);
                let (k, v) = apart.read(n);
                equal_or_nan(&k, &wanted, &format!("keys of {dim} in {kind}, {level}"));
                equal_or_nan(&v, &wanted, &format!("values of {dim} in {kind}, {level}"));
                let mut shared = KvStore::shared(kind, dim, dim, n, n).unwrap();
                shared.write(cpu, 0, &x, &[]);
                equal_or_nan(&shared.read(n).0, &wanted, &format!("keys with values of {dim} in {kind}, {level}"));
            }
        }
    }
}

#[test]
fn positions_are_written_over_without_a_trace() {
    let (pool, dim) = (Pool::new(1), 96);
    let cpu = Cpu::new(Level::best(), &pool);
    let (x, y) = (numbers(150 * dim, 1), numbers(150 * dim, 2));
    for kind in KvType::ALL {
        let mut straight = KvStore::new(kind, kind, 1, dim, dim, 200).unwrap();
        straight.write(cpu, 0, &x, &y);
        let mut store = KvStore::new(kind, kind, 1, dim, dim, 200).unwrap();
        store.write(cpu, 0, &y, &x);
        for at in (0..150).rev() {
            store.write(cpu, at, &x[at * dim..(at + 1) * dim], &y[at * dim..(at + 1) * dim]);
        }
        assert!(store.read(150) == straight.read(150), "{kind}");
        // A copy is cut in the middle of a block, and what it holds is all there.
        for n in [150, 64, 41] {
            assert!(store.copy(n).unwrap().read(n) == straight.read(n), "{n} positions of {kind}");
        }
    }
}

/// On paper: the first row of the matrix is all ones; two of them are the unit matrix.
#[test]
fn a_turn_spreads_one_channel_over_all_and_undoes_itself() {
    let mut x = [1.0, 0.0, 0.0, 0.0, 0.0, 0.0, 2.0, 0.0];
    turn(&mut x, 4);
    assert_eq!(x, [0.5, 0.5, 0.5, 0.5, 1.0, 1.0, -1.0, -1.0]);
    let x = numbers(128, 9);
    let mut twice = x.clone();
    turn(&mut twice, 128);
    turn(&mut twice, 128);
    assert!(x.iter().zip(&twice).all(|(x, y)| (x - y).abs() < 1e-6));
}

/// On paper: the greatest of a group decides its factor.
#[test]
fn codes_on_paper() {
    let mut x = [0.0; 32];
    (x[0], x[1], x[2], x[3]) = (127.0, -12.6, 0.5, -1.5);
    keep(KvType::Q8_0, 1, &mut x);
    assert_eq!(x[..4], [127.0, -13.0, 0.0, -2.0]);
    (x[0], x[1], x[2], x[3]) = (-8.0, 8.0, 3.4, -1.5);
    keep(KvType::Q4_0, 1, &mut x);
    assert_eq!(x[..4], [-8.0, 7.0, 3.0, -2.0]);
}

/// What codes lose, as a share of what there was. Turned, few bits are enough for rows with outliers; not turned, they are not.
#[test]
fn a_cache_is_near_what_was_put_into_it() {
    let dim = 128;
    let lost = |kind: KvType, turned: usize, x: &[f32]| {
        let mut kept = x.to_vec();
        kept.chunks_mut(dim).for_each(|x| keep(kind, turned, x));
        turn(&mut kept, turned);
        // The outliers themselves aside: they are never lost.
        let small = |i: usize| i % 32 != 5;
        let sum = |of: &dyn Fn(usize) -> f32| (0..x.len()).filter(|i| small(*i)).map(|i| f64::from(of(i)).powi(2)).sum::<f64>();
        (sum(&|i| x[i] - kept[i]) / sum(&|i| x[i])).sqrt()
    };
    for (what, x, bounds) in
        [("even", numbers(300 * dim, 3), [0.0, 4e-4, 3e-3, 8e-3, 0.12]), ("outliers", outliers(300, dim), [0.0, 4e-4, 3e-3, 0.05, 0.75])]
    {
        for (kind, bound) in KvType::ALL.into_iter().zip(bounds) {
            let found = lost(kind, kind.turned(dim), &x);
            assert!(found <= bound && (bound == 0.0 || found > bound / 4.0), "{what}, {kind}: {found} lost, at most {bound}");
        }
    }
    let x = outliers(300, dim);
    for kind in [KvType::Q8_0, KvType::Q4_0] {
        let [turned, not] = [kind.turned(dim), 1].map(|n| lost(kind, n, &x));
        assert!(turned < 0.75 * not, "{kind}: {turned} turned, {not} not");
    }
}
