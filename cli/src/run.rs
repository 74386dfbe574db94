//! `hob run`: one prompt, one answer; the text on stdout, what it cost on stderr.
//!
//! A text goes through the file's chat template, as a first message, where the file has one; `--raw` continues it as it is.
//! `--tokens` is always continued as it is.

use std::io::Write;
use std::path::PathBuf;

use hob::tokenizer::{Ends, Special, Token};
use hob::{EndReason, Grammar, Model, Sampler, Stats};

use crate::answer::{Answer, note_logprobs};
use crate::cache::{self, CacheFlags};
use crate::failure::Failure;
use crate::flags::{Machine, Purpose, Text, ThinkFlags};
use crate::guide;
use crate::held::HeldFlags;
use crate::interrupt::Interrupts;
use crate::reply::{self, Ending};
use crate::sampling::SamplingFlags;
use crate::terminal::{Waiting, note, note_dim};

const AFTER: &str = "\
Examples:
  hob run -p 'How do I get a model?'        hob's guide answers
  hob run MODEL.gguf -p 'Name three rivers.'
  hob run MODEL.gguf -f letter.txt --system 'Translate into French.' > lettre.txt
  echo 'Once upon a time' | hob run MODEL.gguf --raw -n 100 --seed 1
  hob run MODEL.gguf -p 'A recipe for soup' --json-schema recipe.json > soup.json
  hob run MODEL.gguf -p 'Is soup food?' --regex '(yes|no)' --json --logprobs 2
  hob run MODEL.gguf --tokens 1,403,407 -n 24 --temp 0 --ignore-eos --ids";

/// Flags of `hob run`.
#[derive(clap::Args)]
#[command(after_help = AFTER)]
pub(crate) struct Args {
    /// A .gguf file, of a split model any part, or a name: hob ls lists them [default: hob's guide]
    model: Option<PathBuf>,
    #[command(flatten)]
    text: Text,
    /// Token ids instead of text, taken as they are
    #[arg(long, value_name = "IDS", value_delimiter = ',', conflicts_with_all = ["prompt", "file", "raw", "system"])]
    tokens: Option<Vec<Token>>,
    /// Continue the text as it is, without the chat template; special tokens in it are parsed
    #[arg(long, conflicts_with = "system")]
    raw: bool,
    /// What the model is told before the prompt
    #[arg(long, value_name = "TEXT")]
    system: Option<String>,
    /// End after N tokens [default: when the model ends]
    #[arg(short = 'n', long, value_name = "N", value_parser = crate::values::at_least_one)]
    predict: Option<usize>,
    /// Go on when the model ends (with --raw or --tokens)
    #[arg(long)]
    ignore_eos: bool,
    /// Print token ids, comma-separated, instead of text (with --raw or --tokens)
    #[arg(long)]
    ids: bool,
    /// Print one JSON object when all is there: text, thinking, calls, end, stats
    #[arg(long, conflicts_with = "ids")]
    json: bool,
    /// Tell how likely every token was, and the N likeliest in its place: in --json's object, else on standard error
    #[arg(long, value_name = "N", conflicts_with = "ids")]
    logprobs: Option<usize>,
    #[command(flatten)]
    held: HeldFlags,
    #[command(flatten)]
    thinking: ThinkFlags,
    #[command(flatten)]
    sampling: SamplingFlags,
    #[command(flatten)]
    cache: CacheFlags,
    #[command(flatten)]
    machine: Machine,
}

/// How the prompt is used.
enum Prompt {
    Turn(String),
    Text(String),
    Tokens(Vec<Token>),
}

