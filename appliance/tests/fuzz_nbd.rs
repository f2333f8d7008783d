//! Fuzzing of what an NBD client can send, in the same way as the formats on the devices (`engine/src/format/tests/fuzz.rs`):
//! the parsers alone, and whole sessions against a server in this process, beside a neighbour that must not notice.
//!
//! The corpus (`tests/corpus`, [`corpus`]) holds valid inputs and whatever was found worth keeping. Inputs are made from
//! it by mutation, with magic numbers and lengths put right in half of the cases, so that what lies behind them is
//! reached. `PLIMSOLL_FUZZ_SECONDS` (5) says how long, `PLIMSOLL_FUZZ_SEED` (1) where it begins;
//! `PLIMSOLL_BLESS=1` writes the valid inputs again.

#[path = "fuzz_nbd/corpus.rs"]
mod corpus;
#[path = "fuzz_nbd/session.rs"]
mod session;

use std::time::{Duration, Instant};

use corpus::{Corpus, Kind, mutate};
use plimsoll_appliance::export::nbd::command::{Command, Facts, verify};
use plimsoll_appliance::export::nbd::option::{
    Ask, NAME_BYTES_MAX, OPTION_HEAD_BYTES, OPTION_MAGIC, decode_option, decode_option_head,
};
use plimsoll_appliance::export::nbd::wire::{PAYLOAD_MAX, REQUEST_BYTES, decode_request, encode_request};
use plimsoll_hardware::sim::Random;

/// What an option makes us keep is never more than what was sent.
fn option(number: u32, data: &[u8]) -> bool {
    let Ok(ask) = decode_option(number, data) else { return false };
    if let Ask::ExportName(name) | Ask::Info { name, .. } | Ask::MetaContext { name, .. } = &ask {
        assert!(name.len() <= NAME_BYTES_MAX && name.len() <= data.len(), "a name of {} bytes", name.len());
    }
    true
}

fn head(bytes: &[u8]) -> bool {
    bytes.first_chunk::<OPTION_HEAD_BYTES>().and_then(decode_option_head).is_some()
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
fn request(bytes: &[u8], random: &mut Random) -> bool {
    let Some(bytes) = bytes.first_chunk::<REQUEST_BYTES>() else { return false };
    let Ok(request) = decode_request(bytes) else { return false };
    assert_eq!(&encode_request(&request), bytes, "a request does not come back");
    let facts = Facts {
        size: [0, 1, 4096, 1 << 30, u64::MAX][random.below(5) as usize],
        read_only: random.coin(),
        structured: random.coin(),
        block_status: random.coin(),
        sector: [512, 4096][random.below(2) as usize],
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

/// One input of a parser; whether it was accepted.
fn one(random: &mut Random, corpus: &Corpus) -> bool {
    match [Kind::Option, Kind::Head, Kind::Request][random.below(3) as usize] {
        Kind::Head => {
            let mut bytes = corpus.any(Kind::Head, random).bytes.clone();
            mutate(&mut bytes, random);
            if random.coin() && bytes.len() >= 8 {
                bytes[..8].copy_from_slice(&OPTION_MAGIC.to_be_bytes());
            }
            head(&bytes)
        }
        Kind::Request => {
            let mut bytes = corpus.any(Kind::Request, random).bytes.clone();
            mutate(&mut bytes, random);
            if random.coin() {
                bytes.resize(REQUEST_BYTES, 0);
                bytes[..4].copy_from_slice(&0x2560_9513u32.to_be_bytes());
                bytes[4] &= 0x80;
                bytes[6] = 0;
            }
            request(&bytes, random)
        }
        _ => {
            let input = corpus.any(Kind::Option, random);
            let mut data = input.bytes.clone();
            mutate(&mut data, random);
            let number = if random.below(8) == 0 { random.word() as u32 } else { input.number };
            option(number, &data)
        }
    }
}

fn number(variable: &str, default: u64) -> u64 {
    std::env::var(variable).map_or(default, |text| text.parse().unwrap_or_else(|_| panic!("{variable} is no number")))
}

/// Runs `work` with a source of chance of its own for each execution until the time is over. At least `at_least` a
/// second, of which `work` says yes to some.
fn run(what: &str, at_least: u64, mut work: impl FnMut(&mut Random) -> bool) {
    let seconds = Duration::from_secs(number("PLIMSOLL_FUZZ_SECONDS", 5));
    let seed = number("PLIMSOLL_FUZZ_SEED", 1);
    let (start, mut executions, mut accepted) = (Instant::now(), 0u64, 0u64);
    while start.elapsed() < seconds {
        let first = seed.wrapping_mul(0x1_0000_0001).wrapping_add(executions);
        let work = std::panic::AssertUnwindSafe(|| work(&mut Random::new(first)));
        match std::panic::catch_unwind(work) {
            Ok(taken) => accepted += u64::from(taken),
            Err(_) => panic!("{what}: PLIMSOLL_FUZZ_SEED={seed}, execution {executions}"),
        }
        executions += 1;
    }
    println!("fuzz: {what}: {executions} executions, {accepted} accepted, seed {seed}, {} s", seconds.as_secs());
    let wanted = at_least * seconds.as_secs();
    assert!(executions >= wanted, "{what}: only {executions} executions in {seconds:?}, {wanted} are wanted");
    assert!(accepted > 0 && accepted < executions, "{accepted} of {executions} accepted: the mutations do nothing");
}

#[test]
fn the_committed_corpus_holds_every_kind_of_valid_input() {
    for input in corpus::valid() {
        let path = corpus::folder().join(&input.name);
        if std::env::var_os("PLIMSOLL_BLESS").is_some() {
            std::fs::write(&path, &input.bytes).unwrap();
        }
        let committed = std::fs::read(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
        assert_eq!(committed, input.bytes, "{}", input.name);
        let mut random = Random::new(0);
        match input.kind {
            Kind::Option => assert!(option(input.number, &input.bytes), "{}", input.name),
            Kind::Head => assert!(head(&input.bytes), "{}", input.name),
            // A request that makes no sense for the facts that were drawn may make sense for the next ones.
            Kind::Request => {
                assert!((0..1000).any(|_| request(&input.bytes, &mut random)), "{}", input.name);
            }
            Kind::Flags => assert_eq!(input.bytes.len(), 4, "{}", input.name),
        }
    }
}

#[test]
fn no_client_makes_a_parser_panic_or_gets_past_the_checks() {
    let corpus = Corpus::load();
    run("parsers", 10_000, |random| one(random, &corpus));
}

#[test]
fn no_session_brings_the_server_down_or_harms_a_neighbour() {
    let corpus = Corpus::load();
    let server = session::Server::start();
    let mut neighbour = session::Neighbour::connect(&server);
    run("sessions", 10, |random| {
        let chosen = session::play(&server, &session::make(random, &corpus), random);
        neighbour.works(random);
        chosen
    });
}
