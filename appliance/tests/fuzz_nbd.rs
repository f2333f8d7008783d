//! Fuzzing of what an NBD client can send, in the same way as the formats on the devices (`engine/src/format/tests/fuzz.rs`).
//!
//! Options and requests are made from valid ones, mutated, with their magic numbers put right in half of the cases, so that what
//! lies behind them is reached. `PLIMSOLL_FUZZ_SECONDS` (5) says how long, `PLIMSOLL_FUZZ_SEED` (1) where it begins.

use std::time::{Duration, Instant};

use plimsoll_appliance::export::nbd::command::{Command, Facts, verify};
use plimsoll_appliance::export::nbd::option::{
    Ask, NAME_BYTES_MAX, OPTION_HEAD_BYTES, OPTION_MAGIC, decode_option, decode_option_head,
};
use plimsoll_appliance::export::nbd::wire::{PAYLOAD_MAX, REQUEST_BYTES, decode_request, encode_request};

/// splitmix64.
struct Random(u64);

impl Random {
    fn word(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let mixed = (self.0 ^ self.0 >> 30).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        let mixed = (mixed ^ mixed >> 27).wrapping_mul(0x94D0_49BB_1331_11EB);
        mixed ^ mixed >> 31
    }

    fn below(&mut self, bound: usize) -> usize {
        (self.word() % bound.max(1) as u64) as usize
    }
}

fn counted(text: &str) -> Vec<u8> {
    [&(text.len() as u32).to_be_bytes(), text.as_bytes()].concat()
}

/// Valid data of each option.
fn options() -> Vec<(u32, Vec<u8>)> {
    let info = [counted("tank/db1"), 3u16.to_be_bytes().to_vec(), vec![0, 1, 0, 2, 0, 3]].concat();
    let context = [counted("tank/db1"), 1u32.to_be_bytes().to_vec(), counted("base:allocation")].concat();
    let none = [counted(""), 0u32.to_be_bytes().to_vec()].concat();
    vec![
        (1, b"tank/db1".to_vec()),
        (2, Vec::new()),
        (3, Vec::new()),
        (5, Vec::new()),
        (6, info.clone()),
        (7, info),
        (8, Vec::new()),
        (9, none),
        (10, context),
    ]
}

fn mutate(bytes: &mut Vec<u8>, random: &mut Random) {
    for _ in 0..=random.below(4) {
        let length = bytes.len();
        match random.below(6) {
            0 if length > 0 => bytes[random.below(length)] ^= 1 << random.below(8),
            1 if length > 0 => bytes[random.below(length)] = random.word() as u8,
            2 if length >= 4 => {
                // A length at its edge.
                let at = random.below(length - 3);
                let edge = [0u32, 1, 4096, 4097, 0xFFFF, u32::MAX, i32::MAX as u32][random.below(7)];
                bytes[at..at + 4].copy_from_slice(&edge.to_be_bytes());
            }
            3 => bytes.truncate(random.below(length + 1)),
            4 => bytes.resize((length + random.below(64)).min(3 * NAME_BYTES_MAX), random.word() as u8),
            5 if length > 1 => bytes.rotate_left(random.below(length)),
            _ => {}
        }
    }
}

/// What an option makes us keep is never more than what was sent.
fn option(number: u32, data: &[u8]) -> bool {
    let Ok(ask) = decode_option(number, data) else { return false };
    if let Ask::ExportName(name) | Ask::Info { name, .. } | Ask::MetaContext { name, .. } = &ask {
        assert!(name.len() <= NAME_BYTES_MAX && name.len() <= data.len(), "a name of {} bytes", name.len());
    }
    true
}

fn span_of(command: Command) -> Option<(u64, u32, bool)> {
    match command {
        Command::Flush => None,
        Command::Read { span, .. } | Command::Cache { span } | Command::BlockStatus { span, .. } => {
            Some((span.offset, span.length, false))
        }
        Command::Write { span, .. } | Command::Trim { span, .. } | Command::WriteZeroes { span, .. } => {
            Some((span.offset, span.length, true))
        }
    }
}

