//! The help, and that the README speaks of what is there.

use super::hob;

const COMMANDS: [&str; 17] = [
    "chat",
    "run",
    "pull",
    "ls",
    "show",
    "rm",
    "plan",
    "inspect",
    "families",
    "tokenize",
    "template",
    "logits",
    "quantize",
    "perplexity",
    "bench",
    "cache",
    "doctor",
];

#[test]
fn every_command_helps_with_examples() {
    let all = hob(&["--help"]).fine();
    for command in COMMANDS {
        assert!(all.contains(&format!("\n  {command} ")), "{command} is not listed");
        let help = hob(&[command, "--help"]).fine();
        assert!(help.contains("Examples:") && help.contains(&format!("hob {command} ")), "{help}");
    }
}

#[test]
fn the_version_is_the_packages() {
    assert_eq!(hob(&["--version"]).fine(), format!("hob {}\n", env!("CARGO_PKG_VERSION")));
}

#[test]
fn what_the_readme_says_can_be_typed() {
    let readme = include_str!("../../../README.md");
    assert!(readme.contains("cargo run --release -- chat\n"));
    assert!(readme.contains("cargo test --workspace\n"));
    assert!(readme.lines().count() <= 180);
    let mut seen = 0;
    let mut code = false;
    for line in readme.lines() {
        code ^= line.starts_with("```");
        if !code && !line.starts_with('|') {
            continue;
        }
        let Some(rest) = line.strip_prefix("hob ").or_else(|| line.strip_prefix("| `hob ")) else { continue };
        let rest = rest.split('#').next().unwrap_or_default();
        if rest.starts_with('=') {
            continue;
        }
        let command = rest.split([' ', '`']).next().unwrap_or_default();
        let help = hob(&[command, "--help"]).fine();
        for flag in rest.split_whitespace().filter(|word| word.starts_with('-') && word.len() > 1) {
            assert!(
                help.contains(&format!("{flag} ")) || help.contains(&format!("{flag},")) || help.contains(&format!("{flag}\n")),
                "{line}"
            );
        }
        seen += 1;
    }
    assert!(seen > COMMANDS.len(), "the README shows every command");
}
