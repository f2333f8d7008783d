//! The handshake in bytes: options that a client sends and replies to them. Pure, no I/O.
//!
//! An option's data is at most [`NbdLimits::option_bytes`](super::NbdLimits) long and is parsed from that slice alone:
//! every count and length in it is checked against what is left. Source: NBD protocol, "Fixed newstyle negotiation".

use bytes::{Buf, BufMut};

use super::wire::CONTEXT_NAME;

/// The server's first bytes, before its flags.
pub const GREETING_MAGIC: u64 = 0x4e42_444d_4147_4943;
/// Begins the greeting's second half and every option.
pub const OPTION_MAGIC: u64 = 0x4948_4156_454f_5054;
const REPLY_MAGIC: u64 = 0x0003_e889_0455_65a9;
/// Handshake flag of both sides: options beyond EXPORT_NAME are understood.
pub const FIXED_NEWSTYLE: u16 = 1 << 0;
/// Handshake flag of both sides: EXPORT_NAME is answered without 124 zeros.
pub const NO_ZEROES: u16 = 1 << 1;
/// Bytes of an option's head.
pub const OPTION_HEAD_BYTES: usize = 16;
/// Longest string of the protocol in bytes.
pub const NAME_BYTES_MAX: usize = 4096;

/// The head of an option: its number and how many bytes follow.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct OptionHead {
    /// Which option.
    pub number: u32,
    /// Bytes of data.
    pub length: u32,
}

/// Reads the head of an option; `None` when the magic number is wrong and the connection is lost.
pub fn decode_option_head(bytes: &[u8; OPTION_HEAD_BYTES]) -> Option<OptionHead> {
    let mut bytes = &bytes[..];
    (bytes.get_u64() == OPTION_MAGIC).then(|| OptionHead { number: bytes.get_u32(), length: bytes.get_u32() })
}

/// What a client asks for during the handshake.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Ask {
    /// Use this export; the old way, which has no room for an error.
    ExportName(String),
    /// Goodbye.
    Abort,
    /// Names of all exports.
    List,
    /// Encrypt.
    StartTls,
    /// Describe an export, and use it when `go`.
    Info {
        /// The export.
        name: String,
        /// Use it.
        go: bool,
        /// Of what the client asked for: the name.
        wants_name: bool,
        /// Of what the client asked for: the description.
        wants_description: bool,
    },
    /// From now on answer in chunks.
    StructuredReply,
    /// Which contexts exist, or use some of them.
    MetaContext {
        /// The export.
        name: String,
        /// Use them.
        set: bool,
        /// [`CONTEXT_NAME`] is among them.
        matches: bool,
    },
    /// Something else.
    Unknown,
}

/// The data of an option does not hold together.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("malformed option")]
pub struct Malformed;

fn string(bytes: &mut &[u8], length: usize) -> Result<String, Malformed> {
    if length > NAME_BYTES_MAX || length > bytes.len() {
        return Err(Malformed);
    }
    let (text, rest) = bytes.split_at(length);
    *bytes = rest;
    // A name with a zero byte in it is no name: nothing of ours is called so, and C clients would see half of it.
    let text = std::str::from_utf8(text).map_err(|_| Malformed)?;
    if text.contains('\0') { Err(Malformed) } else { Ok(text.into()) }
}

fn counted_string(bytes: &mut &[u8]) -> Result<String, Malformed> {
    let length = bytes.try_get_u32().map_err(|_| Malformed)?;
    string(bytes, length as usize)
}

/// Reads the data of option `number`.
///
/// # Errors
/// [`Malformed`] when lengths inside do not add up to the data's, or a string is too long or no UTF-8.
pub fn decode_option(number: u32, data: &[u8]) -> Result<Ask, Malformed> {
    let mut bytes = data;
    let ask = match number {
        1 => {
            let length = bytes.len();
            Ask::ExportName(string(&mut bytes, length)?)
        }
        // Whatever a client says while leaving, it may leave.
        2 => return Ok(Ask::Abort),
        3 => Ask::List,
        5 => Ask::StartTls,
        6 | 7 => {
            let name = counted_string(&mut bytes)?;
            let count = bytes.try_get_u16().map_err(|_| Malformed)?;
            let (mut wants_name, mut wants_description) = (false, false);
            for _ in 0..count {
                match bytes.try_get_u16().map_err(|_| Malformed)? {
                    INFO_NAME => wants_name = true,
                    INFO_DESCRIPTION => wants_description = true,
                    _ => {}
                }
            }
            Ask::Info { name, go: number == 7, wants_name, wants_description }
        }
        8 => Ask::StructuredReply,
        9 | 10 => {
            let name = counted_string(&mut bytes)?;
            let set = number == 10;
            let count = bytes.try_get_u32().map_err(|_| Malformed)?;
            let mut matches = count == 0 && !set;
            for _ in 0..count {
                let query = counted_string(&mut bytes)?;
                // Only a LIST may leave the leaf open.
                matches |= query == CONTEXT_NAME || (!set && query == "base:");
            }
            Ask::MetaContext { name, set, matches }
        }
        _ => return Ok(Ask::Unknown),
    };
    if bytes.is_empty() { Ok(ask) } else { Err(Malformed) }
}

const INFO_EXPORT: u16 = 0;
const INFO_NAME: u16 = 1;
const INFO_DESCRIPTION: u16 = 2;
const INFO_BLOCK_SIZE: u16 = 3;

