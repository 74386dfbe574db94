//! A finished answer as one JSON object, and its log-probabilities as lines.

use std::io::Write;

use hob::tokenizer::{Token, Tokenizer};
use hob::{EndReason, Error, Event, Logprobs, Model, Reply, Result, Stats};
use serde_json::{Value, json};

use crate::failure::Failure;
use crate::reply::Ending;
use crate::terminal::{Waiting, note};

/// What `hob run --json` tells of a reply.
#[derive(Default)]
pub(crate) struct Answer {
    text: String,
    thinking: String,
    calls: Vec<Value>,
    end: Option<EndReason>,
    whole: bool,
    pub(crate) tokens: Option<Vec<Token>>,
    pub(crate) logprobs: Vec<Logprobs>,
    stats: Stats,
}

impl Answer {
    /// All of a reply of `model`.
    pub(crate) fn of(reply: &mut Reply<'_>, model: &Model) -> Result<Answer> {
        let mut answer = Answer::default();
        let waiting = Waiting::on_model(model, "answering".into());
        for event in reply.events() {
            match event {
                Ok(Event::Answer(text) | Event::Malformed { raw: text, .. }) => answer.text.push_str(&text),
                Ok(Event::Thinking(text)) => answer.thinking.push_str(&text),
                Ok(Event::Call(call)) => answer.calls.push(json!({"id": call.id, "name": call.name, "arguments": call.arguments})),
                Ok(_) => {}
                Err(Error::Cancelled) => break,
                Err(error) => return Err(error),
            }
        }
        drop(waiting);
        (answer.end, answer.whole, answer.stats) = (reply.end(), reply.is_whole(), reply.stats());
        answer.logprobs = reply.logprobs().to_vec();
        Ok(answer)
    }

    /// All of a text that goes on from another.
    pub(crate) fn of_text(text: String, end: Option<EndReason>, whole: bool, stats: Stats) -> Answer {
        Answer { text, end, whole, stats, ..Answer::default() }
    }

    /// Writes it.
    pub(crate) fn write(&self, model: &Model, seed: Option<u64>, out: &mut dyn Write) -> Result<Ending, Failure> {
        let s = &self.stats;
        let mut object = json!({
            "text": self.text,
            "thinking": self.thinking,
            "calls": self.calls,
            "end": self.end.map(name),
            "whole": self.whole,
            "stats": {
                "prompt_tokens": s.prompt_tokens,
                "reused_tokens": s.reused_tokens,
                "generated_tokens": s.generated_tokens,
                "prompt_seconds": s.prompt_time.as_secs_f64(),
                "generate_seconds": s.generate_time.as_secs_f64(),
                "prompt_rate": s.prompt_rate(),
                "generate_rate": s.generate_rate(),
            },
            "seed": seed,
        });
        if let Some(tokens) = &self.tokens {
            object["tokens"] = json!(tokens);
        }
        if !self.logprobs.is_empty() {
            object["logprobs"] = self.logprobs.iter().map(|one| probability(one, model.tokenizer())).collect();
        }
        serde_json::to_writer(&mut *out, &object).map_err(std::io::Error::from)?;
        out.write_all(b"\n")?;
        out.flush()?;
        Ok(if self.end == Some(EndReason::Cancelled) { Ending::Interrupted } else { Ending::Complete })
    }
}

fn name(end: EndReason) -> &'static str {
    match end {
        EndReason::EndOfTurn => "end_of_turn",
        EndReason::MaxTokens => "max_tokens",
        EndReason::ContextFull => "context_full",
        EndReason::Cancelled => "cancelled",
        EndReason::StopString => "stop_string",
    }
}

fn probability(one: &Logprobs, tokenizer: &Tokenizer) -> Value {
    let told = |token: Token, logprob: f32| json!({"id": token, "token": text(tokenizer, token), "logprob": logprob});
    let mut value = told(one.token, one.logprob);
    value["top"] = one.top.iter().map(|(token, logprob)| told(*token, *logprob)).collect();
    value
}

fn text(tokenizer: &Tokenizer, token: Token) -> String {
    String::from_utf8_lossy(&tokenizer.token_bytes(token)).into_owned()
}

/// A line for every token, to stderr: how likely it was, and which were likeliest.
pub(crate) fn note_logprobs(all: &[Logprobs], tokenizer: &Tokenizer) {
    for one in all {
        let told = |token: Token, logprob: f32| format!("{logprob:8.3} {:<14}", format!("{:?}", text(tokenizer, token)));
        let top: Vec<String> = one.top.iter().map(|(token, logprob)| told(*token, *logprob)).collect();
        note(format!("{} {}", told(one.token, one.logprob), top.join(" ")).trim_end());
    }
}
