//! The corpus: one file for one input, its kind in front of the first `-` of its name; options have their number behind.

use std::path::PathBuf;

use plimsoll_appliance::export::nbd::option::{NAME_BYTES_MAX, OPTION_MAGIC};
use plimsoll_hardware::sim::Random;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Kind {
    /// What a client sends first.
    Flags,
    /// The head of an option.
    Head,
    /// The data of an option.
    Option,
    /// A request's head.
    Request,
}

pub(crate) struct Input {
    pub(crate) name: String,
    pub(crate) kind: Kind,
    /// Of an option.
    pub(crate) number: u32,
    pub(crate) bytes: Vec<u8>,
}

pub(crate) struct Corpus(Vec<Input>);

pub(crate) fn folder() -> PathBuf {
    [env!("CARGO_MANIFEST_DIR"), "tests", "corpus"].iter().collect()
}

impl Corpus {
    /// All files.
    pub(crate) fn load() -> Self {
        let mut inputs: Vec<_> = std::fs::read_dir(folder())
            .expect("the corpus")
            .map(|entry| {
                let path = entry.expect("a file of the corpus").path();
                let name = path.file_name().expect("a name").to_string_lossy().into_owned();
                Input::new(name, std::fs::read(&path).expect("a file of the corpus"))
            })
            .collect();
        // The same seed means the same inputs on every file system.
        inputs.sort_by(|one, other| one.name.cmp(&other.name));
        Self(inputs)
    }

    /// One of `kind`.
    pub(crate) fn any(&self, kind: Kind, random: &mut Random) -> &Input {
        let of_kind: Vec<_> = self.0.iter().filter(|input| input.kind == kind).collect();
        assert!(!of_kind.is_empty(), "the corpus has no {kind:?}");
        of_kind[random.below(of_kind.len() as u64) as usize]
    }
}

impl Input {
    fn new(name: impl Into<String>, bytes: Vec<u8>) -> Self {
        let name = name.into();
        let mut parts = name.split('-');
        let kind = match parts.next() {
            Some("flags") => Kind::Flags,
            Some("head") => Kind::Head,
            Some("option") => Kind::Option,
            Some("request") => Kind::Request,
            _ => panic!("{name} says no kind"),
        };
        let number = match kind {
            Kind::Option => parts.next().and_then(|number| number.parse().ok()).expect("an option's number"),
            _ => 0,
        };
        Self { name, kind, number, bytes }
    }
}

pub(crate) fn counted(text: &str) -> Vec<u8> {
    [&(text.len() as u32).to_be_bytes(), text.as_bytes()].concat()
}

pub(crate) fn head(number: u32, length: usize) -> Vec<u8> {
    [&OPTION_MAGIC.to_be_bytes()[..], &number.to_be_bytes(), &(length as u32).to_be_bytes()].concat()
}

fn request(flags: u16, kind: u16, offset: u64, length: u32) -> Vec<u8> {
    let magic = 0x2560_9513u32.to_be_bytes();
    let cookie = 0x0102_0304_0506_0708u64.to_be_bytes();
    let place = [&offset.to_be_bytes()[..], &length.to_be_bytes()].concat();
    [&magic[..], &flags.to_be_bytes(), &kind.to_be_bytes(), &cookie, &place].concat()
}

/// A valid input of each kind.
pub(crate) fn valid() -> Vec<Input> {
    let name = super::session::FUZZED;
    let info = [counted(name), vec![0, 3, 0, 1, 0, 2, 0, 3]].concat();
    let context = [counted(name), vec![0, 0, 0, 1], counted("base:allocation")].concat();
    let two = [counted(name), vec![0, 0, 0, 2], counted("qemu:dirty-bitmap:x"), counted("base:allocation")].concat();
    let mut inputs = vec![
        Input::new("flags-fixed", vec![0, 0, 0, 1]),
        Input::new("flags-fixed-no-zeroes", vec![0, 0, 0, 3]),
        Input::new("flags-none", vec![0; 4]),
        Input::new("option-1-export-name", name.as_bytes().to_vec()),
        Input::new("option-2-abort", Vec::new()),
        Input::new("option-3-list", Vec::new()),
        Input::new("option-5-start-tls", Vec::new()),
        Input::new("option-6-info", info.clone()),
        Input::new("option-6-info-of-default", [counted(""), vec![0, 0]].concat()),
        Input::new("option-7-go", info),
        Input::new("option-8-structured-reply", Vec::new()),
        Input::new("option-9-list-meta-context", [counted(name), vec![0; 4]].concat()),
        Input::new("option-10-set-meta-context", context),
        Input::new("option-10-set-two-meta-contexts", two),
        Input::new("option-11-extended-headers", Vec::new()),
    ];
    let heads: Vec<_> = inputs.iter().filter(|input| input.kind == Kind::Option).collect();
    let heads: Vec<_> = heads
        .iter()
        .map(|input| Input::new(format!("head-{}", &input.name[7..]), head(input.number, input.bytes.len())))
        .collect();
    inputs.extend(heads);
    for (name, flags, kind, offset, length) in [
        ("read", 0, 0, 4096, 4096),
        ("read-whole-df", 4, 0, 0, 65_536),
        ("read-misaligned", 0, 0, 511, 3),
        ("write", 0, 1, 8192, 512),
        ("write-fua", 1, 1, 0, 4096),
        ("write-misaligned", 0, 1, 4095, 2),
        ("flush", 0, 3, 0, 0),
        ("trim", 0, 4, 65_536, 65_536),
        ("cache", 0, 5, 0, 4096),
        ("write-zeroes", 0, 6, 0, 131_072),
        ("write-zeroes-no-hole-fua", 3, 6, 65_536, 4096),
        ("write-zeroes-fast", 16, 6, 0, 65_536),
        ("block-status", 0, 7, 0, 1 << 20),
        ("block-status-one", 8, 7, 0, 4096),
    ] {
        inputs.push(Input::new(format!("request-{name}"), request(flags, kind, offset, length)));
    }
    inputs
}

/// Changes a few bytes, lengths or the end.
pub(crate) fn mutate(bytes: &mut Vec<u8>, random: &mut Random) {
    let below = |random: &mut Random, bound: usize| random.below(bound as u64) as usize;
    for _ in 0..=random.below(4) {
        let length = bytes.len();
        match random.below(6) {
            0 if length > 0 => bytes[below(random, length)] ^= 1 << random.below(8),
            1 if length > 0 => bytes[below(random, length)] = random.word() as u8,
            2 if length >= 4 => {
                // A length at its edge.
                let at = below(random, length - 3);
                let edge = [0u32, 1, 4096, 4097, 0xFFFF, u32::MAX, i32::MAX as u32][below(random, 7)];
                bytes[at..at + 4].copy_from_slice(&edge.to_be_bytes());
            }
            3 => bytes.truncate(below(random, length + 1)),
            4 => bytes.resize((length + below(random, 64)).min(3 * NAME_BYTES_MAX), random.word() as u8),
            5 if length > 1 => bytes.rotate_left(below(random, length)),
            _ => {}
        }
    }
}
