//! The cores that are worth computing on.
//!
//! A second thread on a core shares its vector units, and a core made for little power holds up the ones that wait for its share. So
//! what counts is physical cores, and of these the fast ones, as far as this process may run on them.
//!
//! ```text
//! /proc/self/status                          Cpus_allowed_list: processors that it may run on
//! cpuN/topology/thread_siblings_list         the same text for all processors of a core
//! cpuN/cpu_capacity                          1024 for the fastest; only where cores differ (Arm, newer kernels on x86)
//! /sys/devices/cpu_core/cpus                 performance cores, where an Intel processor has others too
//! ```
//! Linux: Documentation/admin-guide/cputopology.rst, Documentation/ABI/testing/sysfs-devices-system-cpu.

use std::collections::{BTreeMap, BTreeSet};
use std::fs::read_to_string;
use std::path::Path;

/// The number of threads that suits this machine: its physical performance cores, those of them that this process may use. Where the
/// system does not tell cores apart, its processors.
///
/// ```
/// assert!(hob_kernels::default_threads() >= 1);
/// ```
pub fn default_threads() -> usize {
    // What a control group's share of time comes to is in it.
    let allowed = std::thread::available_parallelism().map_or(1, usize::from);
    here().map_or(allowed, |cores| cores.min(allowed)).max(1)
}

#[cfg(not(any(windows, target_os = "macos")))]
fn here() -> Option<usize> {
    linux(Path::new("/"))
}

/// The first of the performance levels is the highest; a Mac of Intel's has none.
#[cfg(target_os = "macos")]
fn here() -> Option<usize> {
    use sysctl::{Ctl, Sysctl};
    let number = |name: &str| Ctl::new(name).ok()?.value_string().ok()?.trim().parse().ok();
    number("hw.perflevel0.physicalcpu").or_else(|| number("hw.physicalcpu"))
}

#[cfg(windows)]
fn here() -> Option<usize> {
    Some(num_cpus::get_physical())
}

/// Performance cores under a root of Linux's files; `None` where they list none.
#[cfg_attr(any(windows, target_os = "macos"), allow(dead_code))]
fn linux(root: &Path) -> Option<usize> {
    let processors = root.join("sys/devices/system/cpu");
    let status = read_to_string(root.join("proc/self/status")).unwrap_or_default();
    let allowed = status.lines().find_map(|line| line.strip_prefix("Cpus_allowed_list:")).map(listed);
    let fast = read_to_string(root.join("sys/devices/cpu_core/cpus")).map(|list| listed(&list)).unwrap_or_default();
    // Of each processor: its core, and how fast it is.
    let mut found = BTreeMap::new();
    for entry in std::fs::read_dir(processors).ok()?.flatten() {
        let name = entry.file_name();
        let Some(number) = name.to_str().and_then(|n| n.strip_prefix("cpu")?.parse::<usize>().ok()) else { continue };
        let Ok(core) = read_to_string(entry.path().join("topology/thread_siblings_list")) else { continue };
        let capacity = || read_to_string(entry.path().join("cpu_capacity")).ok()?.trim().parse::<u64>().ok();
        let capacity = if fast.contains(&number) { Some(u64::MAX) } else { capacity() };
        if allowed.as_ref().is_none_or(|allowed| allowed.contains(&number)) {
            found.insert(number, (core, capacity.unwrap_or(0)));
        }
    }
    let fastest = found.values().map(|(_, capacity)| *capacity).max()?;
    let cores: BTreeSet<&String> = found.values().filter(|(_, capacity)| *capacity >= fastest / 2).map(|(core, _)| core).collect();
    Some(cores.len())
}

