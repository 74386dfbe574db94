//! Sessions over a decoder that computes nothing: what is computed when, and what is left after errors and cancels.

use super::*;
use crate::fake::{Asked, model, recurrent_model};
use crate::sampler::Sampling;
use std::time::Duration;

const ANSWER: &str = "abc";

fn options() -> crate::ModelOptions {
    Model::options().context(32).micro_batch(4)
}

fn greedy() -> Sampler {
    Sampler::new(&Sampling::greedy()).unwrap()
}

#[test]
fn a_prompt_is_computed_in_micro_batches_with_one_row_of_logits() {
    let (model, asked) = model(&options(), ANSWER, Duration::ZERO);
    let mut session = model.session().unwrap();
    session.feed(&[1, 2, 3, 4, 5, 6, 7, 8, 9, 10]).unwrap();
    let batch = |position: usize, tokens: &[Token], rows| Asked { position, tokens: tokens.to_vec(), rows };
    assert_eq!(*asked.lock().unwrap(), [batch(0, &[1, 2, 3, 4], 0), batch(4, &[5, 6, 7, 8], 0), batch(8, &[9, 10], 1)]);
    assert_eq!((session.len(), session.stats().prompt_tokens, session.logits().len()), (10, 10, model.config().vocab));
    let mut rows = 0;
    session
        .logits_of_all(&[1, 2, 3, 4, 5], |row| {
            rows += 1;
            assert_eq!(row.len(), model.config().vocab);
            Ok(())
        })
        .unwrap();
    assert_eq!((rows, session.len(), session.logits().len()), (5, 15, model.config().vocab));
}

#[test]
fn what_does_not_fit_changes_nothing() {
    let (model, _) = model(&options(), ANSWER, Duration::ZERO);
    let mut session = model.session().unwrap();
    session.feed(&[1; 30]).unwrap();
    let error = session.feed(&[1; 3]).unwrap_err();
    assert!(matches!(error, Error::Input(_)));
    assert_eq!(
        error.to_string(),
        "prompt: expected at most 2 tokens in what is left of a context of 32, found 3 tokens; shorten the prompt, or open the model with a larger context"
    );
    assert_eq!(session.len(), 30);
    session.feed(&[1; 2]).unwrap();
}

#[test]
fn a_generation_says_why_it_ended() {
    let (model, asked) = model(&options(), ANSWER, Duration::ZERO);
    let answer = model.tokenizer().encode(ANSWER, crate::tokenizer::Special::Literal).unwrap();
    // How it is limited, the tokens it gives, its end.
    let mut session = model.session().unwrap();
    session.feed(&[1, 2]).unwrap();
    let mut generator = session.generate(greedy());
    let tokens: Vec<Token> = generator.by_ref().map(Result::unwrap).collect();
    assert_eq!((tokens, generator.end()), (answer.clone(), Some(EndReason::EndOfTurn)));
    assert!(generator.next().is_none());
    // The end token is no part of the session, and each token handed out was computed once.
    assert_eq!(session.len(), 2 + answer.len());
    assert_eq!(asked.lock().unwrap().iter().map(|a| a.tokens.len()).sum::<usize>(), 2 + answer.len());
    assert_eq!((session.stats().generated_tokens, session.stats().steps), (answer.len(), answer.len()));

    let mut session = model.session().unwrap();
    session.feed(&[1]).unwrap();
    let mut generator = session.generate(greedy()).max_tokens(2);
    assert_eq!((generator.by_ref().count(), generator.end()), (2, Some(EndReason::MaxTokens)));
    assert_eq!((session.len(), session.logits().len()), (3, 0));

    let mut session = model.session().unwrap();
    session.feed(&[1; 20]).unwrap();
    let mut generator = session.generate(greedy()).ignore_end();
    assert_eq!((generator.by_ref().count(), generator.end()), (12, Some(EndReason::ContextFull)));

    let mut session = model.session().unwrap();
    assert!(matches!(session.generate(greedy()).next(), Some(Err(Error::Input(_)))));
}

