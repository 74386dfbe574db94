//! What each step keeps, what a seed gives on every machine, and what is refused.

use super::candidates::by_rank;
use super::*;
use crate::gguf::Metadata;
use crate::tokenizer::{Special, TokenizerOptions};

fn sample(sampling: Sampling, logits: &[f32], times: usize) -> Vec<Token> {
    let mut sampler = Sampler::new(&sampling).unwrap();
    (0..times).map(|_| sampler.sample(&mut logits.to_vec()).unwrap()).collect()
}

/// Everything open: no step removes anything.
fn open() -> Sampling {
    Sampling::new(1).temperature(1.0).top_k(0).top_p(1.0).min_p(0.0)
}

#[test]
fn temperature_zero_takes_the_lowest_of_the_highest() {
    assert_eq!(sample(Sampling::greedy(), &[1.0, 3.0, 3.0, -1.0], 3), [1, 1, 1]);
}

#[test]
fn the_same_seed_gives_the_same_tokens_everywhere() {
    let logits: Vec<f32> = (0..1000).map(|i| ((i * 7919) % 1000) as f32 / 100.0).collect();
    let recorded = sample(Sampling::new(42), &logits, 8);
    assert_eq!(recorded, sample(Sampling::new(42), &logits, 8));
    assert_ne!(recorded, sample(Sampling::new(43), &logits, 8));
    assert_eq!(recorded, [457, 210, 667, 704, 99, 198, 284, 136]);
}

#[test]
fn draws_follow_the_probabilities() {
    let logits = [0.0, libm::logf(2.0), libm::logf(5.0)];
    let mut counts = [0.0; 3];
    for token in sample(open(), &logits, 8000) {
        counts[token as usize] += 1.0 / 1000.0;
    }
    for (got, want) in counts.iter().zip([1.0f64, 2.0, 5.0]) {
        assert!((got - want).abs() < 0.25, "{counts:?}");
    }
}

#[test]
fn each_cut_keeps_what_it_says() {
    // Probabilities 0.4, 0.3, 0.2, 0.1 at ids 2, 0, 3, 1.
    let logits = [0.3f32, 0.1, 0.4, 0.2].map(libm::logf);
    let cases: [(Sampling, &[Token]); 8] = [
        (open(), &[0, 1, 2, 3]),
        (open().top_k(2), &[0, 2]),
        (open().top_p(0.69), &[0, 2]),
        (open().top_p(0.71), &[0, 2, 3]),
        (open().top_p(0.0), &[2]),
        (open().min_p(0.6), &[0, 2]),
        (open().top_k(3).top_p(0.8).min_p(0.1), &[0, 2, 3]),
        (open().bias(2, f32::NEG_INFINITY).top_k(1), &[0]),
    ];
    for (sampling, want) in cases {
        let mut seen = sample(sampling.clone(), &logits, 400);
        seen.sort_unstable();
        seen.dedup();
        assert_eq!(seen, want, "{sampling:?}");
    }
}

