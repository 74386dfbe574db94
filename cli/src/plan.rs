//! `hob plan`: whether a model fits, with how much context, and how fast it will be, before it is loaded or downloaded.

mod object;

use std::io::Write;
use std::path::Path;

use hob::cache::KvType;
use hob::catalogue::{self, Entry, Use};
use hob::device::{Presence, devices};
use hob::gguf::Gguf;
use hob::machine::Memory;
use hob::plan::{Ask, Choice, Fits, Part, Plan, Profile, Speed, best};
use hob::quantize::FileType;
use hob::store::Reference;
use hob::{Device, Fault};
use serde_json::json;

use crate::failure::Failure;
use crate::folders;
use crate::inspect;
use crate::models::{self, Meant};
use crate::table::{Side, plain};
use crate::terminal::{Waiting, printable};
use crate::units;
use crate::values::{KvName, at_least_one};

const AFTER: &str = "\
MODEL is a .gguf file, a model that hob knows by name, with or without a type (qwen3-4b, qwen3-4b:Q8_0), one of hob ls, or one that
hob pull would bring (user/repo:QUANT, an address), of which the header alone is read.
Without MODEL: what fits this machine best, by use, and what would fit others.

Speeds are predictions from what this machine was measured at once, in some seconds; --measure measures anew.

Examples:
  hob plan
  hob plan --memory 16G
  hob plan qwen3-30b-a3b -c 32768
  hob plan bartowski/Llama-3.2-1B-Instruct-GGUF:Q8_0
  hob plan MODEL.gguf --json";

/// Flags of `hob plan`.
#[derive(clap::Args)]
#[command(after_help = AFTER)]
pub(crate) struct Args {
    /// Files or names, NAME or NAME:TYPE; the table of what fits best where there is none
    models: Vec<String>,
    /// Tokens of context [default: the model's own, at most 8192]
    #[arg(short = 'c', long, visible_alias = "ctx-size", value_name = "N", value_parser = at_least_one)]
    context: Option<usize>,
    /// Numbers in the key cache (-ctk)
    #[arg(long, value_name = "TYPE", default_value = "f16")]
    cache_type_k: KvName,
    /// Numbers in the value cache (-ctv)
    #[arg(long, value_name = "TYPE", default_value = "f16")]
    cache_type_v: KvName,
    /// Ask for a machine with this much memory instead: 8G, 16G, 24000M
    #[arg(long, value_name = "SIZE", value_parser = size)]
    memory: Option<u64>,
    /// Worker threads [default: the machine's performance cores]
    #[arg(short = 't', long, value_name = "N", value_parser = at_least_one)]
    threads: Option<usize>,
    /// Measure this machine anew, whatever is kept of it
    #[arg(long)]
    measure: bool,
    /// Print a JSON object
    #[arg(long)]
    json: bool,
}

/// Whether a device computes in this machine's own memory, as far as that is known before a model is placed.
pub(crate) fn in_main_memory(device: Device) -> bool {
    let own = |(device, presence): (Device, Presence)| {
        matches!(device, Device::Cuda(_) | Device::Metal(_)) && matches!(presence, Presence::Ready { .. })
    };
    match device {
        Device::Cpu | Device::Candle => true,
        Device::Auto => !devices().into_iter().any(own),
        Device::Cuda(_) | Device::Metal(_) => false,
    }
}

/// Refuses a model that would swap, before it is loaded.
pub(crate) fn refuse_what_swaps(gguf: &Gguf, ask: &Ask) -> Result<(), Failure> {
    let Some(memory) = Memory::of_this_machine() else { return Ok(()) };
    // What is far from it need not be looked at.
    if gguf.file_bytes() < memory.available / 4 && ask.context.is_none() {
        return Ok(());
    }
    let plan = Plan::of(gguf, ask)?;
    let Fits::No(_) = plan.fits(&memory) else { return Ok(()) };
    let largest = plan.largest_context(&memory, KvType::F16, KvType::F16);
    let help = if largest > 0 {
        format!("a context of {largest} tokens would fit (-c {largest}); --force runs it all the same")
    } else {
        "a smaller type or model would fit: `hob plan` shows which; --force runs it all the same".to_owned()
    };
    let place = gguf.path().map_or_else(|| "the model".to_owned(), |path| path.display().to_string());
    let fault = Fault::at(place)
        .expected(format!("at most the {} that are available", gib(memory.available)))
        .found(format!("{} in memory: the system would swap, or read the file again for every token", gib(plan.resident())));
    Err(Failure::Engine(hob::Error::Memory(fault.help(help))))
}

