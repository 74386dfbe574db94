//! `hob-guide`: looks at the guide's text and judges a guide.
//!
//! ```text
//! hob-guide score [FILE.gguf [QUESTIONS.txt]]     asks the sixty questions, prints each answer and the score
//! hob-guide text [N [SEED]]                       prints N conversations as the training reads them
//! hob-guide sample N SEED                         prints N questions that the training never reads, each with its answer
//! hob-guide surprise FILE.gguf SAMPLE             how well a model foresees the answers of a sample (perplexity)
//! hob-guide facts                                 lists the facts with the number of ways in which each is asked
//! ```

use std::process::ExitCode;

use hob_guide::dialogue::{dialogue, held_out};
use hob_guide::dice::Dice;
use hob_guide::score::{self, Verdict};
use hob_guide::text::Text;

const SHIPPED: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/guide.gguf");

fn main() -> ExitCode {
    let words: Vec<String> = std::env::args().skip(1).collect();
    let words: Vec<&str> = words.iter().map(String::as_str).collect();
    let done = match words.as_slice() {
        ["score", rest @ ..] if rest.len() < 3 => judge(rest.first().unwrap_or(&SHIPPED), rest.get(1).copied()),
        ["text", rest @ ..] if rest.len() < 3 => show(rest),
        ["sample", count, seed] => sample(count, seed),
        ["surprise", file, sample] => surprise(file, sample),
        ["facts"] => facts(),
        _ => {
            Err("usage: hob-guide score [FILE.gguf [QUESTIONS.txt]] | text [N [SEED]] | sample N SEED | surprise FILE.gguf SAMPLE | facts"
                .to_owned())
        }
    };
    match done {
        Ok(()) => ExitCode::SUCCESS,
        Err(why) => {
            eprintln!("{why}");
            ExitCode::FAILURE
        }
    }
}

fn judge(file: &str, questions: Option<&str>) -> Result<(), String> {
    let questions = match questions {
        None => score::questions()?,
        Some(path) => score::read(&std::fs::read_to_string(path).map_err(|why| format!("{path}: {why}"))?)?,
    };
    let model = hob::Model::open(file).map_err(|why| why.to_string())?;
    let judged = score::score(&model, &questions).map_err(|why| why.to_string())?;
    for (number, judged) in judged.iter().enumerate() {
        let mark = match judged.verdict {
            Verdict::Right => "right",
            Verdict::Wrong => "WRONG",
        };
        println!("{:3} {mark}  {}\n           {}", number + 1, judged.question.text, judged.answer.replace('\n', "\n           "));
    }
    let right = judged.iter().filter(|judged| judged.verdict == Verdict::Right).count();
    println!("\n{right} of {} right, {:.0} %", judged.len(), 100.0 * right as f64 / judged.len().max(1) as f64);
    Ok(())
}

fn number(word: &str) -> Result<u64, String> {
    word.parse().map_err(|_| format!("`{word}` is no number"))
}

fn sample(count: &str, seed: &str) -> Result<(), String> {
    let (text, mut dice) = (Text::load()?, Dice::new(number(seed)?));
    let mut left = number(count)?;
    while left > 0 {
        let turn = &dialogue(&text, &mut dice).turns[0];
        if held_out(&turn.question) {
            println!("{}\n{}\n{}\n", text.facts[turn.fact].name, turn.question, turn.answer);
            left -= 1;
        }
    }
    Ok(())
}

fn surprise(file: &str, path: &str) -> Result<(), String> {
    let sample = score::samples(&std::fs::read_to_string(path).map_err(|why| format!("{path}: {why}"))?);
    let model = hob::Model::open(file).map_err(|why| why.to_string())?;
    println!("{:.5} over {} answers", score::surprise(&model, &sample).map_err(|why| why.to_string())?, sample.len());
    Ok(())
}

fn show(words: &[&str]) -> Result<(), String> {
    let text = Text::load()?;
    let or = |at: usize, usual: u64| words.get(at).map_or(Ok(usual), |word| number(word));
    let mut dice = Dice::new(or(1, 1)?);
    for _ in 0..or(0, 10)? {
        let made = dialogue(&text, &mut dice);
        made.system.iter().for_each(|system| println!("  [{system}]"));
        made.turns.iter().for_each(|turn| println!("> {}\n  {}", turn.question, turn.answer));
        println!();
    }
    Ok(())
}

fn facts() -> Result<(), String> {
    let text = Text::load()?;
    let mut pairs = 0;
    for fact in &text.facts {
        let ways: usize = fact.ways.iter().sum();
        pairs += ways;
        println!("{:8} {:20} {ways:6}  {}", fact.topic, fact.name, fact.answer);
    }
    println!("{} facts, at least {pairs} phrases before forms and variation", text.facts.len());
    Ok(())
}
