//! Finding the devices of a pool by their labels: where they were seen last, then in the same directories, then on all
//! block devices. A pool is what its labels say, not a list of paths. But nothing that a search finds is taken for a file that was in use
//! when it is another one: what a copy says may be old, so it has to be named.

use std::collections::{BTreeMap, BTreeSet};
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};

use plimsoll_engine::{Error, Label};
use plimsoll_hardware::Device as _;
use uuid::Uuid;

use super::machine::{BLOCK_MARK, Purpose, is_same_mark, mark, same_file};
use super::{Device, Node};
use crate::problem::{Answer, Cause, Problem};

/// Files of one directory that are looked at; more means that it is not a directory of pool files.
const FILES_MAX: usize = 256;
/// Smaller files are not looked at: no pool fits.
const FILE_BYTES_MIN: u64 = 1 << 20;

/// Devices of one pool.
#[derive(Default)]
pub(super) struct Found {
    /// By their UUID, open for serving.
    pub(super) devices: BTreeMap<Uuid, Device>,
    /// The label that knows of most devices: one that was written before a device was added knows of fewer.
    pub(super) label: Option<Label>,
    /// Why a path that was expected to be one is none, and which copies were seen.
    pub(super) failed: Vec<Problem>,
    /// Devices of it that are shorter than they were, and what to say of each.
    pub(super) cut_off: BTreeMap<Uuid, Problem>,
    /// Devices that are others than those that were in use last, and whether they were named.
    pub(super) replaced: Vec<(Label, String, bool)>,
    /// Two of the paths that were named lead to copies of one device.
    pub(super) twins: Option<Problem>,
}

impl Found {
    fn is_complete(&self, at_least: usize) -> bool {
        let known = self.label.as_ref().map_or(usize::MAX, |label| usize::from(label.device_count));
        self.devices.len() >= known.max(at_least)
    }

    fn add(&mut self, label: Label, device: Device) {
        self.devices.insert(label.device, device);
        if self.label.as_ref().is_none_or(|known| known.device_count < label.device_count) {
            self.label = Some(label);
        }
    }
}

impl Node {
    /// The name of the pool that the device at `path` belongs to; `None` when it cannot be read, or belongs to none.
    pub async fn pool_label_at(&self, path: &str) -> Option<String> {
        if let Some(known) = self.pool_on(path) {
            return Some(known);
        }
        let opened = self.open_labelled(path, Purpose::Look).await;
        opened.ok().and_then(|(_, label)| label).map(|label| label.pool_name)
    }

    /// Devices of the pool with the UUID `pool`, or of the pool on the first of `paths.named` when that is not known. Searches
    /// until there are `at_least` so many, and as many as a label knows of.
    pub(super) async fn find_devices(&self, pool: Option<Uuid>, paths: &Paths, at_least: usize) -> Found {
        let mut found = Found::default();
        let mut pool = pool;
        let all = paths.all();
        for (index, path) in all.iter().enumerate() {
            if all[..index].iter().any(|other| same_file(other, path)) {
                continue;
            }
            match self.open_looked_at(path, Purpose::Serve).await {
                Ok((_, Ok(None))) => found.failed.push(not_a_pool(path)),
                Ok((_, Err(error))) => {
                    let cut_off = match &error {
                        Error::Shortened { uuids: (of, device), .. } if pool.is_none_or(|pool| pool == *of) => {
                            Some(*device)
                        }
                        _ => None,
                    };
                    let has_bad_label = matches!(error, Error::NotAPool { .. });
                    let mut problem = Problem::from(error);
                    if has_bad_label {
                        problem = problem.because(Cause::BadLabel);
                    }
                    if let Some(device) = cut_off {
                        found.cut_off.entry(device).or_insert_with(|| problem.clone());
                    }
                    found.failed.push(problem);
                }
                Ok((device, Ok(Some(label)))) if *pool.get_or_insert(label.pool) == label.pool => {
                    let there = found.devices.get(&label.device).map(|there| there.geometry().path.clone());
                    match there.map(|there| (paths.named.contains(&there), twins(&label, &[there, path.clone()]))) {
                        None => {
                            let is_named = index < paths.named.len();
                            let now = self.mark_of(path);
                            if paths.is_another(&label.device, now.as_ref()) {
                                found.replaced.push((label.clone(), path.clone(), is_named));
                            }
                            found.add(label, device);
                        }
                        Some((_, twins)) if index < paths.named.len() => found.twins = Some(twins),
                        // Who names one of two has chosen.
                        Some((true, _)) => {}
                        // Nobody said so, and names of devices wander: the one that is missed may be elsewhere.
                        Some((false, twins)) => found.failed.push(twins),
                    }
                }
                Ok((_, Ok(Some(label)))) => {
                    let detail = format!("{path} belongs to pool {} (UUID {})", label.pool_name, label.pool);
                    let hint = "name the devices of one pool only: plimsoll pool import PATH...";
                    let cause = Cause::PartOf(label.pool_name);
                    found.failed.push(Problem::new("not-a-pool", detail).because(cause).hint(hint));
                }
                Err(problem) => found.failed.push(problem),
            }
        }
        let Some(pool) = pool else { return found };
        if !found.is_complete(at_least) {
            self.search(pool, paths, at_least, &mut found).await;
        }
        found
    }