/// The steps' meaning: everything is sorted, and added one by one.
fn plainly(s: &Sampling, logits: &[f32], units: &mut Sampler) -> (Vec<(Token, f32)>, Token) {
    let n = Numbers::new(s).unwrap();
    let mut all: Vec<Candidate> = logits.iter().zip(0..).map(|(&logit, token)| Candidate { token, logit }).collect();
    let best = |all: &[Candidate]| all.iter().map(|c| c.logit).fold(f32::NEG_INFINITY, f32::max);
    let whole = |weight: f32| (f64::from(weight) * f64::from(1u32 << 31) * f64::from(1u32 << 13)).round_ties_even() as u64;
    let weight = |l: f32, h: f32| hob_kernels::naive::math::exp(l - h);
    let total = |all: &[Candidate]| {
        let h = best(all);
        all.iter().map(|c| whole(weight(c.logit, h))).sum::<u64>() as f64
    };
    let run = |all: &mut Vec<Candidate>, enough: &dyn Fn(u64) -> bool| {
        let (h, mut reached) = (best(all), 0);
        let last = all.iter().position(|c| {
            reached += whole(weight(c.logit, h));
            enough(reached)
        });
        all.truncate(last.unwrap() + 1);
    };
    all.sort_by(by_rank);
    all.truncate(if n.top_k > 0 { n.top_k } else { usize::MAX });
    if n.typical_p < 1.0 {
        let (h, wanted) = (best(&all), f64::from(n.typical_p) * total(&all));
        let depths = all.iter().filter(|c| h - c.logit < 99.0).map(|c| whole(weight(c.logit, h) * (h - c.logit))).sum::<u64>();
        let mean = (depths as f64 / total(&all)) as f32;
        all.sort_by(|a, b| (h - a.logit - mean).abs().total_cmp(&(h - b.logit - mean).abs()).then(by_rank(a, b)));
        run(&mut all, &|reached| reached as f64 > wanted);
        all.sort_by(by_rank);
    }
    if n.top_p < 1.0 {
        let wanted = f64::from(n.top_p) * total(&all);
        run(&mut all, &|reached| reached as f64 >= wanted);
    }
    let floor = best(&all) + libm::logf(n.min_p);
    all.retain(|c| n.min_p == 0.0 || c.logit >= floor);
    if n.xtc_probability > 0.0 && all.len() > 1 {
        units.unit();
        let (h, wanted) = (best(&all), f64::from(n.xtc_threshold) * total(&all) / f64::from(1u32 << 31) / f64::from(1u32 << 13));
        let top = all.iter().filter(|c| weight(c.logit, h) > 0.0 && f64::from(weight(c.logit, h)) >= wanted).count();
        all.drain(..top.saturating_sub(1));
    }
    let h = best(&all);
    all.iter_mut().filter(|_| n.temperature != 1.0).for_each(|c| c.logit = (c.logit - h) / n.temperature);
    all.sort_by_key(|c| c.token);
    let (h, total, mut reached) = (best(&all), total(&all), 0);
    let mark = (units.unit() * total) as u64;
    let drawn = all.iter().find(|c| {
        reached += whole(weight(c.logit, h));
        reached > mark.min(total as u64 - 1)
    });
    let token = drawn.unwrap().token;
    (all.iter().map(|c| (c.token, c.logit)).filter(|(_, l)| l.is_finite()).collect(), token)
}

/// Numbers from 0 to 1.
fn noise(n: usize) -> impl Iterator<Item = f32> {
    (1..=n as u32).map(|i| (i.wrapping_mul(2_654_435_761).rotate_left(13).wrapping_mul(2_246_822_519) >> 8) as f32 / (1u32 << 24) as f32)
}

#[test]
fn every_row_is_cut_and_drawn_from_as_if_all_of_it_were_sorted() {
    let bell = |n: usize| noise(4 * n).collect::<Vec<_>>().chunks(4).map(|x| 6.0 * x.iter().sum::<f32>()).collect::<Vec<_>>();
    let mut sharp = bell(3000);
    sharp.splice(700..704, [40.0, 39.0, 38.5, 38.5]);
    let mut masked = vec![f32::NEG_INFINITY; 8000];
    masked.iter_mut().zip(bell(8000)).step_by(37).for_each(|(m, l)| *m = l);
    let rows: [(&str, Vec<f32>); 10] = [
        ("bell", bell(6000)),
        ("sharp", sharp),
        ("flat", noise(6000).collect()),
        ("narrow", noise(3000).map(|x| 1e-3 * x - 5.0).collect()),
        ("ties", bell(3000).into_iter().map(f32::round).collect()),
        ("alike", vec![-2.5; 3000]),
        ("masked", masked),
        ("extreme", [3e38, -3e38, 2.9e38, 0.0, -0.0, 1e-40, -1e-40, f32::MIN_POSITIVE, -f32::MAX, f32::NEG_INFINITY].repeat(3)),
        ("tiny", [1e-44, 0.0, -1e-44, 3e-39, -3e-39].repeat(400)),
        ("huge", bell(140_000)),
    ];
    let typical = |p| open().typical_p(p).temperature(0.8);
    let xtc = |p| open().xtc_probability(1.0).xtc_threshold(p);
    let all = [
        vec![open(), open().temperature(1e-30), open().temperature(1e6), Sampling::new(3)],
        [0.0, 1e-30, 1e-7, 0.5, 0.95, 0.999_999_9, 1.0].map(|p| open().top_p(p).temperature(0.7)).to_vec(),
        [1, 40, 1024, 1025, 2500, 5999, usize::MAX].map(|k| open().top_k(k)).to_vec(),
        [1e-7, 0.3, 0.95, 0.999_999_9].map(typical).to_vec(),
        [1e-30, 0.05, 1.0].map(|p| open().min_p(p)).to_vec(),
        [0.0, 1e-7, 0.01, 0.1].map(xtc).to_vec(),
        vec![typical(0.9).top_k(3000).top_p(0.9).min_p(0.01), xtc(1e-4).top_k(2000).top_p(0.8).typical_p(0.9)],
    ];
    for (name, row) in rows {
        for sampling in all.concat().iter().step_by(if row.len() > 100_000 { 5 } else { 1 }) {
            let mut sampler = Sampler::new(sampling).unwrap();
            let mut units = sampler.clone();
            let (want, token) = plainly(sampling, &row, &mut units);
            let got = left(&mut sampler, &row);
            assert!(got == want, "{name}: {} kept, not {}: {sampling:?}", got.len(), want.len());
            assert_eq!(sampler.pending.unwrap().0, token, "{name}: {sampling:?}");
        }
    }
}

