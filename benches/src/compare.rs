//! `compare`: the same model on hob and on its peers, by turns in one run, so that what the machine does meanwhile falls on
//! all of them.
//!
//! A round has a turn of each with every number of threads; the next round begins with another. A turn warms up and then times
//! every test once, as llama-bench does: a prompt is read whole beforehand, before tokens are generated one is. What is said of
//! a peer is the ratio of hob's speed to its own within a round: its median over the rounds, the least and the greatest.

mod hob;
mod peer;
mod report;

use std::error::Error;
use std::io::Write;
use std::path::PathBuf;

use ::hob::Level;

use self::hob::Hob;
use self::peer::Peer;
use self::report::{Form, Report};

const AFTER: &str = "\
Examples:
  hob-benches compare MODEL.gguf --llama-bench llama-bench
  hob-benches compare MODEL.gguf -p 512 -n 0 -t 1 --rounds 3
  hob-benches compare MODEL.gguf --llama-bench '/opt/llama.cpp/llama-bench -fa on' -o csv >> benches/record/models.csv

candle-transformers takes part where it knows the model, in a build with --features candle.";

/// Flags of `compare`.
#[derive(clap::Args)]
#[command(after_help = AFTER)]
pub(crate) struct Args {
    /// A .gguf file
    model: PathBuf,
    /// llama.cpp's llama-bench, which then takes part: a command and its arguments, quoted as a shell's
    #[arg(long, value_name = "CMD", value_parser = words)]
    llama_bench: Option<Words>,
    /// Prompt tokens; 0 leaves the test out
    #[arg(short = 'p', long, value_name = "N", value_delimiter = ',', default_value = "512")]
    n_prompt: Vec<usize>,
    /// Generated tokens; 0 leaves the test out
    #[arg(short = 'n', long, value_name = "N", value_delimiter = ',', default_value = "64")]
    n_gen: Vec<usize>,
    /// Threads [default: 1, and the machine's performance cores]
    #[arg(short = 't', long, value_name = "N", value_delimiter = ',', value_parser = clap::value_parser!(u16).range(1..))]
    threads: Vec<u16>,
    /// How often each has its turn
    #[arg(long, value_name = "N", default_value = "5", value_parser = clap::value_parser!(u16).range(1..))]
    rounds: u16,
    /// Form of the report; csv: rows of record/models.csv
    #[arg(short = 'o', long, value_name = "FORM", default_value = "md")]
    output: Form,
    /// The same as -o json
    #[arg(long, conflicts_with = "output")]
    json: bool,
}

/// A command and its arguments.
type Words = Vec<String>;

fn words(command: &str) -> Result<Words, String> {
    shlex::split(command).filter(|words| !words.is_empty()).ok_or_else(|| "a command is needed, its quotes closed".to_owned())
}

/// What is timed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Test {
    /// So many tokens read together.
    Prompt(usize),
    /// So many made one by one.
    Generation(usize),
}

impl Test {
    /// llama-bench's name for it: `pp512`, `tg64`.
    fn name(self) -> String {
        match self {
            Test::Prompt(n) => format!("pp{n}"),
            Test::Generation(n) => format!("tg{n}"),
        }
    }

    pub(crate) fn tokens(self) -> usize {
        match self {
            Test::Prompt(n) | Test::Generation(n) => n,
        }
    }

    /// Tokens of a step.
    pub(crate) fn at_once(self) -> usize {
        match self {
            Test::Prompt(n) => n,
            Test::Generation(_) => 1,
        }
    }

    /// llama-bench's `n_prompt` and `n_gen`.
    pub(crate) fn counts(self) -> (usize, usize) {
        match self {
            Test::Prompt(n) => (n, 0),
            Test::Generation(n) => (0, n),
        }
    }
}

/// What runs a model: hob, or a peer.
trait Runner {
    /// What it is called in the report, with its version where it has told.
    fn name(&self) -> String;

    /// One turn: tokens a second of every test.
    fn turn(&mut self, threads: usize, tests: &[Test]) -> Result<Vec<f64>, Box<dyn Error>>;
}

/// What a runner reached: tokens a second by number of threads, then test, then round.
type Speeds = Vec<Vec<Vec<f64>>>;

/// Runs `compare`.
pub(crate) fn run(args: &Args, out: &mut dyn Write) -> Result<(), Box<dyn Error>> {
    let prompts = args.n_prompt.iter().map(|n| Test::Prompt(*n));
    let tests: Vec<Test> = prompts.chain(args.n_gen.iter().map(|n| Test::Generation(*n))).filter(|test| test.tokens() > 0).collect();
    if tests.is_empty() {
        return Err("nothing to measure: -p or -n above 0 is needed".into());
    }
    let mut threads: Vec<usize> = args.threads.iter().map(|n| usize::from(*n)).collect();
    if threads.is_empty() {
        threads = vec![1, ::hob::default_threads()];
        threads.dedup();
    }
    let mut runners: Vec<Box<dyn Runner>> = vec![Box::new(Hob::new(&args.model, &tests))];
    if let Some(command) = &args.llama_bench {
        runners.extend(["1", "0"].map(|repack| -> Box<dyn Runner> { Box::new(Peer::llama_cpp(command, repack, &args.model)) }));
    }
    #[cfg(feature = "candle")]
    runners.push(Box::new(Peer::candle(&args.model)?));
    let speeds = rounds(&mut runners, &threads, &tests, args.rounds.into())?;
    let form = if args.json { Form::Json } else { args.output };
    let level = Level::from_env()?.to_string();
    let names: Vec<String> = runners.iter().map(|runner| runner.name()).collect();
    let report = Report { model: &args.model, level: &level, threads: &threads, tests: &tests, names: &names, speeds: &speeds };
    Ok(report.write(form, out)?)
}

