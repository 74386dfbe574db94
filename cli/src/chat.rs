//! `hob chat`: a conversation in the terminal, or line by line from a pipe. What a person types is saved as it goes.

use std::io::{IsTerminal, Write};
use std::path::{Path, PathBuf};
use std::time::SystemTime;

use hob::chat::{Full, ModelNote, Saved};
use hob::{Chat, EndReason, Error, Model, Reply, Role, Stats};

use crate::cache::{self, CacheFlags};
use crate::failure::{self, Failure};
use crate::flags::{Machine, Purpose, ThinkFlags, Thoughts};
use crate::interrupt::Interrupts;
use crate::line::{Line, Lines};
use crate::reply::{self, Ending};
use crate::sampling::SamplingFlags;
use crate::terminal::{Ink, ink, note, note_dim, printable};
use crate::{guide, inspect};
use order::Choices;
use settings::Limits;

mod export;
mod obey;
mod order;
mod settings;
mod store;

const AFTER: &str = "\
In the chat:
  /undo /retry /edit /branch take another way; /save /load /export keep it; /set /model /think change it
  /help lists all commands; Tab completes; Ctrl-C stops a reply, Ctrl-D leaves

What is typed in a terminal is saved as it goes, where only you can read it; hob chat --resume goes on.

Examples:
  hob chat                           ask hob's guide, the tiny model in the box
  hob chat MODEL.gguf
  hob chat --resume                  go on with the newest chat, on the model it was held with
  hob chat --resume why-is-the-sky   the one that is called so
  hob chat MODEL.gguf --system 'Answer in one sentence.' --temp 0.3 -c 8192
  echo 'Why is the sky blue?' | hob chat MODEL.gguf

Environment:
  HOB_DATA   where chats are saved [default: the system's folder for data, with hob in it]";

/// Flags of `hob chat`.
#[derive(clap::Args)]
#[command(after_help = AFTER)]
pub(crate) struct Args {
    /// A .gguf file, of a split model any part, or a name: hob ls lists them [default: hob's guide]
    model: Option<PathBuf>,
    /// What the model is told before the conversation
    #[arg(long, value_name = "TEXT")]
    system: Option<String>,
    /// Go on with a saved chat, by its name or how it begins [default: the newest]
    #[arg(long, value_name = "NAME", num_args = 0..=1)]
    resume: Option<Option<String>>,
    /// Do not save the chat
    #[arg(long)]
    no_save: bool,
    /// End every reply after N tokens [default: when the model ends it]
    #[arg(short = 'n', long, value_name = "N", value_parser = crate::values::at_least_one)]
    predict: Option<usize>,
    /// When the context is full: `stop`, or `roll` and let the oldest turns go
    #[arg(long, value_name = "HOW", default_value = "stop")]
    full: Full,
    #[command(flatten)]
    thinking: ThinkFlags,
    #[command(flatten)]
    sampling: SamplingFlags,
    #[command(flatten)]
    cache: CacheFlags,
    #[command(flatten)]
    machine: Machine,
}

/// Whether the conversation goes on.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Next {
    Stay,
    Leave,
}

/// Whether what is said is written to a file, from the first question on.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Saving {
    On,
    Off,
}

struct Talk<'a> {
    chat: Chat,
    lines: Lines,
    interrupts: Interrupts,
    thoughts: Thoughts,
    machine: Machine,
    cache: CacheFlags,
    limits: Limits,
    saving: Saving,
    /// Texts of files that go with the next message.
    read: Vec<String>,
    out: &'a mut dyn Write,
}

/// Runs `hob chat`.
pub(crate) fn run(mut args: Args, out: &mut dyn Write) -> Result<(), Failure> {
    // `--resume MODEL.gguf`: a chat's name is no path.
    if let (None, Some(Some(word))) = (&args.model, &args.resume)
        && (word.contains('/') || word.ends_with(".gguf"))
    {
        (args.model, args.resume) = (Some(PathBuf::from(word)), Some(None));
    }
    let interrupts = Interrupts::install();
    let saved = args.resume.as_ref().map(|name| open_saved(name.as_deref())).transpose()?;
    let model = model(&args, saved.as_ref())?;
    args.sampling.notice(model.sampling()).iter().for_each(|notice| note_dim(notice));
    let typed = std::io::stdin().is_terminal();
    let saving = if args.no_save || (!typed && saved.is_none()) { Saving::Off } else { Saving::On };
    let mut chat = model.chat().sampling(args.sampling.sampling());
    let resumed = saved.is_some();
    if let Some(saved) = saved {
        told_of(&saved, &model);
        chat = chat.resume(saved);
        let sampling = args.sampling.sampling();
        if sampling != hob::Sampling::default() {
            chat.set_sampling(sampling.over(chat.sampling_asked()));
        }
        if args.no_save {
            chat.stop_saving();
        }
    }
    if args.system.is_some() {
        chat.set_system(args.system);
    }
    if !resumed || args.thinking.think != hob::Thinking::Auto {
        chat = args.thinking.apply(chat);
    }
    if typed {
        note_dim(&format!("{} · context {}", inspect::title(model.gguf()), model.context()));
        note_dim("/help lists the commands, Ctrl-C stops a reply, Ctrl-D leaves");
    }
    let limits = Limits { predict: args.predict, full: args.full, stop: args.sampling.stop, ban: args.sampling.ban };
    let thoughts = args.thinking.view();
    let mut talk = Talk {
        chat,
        lines: Lines::open(),
        interrupts,
        thoughts,
        machine: args.machine,
        cache: args.cache,
        limits,
        saving,
        read: Vec::new(),
        out,
    };
    talk.limit();
    let done = talk.begin().and_then(|()| talk.converse());
    talk.leave();
    done
}

