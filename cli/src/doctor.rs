//! `hob doctor`: what this machine has for models, how fast it is, and what makes it slower than it could be.

use std::io::Write;
use std::path::{Path, PathBuf};

use hob::Device;
use hob::Level;
use hob::device::{Presence, devices};
use hob::machine::Memory;
use hob::plan::Profile;
use serde_json::{Value, json};

use crate::failure::Failure;
use crate::folders;
use crate::plan::{profile, when};
use crate::table::{Side, plain};
use crate::terminal::printable;
use crate::units;

const AFTER: &str = "\
Examples:
  hob doctor
  hob doctor --quick
  hob doctor --json | jq -r '.slow[].help'";

/// Flags of `hob doctor`.
#[derive(clap::Args)]
#[command(after_help = AFTER)]
pub(crate) struct Args {
    /// Do not measure speed, which takes some seconds where it is not known yet
    #[arg(long, conflicts_with = "measure")]
    quick: bool,
    /// Measure speed anew, whatever is kept of it
    #[arg(long)]
    measure: bool,
    /// Print a JSON object
    #[arg(long)]
    json: bool,
}

/// Something that costs speed, and what to do about it.
struct Slow {
    what: String,
    help: &'static str,
}

/// What was found of the machine.
struct Machine {
    cpu: String,
    level: String,
    /// Logical processors, and threads that hob uses: performance cores.
    logical: usize,
    threads: usize,
    memory: Option<Memory>,
    /// Bytes of a page; whether the system makes large ones by itself.
    page: Option<u64>,
    huge: Option<String>,
    profile: Option<Profile>,
    caches: Vec<(&'static str, PathBuf, u64)>,
}

impl Machine {
    fn look(args: &Args) -> Result<Machine, Failure> {
        let profile = if args.quick { None } else { Some(profile(None, args.measure)?) };
        let caches = [("cache", folders::cache()), ("data", folders::data())];
        Ok(Machine {
            cpu: hob::machine::cpu(),
            level: Level::from_env().map_or_else(|e| e.to_string(), |level| level.to_string()),
            logical: std::thread::available_parallelism().map_or(1, usize::from),
            threads: hob::default_threads(),
            memory: Memory::of_this_machine(),
            page: page_size(),
            huge: chosen(&read("/sys/kernel/mm/transparent_hugepage/enabled")),
            profile,
            caches: caches.into_iter().filter_map(|(name, path)| path.map(|path| (name, path.clone(), bytes_below(&path)))).collect(),
        })
    }
}

/// A small file of the system's, empty where it is not there.
fn read(path: &str) -> String {
    std::fs::read_to_string(path).unwrap_or_default().trim().to_owned()
}

/// `madvise` of `always [madvise] never`.
fn chosen(line: &str) -> Option<String> {
    let (_, rest) = line.split_once('[')?;
    Some(rest.split_once(']')?.0.to_owned())
}

/// Of the first mapping that the system tells about (Linux).
fn page_size() -> Option<u64> {
    let maps = std::fs::read_to_string("/proc/self/smaps").ok()?;
    let line = maps.lines().find_map(|line| line.strip_prefix("KernelPageSize:"))?;
    line.trim().strip_suffix(" kB")?.trim().parse::<u64>().ok().map(|kib| kib << 10)
}

/// Bytes of all files in a folder; links are not followed.
fn bytes_below(folder: &Path) -> u64 {
    let Ok(entries) = std::fs::read_dir(folder) else { return 0 };
    let of = |entry: std::fs::DirEntry| match entry.file_type() {
        Ok(kind) if kind.is_dir() => bytes_below(&entry.path()),
        Ok(kind) if kind.is_file() => entry.metadata().map_or(0, |facts| facts.len()),
        Ok(_) | Err(_) => 0,
    };
    entries.flatten().map(of).sum()
}

/// Processors that a control group lets this process use at a time, where it bounds them (cgroup v2 `cpu.max`, v1 `cpu.cfs_quota_us`).
fn quota() -> Option<f64> {
    let v2 = read("/sys/fs/cgroup/cpu.max");
    let of = |quota: &str, period: &str| Some(quota.parse::<f64>().ok().filter(|q| *q > 0.0)? / period.parse::<f64>().ok()?);
    match v2.split_once(' ') {
        Some((quota, period)) => of(quota, period),
        None => of(&read("/sys/fs/cgroup/cpu/cpu.cfs_quota_us"), &read("/sys/fs/cgroup/cpu/cpu.cfs_period_us")),
    }
}

/// What costs speed here.
fn slow(machine: &Machine) -> Vec<Slow> {
    let mut found = Vec::new();
    let mut say = |what: String, help: &'static str| found.push(Slow { what, help });
    if std::env::var_os("HOB_LEVEL").is_some_and(|level| !level.is_empty()) {
        say(format!("HOB_LEVEL chooses {}", machine.level), "unset it: the best level is chosen by itself");
    }
    if machine.level == "scalar" {
        say("no vector instructions that hob knows: a tenth of the speed".into(), "any processor with AVX2 (2013 on) or NEON does better");
    }
    let governor = read("/sys/devices/system/cpu/cpu0/cpufreq/scaling_governor");
    let preference = read("/sys/devices/system/cpu/cpu0/cpufreq/energy_performance_preference");
    // The pstate drivers call their ordinary governor powersave: there the preference tells.
    let saving = if preference.is_empty() { governor == "powersave" } else { preference == "power" };
    if saving {
        say("the processor saves power".into(), "choose the performance profile of the desktop, or: cpupower frequency-set -g performance");
    }
    if mains() == Some(false) {
        say("on battery: many machines halve their clock".into(), "plug it in");
    }
    if let Some(quota) = quota()
        && quota < machine.threads as f64 + 0.01
        && quota < machine.logical as f64
    {
        say(
            format!("a control group allows {quota:.1} processors at a time; threads beyond are stopped"),
            "raise the limit of the container, or use -t with as many",
        );
    }
    let load = read("/proc/loadavg").split(' ').next().and_then(|load| load.parse::<f64>().ok());
    if let Some(load) = load.filter(|load| *load > 0.5 * machine.logical as f64) {
        say(format!("other programs are at work (load {load:.1})"), "close them: a thread that waits makes all others wait");
    }
    if let Some(memory) = &machine.memory {
        if memory.swap_used > 256 << 20 && memory.available < memory.total / 5 {
            say(format!("{} are swapped out", units::bytes(memory.swap_used)), "close programs, or take a smaller model: `hob plan`");
        }
        if memory.available < 2 << 30 {
            say(
                format!("only {} of memory are available", units::bytes(memory.available)),
                "close programs: the smallest models need about 1 GiB",
            );
        }
    }
    if machine.huge.as_deref() == Some("never") {
        say("the system makes no large pages".into(), "echo madvise | sudo tee /sys/kernel/mm/transparent_hugepage/enabled");
    }
    if let Some(profile) = &machine.profile
        && profile.read < 10e9
    {
        say(
            format!("memory is read at {:.1} GB/s: answers are that slow", profile.read / 1e9),
            "two memory modules instead of one double it; so does their rated speed, set in the firmware (XMP, EXPO)",
        );
    }
    found
}

/// Whether a power supply is plugged in, where the system tells (Linux).
fn mains() -> Option<bool> {
    let supplies = std::fs::read_dir("/sys/class/power_supply").ok()?.flatten();
    let mut mains = supplies.filter(|s| read(&s.path().join("type").display().to_string()) == "Mains").peekable();
    mains.peek()?;
    Some(mains.any(|s| read(&s.path().join("online").display().to_string()) == "1"))
}

/// Runs `hob doctor`.
pub(crate) fn run(args: Args, out: &mut dyn Write) -> Result<(), Failure> {
    let machine = Machine::look(&args)?;
    let (devices, slow) = (devices(), slow(&machine));
    if args.json {
        serde_json::to_writer_pretty(&mut *out, &object(&machine, &devices, &slow)).map_err(std::io::Error::from)?;
        writeln!(out)?;
        return Ok(());
    }
    writeln!(out, "Processor")?;
    let row = |what: &str, is: String| [what.to_owned(), is];
    let mut rows = vec![
        row("name", printable(&machine.cpu).into_owned()),
        row("level", machine.level.clone()),
        row("threads", format!("{} (performance cores; {} logical processors)", machine.threads, machine.logical)),
    ];
    if let Some(profile) = &machine.profile {
        rows.push(row("reads", format!("{:.1} GB/s ({}; --measure does it anew)", profile.read / 1e9, when(profile))));
        rows.push(row("multiplies", format!("{:.0} G products of bytes a second", profile.int8 / 1e9)));
    }
    plain(out, [Side::Left, Side::Left], &rows)?;

    writeln!(out, "\nMemory")?;
    let mut rows = Vec::new();
    match &machine.memory {
        None => rows.push(row("all", "the system does not tell".into())),
        Some(memory) => {
            rows.push(row("available", format!("{} of {}", units::bytes(memory.available), units::bytes(memory.total))));
            if let Some((group, bytes)) = &memory.limit {
                rows.push(row("limit", format!("{} by {}", units::bytes(*bytes), printable(group))));
            }
            rows.push(row("swap", format!("{} of {} in use", units::bytes(memory.swap_used), units::bytes(memory.swap))));
        }
    }
    if let Some(page) = machine.page {
        let huge = machine.huge.as_ref().map_or(String::new(), |huge| format!(", large ones: {huge}"));
        rows.push(row("pages", format!("{}{huge}", units::bytes(page))));
    }
    plain(out, [Side::Left, Side::Left], &rows)?;

    writeln!(out, "\nDevices (--device)")?;
    let rows: Vec<_> = devices.iter().map(device_row).collect();
    plain(out, [Side::Left, Side::Left, Side::Left], &rows)?;

    writeln!(out, "\nFolders")?;
    let folder = |(name, path, bytes): &(&str, PathBuf, u64)| [(*name).to_owned(), path.display().to_string(), units::bytes(*bytes)];
    let rows: Vec<_> = machine.caches.iter().map(folder).collect();
    plain(out, [Side::Left, Side::Left, Side::Right], &rows)?;

    if slow.is_empty() {
        writeln!(out, "\nNothing was found that costs speed.")?;
    } else {
        writeln!(out, "\nWhat costs speed")?;
        for Slow { what, help } in &slow {
            writeln!(out, "  {what}\n      {help}")?;
        }
    }
    Ok(())
}

fn device_row((device, presence): &(Device, Presence)) -> [String; 3] {
    let (ready, about) = match presence {
        Presence::Ready { name, memory: None } => ("yes", name.clone()),
        Presence::Ready { name, memory: Some(memory) } => {
            ("yes", format!("{name}, {} of {} free", units::bytes(memory.free), units::bytes(memory.total)))
        }
        Presence::Absent(why) => ("no", why.clone()),
    };
    [device.to_string(), ready.to_owned(), printable(&about).into_owned()]
}

fn object(machine: &Machine, devices: &[(Device, Presence)], slow: &[Slow]) -> Value {
    let device = |(device, presence): &(Device, Presence)| match presence {
        Presence::Ready { name, memory } => json!({
            "device": device.to_string(),
            "ready": true,
            "name": name,
            "memory_free": memory.map(|m| m.free),
            "memory_total": memory.map(|m| m.total),
        }),
        Presence::Absent(why) => json!({ "device": device.to_string(), "ready": false, "why": why }),
    };
    let memory = machine.memory.as_ref();
    let profile = machine.profile.as_ref();
    json!({
        "cpu": machine.cpu,
        "level": machine.level,
        "threads": machine.threads,
        "logical": machine.logical,
        "read_bytes_per_second": profile.map(|p| p.read),
        "int8_products_per_second": profile.map(|p| p.int8),
        "measured": profile.map(|p| p.measured),
        "memory_total": memory.map(|m| m.total),
        "memory_available": memory.map(|m| m.available),
        "memory_limit": memory.and_then(|m| m.limit.as_ref()).map(|(by, bytes)| json!({ "bytes": bytes, "by": by })),
        "swap_total": memory.map(|m| m.swap),
        "swap_used": memory.map(|m| m.swap_used),
        "page_bytes": machine.page,
        "large_pages": machine.huge,
        "devices": devices.iter().map(device).collect::<Vec<_>>(),
        "folders": machine.caches.iter().map(|(name, path, bytes)| json!({ "name": name, "path": path, "bytes": bytes })).collect::<Vec<_>>(),
        "slow": slow.iter().map(|s| json!({ "what": s.what, "help": s.help })).collect::<Vec<_>>(),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_chosen_of_several_is_read() {
        assert_eq!(chosen("always [madvise] never").as_deref(), Some("madvise"));
        assert_eq!(chosen(""), None);
    }
}