#[test]
fn penalties_touch_recent_tokens_only() {
    let mut sampler =
        Sampler::new(&Sampling::greedy().repeat_penalty(2.0).repeat_last_n(2).presence_penalty(0.5).frequency_penalty(0.25)).unwrap();
    for token in [0, 1, 2, 2] {
        sampler.accept(token);
    }
    let mut logits = [4.0, -4.0, 4.0];
    assert_eq!(sampler.sample(&mut logits).unwrap(), 0);
    assert_eq!(logits, [4.0, -4.0, 4.0 / 2.0 - 2.0 * 0.25 - 0.5]);
}

#[test]
fn impossible_logits_and_options_are_errors() {
    for logits in [[f32::NAN, 1.0], [f32::NEG_INFINITY; 2], [f32::INFINITY, 1.0]] {
        for sampling in [Sampling::greedy(), Sampling::new(1)] {
            assert!(matches!(Sampler::new(&sampling).unwrap().sample(&mut logits.clone()), Err(Error::Model(_))));
        }
    }
    assert!(matches!(Sampler::new(&Sampling::greedy().bias(9, 1.0)).unwrap().sample(&mut [1.0]), Err(Error::Input(_))));
    for sampling in [open().temperature(-1.0), open().temperature(f32::NAN), open().top_p(1.5), open().repeat_penalty(0.0)] {
        assert!(matches!(Sampler::new(&sampling), Err(Error::Input(_))), "{sampling:?}");
    }
    assert!(Sampler::new(&Sampling::default()).unwrap().sample(&mut []).is_err());
}

#[test]
fn the_caller_overrides_the_file() {
    let file = Sampling { temperature: Some(0.6), top_k: Some(20), ..Sampling::default() };
    let mut metadata = Metadata::new("test");
    metadata.set("general.sampling.temp", 0.6f32);
    metadata.set("general.sampling.top_k", 20i32);
    metadata.set("general.sampling.penalty_last_n", -1i32);
    let read = Sampling::from_gguf(&metadata).unwrap();
    assert_eq!(read, Sampling { repeat_last_n: Some(usize::MAX), ..file.clone() });
    let both = Sampling::new(7).temperature(0.2).over(&file);
    assert_eq!((both.temperature, both.top_k, both.top_p, both.seed), (Some(0.2), Some(20), None, Some(7)));
}

/// Probabilities 0.4, 0.3, 0.2, 0.1 at ids 2, 0, 3, 1.
fn four() -> [f32; 4] {
    [0.3f32, 0.1, 0.4, 0.2].map(libm::logf)
}

/// What is left when the token is chosen, ascending by id.
fn left(sampler: &mut Sampler, logits: &[f32]) -> Vec<(Token, f32)> {
    let mut row = logits.to_vec();
    sampler.sample(&mut row).unwrap();
    let tokens = &sampler.buffers.tokens;
    let tokens = if tokens.is_empty() { (0..row.len() as Token).collect() } else { tokens.clone() };
    tokens.into_iter().zip(row).filter(|(_, l)| l.is_finite()).collect()
}

