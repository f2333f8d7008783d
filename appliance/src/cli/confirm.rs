//! Asking before something is destroyed: on a terminal a person is asked, otherwise `--yes` must have been said.

use std::io::{BufRead, IsTerminal, Write};

use crate::problem::{Answer, Problem};
use crate::units::printable;

/// Returns when it may be done. `plan` says what, in lines; `command` is what to type to do it unasked.
pub(super) fn confirm(yes: bool, plan: &[String], command: &str) -> Answer<()> {
    if yes {
        return Ok(());
    }
    let refused = |detail: &str| Problem::new("not-confirmed", detail).hint(format!("{command} --yes"));
    if !(std::io::stdin().is_terminal() && std::io::stderr().is_terminal()) {
        return Err(refused("this has to be confirmed, and there is no terminal to ask at"));
    }
    let mut to = std::io::stderr().lock();
    let plan: Vec<String> = plan.iter().map(|step| printable(step)).collect();
    let text = format!("This will:\n  {}\nGo on? [y/N] ", plan.join("\n  "));
    if to.write_all(text.as_bytes()).and_then(|()| to.flush()).is_err() {
        return Err(refused("nobody could be asked"));
    }
    let mut line = String::new();
    match std::io::stdin().lock().read_line(&mut line) {
        Ok(_) if matches!(line.trim(), "y" | "Y" | "yes") => Ok(()),
        _ => Err(refused("it was not confirmed")),
    }
}
