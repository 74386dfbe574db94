//! How much memory a machine has, and how much of it a model may take.
//!
//! ```text
//! Linux     MemAvailable of /proc/meminfo: free pages and what can be given back at once (page cache, and a mapped model in it)
//!           no more than each control group above this process leaves: its limit less what it holds, file pages not counted
//!           v2 memory.max, memory.current, memory.stat    v1 memory.limit_in_bytes, memory.usage_in_bytes, memory.stat
//! macOS, Windows    what the system tells
//! ```
//! Available memory counts, not all of it: a model that takes more makes the system swap, or read the file again for every token.

use std::path::Path;

/// A machine's memory, in bytes.
#[derive(Clone, Debug, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
#[non_exhaustive]
pub struct Memory {
    /// All there is.
    pub total: u64,
    /// What can be had now without swapping.
    pub available: u64,
    /// Swap space, and how much of it is in use.
    pub swap: u64,
    /// Of that, in use.
    pub swap_used: u64,
    /// What bounds it where that is not the machine: a control group, with its limit.
    pub limit: Option<(String, u64)>,
}

impl Memory {
    /// This machine's, now; `None` where the system does not tell.
    pub fn of_this_machine() -> Option<Memory> {
        here()
    }

    /// A machine of so many bytes, of which the system and a desktop take their share: an eighth, and 2 GiB at least.
    ///
    /// ```
    /// use hob::machine::Memory;
    ///
    /// assert_eq!(Memory::of_size(16 << 30).available, 14 << 30);
    /// assert_eq!(Memory::of_size(64 << 30).available, 56 << 30);
    /// ```
    pub fn of_size(total: u64) -> Memory {
        Memory { total, available: total.saturating_sub((total / 8).max(2 << 30)), swap: 0, swap_used: 0, limit: None }
    }
}

#[cfg(not(any(windows, target_os = "macos")))]
fn here() -> Option<Memory> {
    linux(Path::new("/"))
}

#[cfg(any(windows, target_os = "macos"))]
fn here() -> Option<Memory> {
    let mut system = sysinfo::System::new();
    system.refresh_memory();
    let (total, available) = (system.total_memory(), system.available_memory());
    let (swap, swap_used) = (system.total_swap(), system.used_swap());
    (total > 0).then_some(Memory { total, available, swap, swap_used, limit: None })
}

/// What the files below `root` tell.
#[cfg_attr(any(windows, target_os = "macos"), allow(dead_code))]
fn linux(root: &Path) -> Option<Memory> {
    let info = std::fs::read_to_string(root.join("proc/meminfo")).ok()?;
    let field = |name: &str| {
        let line = info.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(':'))?;
        line.trim().strip_suffix(" kB")?.trim().parse::<u64>().ok()?.checked_mul(1024)
    };
    let total = field("MemTotal")?;
    // Before Linux 3.14 the system did not say it.
    let available = field("MemAvailable").or_else(|| Some(field("MemFree")? + field("Cached").unwrap_or(0)))?;
    let swap = field("SwapTotal").unwrap_or(0);
    let mut memory = Memory { total, available, swap, swap_used: swap.saturating_sub(field("SwapFree").unwrap_or(0)), limit: None };
    for group in groups(root) {
        if group.limit < memory.total {
            memory.total = group.limit;
            memory.limit = Some((group.name.clone(), group.limit));
        }
        memory.available = memory.available.min(group.left());
    }
    Some(memory)
}

/// A control group above this process that bounds its memory.
struct Group {
    name: String,
    limit: u64,
    held: u64,
    /// Of that, pages of files, which can be given back.
    files: u64,
}

impl Group {
    fn left(&self) -> u64 {
        self.limit.saturating_sub(self.held.saturating_sub(self.files))
    }
}