fn tokens_left(sampling: Sampling, logits: &[f32]) -> Vec<Token> {
    left(&mut Sampler::new(&sampling).unwrap(), logits).iter().map(|(token, _)| *token).collect()
}

fn near(got: f64, want: f64) -> bool {
    (got - want).abs() < 2e-5
}

#[test]
fn the_rarer_cuts_keep_what_their_formulas_say() {
    let ninf = f32::NEG_INFINITY;
    // Logits 0 1 2 3: mean 1.5, deviation 1.118.
    let sigma: [(f32, &[f32], &[Token]); 4] = [
        (1.0, &[0.0, 1.0, 2.0, 3.0], &[2, 3]),
        (2.0, &[0.0, 1.0, 2.0, 3.0], &[1, 2, 3]),
        (1.0, &[ninf, 0.0, 2.0], &[2]),
        (2.0, &[ninf, 0.0, 2.0], &[1, 2]),
    ];
    for (n, logits, want) in sigma {
        assert_eq!(tokens_left(open().top_n_sigma(n), logits), want, "top_n_sigma {n}");
    }
    // The entropy is 1.2799: the distances are 0.0759, 0.3296, 0.3636, 1.0227 for 0.3, 0.2, 0.4, 0.1.
    let cases: [(Sampling, &[Token]); 9] = [
        (open().typical_p(0.25), &[0]),
        (open().typical_p(0.45), &[0, 3]),
        (open().typical_p(0.6), &[0, 2, 3]),
        (open().typical_p(0.95), &[0, 1, 2, 3]),
        (open().xtc_probability(1.0).xtc_threshold(0.25), &[0, 1, 3]),
        (open().xtc_probability(1.0).xtc_threshold(0.15), &[1, 3]),
        (open().xtc_probability(1.0).xtc_threshold(0.35), &[0, 1, 2, 3]),
        (open().xtc_probability(1.0).xtc_threshold(0.6), &[0, 1, 2, 3]),
        // A greedy choice is of what XTC leaves.
        (open().xtc_probability(1.0).xtc_threshold(0.25).temperature(0.0), &[0]),
    ];
    for (sampling, want) in cases {
        assert_eq!(tokens_left(sampling.clone(), &four()), want, "{sampling:?}");
    }
    let sampler = Sampler::new(&open().xtc_probability(0.25).xtc_threshold(0.25)).unwrap();
    let spared = (0..4000).scan(sampler, |s, _| Some(left(s, &four()).len() == 4)).filter(|all| *all).count();
    assert!((2850..3150).contains(&spared), "{spared}");
}

#[test]
fn the_order_is_the_callers() {
    use Step::*;
    let cut = open().temperature(2.0).top_p(0.65);
    assert_eq!(tokens_left(cut.clone(), &four()), [0, 2]);
    // At temperature 2 the probabilities are 0.325, 0.282, 0.230, 0.163.
    assert_eq!(tokens_left(cut.clone().steps(vec![Temperature, TopP]), &four()), [0, 2, 3]);
    assert_eq!(tokens_left(cut.steps(vec![Temperature]), &four()), [0, 1, 2, 3]);
    // The most probable goes first, then of three two are kept.
    let custom = open().top_k(2).custom(|c| c.retain(|c| c.token != 2));
    assert_eq!(tokens_left(custom.clone(), &four()), [0, 3]);
    assert_eq!(tokens_left(custom.steps(vec![TopK, Custom]), &four()), [0]);
    assert_eq!(Sampler::new(&Sampling::new(1)).unwrap().steps(), [TopK, TopP, MinP, Temperature]);
    assert_eq!(Sampler::new(&Sampling::greedy()).unwrap().steps(), [Temperature]);
    assert_eq!("top-k".parse::<Step>().unwrap(), TopK);
    assert!("adaptive_p".parse::<Step>().unwrap_err().to_string().contains("target"));
    let twice = open().custom(|c| c[0].token = 1);
    for broken in [open().custom(Vec::clear), open().custom(|c| c[0].logit = f32::NAN), open().custom(|c| c[0].token = 9), twice] {
        assert!(matches!(Sampler::new(&broken).unwrap().sample(&mut four()), Err(Error::Input(_))));
    }
}

