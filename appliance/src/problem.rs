//! The one error of the appliance: RFC 9457 in the API, three lines in the CLI.
//!
//! `code` is the stable contract; its HTTP status and exit code are in one table here and nowhere else. `detail` says why,
//! with the figures; `hint` is a command that can be run.

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use crate::name::NAME_MAX;
use crate::units::cut;

/// What is behind a problem, for who words its advice for another place than where it was noticed. It is not sent.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Cause {
    /// A path leads nowhere.
    NotThere,
    /// The device carries no label of a pool.
    NoLabel,
    /// It carries one that cannot be used: what is behind that may be whole.
    BadLabel,
    /// It is part of a pool of this name.
    PartOf(String),
    /// Several paths lead to copies of one device.
    Copies,
    /// It holds what it is not to lose, unless this check is forced.
    Guarded(&'static str),
    /// Its end is gone. Of one that is shorter than it was, its path and how many bytes it had.
    CutOff(Option<(String, u64)>),
}

impl Cause {
    /// How to go on without the end of a device, if that is what is gone, where a pool is imported by what was `named`: of a pool of
    /// several one device is not enough.
    fn go_on_without(&self, named: &str) -> Option<String> {
        let Cause::CutOff(shorter) = self else { return None };
        let import = format!("plimsoll pool import {named} --force=truncated");
        Some(match shorter {
            Some((path, bytes)) => format!(
                "restore all of it from a copy, or first make it long again (a file: truncate -s {bytes} {path}) and then go on without \
                 what was there ({import})"
            ),
            None => format!("bring all of it back from a copy; to go on with what is left: {import}"),
        })
    }
}

/// What a request was answered when it was not done.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema, thiserror::Error)]
#[error("{detail}")]
pub struct Problem {
    /// `urn:plimsoll:problem:` and the code.
    #[serde(rename = "type")]
    #[schema(value_type = String)]
    pub kind: Box<str>,
    /// The code in words.
    #[schema(value_type = String)]
    pub title: Box<str>,
    /// HTTP status.
    pub status: u16,
    /// Stable, kebab-case; scripts rely on it.
    pub code: String,
    /// What happened to which object, with numbers and units.
    pub detail: String,
    /// A command that helps.
    pub hint: Option<String>,
    /// What is behind it; `None` when its own advice does everywhere.
    #[serde(skip)]
    pub(crate) cause: Option<Box<Cause>>,
}

/// Result of everything a request can ask for.
pub type Answer<T> = Result<T, Problem>;

/// code, HTTP status, exit code, title.
const CODES: &[(&str, u16, u8, &str)] = &[
    ("internal", 500, 1, "internal error"),
    ("device-error", 500, 1, "a device failed"),
    ("not-closed", 500, 1, "it was not closed cleanly"),
    ("state-not-kept", 500, 1, "the state cannot be kept"),
    ("invalid-request", 400, 2, "the request makes no sense"),
    ("invalid-argument", 400, 2, "an argument makes no sense"),
    ("invalid-name", 400, 2, "the name makes no sense"),
    ("invalid-config", 400, 2, "the configuration makes no sense"),
    ("not-a-device", 400, 2, "not a device"),
    ("too-small", 400, 2, "the device is too small"),
    ("too-large", 413, 2, "the request is too large"),
    ("unsupported-media-type", 415, 2, "the body is not JSON"),
    ("method-not-allowed", 405, 2, "the method is not allowed here"),
    ("no-direct-io", 409, 4, "the file system has no direct I/O"),
    ("not-found", 404, 3, "it does not exist"),
    ("exists", 409, 4, "it exists already"),
    ("busy", 409, 4, "it is busy"),
    ("in-use", 409, 4, "it is in use"),
    ("not-empty", 409, 4, "it is not empty"),
    ("read-only", 409, 4, "it is read-only"),
    ("would-cut-off", 409, 4, "data would be cut off"),
    ("device-missing", 409, 4, "a device is missing"),
    ("not-a-pool", 409, 4, "no pool is on it"),
    ("unsupported-feature", 409, 4, "it was written by a newer version"),
    ("unavailable", 409, 4, "the pool is unavailable"),
    ("conflict", 409, 4, "the state does not allow it"),
    ("version-mismatch", 412, 4, "it has changed meanwhile"),
    ("locked", 409, 4, "somebody else holds it"),
    ("permission", 403, 5, "permission denied"),
    ("not-confirmed", 403, 5, "not confirmed"),
    ("limit-exceeded", 403, 5, "a limit would be exceeded"),
    ("quota-exceeded", 403, 5, "the quota is used up"),
    ("unreachable", 503, 6, "the daemon is not reachable"),
    ("closing", 503, 4, "it is closing"),
    ("overloaded", 503, 6, "too many requests at once"),
    ("out-of-space", 507, 7, "out of space"),
    ("would-not-fit", 507, 7, "it does not fit"),
    ("device-no-space", 507, 7, "no space under the device"),
    ("state-no-space", 507, 7, "no space for the state"),
    ("damaged", 500, 8, "damaged"),
    ("degraded", 500, 8, "the check has findings"),
    ("webhook-failed", 502, 8, "a webhook did not take an event"),
    ("timeout", 504, 9, "it took too long"),
    ("given-up", 503, 9, "nobody waits for it any more"),
];