    async fn search(&self, pool: Uuid, paths: &Paths, at_least: usize, found: &mut Found) {
        let (known, near) = (paths.all(), [paths.all(), paths.near.clone()].concat());
        let Ok(candidates) = self.blocking(move || candidates(&near)).await else { return };
        let mut seen: BTreeMap<Uuid, (Label, Vec<String>)> = BTreeMap::new();
        let (mut copies, mut files) = (Vec::new(), BTreeSet::new());
        for Candidate { path, file, mark } in candidates {
            let path = path.to_string_lossy().into_owned();
            // One file may have several names.
            let is_seen = file.is_some_and(|file| !files.insert(file));
            if is_seen || known.contains(&path) || self.pool_serving(&path) {
                continue;
            }
            // Looked at without the right to write first: most of them are strangers.
            let Ok((device, Some(label))) = self.open_labelled(&path, Purpose::Look).await else { continue };
            drop(device);
            if label.pool != pool || found.devices.contains_key(&label.device) {
                continue;
            }
            // Nobody named it, and what it holds may be older than what was written last.
            if paths.is_another(&label.device, mark.as_ref()) {
                copies.push((label, path));
                continue;
            }
            seen.entry(label.device).or_insert((label, Vec::new())).1.push(path);
        }
        for (device, (label, paths)) in seen {
            match &paths[..] {
                _ if found.is_complete(at_least) => return,
                [path] => self.take_found(device, path, found).await,
                _ => found.failed.push(twins(&label, &paths)),
            }
        }
        copies.retain(|(label, _)| !found.devices.contains_key(&label.device));
        found.failed.extend(copied(&paths.named, &copies));
    }

    /// Why a known pool is not served though all of it was found: some of it is in the place of what was in use last, and the rest is not,
    /// or that is there under another name. If nothing else is there, somebody has brought it back from a copy.
    pub(super) async fn older(&self, paths: &Paths, found: &Found) -> Option<Problem> {
        let unnamed = found.replaced.iter().filter(|(.., is_named)| !is_named);
        let replaced: Vec<(Label, String)> = unnamed.map(|(label, path, _)| (label.clone(), path.clone())).collect();
        let problem = copied(&paths.named, &replaced)?;
        let near = paths.all();
        for Candidate { path, mark, .. } in self.blocking(move || candidates(&near)).await.ok()? {
            let is_known = |label: &Label| {
                let both = paths.marks.get(&label.device).zip(mark.as_ref());
                both.is_some_and(|(known, mark)| is_same_mark(known, mark))
            };
            if mark.as_deref() == Some(BLOCK_MARK) || !replaced.iter().any(|(label, _)| is_known(label)) {
                continue;
            }
            let path = path.to_string_lossy().into_owned();
            if let Ok((_, Some(label))) = self.open_labelled(&path, Purpose::Look).await
                && is_known(&label)
            {
                let detail = format!("{}; that one is {path} now", problem.detail);
                let import = format!("plimsoll pool import --name {} {path}", label.pool_name);
                return Some(
                    Problem { detail, ..problem }.hint(format!("move it back, or serve it from there: {import}")),
                );
            }
        }
        (found.devices.len() > replaced.len()).then_some(problem)
    }