/// What passes lies inside the export and changes only what may be changed.
fn request(bytes: &[u8; REQUEST_BYTES], random: &mut Random) -> bool {
    let Ok(request) = decode_request(bytes) else { return false };
    assert_eq!(&encode_request(&request), bytes, "a request does not come back");
    let facts = Facts {
        size: [0, 1, 4096, 1 << 30, u64::MAX][random.below(5)],
        read_only: random.below(2) == 0,
        structured: random.below(2) == 0,
        block_status: random.below(2) == 0,
        sector: [512, 4096][random.below(2)],
    };
    let Ok(command) = verify(&request, &facts) else { return false };
    if let Some((offset, length, changes)) = span_of(command) {
        let end = offset.checked_add(u64::from(length));
        assert!(length > 0 && end.is_some_and(|end| end <= facts.size), "{command:?} lies outside {}", facts.size);
        assert!(!(changes && facts.read_only), "{command:?} changes what is read-only");
        if matches!(command, Command::Read { .. } | Command::Write { .. }) {
            assert!(length <= PAYLOAD_MAX, "{command:?} is longer than {PAYLOAD_MAX}");
        }
    }
    true
}

fn one(random: &mut Random, options: &[(u32, Vec<u8>)]) -> bool {
    match random.below(3) {
        0 => {
            let (number, data) = &options[random.below(options.len())];
            let mut data = data.clone();
            mutate(&mut data, random);
            let number = if random.below(8) == 0 { random.word() as u32 } else { *number };
            option(number, &data)
        }
        1 => {
            let mut head = [0; OPTION_HEAD_BYTES];
            head.fill_with(|| random.word() as u8);
            if random.below(2) == 0 {
                head[..8].copy_from_slice(&OPTION_MAGIC.to_be_bytes());
            }
            decode_option_head(&head).is_some()
        }
        _ => {
            let mut bytes = [0; REQUEST_BYTES];
            bytes.fill_with(|| random.word() as u8);
            if random.below(8) != 0 {
                bytes[..4].copy_from_slice(&0x2560_9513u32.to_be_bytes());
                bytes[4..8].copy_from_slice(&[0, random.below(32) as u8, 0, random.below(9) as u8]);
            }
            if random.below(2) == 0 {
                // Near the start, and not long.
                bytes[16..21].fill(0);
                bytes[24..26].fill(0);
            }
            request(&bytes, random)
        }
    }
}

fn number(variable: &str, default: u64) -> u64 {
    std::env::var(variable).map_or(default, |text| text.parse().unwrap_or_else(|_| panic!("{variable} is no number")))
}

#[test]
fn no_client_makes_a_parser_panic_or_gets_past_the_checks() {
    let options = options();
    assert!(options.iter().all(|(number, data)| option(*number, data)), "valid options must be accepted");
    let seconds = Duration::from_secs(number("PLIMSOLL_FUZZ_SECONDS", 5));
    let seed = number("PLIMSOLL_FUZZ_SEED", 1);
    let (start, mut executions, mut accepted) = (Instant::now(), 0u64, 0u64);
    while start.elapsed() < seconds {
        for _ in 0..1024 {
            let first = seed.wrapping_mul(0x1_0000_0001).wrapping_add(executions);
            match std::panic::catch_unwind(|| one(&mut Random(first), &options)) {
                Ok(taken) => accepted += u64::from(taken),
                Err(_) => panic!("PLIMSOLL_FUZZ_SEED={seed}, execution {executions}"),
            }
            executions += 1;
        }
    }
    println!("fuzz: {executions} executions, {accepted} accepted, seed {seed}, {} s", seconds.as_secs());
    assert!(accepted > 0 && accepted < executions, "{accepted} of {executions} accepted: the mutations do nothing");
}