#[test]
fn after_a_cut_the_last_token_is_computed_again() {
    let (model, asked) = model(&options(), ANSWER, Duration::ZERO);
    let mut session = model.session().unwrap();
    session.feed(&[1, 2, 3]).unwrap();
    session.truncate(2).unwrap();
    assert!(session.logits().is_empty());
    asked.lock().unwrap().clear();
    assert!(session.generate(greedy()).next().is_some());
    assert_eq!(*asked.lock().unwrap(), [Asked { position: 1, tokens: vec![2], rows: 1 }]);
    let mut fork = session.fork().unwrap();
    fork.truncate(1).unwrap();
    assert_eq!((fork.len(), session.len()), (1, 3));
    session.clear().unwrap();
    assert!(session.is_empty());
}

/// What was computed: first position and number of tokens of each step.
fn steps(asked: &std::sync::Mutex<Vec<Asked>>) -> Vec<(usize, usize)> {
    asked.lock().unwrap().drain(..).map(|a| (a.position, a.tokens.len())).collect()
}

#[test]
fn a_recurrent_cache_goes_back_to_a_mark() {
    let options = Model::options().context(256).micro_batch(64);
    let (model, asked) = recurrent_model(&options, ANSWER, Duration::ZERO);
    let mut session = model.session().unwrap();
    session.feed(&[1; 100]).unwrap();
    // The mark is 32 tokens before the end, and no step ends for it.
    assert_eq!(steps(&asked), [(0, 64), (64, 36)]);
    session.truncate(90).unwrap();
    assert_eq!((session.len(), session.computed()), (90, 68));
    session.feed(&[2; 3]).unwrap();
    assert_eq!(steps(&asked), [(68, 25)]);
    // A short prompt is marked where it begins, and a cut before all marks starts again.
    session.feed(&[3; 5]).unwrap();
    assert_eq!(steps(&asked), [(93, 5)]);
    session.truncate(95).unwrap();
    assert_eq!((session.len(), session.computed()), (95, 93));
    session.truncate(50).unwrap();
    assert_eq!((session.len(), session.computed()), (50, 0));
    assert!(session.generate(greedy()).ignore_end().next().is_some());
    assert_eq!(steps(&asked), [(0, 50)]);
    let fork = session.fork().unwrap();
    assert_eq!((fork.len(), fork.computed()), (51, 50));
    session.clear().unwrap();
    session.feed(&[1; 3]).unwrap();
    assert_eq!(steps(&asked), [(0, 3)]);
    // Token by token there is a mark at the first and then one in 32, not one a token.
    (0..40).for_each(|_| session.feed(&[4]).unwrap());
    for (cut, computed) in [(40, 35), (30, 3)] {
        session.truncate(cut).unwrap();
        assert_eq!(session.computed(), computed);
    }
    // As many as a plan counts, of a cache that is one copy.
    let taken: u64 = session.marks.taken.iter().map(crate::cache::Checkpoint::bytes).sum();
    let copy = session.cache.bytes();
    assert!(taken > 0 && taken <= most_bytes_of_marks(copy, copy, copy), "{taken}");
    // Two marks are taken within a step; it ends at a third. There is room for the last two.
    session.clear().unwrap();
    steps(&asked);
    session.expect_cuts([10, 20, 30, 45]);
    session.feed(&[1; 50]).unwrap();
    assert_eq!(steps(&asked), [(0, 30), (30, 20)]);
    for (cut, computed) in [(46, 45), (40, 30), (29, 0)] {
        session.truncate(cut).unwrap();
        assert_eq!(session.computed(), computed);
    }
}