    async fn take_found(&self, expected: Uuid, path: &str, found: &mut Found) {
        match self.open_labelled(path, Purpose::Serve).await {
            Ok((device, Some(label))) if label.device == expected => {
                tracing::warn!(pool = label.pool_name, path, "a device of the pool was found by its label elsewhere");
                found.add(label, device);
            }
            Ok(_) => {}
            Err(problem) => found.failed.push(problem),
        }
    }

    /// Whether a pool that is open here serves from `path`.
    fn pool_serving(&self, path: &str) -> bool {
        self.pool_on(path).is_some_and(|pool| self.pool(&pool).is_ok())
    }
}

/// Where a pool's devices are looked for first.
#[derive(Clone, Debug, Default)]
pub(super) struct Paths {
    /// Somebody said so.
    pub(super) named: Vec<String>,
    /// They were seen there last.
    pub(super) known: Vec<String>,
    /// They may be there now, by the configuration.
    pub(super) near: Vec<String>,
    /// By the device's UUID, of those of which it is known: what a copy has not.
    pub(super) marks: BTreeMap<Uuid, String>,
}

impl Paths {
    /// Whether a device with this mark is another one than that which was in use last.
    fn is_another(&self, device: &Uuid, mark: Option<&String>) -> bool {
        self.marks.get(device).is_some_and(|known| !mark.is_some_and(|mark| is_same_mark(known, mark)))
    }

    fn all(&self) -> Vec<String> {
        self.named.iter().chain(&self.known).cloned().collect()
    }
}

/// Which of them is a copy, only its owner knows.
fn twins(label: &Label, paths: &[String]) -> Problem {
    let detail = format!(
        "{} all say that they are device {} of pool {}: all but one are copies",
        paths.join(", "),
        label.index,
        label.pool_name
    );
    Problem::new("conflict", detail)
        .because(Cause::Copies)
        .hint(
            "name all devices of the pool, and of copies the one that was in use last: plimsoll pool import PATH...; keep the others \
             elsewhere",
        )
}

/// What was in use last is missed, and here are copies. The command names all that is needed: what was `named`, and one of each device.
fn copied(named: &[String], copies: &[(Label, String)]) -> Option<Problem> {
    let (first, _) = copies.first()?;
    let one = |(label, path): &(Label, String)| {
        format!(
            "{path} says that it is device {} of pool {}, and is not the one that was in use last: it may be older",
            label.index, label.pool_name
        )
    };
    let detail = copies.iter().map(one).collect::<Vec<_>>().join("; ");
    let mut of_each: BTreeMap<Uuid, &String> = BTreeMap::new();
    for (label, path) in copies {
        of_each.entry(label.device).or_insert(path);
    }
    let choose = if of_each.len() < copies.len() { ", of copies of one device the newest" } else { "" };
    let all: Vec<&str> = named.iter().chain(of_each.into_values()).map(String::as_str).collect();
    Some(Problem::new("conflict", detail).hint(format!(
        "bring back what was in use last; if that is what is here{choose}: plimsoll pool import --name {} {}",
        first.pool_name,
        all.join(" ")
    )))
}

/// A path that may lead to a device that is missed.
struct Candidate {
    path: PathBuf,
    /// Its file system and number there, if it is a file.
    file: Option<(u64, u64)>,
    /// What tells it from a copy.
    mark: Option<String>,
}

/// A file that is large enough.
fn candidate(path: PathBuf) -> Option<Candidate> {
    let found = std::fs::metadata(&path).ok().filter(|found| found.is_file() && found.len() >= FILE_BYTES_MIN)?;
    Some(Candidate { mark: mark(&path, &found), file: Some((found.dev(), found.ino())), path })
}