/// All control groups with a limit, from this process up.
fn groups(root: &Path) -> Vec<Group> {
    let own = std::fs::read_to_string(root.join("proc/self/cgroup")).unwrap_or_default();
    let mut found = Vec::new();
    for line in own.lines() {
        // hierarchy:controllers:path, where the second version has neither number nor names.
        let mut parts = line.splitn(3, ':');
        let (Some(number), Some(controllers), Some(path)) = (parts.next(), parts.next(), parts.next()) else { continue };
        let (base, limit, held) = match (number, controllers) {
            ("0", "") => ("sys/fs/cgroup", "memory.max", "memory.current"),
            (_, names) if names.split(',').any(|name| name == "memory") => {
                ("sys/fs/cgroup/memory", "memory.limit_in_bytes", "memory.usage_in_bytes")
            }
            (_, _) => continue,
        };
        let mut path = Some(Path::new(path.trim_start_matches('/')));
        while let Some(at) = path {
            let folder = root.join(base).join(at);
            found.extend(group(&folder, limit, held));
            path = at.parent();
        }
    }
    found
}

fn group(folder: &Path, limit: &str, held: &str) -> Option<Group> {
    let number = |name: &str| std::fs::read_to_string(folder.join(name)).ok()?.trim().parse::<u64>().ok();
    // "max", or the largest number of pages, means none.
    let limit = number(limit).filter(|limit| *limit < 1 << 60)?;
    let stat = std::fs::read_to_string(folder.join("memory.stat")).unwrap_or_default();
    let part = |name: &str| {
        let line = stat.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(' '))?;
        line.trim().parse::<u64>().ok()
    };
    let files = ["inactive_file", "active_file"].iter().filter_map(|name| part(&format!("total_{name}")).or_else(|| part(name))).sum();
    Some(Group { name: folder.display().to_string(), limit, held: number(held).unwrap_or(0), files })
}

#[cfg(test)]
mod tests {
    use super::*;

    const INFO: &str =
        "MemTotal:       16000000 kB\nMemFree:         1000000 kB\nMemAvailable:   12000000 kB\nSwapTotal: 2000 kB\nSwapFree: 500 kB\n";

    fn root(name: &str, files: &[(&str, &str)]) -> std::path::PathBuf {
        let root = std::env::temp_dir().join(format!("hob-memory-{name}-{}", std::process::id()));
        for (path, text) in files {
            let path = root.join(path);
            std::fs::create_dir_all(path.parent().unwrap()).unwrap();
            std::fs::write(path, text).unwrap();
        }
        root
    }

    #[test]
    fn a_free_machine_has_what_it_says() {
        let root = root("free", &[("proc/meminfo", INFO)]);
        let memory = linux(&root).unwrap();
        assert_eq!((memory.total, memory.available), (16_000_000 * 1024, 12_000_000 * 1024));
        assert_eq!((memory.swap, memory.swap_used, memory.limit), (2000 * 1024, 1500 * 1024, None));
        std::fs::remove_dir_all(root).unwrap();
    }

    #[test]
    fn the_tightest_group_above_counts_and_its_file_pages_are_free() {
        let files = [
            ("proc/meminfo", INFO),
            ("proc/self/cgroup", "0::/user/box\n"),
            ("sys/fs/cgroup/user/memory.max", "4000000000\n"),
            ("sys/fs/cgroup/user/memory.current", "3000000000\n"),
            ("sys/fs/cgroup/user/memory.stat", "anon 100\ninactive_file 1500000000\nactive_file 500000000\n"),
            ("sys/fs/cgroup/user/box/memory.max", "max\n"),
        ];
        let root = root("v2", &files);
        let memory = linux(&root).unwrap();
        assert_eq!((memory.total, memory.available), (4_000_000_000, 3_000_000_000));
        assert!(memory.limit.unwrap().0.ends_with("user"));
        std::fs::remove_dir_all(root).unwrap();
    }

    #[test]
    fn the_first_version_is_read_as_well() {
        let files = [
            ("proc/meminfo", INFO),
            ("proc/self/cgroup", "3:cpu,cpuacct:/x\n2:memory:/box\n"),
            ("sys/fs/cgroup/memory/box/memory.limit_in_bytes", "2000000000\n"),
            ("sys/fs/cgroup/memory/box/memory.usage_in_bytes", "500000000\n"),
            ("sys/fs/cgroup/memory/memory.limit_in_bytes", "9223372036854771712\n"),
        ];
        let root = root("v1", &files);
        let memory = linux(&root).unwrap();
        assert_eq!((memory.total, memory.available), (2_000_000_000, 1_500_000_000));
        std::fs::remove_dir_all(root).unwrap();
    }
}