/// The chat that is to go on.
fn open_saved(name: Option<&str>) -> Result<Saved, Failure> {
    Ok(Saved::open(store::find(name)?)?)
}

/// The model that is asked for, or else the one that the chat was held with, or else the guide.
fn model(args: &Args, saved: Option<&Saved>) -> Result<Model, Failure> {
    let before = saved.and_then(Saved::model).and_then(|note| note.path.as_deref());
    let gguf = match (&args.model, before) {
        (Some(model), _) => args.machine.find(model)?,
        (None, Some(path)) if path.exists() => args.machine.find(path)?,
        (None, Some(path)) => {
            let what = format!("the model that this chat was held with is gone: {}", path.display());
            return Err(Failure::usage(what, "it goes on with another: hob chat MODEL.gguf --resume [NAME]"));
        }
        (None, None) => guide::gguf()?,
    };
    args.machine.build_with(gguf, Purpose::Chat, args.cache.folder())
}

/// Says what became of the file, and of the model, since the chat was last open.
fn told_of(saved: &Saved, model: &Model) {
    saved.notes().iter().for_each(|text| note(&format!("saved chat: {}", printable(text))));
    let now = ModelNote::of(model);
    if let Some(before) = saved.model().filter(|before| before.hash != now.hash) {
        note_dim(&format!("this chat was held with {}; it goes on with {}", store::called(before), store::called(&now)));
    }
}