/// Runs `hob run`.
pub(crate) fn run(args: Args, out: &mut dyn Write) -> Result<(), Failure> {
    let interrupts = Interrupts::install();
    let text = if args.tokens.is_none() { Some(args.text.read()?) } else { None };
    let gguf = args.model.as_ref().map_or_else(guide::gguf, |model| args.machine.find(model))?;
    let templated = gguf.metadata().get("tokenizer.chat_template").is_some();
    let prompt = match (&args.tokens, text) {
        (Some(tokens), _) => Prompt::Tokens(tokens.clone()),
        (None, Some(text)) if args.raw || !templated => Prompt::Text(text),
        (None, text) => Prompt::Turn(text.unwrap_or_default()),
    };
    refuse_misuse(&args, &prompt)?;
    let purpose = if matches!(prompt, Prompt::Turn(_)) { Purpose::Chat } else { Purpose::Tokens };
    let model = args.machine.build_with(gguf, purpose, args.cache.folder())?;
    args.sampling.notice(model.sampling()).iter().for_each(|notice| note_dim(notice));
    let held = args.held.grammar()?;
    let Done { ending, stats, end, cut } = match prompt {
        Prompt::Turn(text) => turn(&args, &model, &text, held, &interrupts, out)?,
        Prompt::Text(text) => {
            if !args.raw {
                note_dim("the file has no chat template: the text is continued as it is");
            }
            let tokens = model.tokenizer().encode_with(&text, Special::Parse, Ends::AsModelWants)?;
            continuation(&args, &model, &tokens, held.as_ref(), &interrupts, out)?
        }
        Prompt::Tokens(tokens) => continuation(&args, &model, &tokens, held.as_ref(), &interrupts, out)?,
    };
    note_dim(&stats.to_string());
    if let Some(remark) = reply::remark(end) {
        note(remark);
    }
    if let Some(remark) = cut {
        note(remark);
    }
    model.flush_prefixes();
    cache::remark(&model);
    match ending {
        Ending::Complete => Ok(()),
        Ending::Interrupted => Err(Failure::Interrupted),
    }
}

/// Flags that mean nothing for this kind of prompt, which only the file could tell.
fn refuse_misuse(args: &Args, prompt: &Prompt) -> Result<(), Failure> {
    match prompt {
        Prompt::Turn(_) if args.ids || args.ignore_eos => {
            Err(Failure::usage("--ids and --ignore-eos continue a text as it is", "add --raw, or give --tokens"))
        }
        Prompt::Text(_) | Prompt::Tokens(_) if args.thinking.think != hob::Thinking::Auto => {
            Err(Failure::usage("--think needs a chat template", "leave it out, or let the prompt go through the file's template"))
        }
        Prompt::Text(_) if args.system.is_some() => {
            Err(Failure::usage("--system needs a chat template, and the file has none", "put everything into the prompt"))
        }
        Prompt::Turn(_) | Prompt::Text(_) | Prompt::Tokens(_) => Ok(()),
    }
}

/// How it went.
struct Done {
    ending: Ending,
    stats: Stats,
    end: Option<EndReason>,
    /// What is to be said of an answer that a limit cut.
    cut: Option<&'static str>,
}

impl Done {
    fn new(ending: Ending, stats: Stats, end: Option<EndReason>, held: Held, whole: bool) -> Done {
        let limit = matches!(end, Some(EndReason::MaxTokens | EndReason::ContextFull));
        let cut = match (held, whole) {
            (Held::ToGrammar, true) if limit => Some("cut at the limit, and closed so that it is valid: the end is not the model's"),
            (Held::ToGrammar, false) if limit => Some("cut at the limit, where it could not be closed: it is NOT valid"),
            (Held::ToGrammar | Held::ToNothing, _) => None,
        };
        Done { ending, stats, end, cut }
    }
}

/// Whether an answer is held to something.
#[derive(Clone, Copy)]
enum Held {
    ToGrammar,
    ToNothing,
}

impl From<Option<&Grammar>> for Held {
    fn from(grammar: Option<&Grammar>) -> Held {
        if grammar.is_some() { Held::ToGrammar } else { Held::ToNothing }
    }
}