impl Problem {
    /// One of `CODES`; an unknown code counts as internal, but keeps its name.
    pub fn new(code: &str, detail: impl Into<String>) -> Self {
        let (_, status, _, title) = CODES.iter().find(|row| row.0 == code).unwrap_or(&CODES[0]);
        Self {
            kind: format!("urn:plimsoll:problem:{code}").into(),
            title: (*title).into(),
            status: *status,
            code: code.to_owned(),
            detail: detail.into(),
            hint: None,
            cause: None,
        }
    }

    /// With a command that helps.
    #[must_use]
    pub fn hint(mut self, hint: impl Into<String>) -> Self {
        self.hint = Some(hint.into());
        self
    }

    /// With what is behind it.
    #[must_use]
    pub fn because(mut self, cause: Cause) -> Self {
        self.cause = Some(Box::new(cause));
        self
    }

    /// What is behind it.
    pub fn cause(&self) -> Option<&Cause> {
        self.cause.as_deref()
    }

    /// As who imports a pool by what was `named` is to be told it.
    #[must_use]
    pub fn naming(self, named: &str) -> Self {
        match self.cause().and_then(|cause| cause.go_on_without(named)) {
            Some(hint) => self.hint(hint),
            None => self,
        }
    }

    /// The exit code of the CLI for it.
    pub fn exit_code(&self) -> u8 {
        CODES.iter().find(|row| row.0 == self.code).map_or(1, |row| row.2)
    }

    /// `kind` `name` is not there.
    pub fn not_found(kind: &str, name: &str) -> Self {
        let hint = match kind {
            "vdisk" => "plimsoll vdisk list",
            "export" => "plimsoll export list",
            "job" => "plimsoll job list",
            "device" => "plimsoll device list",
            "event" => "plimsoll event list",
            "webhook" => "plimsoll webhook list",
            "tenant" => "plimsoll tenant list",
            "pattern" => "plimsoll pattern list POOL",
            _ => "plimsoll pool list",
        };
        Self::new("not-found", format!("{kind} {} does not exist", cut(name, 2 * NAME_MAX + 1))).hint(hint)
    }
}

