//! What was said, as a tree, of which a chat goes along one way:
//!
//! ```text
//! q0 ── a1 ─┬─ q2 ── a3            main.1    kept when q2 was edited
//!           └─ q4 ── a5 ─┬─ q6     main      ◀ the current branch; its messages are q0 a1 q4 a5 q6
//!                        └─ q7     other
//! ```
//!
//! A branch is a name for the message that its way ends with. What undo, retry and edit take back stays in the tree, under a
//! name of its own. Everything that changes a conversation is an [`Entry`]: a saved chat is the list of them, read again by
//! [`Conversation::apply`].

use super::journal::Entry;
use crate::error::{Error, Fault, Result};
use crate::sampler::Drawn;
use crate::template::{Message, Role};

/// Characters that a branch's name may have.
const LONGEST_NAME: usize = 60;

/// A message and what it was said after.
#[derive(Clone, Debug, PartialEq)]
struct Node {
    message: Message,
    parent: Option<usize>,
}

/// A name for a way through the conversation.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Branch {
    name: String,
    tip: Option<usize>,
}

/// Where the current branch stood, to come back to.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Place {
    tip: Option<usize>,
    /// The branch that keeps what was cut off.
    kept: Option<String>,
}

/// A branch, as [`Conversation::branches`] lists it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct BranchInfo {
    /// Its name.
    pub name: String,
    /// Whether the chat is on it.
    pub current: bool,
    /// How many questions it holds.
    pub questions: usize,
    /// How many of its messages it shares with the current branch.
    pub shared: usize,
    /// The last question.
    pub last: String,
}

/// Messages and branches. See the module's text for the picture.
#[derive(Clone, Debug, PartialEq)]
pub struct Conversation {
    system: Option<String>,
    nodes: Vec<Node>,
    branches: Vec<Branch>,
    current: usize,
    /// Where the model begins to read, where older turns had to go.
    starts: Vec<usize>,
    /// The current branch: the system message, then the messages of `path`.
    messages: Vec<Message>,
    path: Vec<usize>,
    /// What happened and was not written down yet.
    news: Vec<Entry>,
}

impl Default for Conversation {
    fn default() -> Conversation {
        let main = Branch { name: "main".into(), tip: None };
        Conversation {
            system: None,
            nodes: Vec::new(),
            branches: vec![main],
            current: 0,
            starts: Vec::new(),
            messages: Vec::new(),
            path: Vec::new(),
            news: Vec::new(),
        }
    }
}

impl Conversation {
    /// The messages of the current branch, the system message first.
    pub fn messages(&self) -> &[Message] {
        &self.messages
    }

    /// The system message.
    pub fn system(&self) -> Option<&str> {
        self.system.as_deref()
    }

    /// Whether nothing was said.
    pub fn is_empty(&self) -> bool {
        self.path.is_empty()
    }

