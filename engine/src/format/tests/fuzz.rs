//! Fuzzing on stable Rust: a mutation engine of our own over the committed corpus in `tests/corpus`.
//!
//! Half of the inputs get their checksum put right after the mutation, so that what lies behind it is reached too. Whatever
//! a parser accepts must encode and decode to the same again. The seed is fixed unless `PLIMSOLL_FUZZ_SEED` says otherwise;
//! `PLIMSOLL_FUZZ_SECONDS` (5) says how long. A failure prints the seed and the execution, which find the input again.

use std::cell::RefCell;
use std::time::{Duration, Instant};

use plimsoll_hardware::CrashMemory;
use plimsoll_hardware::sim::Random;

use super::{fixtures, is_update, samples};
use crate::format::*;

/// Longest time for one input. A thousand times what any takes: a busy machine must not fail it.
const TIME_MAX: Duration = Duration::from_secs(1);
/// Bytes of the longest input: three pages.
const INPUT_MAX: usize = 3 * PAGE_BYTES;

/// A number below `bound`; 0 when `bound` is 0.
fn below(random: &mut Random, bound: usize) -> usize {
    random.below(bound as u64) as usize
}

/// Crash memory over plain bytes.
struct Plain(RefCell<Vec<u8>>);

impl CrashMemory for Plain {
    fn survived(&self) -> bool {
        true
    }

    fn len(&self) -> usize {
        self.0.borrow().len()
    }

    fn load(&self, offset: usize, into: &mut [u8]) {
        into.copy_from_slice(&self.0.borrow()[offset..offset + into.len()]);
    }

    fn store(&self, offset: usize, bytes: &[u8]) {
        self.0.borrow_mut()[offset..offset + bytes.len()].copy_from_slice(bytes);
    }

    fn store_u64(&self, offset: usize, word: u64) {
        self.store(offset, &word.to_le_bytes());
    }
}

fn mutate(bytes: &mut Vec<u8>, others: &[(String, Vec<u8>)], random: &mut Random) {
    for _ in 0..=below(random, 4) {
        let length = bytes.len();
        let at = below(random, length);
        match below(random, 9) {
            0 if length > 0 => bytes[at] ^= 1 << below(random, 8),
            1 if length > 0 => bytes[at] = random.word() as u8,
            2 if length >= 8 => {
                // A number at its edge, where numbers are.
                let edges = [0, 1, 0xFF, 0xFFFF, 0xFFFF_FFFF, u64::MAX, 1 << 40, 1 << 48, i64::MAX as u64];
                let at = below(random, length / 8) * 8;
                let width = [1, 2, 4, 8][below(random, 4)];
                let edge = edges[below(random, edges.len())].to_le_bytes();
                bytes[at..at + width].copy_from_slice(&edge[..width]);
            }
            3 => bytes.truncate(at),
            4 => bytes.resize((length + below(random, 64)).min(INPUT_MAX), random.word() as u8),
            5 if length > 16 => {
                let to = below(random, length - 8);
                let from = below(random, length - 8);
                bytes.copy_within(from..from + 8, to);
            }
            6 => {
                let other = &others[below(random, others.len())].1;
                let from = below(random, other.len());
                let count = below(random, 64).min(other.len() - from).min(length - at);
                bytes[at..at + count].copy_from_slice(&other[from..from + count]);
            }
            7 if length > 0 => bytes[at..].iter_mut().take(32).for_each(|byte| *byte = 0),
            _ => {}
        }
    }
}

/// Puts the checksum right, where the input still has one.
fn reseal(kind: &str, bytes: &mut [u8]) {
    match kind {
        "label" | "root" if bytes.len() >= PAGE_BYTES => {
            let sum = checksum(&[&bytes[..12], &bytes[16..PAGE_BYTES]]);
            bytes[12..16].copy_from_slice(&sum.to_le_bytes());
        }
        "batch" if bytes.len() >= BATCH_HEADER_BYTES => {
            let mut payload = [0; 4];
            payload.copy_from_slice(&bytes[44..48]);
            let end = BATCH_HEADER_BYTES + u32::from_le_bytes(payload) as usize;
            if let Some(body) = bytes.get(8..end) {
                let sum = checksum(&[body]);
                bytes[4..8].copy_from_slice(&sum.to_le_bytes());
            }
        }
        _ => {}
    }
}

/// The sum of what a batch's records hold never exceeds its bytes.
fn is_bounded(records: &[Record], bytes: usize) -> bool {
    records.iter().map(Record::encoded_len).sum::<usize>() <= bytes
}

fn again<P: Payload>(page: &P) -> Vec<u8> {
    let mut bytes = vec![0; PAGE_BYTES];
    page.encode(&mut bytes);
    bytes
}