#[test]
fn a_recurrent_cache_survives_a_cancel_by_its_mark() {
    let options = Model::options().context(256).micro_batch(64);
    let (model, asked) = recurrent_model(&options, ANSWER, Duration::ZERO);
    let mut session = model.session().unwrap();
    session.feed(&[1; 40]).unwrap();
    session.canceller().cancel();
    assert!(matches!(session.feed(&[2; 40]), Err(Error::Cancelled)));
    // The tokens fed before are still there, their states only as far as the last mark.
    assert_eq!((session.len(), session.computed()), (40, 8));
    steps(&asked);
    session.feed(&[2; 3]).unwrap();
    assert_eq!(steps(&asked), [(8, 35)]);
    assert_eq!(session.len(), 43);
}

#[test]
fn a_cancel_ends_one_piece_of_work_soon() {
    let (model, _) = model(&options().context(4096), ANSWER, Duration::from_millis(2));
    let mut session = model.session().unwrap();
    let canceller = session.canceller();
    let thread = std::thread::spawn(move || {
        std::thread::sleep(Duration::from_millis(60));
        canceller.cancel();
        Instant::now()
    });
    assert!(matches!(session.feed(&[1; 2000]), Err(Error::Cancelled)));
    let late = Instant::now().saturating_duration_since(thread.join().unwrap());
    assert!(late < Duration::from_millis(100), "{late:?}");
    // What was computed stays, and work goes on.
    let computed = session.len();
    assert!(computed > 0 && computed < 2000 && computed % 4 == 0);
    session.feed(&[1]).unwrap();
    session.canceller().cancel();
    let mut generator = session.generate(greedy());
    assert!(generator.next().is_none());
    assert_eq!(generator.end(), Some(EndReason::Cancelled));
    assert!(session.generate(greedy()).next().is_some());
    assert_eq!(session.len(), computed + 2);
}

#[test]
fn a_stop_string_ends_a_generation_before_it() {
    let (model, _) = model(&options(), "abcdef", Duration::ZERO);
    let tokens = |text: &str| model.tokenizer().encode(text, crate::tokenizer::Special::Literal).unwrap();
    let mut session = model.session().unwrap();
    session.feed(&[1, 2]).unwrap();
    let mut generator = session.generate(greedy()).stop("cde").logprobs(1);
    let got: Vec<Token> = generator.by_ref().map(Result::unwrap).collect();
    assert_eq!((got, generator.end()), (tokens("ab"), Some(EndReason::StopString)));
    let last = generator.last_logprobs().unwrap();
    assert_eq!((last.token, last.top.len(), last.top[0].0), (tokens("b")[0], 1, tokens("b")[0]));
    assert_eq!(session.len(), 4);
    let mut session = model.session().unwrap();
    session.feed(&[1]).unwrap();
    assert!(matches!(session.generate(greedy()).stop("").next(), Some(Err(Error::Input(_)))));
}

#[test]
fn a_banned_string_is_taken_back_to_the_token_that_began_it() {
    // What is banned, what is said instead: the decoder goes on with what it says next whatever it has heard.
    for (ban, want) in [("cd", "abef"), ("e", "abcdf"), ("zz", "abcdef"), ("f", "abcde")] {
        let (model, _) = model(&options(), "abcdef", Duration::ZERO);
        let mut session = model.session().unwrap();
        session.feed(&[1, 2]).unwrap();
        let mut pieces = session.generate(greedy()).ban(ban).text();
        let text: String = pieces.by_ref().map(Result::unwrap).collect();
        assert_eq!(
            (text.replace(|c: char| !c.is_ascii_lowercase(), "").as_str(), pieces.end()),
            (want, Some(EndReason::EndOfTurn)),
            "{ban}"
        );
        assert_eq!(session.stats().generated_tokens, session.len() - 2);
    }
}

#[test]
fn models_are_shared_and_sessions_move() {
    fn shared<T: Send + Sync + Clone>() {}
    fn moves<T: Send>() {}
    shared::<Model>();
    shared::<Canceller>();
    shared::<crate::ChatTemplate>();
    moves::<Session>();
    moves::<crate::Chat>();
    moves::<Sampler>();
    moves::<Generator<'static>>();
    moves::<crate::Reply<'static>>();
    moves::<Error>();
}