/// `16G`, `16GiB`, `16gb`, `24000M` in bytes.
fn size(text: &str) -> Result<u64, String> {
    let text = text.trim().to_ascii_lowercase();
    let digits = text.trim_end_matches(|c: char| c.is_ascii_alphabetic()).trim();
    let unit = text[digits.len()..].trim().trim_end_matches('b').trim_end_matches('i');
    let shift = match unit {
        "" | "g" => 30,
        "m" => 20,
        "t" => 40,
        _ => return Err("a size such as 16G is needed".into()),
    };
    let number: f64 = digits.parse().map_err(|_| "a size such as 16G is needed".to_owned())?;
    let bytes = number * f64::from(shift).exp2();
    if (1e6..1e15).contains(&bytes) { Ok(bytes as u64) } else { Err("a size from 1M to 900T is needed".into()) }
}

/// What predictions are made from: the machine's memory, and its profile where it could be measured.
struct Machine {
    memory: Memory,
    /// Whether it is another machine's memory.
    supposed: bool,
    profile: Profile,
}

/// Where the profile is kept.
fn profile_path() -> Option<std::path::PathBuf> {
    folders::cache().map(|folder| folder.join("profile.json"))
}

/// This machine's profile: the kept one, or a new one, with a spinner while it is made.
pub(crate) fn profile(threads: Option<usize>, anew: bool) -> Result<Profile, Failure> {
    let threads = threads.unwrap_or_else(hob::default_threads);
    let path = profile_path();
    let _waiting = Waiting::on(format!("measuring what {threads} threads can do here, once"));
    if anew {
        let profile = Profile::measure(threads)?;
        if let Some(path) = &path {
            profile.keep(path).map_err(|e| Failure::io(path.clone(), e))?;
        }
        return Ok(profile);
    }
    Ok(Profile::kept_or_measured(path.as_deref(), threads)?)
}

/// A model to plan for.
enum Subject {
    /// A file's header, of one that is here or not.
    Header(Gguf),
    Known(&'static Entry, FileType),
}

impl Subject {
    fn of(name: &str) -> Result<Subject, Failure> {
        let path = Path::new(name);
        if !path.exists()
            && let Ok((entry, kind)) = catalogue::find_quantized(name)
        {
            return Ok(Subject::Known(entry, kind.unwrap_or_else(|| entry.usual())));
        }
        Ok(Subject::Header(match models::meant(path, &folders::listing(&[]))? {
            Meant::File(path) => Gguf::open(path)?,
            Meant::Here(entry) => Gguf::open(entry.usable()?)?,
            Meant::Elsewhere(reference) => head(&reference)?,
        }))
    }

    fn title(&self) -> String {
        match self {
            Subject::Header(gguf) => inspect::title(gguf),
            Subject::Known(entry, kind) => format!("{} · {} {}", entry.title, units::count(entry.parameters), kind.name()),
        }
    }

