//! What must hold of the engine's code: each folder names only the layers below it, and files stay small and finished.

use std::path::{Path, PathBuf};

/// Folders and files of `src`, lowest first. What stands in one line may name itself and what stands in lines above.
const LAYERS: &[&[&str]] = &[
    &["wait", "error", "event", "planted"],
    &["format"],
    &["media"],
    &["tree"],
    &["journal"],
    &["space"],
    &["mapping"],
    &["vdisk"],
    &["pool"],
];

/// (file, layer it names): why it may.
const EXCEPTIONS: &[(&str, &str, &str)] = &[
    // `Store` is an open pool as all layers above `mapping` see it. It keeps the list of jobs and never looks into one.
    ("vdisk/store.rs", "pool", "keeps the pool's jobs, whose type is the pool's"),
];

/// Longest file in lines: beyond this newcomers dread it.
const LINES_MAX: usize = 500;

fn source() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("src")
}

fn files(folder: &Path, found: &mut Vec<PathBuf>) {
    for entry in std::fs::read_dir(folder).expect("a folder of the engine") {
        let path = entry.expect("an entry").path();
        if path.is_dir() {
            files(&path, found);
        } else if path.extension().is_some_and(|extension| extension == "rs") {
            found.push(path);
        }
    }
}

/// Every file: its path below `src` with forward slashes, and its text.
fn sources() -> Vec<(String, String)> {
    let mut found = Vec::new();
    files(&source(), &mut found);
    found.sort();
    let name = |path: &Path| {
        let path = path.strip_prefix(source()).expect("a path below src");
        path.components().map(|part| part.as_os_str().to_string_lossy()).collect::<Vec<_>>().join("/")
    };
    found.iter().map(|path| (name(path), std::fs::read_to_string(path).expect("a source"))).collect()
}

fn is_test(name: &str) -> bool {
    name.ends_with("/tests.rs") || name.contains("/tests/")
}

/// Without comments, and without a module of tests at the end.
fn code(text: &str) -> String {
    let text = text.split("#[cfg(test)]\nmod tests {").next().unwrap_or_default();
    text.lines().map(|line| line.split("//").next().unwrap_or_default()).collect::<Vec<_>>().join("\n")
}

/// The first parts of all paths that begin with `crate::`, those in braces too.
fn named_layers(code: &str) -> Vec<String> {
    let word = |text: &str| text.chars().take_while(|c| c.is_alphanumeric() || *c == '_').collect::<String>();
    let mut found = Vec::new();
    for rest in code.split("crate::").skip(1) {
        let Some(list) = rest.strip_prefix('{') else {
            found.push(word(rest));
            continue;
        };
        let (mut depth, mut part) = (0, String::new());
        for c in list.chars() {
            match c {
                '{' => depth += 1,
                '}' if depth == 0 => break,
                '}' => depth -= 1,
                ',' if depth == 0 => found.push(word(std::mem::take(&mut part).trim())),
                _ => {}
            }
            if depth == 0 && c != ',' {
                part.push(c);
            }
        }
        found.push(word(part.trim()));
    }
    found.retain(|name| !name.is_empty());
    found
}

fn level(layer: &str) -> Option<usize> {
    LAYERS.iter().position(|line| line.contains(&layer))
}

/// What of `text` its layer may not name.
fn violations(name: &str, text: &str) -> Vec<String> {
    let layer = name.split('/').next().unwrap_or_default().trim_end_matches(".rs");
    let own = level(layer).unwrap_or_else(|| panic!("{name}: a folder that LAYERS does not know"));
    let forbidden = |named: &String| {
        let excepted = EXCEPTIONS.iter().any(|(file, layer, _)| *file == name && layer == named);
        // Types at the crate's root (`crate::Error`) begin with a capital.
        let known = level(named).is_some_and(|above| above > own);
        known && named != layer && !excepted
    };
    named_layers(&code(text)).into_iter().filter(forbidden).map(|named| format!("{name} names {named}")).collect()
}

#[test]
fn each_folder_names_only_the_layers_below_it() {
    let found: Vec<String> = sources()
        .iter()
        .filter(|(name, _)| name != "lib.rs" && !is_test(name))
        .flat_map(|(name, text)| violations(name, text))
        .collect();
    assert!(found.is_empty(), "{}", found.join("\n"));
}

#[test]
fn a_folder_that_names_a_layer_above_is_found() {
    assert_eq!(
        violations("tree/x.rs", "use crate::media::Media;\nuse crate::space::Space;"),
        ["tree/x.rs names space"]
    );
    assert_eq!(violations("format/x.rs", "use crate::{error::Error, vdisk::{Store, count}, pool};").len(), 2);
    assert_eq!(violations("space/x.rs", "fn f() -> crate::vdisk::Store {}"), ["space/x.rs names vdisk"]);
    assert!(violations("pool/x.rs", "use crate::vdisk::Store; // crate::nothing").is_empty());
    assert!(violations("tree/x.rs", "//! uses crate::pool::Pool").is_empty());
}

#[test]
fn every_exception_is_still_needed() {
    for (file, layer, reason) in EXCEPTIONS {
        let text = std::fs::read_to_string(source().join(file)).expect("a file with an exception");
        assert!(named_layers(&code(&text)).iter().any(|named| named == layer), "{file} needs no leave: {reason}");
    }
}

#[test]
fn what_belongs_to_the_machine_comes_from_the_machine() {
    // A clock, threads, sockets and files of its own would be none that a simulation could turn.
    let own = ["Instant::now", "SystemTime", "std::thread", "std::net", "std::os", "std::fs", "std::process"];
    let found = sources().into_iter().filter(|(name, _)| !is_test(name)).flat_map(|(name, text)| {
        let code = code(&text);
        own.into_iter().filter(move |own| code.contains(own)).map(move |own| format!("{name} has {own}"))
    });
    assert_eq!(found.collect::<Vec<_>>(), [""; 0]);
}

#[test]
fn files_are_small_and_finished() {
    let mut wrong = Vec::new();
    for (name, text) in sources() {
        let lines = text.lines().count();
        if lines > LINES_MAX {
            wrong.push(format!("{name} has {lines} lines, more than {LINES_MAX}: split it"));
        }
        for unfinished in ["todo!(", "unimplemented!(", "dbg!(", "#[ignore"] {
            if text.contains(unfinished) {
                wrong.push(format!("{name} contains {unfinished}"));
            }
        }
        if !text.starts_with("//!") {
            wrong.push(format!("{name} does not begin by saying what it is"));
        }
        if text.contains("unsafe ") && code(&text).contains("unsafe ") {
            wrong.push(format!("{name} contains unsafe code"));
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}