/// The prompt as the first message of a chat.
fn turn(
    args: &Args,
    model: &Model,
    text: &str,
    held: Option<Grammar>,
    interrupts: &Interrupts,
    out: &mut dyn Write,
) -> Result<Done, Failure> {
    let mut chat = model.chat().sampling(args.sampling.sampling());
    chat = args.sampling.stop.iter().fold(chat, |chat, text| chat.stop(text));
    chat = args.sampling.ban.iter().fold(chat, |chat, text| chat.ban(text));
    if let Some(system) = &args.system {
        chat = chat.system(system);
    }
    if let Some(n) = args.predict {
        chat = chat.max_tokens(n);
    }
    let kind = Held::from(held.as_ref());
    chat.set_grammar(held);
    if let Some(top) = args.logprobs {
        chat = chat.logprobs(top);
    }
    let mut chat = args.thinking.apply(chat);
    let canceller = chat.canceller();
    let guard = interrupts.guard(move || canceller.cancel());
    let mut reply = chat.say(text)?;
    let ending = if args.json {
        Answer::of(&mut reply, model)?.write(model, args.sampling.seed, out)?
    } else {
        let ending = reply::show_reply(&mut reply, model, args.thinking.view(), &guard, out)?;
        note_logprobs(reply.logprobs(), model.tokenizer());
        ending
    };
    Ok(Done::new(ending, reply.stats(), reply.end(), kind, reply.is_whole()))
}

/// The tokens, and what comes after them.
fn continuation(
    args: &Args,
    model: &Model,
    tokens: &[Token],
    held: Option<&Grammar>,
    interrupts: &Interrupts,
    out: &mut dyn Write,
) -> Result<Done, Failure> {
    let mut session = model.session()?;
    let canceller = session.canceller();
    let guard = interrupts.guard(move || canceller.cancel());
    {
        let _waiting = Waiting::on_model(model, "reading the prompt".into());
        session.feed(tokens)?;
    }
    let mut generator = session.generate(Sampler::new(&args.sampling.sampling().over(model.sampling()))?);
    if let Some(n) = args.predict {
        generator = generator.max_tokens(n);
    }
    if args.ignore_eos {
        generator = generator.ignore_end();
    }
    generator = args.sampling.stop.iter().fold(generator, |generator, text| generator.stop(text));
    generator = args.sampling.ban.iter().fold(generator, |generator, text| generator.ban(text));
    let kind = Held::from(held);
    if let Some(grammar) = held {
        generator = generator.grammar(grammar)?;
    }
    if let Some(top) = args.logprobs {
        generator = generator.logprobs(top);
    }
    if args.ids {
        let mut first = true;
        let mut pieces =
            generator.by_ref().map(|token| token.map(|id| if std::mem::take(&mut first) { id.to_string() } else { format!(",{id}") }));
        let ending = reply::show(&mut pieces, model, &guard, out)?;
        return Ok(Done::new(ending, generator.stats(), generator.end(), kind, generator.is_whole()));
    }
    let mut pieces = generator.text();
    let (stats, end, whole, ending, answer) = if args.json {
        let waiting = Waiting::on("answering".into());
        let text = pieces.by_ref().collect::<hob::Result<String>>()?;
        drop(waiting);
        let mut answer = Answer::of_text(text, pieces.end(), pieces.is_whole(), pieces.stats());
        answer.logprobs = pieces.logprobs().to_vec();
        (pieces.stats(), pieces.end(), pieces.is_whole(), Ending::Complete, Some(answer))
    } else {
        let ending = reply::show(&mut pieces, model, &guard, out)?;
        note_logprobs(pieces.logprobs(), model.tokenizer());
        (pieces.stats(), pieces.end(), pieces.is_whole(), ending, None)
    };
    let ending = match answer {
        Some(mut answer) => {
            answer.tokens = Some(session.tokens()[tokens.len()..].to_vec());
            answer.write(model, args.sampling.seed, out)?
        }
        None => ending,
    };
    Ok(Done::new(ending, stats, end, kind, whole))
}