    /// The questions of the current branch, oldest first: what the user said.
    pub fn questions(&self) -> impl Iterator<Item = &str> + '_ {
        self.path.iter().map(|id| &self.nodes[*id].message).filter(|m| m.role == Role::User).map(|m| m.content.as_str())
    }

    /// The name of the current branch.
    pub fn branch(&self) -> &str {
        &self.branches[self.current].name
    }

    /// All branches, in the order in which they were made.
    pub fn branches(&self) -> Vec<BranchInfo> {
        let info = |(at, branch): (usize, &Branch)| {
            let path = self.way(branch.tip);
            let asked = || path.iter().map(|id| &self.nodes[*id].message).filter(|m| m.role == Role::User);
            BranchInfo {
                name: branch.name.clone(),
                current: at == self.current,
                questions: asked().count(),
                shared: path.iter().zip(&self.path).take_while(|(a, b)| a == b).count(),
                last: asked().next_back().map_or_else(String::new, |m| m.content.clone()),
            }
        };
        self.branches.iter().enumerate().map(info).collect()
    }

    /// The first of the messages of the current branch that the model reads, not counting the system message: those before it had
    /// to go for want of room.
    pub fn begins_at(&self) -> usize {
        self.path.iter().rposition(|id| self.starts.contains(id)).unwrap_or(0)
    }

    /// What the model reads where it begins with the message of this number.
    pub(super) fn read_from(&self, start: usize) -> Vec<Message> {
        let (system, said) = self.messages.split_at(self.messages.len() - self.path.len());
        system.iter().chain(&said[start.min(said.len())..]).cloned().collect()
    }

    /// The numbers of the messages that are questions.
    pub(super) fn asked_at(&self) -> Vec<usize> {
        let asks = |(at, id): (usize, &usize)| (self.nodes[*id].message.role == Role::User).then_some(at);
        self.path.iter().enumerate().filter_map(asks).collect()
    }

    /// Whether the last message waits for an answer.
    pub(super) fn waits(&self) -> bool {
        self.path.last().is_some_and(|id| match self.nodes[*id].message.role {
            Role::User | Role::Tool => true,
            Role::System | Role::Assistant => false,
        })
    }

    /// What the model has said and called since the last question: its rounds so far.
    pub(super) fn rounds(&self) -> usize {
        let said = self.path.iter().rev().map(|id| self.nodes[*id].message.role).take_while(|role| *role != Role::User);
        said.filter(|role| *role == Role::Assistant).count()
    }

    /// Calls in the whole conversation.
    pub(super) fn calls(&self) -> usize {
        self.nodes.iter().map(|node| node.message.calls.len()).sum()
    }

    pub(super) fn set_system(&mut self, text: Option<String>) {
        if text != self.system {
            self.make(Entry::System { text });
        }
    }

    /// Adds a message; of a reply also how far the random numbers have come.
    pub(super) fn push(&mut self, message: Message, drawn: Option<Drawn>) {
        let (id, parent) = (self.nodes.len(), self.branches[self.current].tip);
        self.make(Entry::Message { id, parent, message: Box::new(message), drawn });
    }

    pub(super) fn clear(&mut self) {
        self.make(Entry::Clear {});
    }

    /// The model reads from this message on.
    pub(super) fn roll(&mut self, start: usize) {
        if let Some(first) = self.path.get(start) {
            self.make(Entry::Roll { first: *first });
        }
    }

    pub(super) fn place(&self) -> Place {
        Place { tip: self.branches[self.current].tip, kept: None }
    }

    /// Cuts the current branch back to its first `len` messages. What goes is kept under a name of its own, unless another
    /// branch has it.
    pub(super) fn cut(&mut self, len: usize) -> Place {
        let mut place = self.place();
        let tip = len.checked_sub(1).and_then(|last| self.path.get(last)).copied();
        if tip == place.tip {
            return place;
        }
        let leaf = self.nodes.iter().all(|node| node.parent != place.tip);
        let named = self.branches.iter().enumerate().any(|(at, branch)| at != self.current && branch.tip == place.tip);
        if leaf && !named {
            let name = self.free_name();
            self.make(Entry::Branch { name: name.clone(), tip: place.tip });
            place.kept = Some(name);
        }
        self.make(Entry::Branch { name: self.branch().to_owned(), tip });
        place
    }

    /// Takes back what was said since, and what was kept for it.
    pub(super) fn back(&mut self, place: Place) {
        self.make(Entry::Branch { name: self.branch().to_owned(), tip: place.tip });
        if let Some(name) = place.kept {
            self.make(Entry::Forget { name });
        }
    }

    /// `main.1`, `main.2` …, whichever is free.
    fn free_name(&self) -> String {
        let base = self.branch().split_once('.').map_or(self.branch(), |(base, _)| base);
        let taken = |name: &String| self.branches.iter().any(|branch| branch.name == *name);
        (1..).map(|n| format!("{base}.{n}")).find(|name| !taken(name)).unwrap_or_default()
    }

    /// Goes on under a new name from here; the branch so far stays as it is.
    pub(super) fn fork(&mut self, name: &str) -> Result<()> {
        let fault = |found: String| Error::Input(Fault::at("branch").expected("a new name").found(found));
        if name.is_empty() || name.chars().count() > LONGEST_NAME || name.chars().any(char::is_control) || name != name.trim() {
            return Err(fault(format!("`{name}`, which is none")));
        }
        if self.branches.iter().any(|branch| branch.name == name) {
            return Err(fault(format!("`{name}`, which there is")));
        }
        let tip = self.branches[self.current].tip;
        self.make(Entry::Branch { name: name.to_owned(), tip });
        self.make(Entry::On { name: name.to_owned() });
        Ok(())
    }

    pub(super) fn switch(&mut self, name: &str) -> Result<()> {
        if self.branches.iter().all(|branch| branch.name != name) {
            let names: Vec<_> = self.branches.iter().map(|branch| branch.name.as_str()).collect();
            return Err(Error::Input(Fault::at("branch").expected(names.join(", ")).found(format!("`{name}`"))));
        }
        if self.branch() != name {
            self.make(Entry::On { name: name.to_owned() });
        }
        Ok(())
    }

    /// The messages up to one, oldest first.
    fn way(&self, tip: Option<usize>) -> Vec<usize> {
        let mut way: Vec<usize> = std::iter::successors(tip, |id| self.nodes[*id].parent).collect();
        way.reverse();
        way
    }

    /// How many messages there are on all branches.
    pub(super) fn len(&self) -> usize {
        self.nodes.len()
    }

    /// The last message of the current branch.
    pub(super) fn last(&self) -> Option<usize> {
        self.path.last().copied()
    }

    /// Does what an entry says, and takes note of it.
    fn make(&mut self, entry: Entry) {
        // Made from what is there, so it fits.
        let _ = self.apply(&entry);
        self.news.push(entry);
    }

    /// The entries since the last call.
    pub(super) fn news(&mut self) -> Vec<Entry> {
        std::mem::take(&mut self.news)
    }

    /// All of it as entries, from nothing.
    pub(super) fn entries(&self) -> Vec<Entry> {
        let mut entries = Vec::new();
        if self.system.is_some() {
            entries.push(Entry::System { text: self.system.clone() });
        }
        let message = |(id, node): (usize, &Node)| {
            let message = Box::new(node.message.clone());
            Entry::Message { id, parent: node.parent, message, drawn: None }
        };
        entries.extend(self.nodes.iter().enumerate().map(message));
        entries.extend(self.branches.iter().map(|branch| Entry::Branch { name: branch.name.clone(), tip: branch.tip }));
        if self.current > 0 {
            entries.push(Entry::On { name: self.branch().to_owned() });
        }
        entries.extend(self.starts.iter().map(|first| Entry::Roll { first: *first }));
        entries
    }

    /// Does what an entry of a saved chat says; entries that are not about messages do nothing.
    ///
    /// # Errors
    /// What does not fit, where the entry speaks of messages or branches that are not there.
    pub(super) fn apply(&mut self, entry: &Entry) -> std::result::Result<(), String> {
        let known = |id: &usize| if *id < self.nodes.len() { Ok(()) } else { Err(format!("there is no message {id}")) };
        match entry {
            Entry::System { text } => self.system.clone_from(text),
            Entry::Message { id, parent, message, .. } => {
                parent.iter().try_for_each(known)?;
                if *id != self.nodes.len() {
                    return Err(format!("message {id} comes where {} should", self.nodes.len()));
                }
                self.nodes.push(Node { message: (**message).clone(), parent: *parent });
                let branch = &mut self.branches[self.current];
                if branch.tip == *parent {
                    branch.tip = Some(*id);
                }
            }
            Entry::Branch { name, tip } => {
                tip.iter().try_for_each(known)?;
                match self.branches.iter_mut().find(|branch| branch.name == *name) {
                    Some(branch) => branch.tip = *tip,
                    None => self.branches.push(Branch { name: name.clone(), tip: *tip }),
                }
            }
            Entry::On { name } => {
                let at = self.branches.iter().position(|branch| branch.name == *name);
                self.current = at.ok_or_else(|| format!("there is no branch {name}"))?;
            }
            Entry::Forget { name } => {
                let current = self.branch().to_owned();
                self.branches.retain(|branch| branch.name != *name || *name == current);
                self.current = self.branches.iter().position(|branch| branch.name == current).unwrap_or(0);
            }
            Entry::Roll { first } => {
                known(first)?;
                self.starts.push(*first);
            }
            Entry::Clear {} => {
                *self = Conversation { system: self.system.take(), news: std::mem::take(&mut self.news), ..Conversation::default() }
            }
            Entry::Begin { .. }
            | Entry::Model { .. }
            | Entry::Thinking { .. }
            | Entry::Variables { .. }
            | Entry::Sampling { .. }
            | Entry::Drawn { .. }
            | Entry::Token { .. } => return Ok(()),
        }
        self.path = self.way(self.branches[self.current].tip);
        let system = self.system.iter().map(|text| Message::new(Role::System, text.as_str()));
        self.messages = system.chain(self.path.iter().map(|id| self.nodes[*id].message.clone())).collect();
        Ok(())
    }
}