impl From<plimsoll_engine::Error> for Problem {
    /// The engine says what to do behind the last semicolon; that becomes the hint. Where it leaves that to us, because
    /// it knows no commands, we say it.
    fn from(error: plimsoll_engine::Error) -> Self {
        use plimsoll_engine::Error;
        let text = error.to_string();
        let (detail, advice) = match text.rsplit_once("; ") {
            Some((detail, advice)) => (detail.to_owned(), Some(advice.to_owned())),
            None => (text, None),
        };
        let hint = match &error {
            Error::NotFound { kind: "pattern", name } => {
                let pool = name.rsplit_once("of pool ").map_or("POOL", |(_, pool)| pool);
                Some(format!("plimsoll pattern list {pool}"))
            }
            Error::NotFound { kind, .. } => return Self { detail, ..Self::not_found(kind, "") },
            Error::Damaged { vdisk, .. } => {
                let pool = vdisk.split('/').next().unwrap_or("POOL");
                Some(format!("plimsoll pool check {pool}"))
            }
            Error::TooSmall { .. } => {
                advice.or_else(|| Some("use a larger device, or several: --device A --device B".to_owned()))
            }
            Error::Exists { kind, .. } => advice.or_else(|| Some(format!("choose another name; plimsoll {kind} list"))),
            Error::Shortened { path, label, .. } => {
                let cause = Cause::CutOff(Some((path.clone(), *label)));
                return Self::new(error.code(), detail).because(cause).naming(path);
            }
            Error::EndLost { paths, .. } => {
                return Self::new(error.code(), error.to_string())
                    .because(Cause::CutOff(None))
                    .naming(&paths.join(" "));
            }
            Error::NotAPool { path, .. } => advice.or_else(|| Some(format!("plimsoll device show {path}"))),
            Error::ReadOnly { pool, .. } => advice.or_else(|| Some(format!("plimsoll pool show {pool}"))),
            Error::Closing(_) => advice.or_else(|| Some("plimsoll status".to_owned())),
            Error::InUse { .. } => {
                return Self::new(error.code(), detail)
                    .because(Cause::Guarded("foreign"))
                    .hint("say --force=foreign to overwrite it; what it holds will be lost");
            }
            _ => advice,
        };
        Self { hint, ..Self::new(error.code(), detail) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_code_is_listed_once_and_has_an_exit_code_of_the_contract() {
        for (index, row) in CODES.iter().enumerate() {
            assert!((1..=9).contains(&row.2), "{row:?}");
            assert!(CODES[..index].iter().all(|other| other.0 != row.0), "{} is listed twice", row.0);
        }
    }

    #[test]
    fn what_the_engine_refuses_without_advice_gets_ours() {
        use plimsoll_engine::Error;
        let (path, reason) = (String::from("/dev/x"), String::from("it is; as it is"));
        for error in [
            Error::TooSmall { path: path.clone(), size: 1, minimum: 2 },
            Error::Exists { kind: "vdisk", name: "tank/a".into() },
            Error::NotAPool { path, reason: "it carries no label".into() },
            Error::ReadOnly { pool: "tank".into(), reason: "a write failed".into(), cause: None },
            Error::Closing("tank".into()),
        ] {
            let problem = Problem::from(error);
            assert!(problem.hint.is_some(), "{}", problem.detail);
        }
        let problem = Problem::from(Error::Busy { object: "tank".into(), reason: format!("{reason}; wait") });
        assert_eq!((problem.detail.as_str(), problem.hint.as_deref()), ("tank is busy: it is; as it is", Some("wait")));
    }

    #[test]
    fn a_pattern_that_is_not_there_is_looked_for_in_its_pool() {
        let name = "9 of pool tank".to_owned();
        let problem = Problem::from(plimsoll_engine::Error::NotFound { kind: "pattern", name });
        assert_eq!((problem.code.as_str(), problem.hint.as_deref()), ("not-found", Some("plimsoll pattern list tank")));
    }

    #[test]
    fn what_the_engine_advises_becomes_the_hint() {
        let problem = Problem::from(plimsoll_engine::Error::OutOfSpace { pool: "tank".into(), needed: 2, free: 0 });
        assert!(problem.detail.contains("0 free"), "{}", problem.detail);
        assert!(problem.hint.is_some_and(|hint| hint.contains("plimsoll pool add-device tank")));
    }
}
