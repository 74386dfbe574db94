//! How a generation goes on: a token is forced, sampled, or taken back, and becomes part of the session.

use std::time::Instant;

use super::course::{Course, Ends, WhenFull};
use super::watch::{Said, Verdict};
use super::{EndReason, Session};
use crate::error::{Error, Fault, Result};
use crate::sampler::{Drawn, Sampler, logprobs};
use crate::tokenizer::Token;

impl Session {
    /// The next token of a generation, which becomes part of the session; `None` when it has ended.
    pub(super) fn advance(&mut self, sampler: &mut Sampler, course: &mut Course) -> Option<Result<Token>> {
        loop {
            if let Some(said) = course.ready.pop_front() {
                course.logprobs.clear();
                course.logprobs.extend(said.logprobs);
                return Some(Ok(said.token));
            }
            if course.is_over() {
                return None;
            }
            if let Err(error) = self.turn(sampler, course) {
                return Some(Err(error));
            }
        }
    }

    /// The next piece of a generation's text; `None` when it has ended.
    pub(crate) fn advance_text(&mut self, sampler: &mut Sampler, course: &mut Course) -> Option<Result<String>> {
        loop {
            course.logprobs.extend(course.ready.drain(..).filter_map(|said| said.logprobs));
            if !course.piece.is_empty() {
                return Some(Ok(std::mem::take(&mut course.piece)));
            }
            if course.is_over() || course.is_paused() {
                return None;
            }
            if let Err(error) = self.turn(sampler, course) {
                return Some(Err(error));
            }
        }
    }

    /// Comes to where a generation was, by the record of what it sampled. Log-probabilities are not among what it brings back.
    pub(crate) fn replay(&mut self, record: &[(Token, Drawn)], sampler: &mut Sampler, course: &mut Course) -> Result<()> {
        let (top, kept) = (course.top.take(), course.record.take());
        for &(token, drawn) in record {
            if course.is_over() || course.left == 0 || self.tokens.len() >= self.capacity() {
                break;
            }
            self.add(token, sampler, course)?;
            sampler.go_on(drawn);
            self.stats.generated_tokens = 0;
        }
        (course.top, course.record) = (top, kept);
        Ok(())
    }

    /// Takes a generation one token further, or to its end.
    fn turn(&mut self, sampler: &mut Sampler, course: &mut Course) -> Result<()> {
        if let Some(end) = course.ends_before(self.capacity() - self.tokens.len()) {
            match (end, course.full) {
                (EndReason::ContextFull, WhenFull::Pause) => course.paused = true,
                (end, _) => course.finish(end),
            }
            return self.settle();
        }
        let start = Instant::now();
        let done = course.check().and_then(|()| self.choose(sampler, course)).and_then(|token| match token {
            Some(token) => self.add(token, sampler, course),
            None => Ok(()),
        });
        self.stats.generate_time += start.elapsed();
        match done {
            Err(Error::Cancelled) => {
                self.stop.clear();
                course.finish(EndReason::Cancelled);
                Ok(())
            }
            Err(error) => {
                course.over = true;
                Err(error)
            }
            Ok(()) => Ok(()),
        }
    }

    /// Makes a token that was sampled part of the session, unless it ends the generation, now or together with those before.
    fn add(&mut self, token: Token, sampler: &mut Sampler, course: &mut Course) -> Result<()> {
        if (course.ends == Ends::Stop || course.guide.is_some()) && self.model.tokenizer().is_end(token) {
            course.finish(EndReason::EndOfTurn);
            return Ok(());
        }
        let logprobs = course.top.map(|top| logprobs(&self.logits, token, top)).transpose()?;
        let learnt = sampler.learnt();
        course.guide.as_mut().map_or(Ok(()), |guide| guide.accept(token))?;
        sampler.accept(token);
        self.tokens.push(token);
        self.followed(token)?;
        self.stats.generated_tokens += 1;
        course.left -= 1;
        let done = match course.hear(self.model.tokenizer(), Said { token, logprobs }, learnt, self.tokens.len()) {
            Verdict::GoOn => Ok(()),
            Verdict::Stop(cut) => self.truncate(self.tokens.len() - cut),
            Verdict::Banned(back, token, learnt) => {
                let position = self.tokens.len() - back;
                course.guide.as_mut().map_or(Ok(()), |guide| guide.take_back(back))?;
                course.closing.clear();
                course.forced.clear();
                self.truncate(position)?;
                sampler.forget();
                self.tokens.iter().for_each(|token| sampler.accept(*token));
                sampler.relearn(learnt);
                course.watch.forbid(position, token);
                course.left += back;
                self.stats.generated_tokens = self.stats.generated_tokens.saturating_sub(back);
                Ok(())
            }
        };
        if let Some(record) = &mut course.record {
            record.push((token, sampler.drawn()));
        }
        done
    }

    /// The next token: one that is forced, the model's, or one that ends the text as its grammar wants it while there is room for that; `None` where it
    /// has ended so.
    fn choose(&mut self, sampler: &mut Sampler, course: &mut Course) -> Result<Option<Token>> {
        if let Some(token) = course.forced.pop_front() {
            if course.top.is_some() {
                self.compute(0)?;
            }
            return Ok(Some(token));
        }
        if course.closing.is_empty() {
            let token = self.next_token(sampler, course)?;
            let left = match course.full {
                WhenFull::End => self.capacity() - self.tokens.len(),
                // There will be room again.
                WhenFull::Pause => usize::MAX,
            };
            let Some(guide) = &mut course.guide else { return Ok(Some(token)) };
            let Some(closing) = guide.closes(token, course.left.min(left))? else { return Ok(Some(token)) };
            course.limit = Some(if course.left > left { EndReason::ContextFull } else { EndReason::MaxTokens });
            course.closing = closing.into();
        } else if course.top.is_some() {
            self.compute(0)?;
        }
        Ok(course.closing.pop_front())
    }

    /// The token that the sampler chooses.
    fn next_token(&mut self, sampler: &mut Sampler, course: &mut Course) -> Result<Token> {
        let at = self.tokens.len();
        let only = match &mut course.guide {
            Some(guide) if at > 0 && course.top.is_none() && !sampler.has_custom() => guide.only()?,
            Some(_) | None => None,
        };
        self.scratch.clear();
        match only.filter(|only| !course.watch.forbidden(at).any(|token| token == *only)) {
            // Whatever the logits are: the model computes this token together with the next ones.
            Some(only) if !self.stop.is_cancelled() => {
                self.scratch.resize(self.model.config().vocab, f32::NEG_INFINITY);
                self.scratch[only as usize] = 0.0;
            }
            Some(_) | None => {
                self.compute(course.left)?;
                self.scratch.extend_from_slice(&self.logits);
            }
        }
        let mut forbids = false;
        for token in course.watch.forbidden(at) {
            self.scratch[token as usize] = f32::NEG_INFINITY;
            forbids = true;
        }
        let Some(guide) = &mut course.guide else { return sampler.sample(&mut self.scratch) };
        guide.mask(&mut self.scratch)?;
        if forbids && self.scratch.iter().all(|logit| *logit == f32::NEG_INFINITY) {
            let fault = Fault::at("banned string").found("the grammar leaves nothing else to say here");
            return Err(Error::Input(fault.help("allow the string, or a grammar that has another way")));
        }
        sampler.sample(&mut self.scratch)
    }
}
