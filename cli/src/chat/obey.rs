//! What the commands of the chat do.

use hob::chat::{ModelNote, Saved};
use hob::tokenizer::Special;
use hob::{Chat, Role};

use super::export::{self, Form};
use super::order::{self, Order};
use super::{Next, Saving, Talk, name_of, now, settings, store, told_of};
use crate::failure::Failure;
use crate::flags::{Purpose, Thoughts};
use crate::inspect;
use crate::line::Line;
use crate::terminal::{note, note_dim, printable};
use crate::units;

/// Bytes that a file may have to be read into a message.
const LARGEST: u64 = 16 << 20;

impl Talk<'_> {
    /// Does what a line asks for. What cannot be done is said, and the chat goes on.
    pub(super) fn obey(&mut self, line: &str) -> Result<Next, Failure> {
        let done = match order::order(line) {
            Order::Exit => return Ok(Next::Leave),
            Order::Nothing => Ok(()),
            Order::Say(text) => self.say(text),
            Order::Undo => self.undo(),
            Order::Retry => self.reply(Chat::retry).map(drop),
            Order::Edit(number) => self.edit(number),
            Order::Branch(name) => self.branch(name),
            Order::Branches => self.branches(),
            Order::Read(file) => self.read(file),
            Order::Clear => self.clear(),
            Order::Save(name) => self.save(name),
            Order::Load(name) => self.load(name),
            Order::Export(what) => self.export(what),
            Order::Model(path) => self.model(path),
            Order::System(text) => self.system(text),
            Order::Think(when) => self.think(when),
            Order::Set(line) => self.set(line),
            Order::Tools => self.tools(),
            Order::Context => self.context(),
            Order::Stats => self.stats(),
            Order::Help => {
                note(&order::help());
                Ok(())
            }
            Order::Unknown(word) => {
                note(&order::unknown(word));
                Ok(())
            }
        };
        match done {
            Ok(()) => Ok(Next::Stay),
            Err(why @ (Failure::Engine(_) | Failure::Usage { .. })) => {
                why.report();
                Ok(Next::Stay)
            }
            Err(why @ (Failure::Output(_) | Failure::Interrupted)) => Err(why),
        }
    }

    fn undo(&mut self) -> Result<(), Failure> {
        match self.chat.undo() {
            Some(question) => note_dim(&format!("taken back: {}; /branches still has it", brief(&question, 50))),
            None => note("nothing was asked yet"),
        }
        Ok(())
    }

    /// Puts a question into the line editor, and asks what comes of it in its place.
    fn edit(&mut self, number: Option<&str>) -> Result<(), Failure> {
        let asked: Vec<String> = self.chat.conversation().questions().map(str::to_owned).collect();
        let number = number.map_or(Some(asked.len()), |number| number.parse().ok());
        let Some((number, before)) = number.and_then(|n| Some((n, asked.get(n.checked_sub(1)?)?))) else {
            if asked.is_empty() {
                note("nothing was asked yet");
            } else {
                let first = asked.len().saturating_sub(15);
                let line = |(at, text): (usize, &String)| format!("  {:>3}  {}", at + 1, brief(text, 66));
                let lines: Vec<String> = asked.iter().enumerate().skip(first).map(line).collect();
                note(&format!("/edit N changes question N:\n{}", lines.join("\n")));
            }
            return Ok(());
        };
        match self.lines.next("edit > ", before).map_err(|e| Failure::io("standard input", e))? {
            Line::Text(text) if !text.trim().is_empty() && text != *before => self.reply(|chat| chat.edit(number, &text)).map(drop),
            Line::Text(_) | Line::Interrupt | Line::End => {
                note_dim("left as it was");
                Ok(())
            }
        }
    }

    fn branch(&mut self, name: Option<&str>) -> Result<(), Failure> {
        let conversation = self.chat.conversation();
        let Some(name) = name else {
            note_dim(&format!("on {}; /branch NAME goes on under a new name, /branches lists all", printable(conversation.branch())));
            return Ok(());
        };
        if conversation.branches().iter().any(|branch| branch.name == name) {
            self.chat.switch(name)?;
            self.show_last();
            return Ok(());
        }
        let before = conversation.branch().to_owned();
        self.chat.branch(name)?;
        note_dim(&format!("now on {}; {} stays as it is", printable(name), printable(&before)));
        Ok(())
    }

    fn branches(&self) -> Result<(), Failure> {
        let branches = self.chat.conversation().branches();
        let wide = branches.iter().map(|branch| branch.name.chars().count()).max().unwrap_or(0);
        for branch in branches {
            let mark = if branch.current { '*' } else { ' ' };
            let last = if branch.questions == 0 { "nothing was asked".into() } else { brief(&branch.last, 48) };
            note(&format!("{mark} {:<wide$}  {:>3}  {last}", printable(&branch.name), branch.questions));
        }
        note_dim("the number of questions, and the last of them; /branch NAME goes there");
        Ok(())
    }

    fn read(&mut self, file: Option<&str>) -> Result<(), Failure> {
        let Some(file) = file else { return Err(Failure::usage("no file given", "/read FILE")) };
        let path = order::home(file);
        let size = std::fs::metadata(&path).map_err(|error| Failure::io(&path, error))?.len();
        if size > LARGEST {
            return Err(Failure::usage(
                format!("{file} has {}", units::bytes(size)),
                format!("at most {} can be read", units::bytes(LARGEST)),
            ));
        }
        let bytes = std::fs::read(&path).map_err(|error| Failure::io(&path, error))?;
        let text = String::from_utf8(bytes).map_err(|_| Failure::usage(format!("{file} is no UTF-8 text"), "/read takes text files"))?;
        let tokens = self.chat.model().tokenizer().encode(&text, Special::Literal)?.len();
        let room = self.chat.model().context();
        if tokens >= room {
            return Err(Failure::usage(format!("{file} has {tokens} tokens, and the context {room}"), "-c N makes room for more"));
        }
        let name = path.file_name().map_or_else(|| file.to_owned(), |name| name.to_string_lossy().into_owned());
        note_dim(&format!("{} ({}, {tokens} tokens) goes with your next message", printable(&name), units::bytes(size)));
        self.read.push(format!("{name}:\n\n{}\n\n", export::fenced("", &text)));
        Ok(())
    }

    fn clear(&mut self) -> Result<(), Failure> {
        let saved = self.chat.saved_to().map(|path| name_of(path).to_owned());
        self.leave_quietly();
        self.chat.clear();
        self.read.clear();
        note_dim(
            &saved.map_or_else(|| "the conversation is forgotten".into(), |name| format!("a new chat; /load {name} goes back to the last")),
        );
        Ok(())
    }

    /// Closes the chat's file.
    fn leave_quietly(&mut self) {
        self.chat.stop_saving();
    }

    fn save(&mut self, name: Option<&str>) -> Result<(), Failure> {
        if let Some(name) = name {
            let path = store::named(name)?;
            self.chat.save_to(path)?;
            self.saving = Saving::On;
        }
        note_dim(&match (self.chat.saved_to(), self.saving) {
            (Some(path), _) => format!("saved as {}, with every word: {}", name_of(path), path.display()),
            (None, Saving::On) => "it will be saved from the first question on".into(),
            (None, Saving::Off) => "this chat is not saved; /save NAME does".into(),
        });
        Ok(())
    }

    fn load(&mut self, name: Option<&str>) -> Result<(), Failure> {
        let Some(name) = name else {
            note(&store::table(&store::list(), now()));
            return Ok(());
        };
        let path = store::find(Some(name))?;
        if self.chat.saved_to() == Some(path.as_path()) {
            note_dim("that is this chat");
            return Ok(());
        }
        let saved = Saved::open(path)?;
        told_of(&saved, self.chat.model());
        self.chat = self.chat.model().chat().resume(saved);
        (self.saving, self.read) = (Saving::On, Vec::new());
        self.limit();
        self.begin()
    }

    fn export(&mut self, what: Option<&str>) -> Result<(), Failure> {
        let usage = || Failure::usage("what is to be written?", "/export md FILE, or /export json FILE");
        let what = what.ok_or_else(usage)?;
        let (form, file) = what.split_once(' ').unwrap_or((what, ""));
        let form = match form {
            "md" | "markdown" => Form::Markdown,
            "json" => Form::Json,
            _ => return Err(usage()),
        };
        let first = self.chat.conversation().questions().next().map(|question| brief(question, 70));
        let Some(title) = first else {
            note("nothing was said yet");
            return Ok(());
        };
        let own = self.chat.saved_to().map_or("chat", name_of);
        let file = if file.trim().is_empty() { format!("{own}.{}", form.ending()) } else { file.trim().to_owned() };
        let path = order::home(&file);
        let model = store::called(&ModelNote::of(self.chat.model()));
        export::write(&path, form, &title, &model, self.chat.messages())?;
        note_dim(&format!("written: {}", path.display()));
        Ok(())
    }

    fn model(&mut self, path: Option<&str>) -> Result<(), Failure> {
        if let Some(path) = path {
            let gguf = self.machine.find(&order::home(path))?;
            let model = self.machine.build_with(gguf, Purpose::Chat, self.cache.folder())?;
            self.chat.set_model(&model);
            self.chat.ignored().iter().for_each(|ignored| note_dim(&ignored.to_string()));
        }
        let model = self.chat.model();
        note_dim(&format!("{} · context {}", inspect::title(model.gguf()), model.context()));
        Ok(())
    }

    fn system(&mut self, text: Option<&str>) -> Result<(), Failure> {
        match text {
            Some(text) => {
                self.chat.set_system(Some(text.to_owned()));
                note_dim("told; it holds from the next message on");
            }
            None => {
                let told = self.chat.conversation().system();
                note_dim(told.unwrap_or("nothing is told beforehand; /system TEXT does"));
            }
        }
        Ok(())
    }

    fn think(&mut self, when: Option<&str>) -> Result<(), Failure> {
        match when {
            Some("hide") => self.thoughts = Thoughts::Hidden,
            Some("show") => self.thoughts = Thoughts::Shown,
            Some(when) => match when.parse() {
                Ok(think) => {
                    self.chat.set_thinking(think);
                    self.chat.ignored().iter().for_each(|ignored| note_dim(&ignored.to_string()));
                }
                Err(why) => {
                    note(&format!("{why}; or hide, or show"));
                    return Ok(());
                }
            },
            None => {}
        }
        let shown = match self.thoughts {
            Thoughts::Shown => "shown",
            Thoughts::Hidden => "hidden",
        };
        note_dim(&format!("thinking {}, {shown}", self.chat.thinking_asked()));
        Ok(())
    }

    fn set(&mut self, line: Option<&str>) -> Result<(), Failure> {
        let mut sampling = self.chat.sampling_asked().clone();
        let file = self.chat.model().sampling().clone();
        let Some(line) = line else {
            note(&settings::all(&sampling, &file, &self.limits));
            return Ok(());
        };
        let before = sampling.clone();
        match settings::set(line, &mut sampling, &mut self.limits) {
            Ok(name) => {
                if sampling != before {
                    self.chat.set_sampling(sampling.clone());
                }
                self.limit();
                note_dim(&settings::show(&name, &sampling, &file, &self.limits));
            }
            Err(why) => note(&printable(&why)),
        }
        Ok(())
    }

    fn tools(&self) -> Result<(), Failure> {
        let knows = if self.chat.model().template().takes_tools() { "knows tools" } else { "knows no tools" };
        note_dim(&format!("no tools here: programs that embed hob give them (Chat::tool); this model's chat template {knows}"));
        Ok(())
    }

    fn context(&self) -> Result<(), Failure> {
        let usage = self.chat.usage()?;
        let share = |n: usize| format!("{n:>8}  {:>3.0} %", 100.0 * n as f64 / usage.capacity.max(1) as f64);
        let mut lines = vec![format!("{:<9}{} of {} tokens", "context", share(usage.used()), usage.capacity)];
        let parts = [
            ("system", usage.system),
            ("tools", usage.tools),
            ("turns", usage.turns),
            ("thinking", usage.thinking),
            ("free", usage.free()),
        ];
        lines.extend(parts.iter().filter(|(name, n)| *n > 0 || *name != "tools").map(|(name, n)| format!("{name:<9}{}", share(*n))));
        let options = self.chat.model().cache_options();
        if usage.cache_bytes > 0 {
            let types = format!("keys {:?}, values {:?}", options.k, options.v).to_lowercase();
            lines.push(format!("cache    {} when full, {types}", units::bytes(usage.cache_bytes)));
        }
        let gone = self.chat.conversation().begins_at();
        if gone > 0 {
            let asked = self.chat.messages().iter().filter(|m| m.role != Role::System).take(gone).filter(|m| m.role == Role::User).count();
            lines.push(format!(
                "the first {} made room: the model reads them no more",
                if asked == 1 { "turn".into() } else { format!("{asked} turns") }
            ));
        }
        lines.push(settings::show("full", self.chat.sampling_asked(), self.chat.model().sampling(), &self.limits));
        note(&lines.join("\n"));
        Ok(())
    }

    fn stats(&self) -> Result<(), Failure> {
        let (used, room) = (self.chat.tokens(), self.chat.model().context());
        note_dim(&format!("{}\ncontext {used} of {room} tokens ({} %)", self.chat.stats(), super::percent(&self.chat)));
        Ok(())
    }
}

/// The beginning of a text, in one line.
fn brief(text: &str, most: usize) -> String {
    let line = text.split_whitespace().collect::<Vec<_>>().join(" ");
    let short: String = line.chars().take(most).collect();
    printable(&if short.len() < line.len() { format!("{}…", short.trim_end()) } else { short }).into_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn long_questions_are_told_briefly() {
        assert_eq!(brief("a  b\nc", 10), "a b c");
        assert_eq!(brief("Why is the sky blue?", 7), "Why is…");
        assert_eq!(brief("\x1b[2J", 10), "\u{fffd}[2J");
    }
}
