//! Names of objects: `POOL` and `POOL/VDISK`.
//!
//! A name is 1 to 64 of `a-z A-Z 0-9 . _ -` and starts with a letter or digit, so that it needs quoting nowhere: not in
//! a shell, a URL, an export name, an IQN. Wherever a vdisk is named its UUID, or an unambiguous prefix of it, will do.

use std::fmt;
use std::str::FromStr;

use crate::problem::{Answer, Problem};
use crate::units::quoted;

/// Longest name in bytes: what the labels and tables on the devices have room for (`engine/FORMAT.md`).
pub const NAME_MAX: usize = 64;

/// Checks the name of a new `kind`.
///
/// # Errors
/// `invalid-name` with what is wrong with it.
pub fn check(kind: &str, name: &str) -> Answer<()> {
    let wrong = if name.is_empty() {
        "it is empty".to_owned()
    } else if name.len() > NAME_MAX {
        format!("it has {} bytes, {NAME_MAX} are allowed", name.len())
    } else if let Some(bad) = name.chars().find(|c| !(c.is_ascii_alphanumeric() || ".-_".contains(*c))) {
        format!("{bad:?} is not allowed in it")
    } else if !name.starts_with(|c: char| c.is_ascii_alphanumeric()) {
        "it does not start with a letter or digit".to_owned()
    } else {
        return Ok(());
    };
    Err(Problem::new("invalid-name", format!("{} cannot name a {kind}: {wrong}", quoted(name)))
        .hint(format!("use 1 to {NAME_MAX} letters, digits, '.', '_' and '-', for example tank or db-1")))
}

/// The address of a vdisk.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct VdiskName {
    /// Its pool.
    pub pool: String,
    /// Its own name, or UUID.
    pub vdisk: String,
}

impl fmt::Display for VdiskName {
    fn fmt(&self, to: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(to, "{}/{}", self.pool, self.vdisk)
    }
}

impl FromStr for VdiskName {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        match text.split_once('/') {
            Some((pool, vdisk)) if !pool.is_empty() && !vdisk.is_empty() && !vdisk.contains('/') => {
                Ok(Self { pool: pool.to_owned(), vdisk: vdisk.to_owned() })
            }
            _ => Err(format!("{} does not name a vdisk; write POOL/VDISK, for example tank/db1", quoted(text))),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_that_would_need_quoting_are_refused() {
        for name in ["tank", "db-1", "a", "0", "A.b_c", &"x".repeat(NAME_MAX)] {
            assert!(check("pool", name).is_ok(), "{name}");
        }
        for name in ["", "-a", ".", "..", "a b", "a/b", "a@b", "t\u{e4}nk", "a\n", &"x".repeat(NAME_MAX + 1)] {
            assert!(check("pool", name).is_err(), "{name:?}");
        }
    }

    #[test]
    fn a_vdisk_is_addressed_by_pool_and_name() {
        let name: VdiskName = "tank/db1".parse().unwrap();
        assert_eq!((name.pool.as_str(), name.vdisk.as_str()), ("tank", "db1"));
        assert_eq!(name.to_string(), "tank/db1");
        for text in ["tank", "tank/", "/db1", "tank/a/b", ""] {
            assert!(text.parse::<VdiskName>().is_err(), "{text}");
        }
    }
}
