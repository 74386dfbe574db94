//! With and without speculation the same text comes out, whatever samples it and whatever holds it back.

use super::*;
use crate::fake::TINY;
use crate::grammar::Grammar;
use crate::model::Model;
use crate::sampler::{Logprobs, Mirostat, Sampler, Sampling};

fn model(speculation: Speculation) -> Model {
    Model::options().threads(1).context(160).speculation(speculation).from_static(TINY).unwrap()
}

/// A prompt that repeats itself.
fn prompt(model: &Model) -> Vec<Token> {
    model.tokenizer().encode("one two three, one two three, one two", crate::tokenizer::Special::Literal).unwrap()
}

#[derive(Debug, PartialEq)]
struct Said {
    text: String,
    tokens: Vec<Token>,
    logits: Vec<f32>,
    logprobs: Vec<Logprobs>,
    end: Option<crate::EndReason>,
}

/// What is generated, drafting so many tokens at every step; and how many came true.
fn say(model: &Model, always: usize, sampling: &Sampling, case: usize) -> (Said, usize) {
    let mut session = model.session().unwrap();
    session.speculator.gate.always = Some(always);
    session.feed(&prompt(model)).unwrap();
    let generator = session.generate(Sampler::new(sampling).unwrap()).ignore_end().max_tokens(24);
    let generator = match case {
        0 => generator,
        1 => generator.stop("e").stop("zq"),
        2 => generator.ban("a").ban("th").ban("on"),
        3 => generator.grammar(&Grammar::Regex("(one|two|three|, | ){5,30}!".into())).unwrap().logprobs(2),
        _ => generator.grammar(&Grammar::Json).unwrap().ban("\"}").max_tokens(24),
    };
    let mut pieces = generator.text();
    let text = pieces.by_ref().collect::<Result<String>>().unwrap();
    let (end, logprobs) = (pieces.end(), pieces.logprobs().to_vec());
    drop(pieces);
    let tokens = session.tokens().to_vec();
    assert!(session.cache.len() <= tokens.len());
    // A generation that is left before its end leaves nothing wrong.
    drop(session.generate(Sampler::new(sampling).unwrap()).ignore_end().next());
    assert!(session.logits().is_empty() || session.logits().len() == model.config().vocab);
    let fork = session.fork().unwrap();
    assert_eq!((fork.len(), fork.cache.len() <= fork.len()), (session.len(), true));
    // What comes after has the same bits too.
    session.feed(&[7, 8]).unwrap();
    (Said { text, tokens, logits: session.logits().to_vec(), logprobs, end }, session.stats().accepted)
}

#[test]
fn the_text_is_that_of_plain_decoding() {
    let (plain, lookup) = (model(Speculation::Off), model(Speculation::Lookup));
    let draft = model(Speculation::Draft(model(Speculation::Off)));
    let samplings = [
        Sampling::greedy(),
        Sampling::greedy().repeat_penalty(1.3).dry_multiplier(0.8),
        Sampling::new(1).temperature(0.7),
        Sampling::new(2).mirostat(Mirostat::V2).mirostat_tau(3.0),
        Sampling::new(3).adaptive_target(0.4).xtc_probability(0.5),
    ];
    let cases = if cfg!(feature = "grammar") { 5 } else { 3 };
    let (mut looked_up, mut drafted) = (0, 0);
    for sampling in &samplings {
        for case in 0..cases {
            let (want, none) = say(&plain, 0, sampling, case);
            assert_eq!(none, 0);
            let always = [2, 15][case % 2];
            let (got, accepted) = say(&lookup, always, sampling, case);
            assert_eq!(got, want, "{sampling:?}, case {case}, {always} looked up");
            looked_up += accepted;
            let (got, accepted) = say(&draft, 3, sampling, case);
            assert_eq!(got, want, "{sampling:?}, case {case}, drafted");
            drafted += accepted;
        }
    }
    assert!(looked_up > 10 && drafted > 100, "{looked_up} {drafted}");
}

#[test]
fn what_stood_there_before_is_found() {
    let tokens = [1, 2, 3, 4, 9, 2, 3, 5, 9, 1, 2, 3];
    assert_eq!(look_up(&tokens, 3), Some((3, vec![4, 9, 2])));
    assert_eq!(look_up(&[2, 3, 7, 2, 3, 8, 2, 3], 2), Some((2, vec![8, 2])), "of equals the last");
    assert_eq!(look_up(&[5, 6, 5, 6, 5], 4), Some((3, vec![6, 5, 6, 5])), "round and round");
    assert_eq!((look_up(&[1, 2, 3], 4), look_up(&[], 4)), (None, None));
}

#[test]
fn the_gate_opens_where_it_pays() {
    let mut gate = Gate::default();
    assert_eq!(gate.choose(2, 15), 0, "nothing is known");
    gate.took(1, 1.0);
    assert!(gate.choose(2, 15) > 0, "a try");
    (2..=16).for_each(|n| gate.took(n, 0.6 + 0.4 * n as f64));
    gate.found = 2;
    (0..60).for_each(|_| gate.learn(true));
    assert!(gate.choose(2, 15) >= 7, "{gate:?}");
    assert_eq!(gate.choose(2, 1), 1);
    (0..60).for_each(|_| gate.learn(false));
    assert_eq!(gate.choose(2, 15), 0, "{gate:?}");
    // A step that is as dear as its tokens never pays.
    let mut gate = Gate { right: [1.0; 4], ..Gate::default() };
    (1..=16).for_each(|n| (0..9).for_each(|_| gate.took(n, n as f64)));
    assert_eq!(gate.choose(0, 15), 0);
}

#[test]
fn a_draft_model_has_the_same_vocabulary_and_recurrent_models_do_without() {
    let drafted = model(Speculation::Draft(model(Speculation::Off)));
    assert!(matches!(drafted.speculation(), Speculation::Draft(_)));
    // A token is spelt in another way: its length and its text, as the file has them, with another last letter.
    let (id, text) = (300..).find_map(|id| Some((id, drafted.tokenizer().token_text(id)?))).unwrap();
    let spelt = [&(text.len() as u64).to_le_bytes(), text.as_bytes()].concat();
    let mut file = TINY.to_vec();
    let at = file.windows(spelt.len()).position(|w| w == spelt).unwrap() + spelt.len() - 1;
    file[at] = b'~';
    let other = Model::options().build(crate::gguf::Gguf::from_static(file.leak()).unwrap()).unwrap();
    let error = Model::options().speculation(Speculation::Draft(other)).from_static(TINY).unwrap_err().to_string();
    assert!(error.contains("draft model") && error.contains(&format!("token {id} as")), "{error}");
    let (recurrent, _) =
        crate::fake::recurrent_model(&Model::options().speculation(Speculation::Lookup).context(64), "abab", std::time::Duration::ZERO);
    assert!(recurrent.session().unwrap().speculator.is_off());
    assert!(recurrent.notices().iter().any(|notice| notice.contains("speculation")), "{:?}", recurrent.notices());
}