impl Talk<'_> {
    /// Shows where a chat that is taken up again was, and goes on with a reply that was cut off.
    fn begin(&mut self) -> Result<(), Failure> {
        if self.chat.conversation().is_empty() {
            return Ok(());
        }
        let conversation = self.chat.conversation();
        let (questions, branches) = (conversation.questions().count(), conversation.branches().len());
        let name = self.chat.saved_to().map_or("the chat", name_of);
        let more = if branches > 1 { format!(" · on {}, one of {branches} branches", conversation.branch()) } else { String::new() };
        let count = if questions == 1 { "1 question".to_owned() } else { format!("{questions} questions") };
        note_dim(&format!("{name} · {count}{more}"));
        self.show_last();
        if self.chat.waits() { self.reply(Chat::go_on).map(drop) } else { Ok(()) }
    }

    /// The last question, and its answer where there is one.
    fn show_last(&self) {
        let messages = self.chat.messages();
        let Some(asked) = messages.iter().rposition(|message| message.role == Role::User) else { return };
        note(&format!("{}{}", ink(Ink::Prompt, "> "), printable(&messages[asked].content)));
        for message in messages[asked + 1..].iter().filter(|message| message.role == Role::Assistant && !message.content.is_empty()) {
            note(&printable(message.content.trim_end()));
        }
    }

    fn converse(&mut self) -> Result<(), Failure> {
        let mut warned = false;
        loop {
            self.offer();
            let prompt = self.prompt();
            match self.lines.next(&prompt, "").map_err(|e| Failure::io("standard input", e))? {
                Line::End => return Ok(()),
                Line::Interrupt if warned => return Ok(()),
                Line::Interrupt => {
                    warned = true;
                    note_dim("Ctrl-C again, Ctrl-D or /exit leaves");
                }
                Line::Text(line) => {
                    warned = false;
                    if self.obey(&line)? == Next::Leave {
                        return Ok(());
                    }
                }
            }
        }
    }

    /// `> `, with the branch where it is not the first, and how full the context is where that matters.
    fn prompt(&self) -> String {
        let branch = Some(self.chat.conversation().branch()).filter(|name| *name != "main").map(|name| printable(name).into_owned());
        let full = Some(percent(&self.chat)).filter(|percent| *percent >= 75).map(|percent| format!("{percent} % full"));
        let parts: Vec<String> = branch.into_iter().chain(full).collect();
        if parts.is_empty() { "> ".into() } else { format!("{} > ", parts.join(" · ")) }
    }

    /// Tells the line editor what Tab may complete.
    fn offer(&mut self) {
        let branches = self.chat.conversation().branches().into_iter().map(|branch| branch.name).collect();
        let known = Choices { branches, chats: Vec::new(), settings: settings::names() };
        self.lines.complete(Box::new(move |begun: &str| {
            let chats = if begun.starts_with("/load ") { store::list().into_iter().map(|chat| chat.name).collect() } else { Vec::new() };
            order::complete(begun, &Choices { chats, ..known.clone() })
        }));
    }

    /// Says it, with the files that were read for it.
    fn say(&mut self, text: &str) -> Result<(), Failure> {
        self.keep(text);
        let whole = format!("{}{text}", self.read.concat());
        if self.reply(|chat| chat.say(&whole))? {
            self.read.clear();
        }
        Ok(())
    }

    /// Sees to it that what is said is saved, under a name made of what is said first. Where that cannot be, the chat goes on.
    fn keep(&mut self, said: &str) {
        if self.saving == Saving::Off || self.chat.saved_to().is_some() {
            return;
        }
        let kept = store::fresh(said).and_then(|path| Ok(self.chat.save_to(path)?));
        if let Err(why) = kept {
            self.saving = Saving::Off;
            note("this chat is not saved:");
            why.report();
        }
    }

    /// Shows a reply, then what it cost; says whether there was one. Where that fails the chat goes on, unless nobody listens any more.
    fn reply(&mut self, make: impl for<'c> FnOnce(&'c mut Chat) -> hob::Result<Reply<'c>>) -> Result<bool, Failure> {
        let guard = self.interrupts.guard({
            let canceller = self.chat.canceller();
            move || canceller.cancel()
        });
        let model = self.chat.model().clone();
        let shown = make(&mut self.chat).map_err(Failure::from).and_then(|mut reply| {
            let ending = reply::show_reply(&mut reply, &model, self.thoughts, &guard, self.out)?;
            Ok((ending, reply.stats(), reply.end()))
        });
        drop(guard);
        let came = match shown {
            Ok((ending, stats, end)) => {
                remark(ending, stats, end);
                true
            }
            Err(Failure::Engine(error)) => {
                refuse(&error);
                false
            }
            Err(Failure::Interrupted) => {
                note_dim("stopped");
                false
            }
            Err(other) => return Err(other),
        };
        cache::remark(self.chat.model());
        if let Some(error) = self.chat.save_error() {
            note("this chat is saved no further:");
            refuse(error);
            self.chat.stop_saving();
            self.saving = Saving::Off;
        }
        Ok(came)
    }

    /// Hands the chat its limits.
    fn limit(&mut self) {
        self.chat.set_max_tokens(self.limits.predict.unwrap_or(usize::MAX));
        self.chat.set_full(self.limits.full);
        self.chat.set_stops(self.limits.stop.clone());
        self.chat.set_bans(self.limits.ban.clone());
    }

    /// Closes the chat's file. One in which nothing was said goes.
    fn leave(&mut self) {
        let silent = self.chat.conversation().branches().iter().all(|branch| branch.questions == 0);
        let path = self.chat.saved_to().map(Path::to_owned);
        self.chat.stop_saving();
        if let Some(path) = path {
            if silent {
                let _ = std::fs::remove_file(path);
            } else if self.lines.are_typed() {
                note_dim(&format!("saved as {}; hob chat --resume goes on", name_of(&path)));
            }
        }
    }
}

/// How full the context is.
fn percent(chat: &Chat) -> usize {
    100 * chat.tokens() / chat.model().context().max(1)
}

/// The name of a saved chat.
fn name_of(path: &Path) -> &str {
    path.file_stem().and_then(|name| name.to_str()).unwrap_or_default()
}

fn remark(ending: Ending, stats: Stats, end: Option<EndReason>) {
    let stopped = match ending {
        Ending::Interrupted => "stopped · ",
        Ending::Complete => "",
    };
    note_dim(&format!("{stopped}{stats}"));
    if end == Some(EndReason::ContextFull) {
        note("the context is full: /set full roll lets old turns go, /clear starts anew");
    }
}

fn refuse(error: &Error) {
    let (what, help) = failure::describe(error);
    failure::tell(&what, &help);
}

/// Now, for the ages of chats.
fn now() -> SystemTime {
    SystemTime::now()
}
