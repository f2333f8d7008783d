//! Where the configuration has a pool, and where it is served from: the labels decide, and a file that says otherwise is told of.

use super::Node;
use super::below::aside;
use super::machine::{Purpose, absolute, same_file};

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
        let mut blank = Vec::new();
        let (mut others, mut missing) = (Vec::new(), Vec::new());
        for path in &astray {
            match self.open_looked_at(path, Purpose::Look).await {
                Ok((device, Ok(None))) if matches!(self.contents(&device).await, Ok(None)) => {
                    blank.push(format!("plimsoll pool add-device {name} --device {path}"));
                }
                Ok((_, Ok(Some(label)))) if label.pool == info.uuid => {
                    others.push(format!("{path} holds a copy of it"))
                }
                Ok((_, Ok(Some(label)))) => {
                    others.push(format!("{path} holds another pool, {} (UUID {})", label.pool_name, label.pool));
                }
                Err(problem) if problem.code == "not-found" => missing.push(path.clone()),
                _ => {}
            }
        }
        let is_all_there = missing.is_empty();
        others.extend(missing.iter().map(|path| format!("{path} is not there")));
        let (astray, served) = (astray.join(", "), served.join(", "));
        let reason = format!("pool {name} is in the configuration on {astray}, and it is served from {served}");
        let reason = [&[reason][..], &others].concat().join("; ");
        let mut advice = format!("write in its [[pool]] where it is: {served}");
        if !is_all_there {
            let missing = missing.join(", ");
            advice =
                format!("look first whether {served} is what was in use last, and not a copy of {missing}; {advice}");
        }
        if !blank.is_empty() {
            advice += &format!("; or give it that space: {}", blank.join("; "));
        } else if !others.is_empty() && is_all_there {
            advice += &format!("; or serve what is there instead: plimsoll pool export {name}, then start again");
        }
        Some((reason, advice))
    }
}