/// Where else a device may be, in order of likelihood.
fn candidates(near: &[String]) -> Vec<Candidate> {
    let mut directories: Vec<&Path> = near.iter().filter_map(|path| Path::new(path).parent()).collect();
    directories.sort_unstable();
    directories.dedup();
    // By their names, too: not every directory is read.
    let named = near.iter().filter_map(|path| candidate(PathBuf::from(path)));
    let mut candidates: Vec<Candidate> = named.collect();
    for directory in directories.into_iter().filter(|directory| !directory.starts_with("/dev")) {
        let Ok(entries) = std::fs::read_dir(directory) else { continue };
        let files = entries.flatten().filter(|entry| entry.file_type().is_ok_and(|kind| kind.is_file()));
        candidates.extend(files.filter_map(|entry| candidate(entry.path())).take(FILES_MAX));
    }
    let devices = plimsoll_hardware::probe::list_devices().into_iter();
    candidates.extend(devices.map(|found| {
        let known = std::fs::metadata(&found.path).ok();
        Candidate { mark: known.and_then(|known| mark(&found.path, &known)), path: found.path, file: None }
    }));
    candidates
}

/// Of advice on a device that should be part of a pool and is none, whatever its label.
const RESTORE: &str = "restore it from a copy, or name the devices of the pool: plimsoll pool import PATH...";

pub(super) fn not_a_pool(path: &str) -> Problem {
    Problem::new("not-a-pool", format!("{path} carries no label of a pool")).because(Cause::NoLabel).hint(RESTORE)
}

/// What is wrong when devices are missing: the first failure, or that nothing was found.
pub(super) fn missing(name: &str, found: &Found, expected: usize) -> Problem {
    let there = found.devices.len();
    let reasons: Vec<&str> = found.failed.iter().map(|problem| problem.detail.as_str()).collect();
    let why = if reasons.is_empty() { String::new() } else { format!(": {}", reasons.join("; ")) };
    if let Some(problem) = found.cut_off.values().next() {
        return cut_off(problem, &found.failed);
    }
    if let Some(twins) = found.failed.iter().find(|problem| problem.code == "conflict") {
        return Problem { detail: format!("pool {name}: {}", reasons.join("; ")), ..twins.clone() };
    }
    let code = match &found.failed[..] {
        [only] if only.code != "not-found" && only.code != "not-a-pool" => only.code.as_str(),
        _ => "device-missing",
    };
    // Another one, which is called the same.
    let is_namesake = |problem: &Problem| matches!(problem.cause(), Some(Cause::PartOf(pool)) if pool == name);
    let hint = if found.failed.iter().any(is_namesake) {
        format!(
            "to serve that one, let go of the one that is known here: plimsoll pool export {name}; then plimsoll pool import PATH"
        )
    } else {
        format!("plimsoll pool import --name {name} PATH..., with the paths where the devices are now")
    };
    Problem::new(code, format!("pool {name}: {there} of {expected} devices were found{why}")).hint(hint)
}

/// That a device of a pool is shorter than it was, and what else was seen.
pub(super) fn cut_off(problem: &Problem, failed: &[Problem]) -> Problem {
    let others = failed.iter().filter(|other| *other != problem);
    let seen: String = others.map(|other| format!("; {}", other.detail)).collect();
    Problem { detail: format!("{}{seen}", problem.detail), ..problem.clone() }
}

/// The first of what is wrong with devices that were named, as who imports a pool is to be told it: never with advice to make one.
pub(super) fn first_failure(found: &Found) -> Answer<()> {
    let Some(problem) = found.twins.iter().chain(&found.failed).next().cloned() else { return Ok(()) };
    let detail = match &found.label {
        Some(label) => {
            let (there, all) = (found.devices.len(), label.device_count);
            format!("pool {}: {there} of {all} devices were found; {}", label.pool_name, problem.detail)
        }
        None => problem.detail.clone(),
    };
    let problem = Problem { detail, ..problem };
    Err(match problem.cause() {
        Some(Cause::BadLabel) => problem.hint(RESTORE),
        Some(Cause::NotThere) => problem.hint("connect it, or name where it is now: plimsoll pool import PATH..."),
        _ => problem,
    })
}
