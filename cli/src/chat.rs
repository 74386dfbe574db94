//! `hob chat`: a conversation in the terminal, or line by line from a pipe.

use std::io::{IsTerminal, Write};
use std::path::PathBuf;

use hob::{Chat, EndReason, Error, Stats, Thinking};

use crate::cache::{self, CacheFlags};
use crate::failure::{self, Failure};
use crate::flags::{Machine, Purpose, ThinkFlags, Thoughts};
use crate::interrupt::Interrupts;
use crate::line::{Line, Lines};
use crate::reply::{self, Ending};
use crate::sampling::SamplingFlags;
use crate::terminal::{note, note_dim, printable};
use crate::{guide, inspect};

const AFTER: &str = "\
In the chat:
  /help  /clear  /system [TEXT]  /think [WHEN]  /stats  /exit
  a backslash at the end of a line goes on to the next; Ctrl-C stops a reply, Ctrl-D leaves

Examples:
  hob chat                    ask hob's guide, the tiny model in the box
  hob chat MODEL.gguf
  hob chat MODEL.gguf --system 'Answer in one sentence.' --temp 0.3 -c 8192
  echo 'Why is the sky blue?' | hob chat MODEL.gguf";

/// Flags of `hob chat`.
#[derive(clap::Args)]
#[command(after_help = AFTER)]
pub(crate) struct Args {
    /// A .gguf file, of a split model any part, or a name: hob ls lists them [default: hob's guide]
    model: Option<PathBuf>,
    /// What the model is told before the conversation
    #[arg(long, value_name = "TEXT")]
    system: Option<String>,
    /// End every reply after N tokens [default: when the model ends it]
    #[arg(short = 'n', long, value_name = "N", value_parser = crate::flags::at_least_one)]
    predict: Option<usize>,
    #[command(flatten)]
    thinking: ThinkFlags,
    #[command(flatten)]
    sampling: SamplingFlags,
    #[command(flatten)]
    cache: CacheFlags,
    #[command(flatten)]
    machine: Machine,
}

const HELP: &str = "  /help           this
  /clear          forget the conversation
  /system [TEXT]  show what the model is told beforehand, or tell it TEXT from now on
  /think [WHEN]   how much the model thinks: auto, on, off, low, medium, high, N tokens; hide and show say whether you see it
  /stats          what the last reply cost, and how full the context is
  /exit           leave; so does Ctrl-D, or Ctrl-C twice
  A backslash at the end of a line goes on to the next. Ctrl-C stops a reply.";

/// What a line asks for.
#[derive(Debug, PartialEq, Eq)]
enum Order<'a> {
    Nothing,
    Say(&'a str),
    Help,
    Clear,
    System(Option<&'a str>),
    Think(Option<&'a str>),
    Stats,
    Exit,
    Unknown(&'a str),
}

const WORDS: &[&str] = &["/help", "/clear", "/system", "/think", "/stats", "/exit"];

fn order(line: &str) -> Order<'_> {
    if line.trim().is_empty() {
        return Order::Nothing;
    }
    if !line.starts_with('/') {
        return Order::Say(line);
    }
    let (word, rest) = line.split_once(char::is_whitespace).unwrap_or((line, ""));
    let rest = Some(rest.trim()).filter(|text| !text.is_empty());
    match (word, rest) {
        ("/help", _) => Order::Help,
        ("/clear", _) => Order::Clear,
        ("/system", text) => Order::System(text),
        ("/think", when) => Order::Think(when),
        ("/stats", _) => Order::Stats,
        ("/exit", _) => Order::Exit,
        (unknown, _) => Order::Unknown(unknown),
    }
}

/// Whether the conversation goes on.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Next {
    Stay,
    Leave,
}

struct Talk<'a> {
    chat: Chat,
    interrupts: Interrupts,
    think: Thinking,
    thoughts: Thoughts,
    out: &'a mut dyn Write,
}

/// Runs `hob chat`.
pub(crate) fn run(args: Args, out: &mut dyn Write) -> Result<(), Failure> {
    let interrupts = Interrupts::install();
    let gguf = args.model.as_ref().map_or_else(guide::gguf, |model| args.machine.find(model))?;
    let model = args.machine.build_with(gguf, Purpose::Chat, args.cache.folder())?;
    args.sampling.notice(model.sampling()).iter().for_each(|notice| note_dim(notice));
    let mut chat = model.chat().sampling(args.sampling.sampling());
    chat = args.sampling.stop.iter().fold(chat, |chat, text| chat.stop(text));
    chat = args.sampling.ban.iter().fold(chat, |chat, text| chat.ban(text));
    if let Some(text) = args.system {
        chat = chat.system(text);
    }
    if let Some(n) = args.predict {
        chat = chat.max_tokens(n);
    }
    if std::io::stdin().is_terminal() {
        note_dim(&format!("{} · context {}", inspect::title(model.gguf()), model.context()));
        note_dim("/help lists the commands, Ctrl-C stops a reply, Ctrl-D leaves");
    }
    let chat = args.thinking.apply(chat);
    Talk { chat, interrupts, think: args.thinking.think, thoughts: args.thinking.view(), out }.converse()
}

