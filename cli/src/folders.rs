//! Where hob keeps what is its own: a folder that may be emptied at any time, and one that holds what its user made; and where models are.
//!
//! ```text
//!             cache                                data
//! said        $HOB_CACHE                           $HOB_DATA
//! Windows     %LOCALAPPDATA%\hob                   %APPDATA%\hob
//! macOS       ~/Library/Caches/hob                 ~/Library/Application Support/hob
//! others      $XDG_CACHE_HOME/hob, ~/.cache/hob    $XDG_DATA_HOME/hob, ~/.local/share/hob
//! ```
//! After the XDG Base Directory Specification, which says too that a path in its variables that is not absolute is to be ignored.

use std::ffi::OsString;
use std::path::PathBuf;

use hob::store::Listing;

/// What can be made again: caches, downloads. `None` where the environment names no place for it.
pub(crate) fn cache() -> Option<PathBuf> {
    place(Kind::Cache, System::this(), &|name| std::env::var_os(name))
}

/// What cannot: saved chats. `None` where the environment names no place for it.
pub(crate) fn data() -> Option<PathBuf> {
    place(Kind::Data, System::this(), &|name| std::env::var_os(name))
}

/// The folder that files from any address go to: the first of `HOB_MODELS`, else hob's own.
pub(crate) fn models() -> Option<PathBuf> {
    hob::store::places::given().into_iter().next().or_else(|| Some(data()?.join("models")))
}

/// The models that are here, and those of more folders.
pub(crate) fn listing(more: &[PathBuf]) -> Listing {
    let own = models().filter(|own| own.is_dir() && !hob::store::places::given().contains(own));
    Listing::here_and(&own.into_iter().chain(more.iter().cloned()).collect::<Vec<_>>())
}

#[derive(Clone, Copy)]
enum Kind {
    Cache,
    Data,
}

/// Systems by where they keep things.
#[derive(Clone, Copy)]
enum System {
    Windows,
    Mac,
    Other,
}

impl System {
    fn this() -> System {
        match std::env::consts::OS {
            "windows" => System::Windows,
            "macos" | "ios" => System::Mac,
            _ => System::Other,
        }
    }
}

/// The folder, by the variables of an environment. An empty one counts as none.
fn place(kind: Kind, system: System, variable: &dyn Fn(&str) -> Option<OsString>) -> Option<PathBuf> {
    let named = |name: &str| variable(name).filter(|value| !value.is_empty()).map(PathBuf::from);
    let home = |path: &str| named("HOME").map(|home| home.join(path));
    let absolute = |name: &str| named(name).filter(|path| path.is_absolute());
    let (own, folder) = match (kind, system) {
        (Kind::Cache, System::Windows) => ("HOB_CACHE", named("LOCALAPPDATA")),
        (Kind::Data, System::Windows) => ("HOB_DATA", named("APPDATA")),
        (Kind::Cache, System::Mac) => ("HOB_CACHE", home("Library/Caches")),
        (Kind::Data, System::Mac) => ("HOB_DATA", home("Library/Application Support")),
        (Kind::Cache, System::Other) => ("HOB_CACHE", absolute("XDG_CACHE_HOME").or_else(|| home(".cache"))),
        (Kind::Data, System::Other) => ("HOB_DATA", absolute("XDG_DATA_HOME").or_else(|| home(".local/share"))),
    };
    named(own).or_else(|| folder.map(|folder| folder.join("hob")))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_system_has_its_places() {
        let find = |kind, system, variables: &[(&str, &str)]| {
            let found = place(kind, system, &|name| variables.iter().find(|(n, _)| *n == name).map(|(_, value)| value.into()));
            found.map(|path| path.to_string_lossy().replace('\\', "/"))
        };
        let home = ("HOME", "/home/ada");
        type Case<'a> = (Kind, System, &'a [(&'a str, &'a str)], Option<&'a str>);
        let cases: [Case<'_>; 11] = [
            (Kind::Cache, System::Other, &[home], Some("/home/ada/.cache/hob")),
            (Kind::Data, System::Other, &[home], Some("/home/ada/.local/share/hob")),
            (Kind::Cache, System::Other, &[home, ("XDG_CACHE_HOME", "/fast")], Some("/fast/hob")),
            (Kind::Cache, System::Other, &[home, ("XDG_CACHE_HOME", "fast")], Some("/home/ada/.cache/hob")),
            (Kind::Data, System::Other, &[home, ("XDG_DATA_HOME", "/safe")], Some("/safe/hob")),
            (Kind::Cache, System::Other, &[home, ("HOB_CACHE", "here")], Some("here")),
            (Kind::Data, System::Mac, &[home, ("HOB_DATA", "")], Some("/home/ada/Library/Application Support/hob")),
            (Kind::Cache, System::Mac, &[home], Some("/home/ada/Library/Caches/hob")),
            (Kind::Cache, System::Windows, &[("LOCALAPPDATA", "C:/Local")], Some("C:/Local/hob")),
            (Kind::Data, System::Windows, &[("APPDATA", "C:/Roaming")], Some("C:/Roaming/hob")),
            (Kind::Data, System::Other, &[], None),
        ];
        for (kind, system, variables, want) in cases {
            assert_eq!(find(kind, system, variables).as_deref(), want, "{variables:?}");
        }
    }
}