    fn plan(&self, ask: &Ask) -> Result<Plan, Failure> {
        Ok(match self {
            Subject::Header(gguf) => Plan::of(gguf, ask)?,
            Subject::Known(entry, kind) => Plan::of(&entry.header(*kind, None)?, ask)?,
        })
    }
}

/// The header of a model that is not here: some megabytes of it are read, and nothing is kept.
#[cfg(feature = "hub")]
fn head(reference: &Reference) -> Result<Gguf, Failure> {
    let hub = crate::fetch::hub()?;
    let remote = crate::fetch::look_up(&hub, reference)?;
    let _waiting = Waiting::on(format!("reading the header of {}", remote.name));
    Ok(hub.head(&remote)?)
}

#[cfg(not(feature = "hub"))]
fn head(reference: &Reference) -> Result<Gguf, Failure> {
    let fault = Fault::at(format!("`{reference}`")).found("not on this machine");
    Err(Failure::Engine(hob::Error::Input(fault.help("this hob was built without `hub`: download it and give its path"))))
}

/// Runs `hob plan`.
pub(crate) fn run(args: Args, out: &mut dyn Write) -> Result<(), Failure> {
    let ask = Ask::default().context(args.context).cache_types(args.cache_type_k.into(), args.cache_type_v.into());
    let subjects = args.models.iter().map(|name| Subject::of(name)).collect::<Result<Vec<_>, _>>()?;
    let memory = match args.memory {
        Some(bytes) => Memory::of_size(bytes),
        None => Memory::of_this_machine()
            .ok_or_else(|| Failure::usage("the system does not tell how much memory there is", "say it: --memory 16G"))?,
    };
    let machine = Machine { memory, supposed: args.memory.is_some(), profile: profile(args.threads, args.measure)? };
    if subjects.is_empty() {
        return overview(&ask, &machine, args.json, out);
    }
    let mut objects = Vec::new();
    for (at, subject) in subjects.iter().enumerate() {
        let plan = subject.plan(&ask)?;
        let speed = plan.speed(&machine.profile);
        if args.json {
            objects.push(object::one(subject, &plan, &machine, &ask)?);
            continue;
        }
        if at > 0 {
            writeln!(out)?;
        }
        one(subject, &plan, speed, &machine, &ask, out)?;
    }
    if args.json {
        serde_json::to_writer_pretty(&mut *out, &json!({ "machine": object::about(&machine), "models": objects }))
            .map_err(std::io::Error::from)?;
        writeln!(out)?;
    }
    Ok(())
}

/// `7.1/s`, `451/s`.
fn rate(tokens: f64) -> String {
    if tokens < 10.0 { format!("{tokens:.1}/s") } else { format!("{tokens:.0}/s") }
}

fn gib(bytes: u64) -> String {
    units::bytes(bytes)
}

/// How long ago the machine was measured, and whether it was busy then.
pub(crate) fn when(profile: &Profile) -> String {
    let when = match profile.age().as_secs() / 86_400 {
        0 => "measured today".to_owned(),
        1 => "measured yesterday".into(),
        days => format!("measured {days} days ago"),
    };
    if profile.busy { when + ", while other programs were at work" } else { when }
}

fn machine_line(machine: &Machine) -> String {
    let Machine { memory, profile, .. } = machine;
    let memory = match machine.supposed {
        true => format!("A machine of {}, of which {} are free for a model", gib(memory.total), gib(memory.available)),
        false => format!("This machine: {} of {} available", gib(memory.available), gib(memory.total)),
    };
    let of = &profile.of;
    format!("{memory}\n  {} threads, {}, reading {:.1} GB/s ({})", of.threads, of.level, profile.read / 1e9, when(profile))
}

/// One model: facts, memory, speed, types.
fn one(subject: &Subject, plan: &Plan, speed: Speed, machine: &Machine, ask: &Ask, out: &mut dyn Write) -> Result<(), Failure> {
    writeln!(out, "{}", printable(&subject.title()))?;
    if let Subject::Known(entry, _) = subject {
        let uses: Vec<&str> = entry.uses.iter().map(|u| u.name()).collect();
        let thinks = match entry.thinking {
            catalogue::Thinks::No => "does not think",
            catalogue::Thinks::Optional => "thinks if asked to",
            catalogue::Thinks::Always => "thinks before it answers",
        };
        writeln!(out, "  for {}; {thinks}; languages: {}", uses.join(", "), entry.languages)?;
        writeln!(out, "  {}: {}\n  huggingface.co/{}", entry.license, entry.allows, entry.repository)?;
    }
    writeln!(out, "\n{}", machine_line(machine))?;
    writeln!(out, "\nMemory, {} tokens of context", plan.context())?;
    let row = |what: &str, bytes: u64, note: String| [what.to_owned(), gib(bytes), note];
    let mut rows: Vec<[String; 3]> = Vec::new();
    for (part, bytes) in plan.weights() {
        let note = match part {
            Part::Rows => "a row a token is read: it may stay on the disk, and does not count".to_owned(),
            Part::Embedding | Part::Attention | Part::Recurrent | Part::FeedForward | Part::Experts | Part::Small | Part::Copies => {
                String::new()
            }
        };
        rows.push(row(part.name(), *bytes, note));
    }
    let (k, v) = plan.cache_types();
    if plan.cache() > 0 {
        let each = plan.cache_with(plan.context() + 64, k, v).saturating_sub(plan.cache()) / 64;
        rows.push(row("cache", plan.cache(), format!("{}, {}; {} for each token more", k.name(), v.name(), gib(each))));
    }
    if plan.recurrent() > 0 {
        rows.push(row("recurrent state", plan.recurrent(), "whatever the context".into()));
    }
    if plan.marks() > 0 {
        rows.push(row("copies kept", plan.marks(), "at most: to come back to where a chat goes another way".into()));
    }
    rows.push(row("scratch, program", plan.scratch() + plan.program(), String::new()));
    rows.push(row("all", plan.resident(), verdict(plan, &machine.memory)));
    plain(out, [Side::Left, Side::Right, Side::Left], &rows)?;
    contexts(plan, &machine.memory, out)?;
    writeln!(out, "\nSpeed, predicted, in tokens a second")?;
    let rows = [
        ["a prompt of 512".to_owned(), rate(speed.prompt)],
        ["an answer".into(), rate(speed.answer)],
        [format!("an answer behind {} tokens", plan.context()), rate(speed.answer_full)],
    ];
    plain(out, [Side::Left, Side::Right], &rows)?;
    if let Subject::Known(entry, _) = subject {
        types(entry, machine, ask, out)?;
    }
    Ok(())
}

fn verdict(plan: &Plan, memory: &Memory) -> String {
    match plan.fits(memory) {
        Fits::Yes(left) => format!("of {} available: fits, {} are left", gib(memory.available), gib(left)),
        Fits::No(missing) => format!("of {} available: {} too much, it would swap", gib(memory.available), gib(missing)),
    }
}

/// The largest context by type of cache.
fn contexts(plan: &Plan, memory: &Memory, out: &mut dyn Write) -> Result<(), Failure> {
    let kinds = kinds_of_cache();
    let largest: Vec<(KvType, usize)> = kinds.iter().map(|kind| (*kind, plan.largest_context(memory, *kind, *kind))).collect();
    if plan.cache() == 0 || largest.iter().all(|(_, tokens)| *tokens == 0) {
        return Ok(());
    }
    let told: Vec<String> = largest.iter().map(|(kind, tokens)| format!("{tokens} in {}", kind.name())).collect();
    writeln!(out, "  largest context that fits: {} (trained for {})", told.join(", "), plan.trained())?;
    Ok(())
}

/// The types of cache that differ in what fits, the most exact first.
fn kinds_of_cache() -> [KvType; 3] {
    [KvType::F16, KvType::Q8_0, KvType::Q4_0]
}

/// A model in each of its types: which is the best for the machine.
fn types(entry: &Entry, machine: &Machine, ask: &Ask, out: &mut dyn Write) -> Result<(), Failure> {
    let plans = plans(entry, ask)?;
    if plans.len() < 2 {
        return Ok(());
    }
    let best = best_type(&plans, machine);
    writeln!(out, "\nTypes")?;
    let mut rows = vec![["", "type", "file", "memory", "prompt", "answer", ""].map(str::to_owned)];
    for (at, (kind, plan)) in plans.iter().enumerate() {
        let speed = plan.speed(&machine.profile);
        let note = match plan.fits(&machine.memory) {
            Fits::Yes(_) if best == Some(at) => "the best here",
            Fits::Yes(_) => "",
            Fits::No(_) => "does not fit",
        };
        let mark = if best == Some(at) { "→" } else { "" };
        let (prompt, answer) = (rate(speed.prompt), rate(speed.answer));
        rows.push([mark.into(), kind.name().into(), gib(plan.file_bytes()), gib(plan.resident()), prompt, answer, note.into()]);
    }
    plain(out, [Side::Left, Side::Left, Side::Right, Side::Right, Side::Right, Side::Right, Side::Left], &rows)?;
    Ok(())
}

fn plans(entry: &Entry, ask: &Ask) -> Result<Vec<(FileType, Plan)>, Failure> {
    entry.kinds().into_iter().map(|kind| Ok((kind, Plan::of(&entry.header(kind, None)?, ask)?))).collect()
}

/// The most exact type that fits and answers as fast as people read, 8 tokens a second; else the most exact from Q4_K_M down, or the
/// smallest, that fits.
fn best_type(plans: &[(FileType, Plan)], machine: &Machine) -> Option<usize> {
    const READING: f64 = 8.0;
    let fits = |at: &usize| plans[*at].1.fits(&machine.memory).is_yes();
    let quantized = |at: &usize| !matches!(plans[*at].0, FileType::F32 | FileType::F16 | FileType::BF16);
    let fast = |at: &usize| plans[*at].1.speed(&machine.profile).answer >= READING;
    let usual = plans.iter().position(|(kind, _)| *kind == FileType::Q4_K_M).unwrap_or(0);
    let all = || (0..plans.len()).filter(fits).filter(quantized);
    all().filter(|at| *at >= usual).filter(fast).max().or_else(|| all().filter(|at| *at <= usual).max()).or_else(|| all().min())
}

/// What fits, by use, here and elsewhere.
fn overview(ask: &Ask, machine: &Machine, as_json: bool, out: &mut dyn Write) -> Result<(), Failure> {
    let choices = {
        let _waiting = Waiting::on("planning for every model that hob knows".into());
        Choice::all(ask, Some(&machine.profile))?
    };
    let elsewhere: &[u64] = if machine.supposed { &[] } else { &[8, 16, 32, 64] };
    if as_json {
        return Ok(object::overview(&choices, machine, elsewhere, out)?);
    }
    writeln!(out, "{}\n", machine_line(machine))?;
    let sides = [Side::Left, Side::Right, Side::Right, Side::Right, Side::Left];
    let mut rows = vec![["", "memory", "prompt", "answer", "best for"].map(str::to_owned)];
    section(&choices, if machine.supposed { "There" } else { "Here" }, &machine.memory, 3, &mut rows);
    for gb in elsewhere {
        section(&choices, &format!("{gb} GB"), &Memory::of_size(gb << 30), 1, &mut rows);
    }
    plain(out, sides, &rows)?;
    let context = ask.context.map_or("8192 tokens of context".to_owned(), |n| format!("{n} tokens of context"));
    writeln!(out, "\nEach in Q4_K_M or the one type there is, with {context}; speeds are this processor's.")?;
    writeln!(out, "More of one: hob plan NAME. What is slower than 4 tokens a second is left out.")?;
    Ok(())
}

/// The best of a memory, each once, with what it is among the best for.
fn section(choices: &[Choice], title: &str, memory: &Memory, most: usize, rows: &mut Vec<[String; 5]>) {
    let mut found: Vec<(&Choice, Vec<&str>)> = Vec::new();
    for wanted in Use::ALL {
        for choice in best(choices, wanted, memory).into_iter().take(most) {
            match found.iter_mut().find(|(c, _)| c.entry.name == choice.entry.name) {
                Some((_, uses)) => uses.push(wanted.name()),
                None => found.push((choice, vec![wanted.name()])),
            }
        }
    }
    rows.push(std::array::from_fn(|at| if at == 0 { title.to_owned() } else { String::new() }));
    for (choice, uses) in found {
        let (prompt, answer) = choice.speed.map_or(Default::default(), |s| (rate(s.prompt), rate(s.answer)));
        let uses = if uses.len() == Use::ALL.len() { "everything".to_owned() } else { uses.join(", ") };
        rows.push([format!("  {}", choice.entry.name), gib(choice.plan.resident()), prompt, answer, uses]);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_are_read_as_people_write_them() {
        for (text, bytes) in
            [("16G", 16u64 << 30), ("16gib", 16 << 30), ("16", 16 << 30), ("512 MB", 512 << 20), ("1.5G", 3 << 29), ("1T", 1 << 40)]
        {
            assert_eq!(size(text), Ok(bytes), "{text}");
        }
        assert!(size("lots").is_err() && size("-1G").is_err() && size("").is_err() && size("5K").is_err());
    }
}