/// An answer to an option. Texts are fixed and short.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Answer<'a> {
    /// Done; the last answer to most options.
    Ack,
    /// One export's name.
    Server(&'a str),
    /// Size and flags of the export.
    Export {
        /// Bytes.
        size: u64,
        /// Bits of [`transmission_flag`](super::wire::transmission_flag).
        flags: u16,
    },
    /// The export's own name.
    Name(&'a str),
    /// The export in words.
    Description(&'a str),
    /// Bytes of the smallest, the best and the largest request.
    BlockSize(u32, u32, u32),
    /// [`CONTEXT_NAME`] exists or is in use under this number.
    MetaContext(u32),
    /// The option failed; the handshake goes on.
    Refused(Refusal),
}

/// Why an option failed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Refusal {
    /// No such option here.
    Unsupported,
    /// Not allowed.
    Policy,
    /// Malformed, or at the wrong time.
    Invalid,
    /// No such export.
    Unknown,
    /// The server is going away.
    ShuttingDown,
}

/// Writes an answer to option `number`.
pub fn encode_answer(number: u32, answer: Answer<'_>, into: &mut Vec<u8>) {
    let mut reply = |kind: u32, parts: &[&[u8]]| {
        into.put_u64(REPLY_MAGIC);
        into.put_u32(number);
        into.put_u32(kind);
        into.put_u32(parts.iter().map(|part| part.len() as u32).sum());
        parts.iter().for_each(|part| into.put_slice(part));
    };
    const INFO: u32 = 3;
    const ERROR: u32 = 1 << 31;
    match answer {
        Answer::Ack => reply(1, &[]),
        Answer::Server(name) => reply(2, &[&(name.len() as u32).to_be_bytes(), name.as_bytes()]),
        Answer::Export { size, flags } => {
            reply(INFO, &[&INFO_EXPORT.to_be_bytes(), &size.to_be_bytes(), &flags.to_be_bytes()]);
        }
        Answer::Name(name) => reply(INFO, &[&INFO_NAME.to_be_bytes(), name.as_bytes()]),
        Answer::Description(text) => reply(INFO, &[&INFO_DESCRIPTION.to_be_bytes(), text.as_bytes()]),
        Answer::BlockSize(minimum, preferred, maximum) => reply(
            INFO,
            &[&INFO_BLOCK_SIZE.to_be_bytes(), &minimum.to_be_bytes(), &preferred.to_be_bytes(), &maximum.to_be_bytes()],
        ),
        Answer::MetaContext(id) => reply(4, &[&id.to_be_bytes(), CONTEXT_NAME.as_bytes()]),
        Answer::Refused(refusal) => {
            let (kind, text): (u32, &str) = match refusal {
                Refusal::Unsupported => (1, "option not supported"),
                Refusal::Policy => (2, "not allowed here"),
                Refusal::Invalid => (3, "malformed option or wrong order"),
                Refusal::Unknown => (6, "no such export"),
                Refusal::ShuttingDown => (7, "the server is shutting down"),
            };
            reply(ERROR | kind, &[text.as_bytes()]);
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn counted(text: &str) -> Vec<u8> {
        [&(text.len() as u32).to_be_bytes(), text.as_bytes()].concat()
    }

    proptest! {
        #[test]
        fn arbitrary_option_data_is_parsed_or_refused(number in 0..13u32, data: Vec<u8>) {
            let _ = decode_option(number, &data);
        }

        #[test]
        fn arbitrary_data_behind_an_honest_name_is_parsed_or_refused(
            number in 6..11u32, name in "[a-z/]{0,40}", tail in prop::collection::vec(prop_oneof![Just(0u8), Just(1), any::<u8>()], 0..64),
        ) {
            let _ = decode_option(number, &[counted(&name), tail].concat());
        }

        #[test]
        fn an_option_cut_anywhere_is_malformed(name in "[a-z/]{1,40}", cut in 0.0..1.0f64) {
            let data = [counted(&name), vec![0, 2, 0, 1, 0, 3]].concat();
            prop_assert!(decode_option(7, &data).is_ok());
            prop_assert_eq!(decode_option(7, &data[..(data.len() as f64 * cut) as usize]), Err(Malformed));
            let data = [counted(&name), vec![0, 0, 0, 1], counted(CONTEXT_NAME)].concat();
            prop_assert!(decode_option(10, &data).is_ok());
            prop_assert_eq!(decode_option(10, &data[..(data.len() as f64 * cut) as usize]), Err(Malformed));
        }
    }

    #[test]
    fn a_count_that_the_data_cannot_hold_is_refused_without_allocating_for_it() {
        let data = [counted("x"), u32::MAX.to_be_bytes().to_vec()].concat();
        assert_eq!(decode_option(10, &data), Err(Malformed));
        let data = [u32::MAX.to_be_bytes().to_vec(), vec![b'x'; 64]].concat();
        assert_eq!(decode_option(7, &data), Err(Malformed));
        assert_eq!(decode_option(1, &vec![b'x'; NAME_BYTES_MAX + 1]), Err(Malformed));
    }

    #[test]
    fn only_a_list_matches_a_namespace_and_only_a_list_without_queries_means_all() {
        let query = |number, queries: &[&str]| {
            let mut data = [counted("x"), (queries.len() as u32).to_be_bytes().to_vec()].concat();
            queries.iter().for_each(|text| data.extend(counted(text)));
            match decode_option(number, &data) {
                Ok(Ask::MetaContext { matches, .. }) => matches,
                other => panic!("{other:?}"),
            }
        };
        assert!(query(9, &[]) && query(9, &["base:"]) && query(9, &["qemu:dirty", "base:allocation"]));
        assert!(!query(10, &[]) && !query(10, &["base:"]) && query(10, &["base:allocation"]));
    }
}