/// Lets everyone have its turns, and tells on stderr what each gave. The first is hob, whose failure ends all; a peer that fails is
/// left out from then on, and its speeds with it.
fn rounds(runners: &mut Vec<Box<dyn Runner>>, threads: &[usize], tests: &[Test], rounds: usize) -> Result<Vec<Speeds>, Box<dyn Error>> {
    let mut speeds: Vec<Speeds> = vec![vec![vec![Vec::new(); tests.len()]; threads.len()]; runners.len()];
    for round in 0..rounds {
        for (at, &threads) in threads.iter().enumerate() {
            let mut left_out = Vec::new();
            for turn in 0..runners.len() {
                // The machine may be slower after a long turn: not always the same runner follows it.
                let who = (turn + round) % runners.len();
                match runners[who].turn(threads, tests) {
                    Ok(reached) => {
                        let each: Vec<String> =
                            tests.iter().zip(&reached).map(|(test, speed)| format!("{} {speed:.2}", test.name())).collect();
                        eprintln!("round {}, -t {threads}, {}: {} t/s", round + 1, runners[who].name(), each.join(", "));
                        reached.into_iter().enumerate().for_each(|(test, speed)| speeds[who][at][test].push(speed));
                    }
                    Err(error) if who == 0 => return Err(error),
                    Err(error) => {
                        eprintln!("{} is left out: {error}", runners[who].name());
                        left_out.push(who);
                    }
                }
            }
            left_out.sort_unstable();
            for who in left_out.into_iter().rev() {
                runners.remove(who);
                speeds.remove(who);
            }
        }
    }
    Ok(speeds)
}

#[cfg(test)]
mod tests {
    use std::cell::RefCell;
    use std::rc::Rc;

    use super::*;

    /// Writes down its turns; fails from the `fails`th on.
    struct Fake {
        name: &'static str,
        turns: usize,
        fails: usize,
        log: Rc<RefCell<Vec<String>>>,
    }

    impl Runner for Fake {
        fn name(&self) -> String {
            self.name.to_owned()
        }

        fn turn(&mut self, threads: usize, tests: &[Test]) -> Result<Vec<f64>, Box<dyn Error>> {
            self.turns += 1;
            self.log.borrow_mut().push(format!("{}{threads}", self.name));
            if self.turns >= self.fails {
                return Err("no more".into());
            }
            Ok(tests.iter().map(|test| (self.turns * test.tokens()) as f64).collect())
        }
    }

    fn play(fails: [usize; 3]) -> (Vec<String>, Result<Vec<Speeds>, String>) {
        let log = Rc::new(RefCell::new(Vec::new()));
        let fake = |(name, fails)| -> Box<dyn Runner> { Box::new(Fake { name, turns: 0, fails, log: log.clone() }) };
        let mut runners = ["a", "b", "c"].into_iter().zip(fails).map(fake).collect();
        let speeds = rounds(&mut runners, &[1, 4], &[Test::Prompt(10), Test::Generation(1)], 2);
        let turns = log.borrow().clone();
        (turns, speeds.map_err(|error| error.to_string()))
    }

    #[test]
    fn everyone_has_a_turn_before_anyone_has_another() {
        let (turns, speeds) = play([usize::MAX; 3]);
        assert_eq!(turns, ["a1", "b1", "c1", "a4", "b4", "c4", "b1", "c1", "a1", "b4", "c4", "a4"]);
        let each = vec![vec![vec![10.0, 30.0], vec![1.0, 3.0]], vec![vec![20.0, 40.0], vec![2.0, 4.0]]];
        assert_eq!(speeds.unwrap(), [each.clone(), each.clone(), each]);
    }

    #[test]
    fn a_peer_that_fails_is_left_out_and_hob_is_not() {
        let (turns, speeds) = play([usize::MAX, 2, usize::MAX]);
        assert_eq!(turns, ["a1", "b1", "c1", "a4", "b4", "c4", "c1", "a1", "c4", "a4"]);
        assert_eq!(speeds.unwrap().len(), 2);
        assert_eq!(play([3, usize::MAX, usize::MAX]).1.unwrap_err(), "no more");
    }

    #[test]
    fn a_command_is_split_as_a_shell_does() {
        assert_eq!(words("../llama.cpp llama-bench -ot 'a b=CPU'").unwrap(), ["../llama.cpp", "llama-bench", "-ot", "a b=CPU"]);
        assert!(words("'open").is_err() && words(" ").is_err());
    }
}
