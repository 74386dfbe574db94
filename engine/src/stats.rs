//! What a piece of work cost, and how that reads on one line.

use std::fmt;
use std::time::Duration;

/// What a generation cost. `Display` gives `412 tok at 380/s · 96 tok at 21.4/s · 51 GB/s`: the prompt, the reply, and the
/// weights read per second while replying. `1990 tok from disk` comes before it where that much of the prompt was kept there.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Stats {
    /// Prompt tokens computed.
    pub prompt_tokens: usize,
    /// Prompt tokens that the cache already held.
    pub reused_tokens: usize,
    /// Prompt tokens that another session of the process had computed ([`ModelOptions::prefix_cache`](crate::ModelOptions::prefix_cache)).
    pub from_memory: usize,
    /// Prompt tokens that came from a file ([`ModelOptions::prefix_folder`](crate::ModelOptions::prefix_folder)).
    pub from_disk: usize,
    /// Time that bringing them in took.
    pub restore_time: Duration,
    /// Time that the prompt took, what was not computed apart.
    pub prompt_time: Duration,
    /// Tokens generated.
    pub generated_tokens: usize,
    /// Steps of the decoder that they took: one less, as the prompt gives the first, but one more for the token that ends a turn.
    pub steps: usize,
    /// Tokens computed on trial, with others.
    pub drafted: usize,
    /// Those of them that were right: each saved a step.
    pub accepted: usize,
    /// Time that they took, without the prompt.
    pub generate_time: Duration,
    /// Weight bytes read in a step.
    pub weight_bytes: u64,
}

impl Stats {
    /// Prompt tokens per second.
    pub fn prompt_rate(&self) -> f64 {
        rate(self.prompt_tokens, self.prompt_time)
    }

    /// Generated tokens per second.
    pub fn generate_rate(&self) -> f64 {
        rate(self.steps + self.accepted, self.generate_time)
    }

    /// Prompt tokens that another session had computed.
    pub fn restored(&self) -> usize {
        self.from_memory + self.from_disk
    }

    /// Bytes of weights read per second while generating.
    pub fn bandwidth(&self) -> f64 {
        rate(self.steps, self.generate_time) * self.weight_bytes as f64
    }
}

fn rate(n: usize, time: Duration) -> f64 {
    if n == 0 { 0.0 } else { n as f64 / time.as_secs_f64().max(1e-9) }
}

impl fmt::Display for Stats {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Stats { prompt_tokens, generated_tokens, .. } = self;
        let (prompt, reply, bandwidth) = (Figures(self.prompt_rate()), Figures(self.generate_rate()), Figures(self.bandwidth() / 1e9));
        for (tokens, place) in [(self.from_memory, "memory"), (self.from_disk, "disk")] {
            if tokens > 0 {
                write!(f, "{tokens} tok from {place} · ")?;
            }
        }
        write!(f, "{prompt_tokens} tok at {prompt}/s · {generated_tokens} tok at {reply}/s · {bandwidth} GB/s")?;
        match self.drafted {
            0 => Ok(()),
            drafted => write!(f, " · {} of {drafted} drafts right", self.accepted),
        }
    }
}

/// A number as one reads it: 380, 51, 21.4, 0.5.
struct Figures(f64);

impl fmt::Display for Figures {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.0 {
            x if x >= 49.95 => write!(f, "{x:.0}"),
            x => write!(f, "{x:.1}"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_says_it_all() {
        let stats = Stats {
            prompt_tokens: 412,
            prompt_time: Duration::from_secs_f64(412.0 / 380.0),
            generated_tokens: 96,
            steps: 96,
            generate_time: Duration::from_secs_f64(96.0 / 21.4),
            weight_bytes: 2_383_177_570,
            ..Stats::default()
        };
        assert_eq!(stats.to_string(), "412 tok at 380/s · 96 tok at 21.4/s · 51 GB/s");
        let stats = Stats { from_disk: 1990, ..stats };
        assert_eq!(stats.to_string(), "1990 tok from disk · 412 tok at 380/s · 96 tok at 21.4/s · 51 GB/s");
        assert_eq!(Stats::default().to_string(), "0 tok at 0.0/s · 0 tok at 0.0/s · 0.0 GB/s");
    }
}