/// Parses; answers whether it was accepted.
fn parse(kind: &str, bytes: &[u8]) -> bool {
    fn payload<P: Payload>(bytes: &[u8]) -> bool {
        let Ok(page) = P::decode(bytes) else { return false };
        let _ = (page.summary(), page.is_empty());
        let first = again(&page);
        let second = P::decode(&first).map(|page| again(&page));
        assert!(second.as_ref() == Ok(&first), "what was accepted does not come back");
        true
    }
    match kind {
        "label" => LabelPage::decode(bytes).is_ok_and(|label| {
            let mut page = vec![0; PAGE_BYTES];
            label.encode(&mut page);
            assert_eq!(LabelPage::decode(&page), Ok(label));
            true
        }),
        "root" => RootPage::decode(bytes).is_ok_and(|root| {
            let mut page = vec![0; PAGE_BYTES];
            root.encode(&mut page);
            assert_eq!(RootPage::decode(&page), Ok(root));
            true
        }),
        "batch" => {
            let _ = Batch::claimed_pages(bytes);
            Batch::decode(bytes).is_ok_and(|batch| {
                assert!(is_bounded(&batch.records, bytes.len()));
                true
            })
        }
        "records" => Record::decode_all(bytes).is_ok_and(|records| {
            assert!(is_bounded(&records, bytes.len()));
            let mut copy = Vec::new();
            records.iter().for_each(|record| record.encode(&mut copy));
            assert_eq!(Record::decode_all(&copy), Ok(records));
            true
        }),
        "half" => {
            let mut memory = bytes.to_vec();
            memory.resize(bytes.len().max(64), 0);
            let length = memory.len();
            let memory = Plain(RefCell::new(memory));
            let _ = TailHeader::load(&memory);
            load_half(&memory, 0, length).is_ok_and(|(_, records)| {
                assert!(is_bounded(&records, length));
                true
            })
        }
        "leaf" => payload::<Leaf>(bytes),
        "group" => payload::<Group>(bytes),
        "table" => payload::<TablePage>(bytes),
        "pattern" => payload::<PatternPage>(bytes),
        "node" => NodePage::decode(bytes).is_ok_and(|references| {
            let mut page = vec![0; PAGE_BYTES];
            NodePage::encode(references.clone().into_iter(), &mut page);
            assert_eq!(NodePage::decode(&page), Ok(references));
            true
        }),
        _ => panic!("a corpus file of unknown kind {kind}"),
    }
}

/// Whether inputs of this kind are whole pages.
fn is_page(kind: &str) -> bool {
    !matches!(kind, "records" | "half")
}

/// Files are named KIND-WHAT; zeros at the ends of pages are left out.
fn corpus() -> Vec<(String, Vec<u8>)> {
    let folder = fixtures("corpus");
    if is_update() {
        let mut records = Vec::new();
        samples::records().iter().for_each(|record| record.encode(&mut records));
        for (kind, bytes) in samples::images().into_iter().chain([("records", records)]) {
            let used = bytes.iter().rposition(|&byte| byte != 0).map_or(0, |last| last + 1);
            let end = if is_page(kind) { used } else { bytes.len() };
            std::fs::write(folder.join(format!("{kind}-sample")), &bytes[..end]).expect("write the corpus");
        }
    }
    let mut files = Vec::new();
    for file in std::fs::read_dir(&folder).expect("the corpus") {
        let path = file.expect("a file of the corpus").path();
        let name = path.file_name().and_then(|name| name.to_str()).expect("a name").to_owned();
        let (kind, _) = name.split_once('-').expect("KIND-WHAT");
        let mut bytes = std::fs::read(&path).expect("read the corpus");
        if is_page(kind) {
            bytes.resize(bytes.len().next_multiple_of(PAGE_BYTES), 0);
        }
        files.push((kind.to_owned(), bytes));
    }
    files.sort();
    files
}

fn number(variable: &str, default: u64) -> u64 {
    std::env::var(variable).map_or(default, |text| text.parse().unwrap_or_else(|_| panic!("{variable} is no number")))
}

#[test]
fn no_bytes_make_a_parser_panic_or_take_more_than_their_share() {
    let corpus = corpus();
    assert!(corpus.iter().all(|(kind, bytes)| parse(kind, bytes)), "the corpus itself must be accepted");
    let seconds = Duration::from_secs(number("PLIMSOLL_FUZZ_SECONDS", 5));
    let seed = number("PLIMSOLL_FUZZ_SEED", 1);
    let (start, mut executions, mut accepted) = (Instant::now(), 0u64, 0u64);
    while start.elapsed() < seconds {
        for _ in 0..256 {
            // Each execution has its own seed, so one can be run again alone.
            let mut random = Random::new(seed.wrapping_mul(0x1_0000_0001).wrapping_add(executions));
            let (kind, bytes) = &corpus[below(&mut random, corpus.len())];
            let mut bytes = bytes.clone();
            mutate(&mut bytes, &corpus, &mut random);
            if below(&mut random, 2) == 0 {
                reseal(kind, &mut bytes);
            }
            let before = Instant::now();
            match std::panic::catch_unwind(|| parse(kind, &bytes)) {
                Ok(taken) => accepted += u64::from(taken),
                Err(_) => panic!("{kind}: PLIMSOLL_FUZZ_SEED={seed}, execution {executions}, bytes {bytes:02x?}"),
            }
            assert!(before.elapsed() < TIME_MAX, "{kind}: execution {executions} of seed {seed} took too long");
            executions += 1;
        }
    }
    println!("fuzz: {executions} executions, {accepted} accepted, seed {seed}, {} s", seconds.as_secs());
    assert!(accepted > 0 && accepted < executions, "{accepted} of {executions} accepted: the mutations do nothing");
}