/// Numbers as Linux lists them: `0-3,8,10-11`. What is no number is left out.
fn listed(text: &str) -> BTreeSet<usize> {
    let range = |part: &str| {
        let (first, last) = part.split_once('-').unwrap_or((part, part));
        let (first, last) = (first.parse::<usize>().ok()?, last.parse::<usize>().ok()?);
        // No machine has more.
        Some(first..=last.min(first.saturating_add(1 << 16)))
    };
    text.trim().split(',').filter_map(range).flatten().collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs::{create_dir_all, write};
    use std::sync::atomic::{AtomicUsize, Ordering};

    /// A machine: of each processor its siblings and its capacity; then performance cores, and processors that are allowed.
    type Machine = (&'static [(&'static str, Option<u64>)], Option<&'static str>, Option<&'static str>);

    fn cores((processors, fast, allowed): Machine) -> Option<usize> {
        static MADE: AtomicUsize = AtomicUsize::new(0);
        let name = format!("hob-cores-{}-{}", std::process::id(), MADE.fetch_add(1, Ordering::Relaxed));
        let root = std::env::temp_dir().join(name);
        let at = |path: &str, text: String| {
            let path = root.join(path);
            create_dir_all(path.parent().unwrap()).unwrap();
            write(path, text).unwrap();
        };
        // Beside processors there are other things.
        at("sys/devices/system/cpu/cpufreq/policy0", String::new());
        at("sys/devices/system/cpu/online", "0-99\n".into());
        for (n, (siblings, capacity)) in processors.iter().enumerate() {
            at(&format!("sys/devices/system/cpu/cpu{n}/topology/thread_siblings_list"), format!("{siblings}\n"));
            capacity.iter().for_each(|c| at(&format!("sys/devices/system/cpu/cpu{n}/cpu_capacity"), format!("{c}\n")));
        }
        fast.iter().for_each(|list| at("sys/devices/cpu_core/cpus", format!("{list}\n")));
        allowed.iter().for_each(|list| at("proc/self/status", format!("Name:\thob\nCpus_allowed_list:\t{list}\nThreads:\t1\n")));
        let cores = linux(&root);
        std::fs::remove_dir_all(root).unwrap();
        cores
    }

    #[test]
    fn fast_cores_are_counted_once_each() {
        const PLAIN: &[(&str, Option<u64>)] = &[("0,2", None), ("1,3", None), ("0,2", None), ("1,3", None)];
        // Two performance cores of two threads, four others.
        const INTEL: &[(&str, Option<u64>)] =
            &[("0-1", None), ("0-1", None), ("2-3", None), ("2-3", None), ("4", None), ("5", None), ("6", None), ("7", None)];
        const NEWER: &[(&str, Option<u64>)] = &[("0-1", Some(1024)), ("0-1", Some(1024)), ("2", Some(640)), ("3", Some(640))];
        // One of the fastest, two fast ones, three slow ones.
        const ARM: &[(&str, Option<u64>)] =
            &[("0", Some(280)), ("1", Some(280)), ("2", Some(280)), ("3", Some(860)), ("4", Some(860)), ("5", Some(1024))];
        let table: [(Machine, Option<usize>); 10] = [
            ((PLAIN, None, None), Some(2)),
            ((PLAIN, None, Some("0,2")), Some(1)),
            ((PLAIN, None, Some("1-2")), Some(2)),
            ((INTEL, Some("0-3"), None), Some(2)),
            ((INTEL, Some("0-3"), Some("3-7")), Some(1)),
            ((INTEL, Some("0-3"), Some("4-7")), Some(4)),
            ((NEWER, Some("0-1"), None), Some(1)),
            ((ARM, None, None), Some(3)),
            ((ARM, None, Some("0-2")), Some(3)),
            ((&[], None, None), None),
        ];
        for (machine, expected) in table {
            assert_eq!(cores(machine), expected, "{machine:?}");
        }
        assert_eq!(linux(Path::new("/no such root")), None);
    }

    #[test]
    fn lists_are_read_as_linux_writes_them() {
        assert_eq!(listed("0-2,5\n").into_iter().collect::<Vec<_>>(), [0, 1, 2, 5]);
        assert!(listed("\n").is_empty() && listed("a,3-,-").is_empty() && listed("3-1").is_empty());
        assert_eq!(listed("0-18446744073709551615").len(), (1 << 16) + 1);
    }
}