impl Talk<'_> {
    fn converse(&mut self) -> Result<(), Failure> {
        let mut lines = Lines::open(WORDS);
        let mut warned = false;
        loop {
            match lines.next().map_err(|e| Failure::io("standard input", e))? {
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

    fn obey(&mut self, line: &str) -> Result<Next, Failure> {
        match order(line) {
            Order::Nothing => {}
            Order::Say(text) => self.say(text)?,
            Order::Help => note(HELP),
            Order::Clear => {
                self.chat.clear();
                note_dim("the conversation is forgotten");
            }
            Order::System(Some(text)) => {
                self.chat.set_system(Some(text.to_owned()));
                note_dim("told; /clear forgets what was said before");
            }
            Order::System(None) => note_dim(&self.system()),
            Order::Think(when) => self.think(when),
            Order::Stats => self.stats(),
            Order::Exit => return Ok(Next::Leave),
            Order::Unknown(word) => {
                note(&format!("no command is called {}; /help lists them (a blank in front says it to the model)", printable(word)))
            }
        }
        Ok(Next::Stay)
    }

    /// Says it, shows the reply, then what it cost. Where that fails the chat goes on, unless nobody listens any more.
    fn say(&mut self, text: &str) -> Result<(), Failure> {
        let guard = self.interrupts.guard({
            let canceller = self.chat.canceller();
            move || canceller.cancel()
        });
        let shown = self.chat.say(text).map_err(Failure::from).and_then(|mut reply| {
            let ending = reply::show_reply(&mut reply, self.thoughts, &guard, self.out)?;
            Ok((ending, reply.stats(), reply.end()))
        });
        match shown {
            Ok((ending, stats, end)) => remark(ending, stats, end),
            Err(Failure::Engine(error)) => refuse(&error),
            Err(Failure::Interrupted) => note_dim("stopped"),
            Err(other) => return Err(other),
        }
        cache::remark(self.chat.model());
        Ok(())
    }

    fn system(&self) -> String {
        let told = self.chat.messages().iter().find(|message| message.role == hob::Role::System);
        told.map_or_else(|| "nothing is told beforehand; /system TEXT does".into(), |message| message.content.clone())
    }

    fn think(&mut self, when: Option<&str>) {
        match when {
            Some("hide") => self.thoughts = Thoughts::Hidden,
            Some("show") => self.thoughts = Thoughts::Shown,
            Some(when) => match when.parse() {
                Ok(think) => {
                    self.think = think;
                    self.chat.set_thinking(think);
                    self.chat.ignored().iter().for_each(|ignored| note_dim(&ignored.to_string()));
                }
                Err(why) => return note(&format!("{why}; or hide, or show")),
            },
            None => {}
        }
        let shown = match self.thoughts {
            Thoughts::Shown => "shown",
            Thoughts::Hidden => "hidden",
        };
        note_dim(&format!("thinking {}, {shown}", self.think));
    }

    fn stats(&self) {
        let (used, room) = (self.chat.tokens(), self.chat.model().context());
        note_dim(&format!("{}\ncontext {used} of {room} tokens ({:.0} %)", self.chat.stats(), 100.0 * used as f64 / room.max(1) as f64));
    }
}

fn remark(ending: Ending, stats: Stats, end: Option<EndReason>) {
    let stopped = match ending {
        Ending::Interrupted => "stopped · ",
        Ending::Complete => "",
    };
    note_dim(&format!("{stopped}{stats}"));
    if let Some(remark) = reply::remark(end) {
        note(&format!("{remark}, /clear starts anew"));
    }
}

fn refuse(error: &Error) {
    let (what, help) = failure::describe(error);
    failure::tell(&what, &help);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_are_orders_or_speech() {
        let cases = [
            ("", Order::Nothing),
            ("  \t", Order::Nothing),
            ("hello /help", Order::Say("hello /help")),
            (" /etc is a folder", Order::Say(" /etc is a folder")),
            ("/help", Order::Help),
            ("/clear", Order::Clear),
            ("/system", Order::System(None)),
            ("/system  Be brief. ", Order::System(Some("Be brief."))),
            ("/system\nBe\nbrief.", Order::System(Some("Be\nbrief."))),
            ("/think", Order::Think(None)),
            ("/think off", Order::Think(Some("off"))),
            ("/stats", Order::Stats),
            ("/exit", Order::Exit),
            ("/exi now", Order::Unknown("/exi")),
        ];
        for (line, want) in cases {
            assert_eq!(order(line), want, "{line:?}");
        }
        assert!(WORDS.iter().all(|word| !matches!(order(word), Order::Unknown(_)) && HELP.contains(word)));
    }
}