#[test]
fn dynatemp_goes_with_the_entropy() {
    // Of 0.5, 0.25, 0.25 the entropy is 0.94639 of the most that three can have.
    let logits = [0.5f32, 0.25, 0.25].map(libm::logf);
    for (t, range, exponent, want) in [(1.0, 0.5, 1.0, -0.479_226), (1.0, 0.5, 2.0, -0.496_646), (0.25, 0.5, 1.0, -0.976_546)] {
        let sampling = open().temperature(t).dynatemp_range(range).dynatemp_exponent(exponent);
        let got = left(&mut Sampler::new(&sampling).unwrap(), &logits);
        assert!(got[0].1 == 0.0 && near(f64::from(got[1].1), want) && got[1].1 == got[2].1, "{got:?}, not {want}");
    }
}

#[test]
fn mirostat_holds_the_surprise() {
    // Surprises in bits: 1.32, 1.74, 2.32, 3.32. A target of 1 begins with a bound of 2; of the two left the surprises are 0.807, 1.222.
    let mut sampler = Sampler::new(&open().mirostat(Mirostat::V2).mirostat_tau(1.0).mirostat_eta(0.5)).unwrap();
    assert_eq!(left(&mut sampler, &four()).len(), 2);
    let token = sampler.pending.unwrap().0;
    sampler.accept(9);
    assert_eq!(sampler.learnt().mu, 2.0, "what was not said teaches nothing");
    let want = |token| if token == 2 { 2.096_323 } else { 1.888_804 };
    sampler.pending = None;
    let again = sampler.sample(&mut four()).unwrap();
    sampler.accept(again);
    assert!([0, 2].contains(&token) && near(sampler.learnt().mu, want(again)), "{:?}", sampler.learnt());
    // A bound below every surprise leaves the best alone.
    let mut sampler = Sampler::new(&open().mirostat(Mirostat::V2).mirostat_tau(0.5).mirostat_eta(0.5)).unwrap();
    assert_eq!(left(&mut sampler, &four()).len(), 1);
    sampler.accept(2);
    assert!(near(sampler.learnt().mu, 1.25));
    // Zipf's law with exponent 2 over 4 tokens: k = sqrt(2^(2τ) / 0.75).
    let zipf = [1.0f32, 1.0 / 4.0, 1.0 / 9.0, 1.0 / 16.0].map(libm::logf);
    for (tau, k) in [(1.0, 2), (1.5, 3), (0.25, 1)] {
        let mut sampler = Sampler::new(&open().mirostat(Mirostat::V1).mirostat_tau(tau)).unwrap();
        assert_eq!(left(&mut sampler, &zipf).len(), k, "τ {tau}");
    }
    assert!(matches!(Sampler::new(&open().mirostat(Mirostat::V1).adaptive_target(0.5)), Err(Error::Input(_))));
}

#[test]
fn adaptive_p_chooses_near_its_target_and_corrects_itself() {
    let mut sampler = Sampler::new(&open().adaptive_target(0.3).adaptive_decay(0.5)).unwrap();
    let got = left(&mut sampler, &four());
    for ((_, got), want) in got.iter().zip([5.0, 2.333_333, 4.166_667, 4.166_667]) {
        assert!(near(f64::from(*got), want), "{got}, not {want}");
    }
    let (token, _) = sampler.pending.unwrap();
    sampler.accept(token);
    let p = libm::exp(f64::from(four()[token as usize]));
    assert!(near(sampler.learnt().sum, p + 0.3) && near(sampler.learnt().weight, 2.0));
}

