//! Bugs to plant, for testing the tests: a build with the feature `planted` has the one that `PLIMSOLL_PLANTED` names, every other
//! build none.

#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Bug {
    SkipFlush,
    ReuseQuarantined,
    SkipChecksum,
    SkipWatch,
    KeepDependents,
}

impl Bug {
    #[cfg(not(feature = "planted"))]
    pub(crate) const fn is_planted(self) -> bool {
        false
    }

    #[cfg(feature = "planted")]
    pub(crate) fn is_planted(self) -> bool {
        static PLANTED: std::sync::OnceLock<Option<Bug>> = std::sync::OnceLock::new();
        *PLANTED.get_or_init(|| std::env::var("PLIMSOLL_PLANTED").ok().map(|name| Self::named(&name))) == Some(self)
    }

    #[cfg(feature = "planted")]
    fn named(name: &str) -> Self {
        match name {
            "skip-flush" => Bug::SkipFlush,
            "reuse-quarantined" => Bug::ReuseQuarantined,
            "skip-checksum" => Bug::SkipChecksum,
            "skip-watch" => Bug::SkipWatch,
            "keep-dependents" => Bug::KeepDependents,
            _ => panic!("PLIMSOLL_PLANTED={name}: there is no such bug"),
        }
    }
}
