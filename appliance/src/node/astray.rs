//! Where the configuration has a pool, and where it is served from: the labels decide, and a file that says otherwise is told of.

use uuid::Uuid;

use super::Node;
use super::below::aside;
use super::machine::{Purpose, absolute, same_file};
use crate::problem::{Cause, Problem};

/// Reason and advice.
type Said = (String, String);

impl Node {
    /// Notes where the configuration has a pool.
    pub fn note_configuration(&self, name: &str, devices: &[String]) {
        let devices = devices.iter().map(|path| absolute(path)).collect();
        self.0.in_configuration.borrow_mut().insert(name.to_owned(), devices);
        self.begin_look_astray(name);
    }

    /// Looks in a task of its own: what is looked at may hang, and nothing waits for it.
    pub(super) fn begin_look_astray(&self, name: &str) {
        let (node, name) = (self.clone(), name.to_owned());
        self.spawn(async move { node.look_astray(&name).await });
    }

    /// That the configuration has a pool on what it is not served from, and what to do, as of the last look.
    pub(super) fn astray(&self, name: &str) -> Option<Said> {
        self.0.astray.borrow().get(name).cloned()
    }

    /// Looks whether a pool that is open is served from where the configuration has it.
    pub(crate) async fn look_astray(&self, name: &str) {
        let _turn = self.0.astray_turn.lock().await;
        let said = self.compare_with_configuration(name).await;
        let mut astray = self.0.astray.borrow_mut();
        match said {
            Some(said) => astray.insert(name.to_owned(), said),
            None => astray.remove(name),
        };
    }

    async fn compare_with_configuration(&self, name: &str) -> Option<Said> {
        let configured = self.0.in_configuration.borrow().get(name).cloned()?;
        let info = self.pool(name).ok()?.info();
        let served: Vec<String> = info.devices.iter().map(|device| device.path.clone()).collect();
        let known = served.clone();
        // In a thread of its own: a path may lead to what hangs. What answers there is opened here.
        let look = move || {
            let is_astray = |path: &String| !known.iter().any(|other| same_file(other, path));
            configured.into_iter().filter(is_astray).collect::<Vec<_>>()
        };
        let astray = aside(look).await.ok().filter(|astray| !astray.is_empty())?;
        let mut holds = Vec::new();
        for path in astray {
            let held = self.held_by(&path, info.uuid).await;
            holds.push((path, held));
        }
        Some(said(name, &served.join(", "), &holds))
    }

    /// What a path holds that the pool is not served from.
    async fn held_by(&self, path: &str, pool: Uuid) -> Held {
        match self.open_looked_at(path, Purpose::Look).await {
            Ok((device, Ok(None))) if matches!(self.contents(&device).await, Ok(None)) => Held::Nothing,
            Ok((_, Ok(Some(label)))) if label.pool == pool => Held::Copy,
            Ok((_, Ok(Some(label)))) => Held::Other(format!("another pool, {} (UUID {})", label.pool_name, label.pool)),
            Ok((_, Err(error))) => Held::Unusable(Problem::from(error).detail),
            Err(problem) if problem.cause() == Some(&Cause::NotThere) => Held::Unusable(format!("{path} is not there")),
            _ => Held::Unknown,
        }
    }
}

/// What is where the configuration has a pool that is served from elsewhere.
enum Held {
    Nothing,
    /// Another copy of a device of it.
    Copy,
    /// Another pool, in words.
    Other(String),
    /// It may have held the pool and cannot now; why, in words.
    Unusable(String),
    Unknown,
}

fn said(name: &str, served: &str, holds: &[(String, Held)]) -> Said {
    let paths = |is: fn(&Held) -> bool| holds.iter().filter(move |(_, held)| is(held)).map(|(path, _)| path.as_str());
    let astray = paths(|_| true).collect::<Vec<_>>().join(", ");
    let mut reason = format!("pool {name} is in the configuration on {astray}, and it is served from {served}");
    for (path, held) in holds {
        match held {
            Held::Copy => reason += &format!("; {path} holds a copy of it"),
            Held::Other(what) => reason += &format!("; {path} holds {what}"),
            Held::Unusable(why) => reason += &format!("; {why}"),
            Held::Nothing | Held::Unknown => {}
        }
    }
    let mut advice = format!("write in its [[pool]] where it is: {served}");
    let unusable: Vec<&str> = paths(|held| matches!(held, Held::Unusable(_))).collect();
    if !unusable.is_empty() {
        let unusable = unusable.join(", ");
        advice = format!("look first whether {served} is what was in use last, and not a copy of {unusable}; {advice}");
    }
    let blank = paths(|held| matches!(held, Held::Nothing));
    let add = blank.map(|path| format!("plimsoll pool add-device {name} --device {path}")).collect::<Vec<_>>();
    let again = format!("serve what is there instead: plimsoll pool export {name}, then start again");
    if !add.is_empty() {
        advice += &format!("; or give it that space: {}", add.join("; "));
    } else if !unusable.is_empty() {
        // Nothing there can be served.
    } else if paths(|held| matches!(held, Held::Copy)).next().is_some() {
        advice += &format!("; or, if the copy is newer, {again}");
    } else if paths(|held| matches!(held, Held::Other(_))).next().is_some() {
        advice += &format!("; or {again}");
    }
    (reason, advice)
}