#[test]
fn dry_makes_repetitions_dear_up_to_a_breaker() {
    let gguf = crate::gguf::Gguf::from_static(crate::fake::TINY).unwrap();
    let tokenizer = Tokenizer::from_gguf(gguf.metadata(), &TokenizerOptions::default()).unwrap();
    let tokens = |text: &str| tokenizer.encode(text, Special::Literal).unwrap();
    let x = tokens("X")[0];
    // What was said, the breakers, what is taken from X.
    let cases: [(&str, &[&str], f32); 8] = [
        ("abcXabc", &[], 2.0),
        ("abXab", &[], 1.0),
        ("bXb", &[], 0.0),
        ("abcXabc", &["b"], 0.0),
        ("abcXabc", &["bc"], 0.0),
        ("abcXabc", &["aX", ":"], 2.0),
        ("abcXabc", &["X"], 0.0),
        ("zbcXabcXbc", &[], 1.0),
    ];
    for (said, breakers, want) in cases {
        let breakers = breakers.iter().map(|b| (*b).to_owned()).collect();
        let sampling = Sampling::greedy().dry_multiplier(1.0).dry_base(2.0).dry_sequence_breakers(breakers);
        let mut sampler = Sampler::new(&sampling).unwrap();
        sampler.vocabulary(&tokenizer);
        tokens(said).into_iter().for_each(|token| sampler.accept(token));
        let mut logits = vec![0.0; tokenizer.vocab_size()];
        sampler.sample(&mut logits).unwrap();
        assert_eq!(logits[x as usize], -want, "{said}");
        assert_eq!(logits.iter().filter(|l| **l != 0.0).count(), usize::from(want > 0.0), "{said}");
        sampler.forget();
        logits.fill(0.0);
        sampler.sample(&mut logits).unwrap();
        assert!(logits.iter().all(|l| *l == 0.0));
    }
    let error = Sampler::new(&Sampling::greedy().dry_multiplier(1.0)).unwrap().sample(&mut [1.0]).unwrap_err();
    assert!(error.to_string().contains("Sampler::vocabulary"), "{error}");
}

#[test]
fn log_probabilities_are_those_of_the_whole_row() {
    let probs = logprobs(&four(), 1, 2).unwrap();
    let want = [(2, 0.4f64), (0, 0.3)];
    assert!(near(f64::from(probs.logprob), libm::log(0.1)));
    assert!(probs.top.iter().zip(want).all(|((t, l), (token, p))| *t == token && near(f64::from(*l), libm::log(p))), "{probs:?}");
    assert!(logprobs(&four(), 4, 0).is_err() && logprobs(&[f32::NAN], 0, 0).is_err());
    assert!(logprobs(&four(), 0, 9).unwrap().top.len() == 4);
}

#[test]
fn a_file_may_recommend_all_that_ggufs_have_keys_for() {
    let mut metadata = Metadata::new("test");
    metadata.set("general.sampling.sequence", "top_k;a_new_one;temperature");
    metadata.set("general.sampling.xtc_probability", 0.5f32);
    metadata.set("general.sampling.mirostat", 2i32);
    metadata.set("general.sampling.mirostat_tau", 4.0f32);
    let want = Sampling::default().steps(vec![Step::TopK, Step::Temperature]).xtc_probability(0.5);
    assert_eq!(Sampling::from_gguf(&metadata).unwrap(), want.mirostat(Mirostat::V2).mirostat_tau(4.0));
}

#[test]
fn a_draw_finds_the_block_that_its_number_falls_into() {
    // 1000 alike, of which some cannot be: the number says which, wherever blocks begin and end.
    let all: Vec<Token> = (0..1000).filter(|i| !(100..300).contains(i) && *i < 960).collect();
    let mut logits = vec![f32::NEG_INFINITY; 1000];
    all.iter().for_each(|i| logits[*i as usize] = 2.0);
    let mut buffers = Buffers::default();
    for (place, token) in all.iter().enumerate() {
        for moved in [false, true] {
            let mut row = logits.clone();
            let mut candidates = Candidates::new(&mut row, &mut buffers).unwrap();
            if moved {
                let list = candidates.list();
                candidates.take_list(list.into_iter().filter(|c| c.logit == 2.0).collect());
            }
            let (at, p) = candidates.draw((place as f64 + 0.5) / all.len() as f64);
            assert_eq!((candidates.token(at), p), (*token, 1.0 / all.len() as f64));
        }
    }
    // Rounding may put the mark at the very end.
    let (at, _) = Candidates::new(&mut logits, &mut buffers).unwrap().draw(1.0);
    assert_eq!(at, 959);
}
