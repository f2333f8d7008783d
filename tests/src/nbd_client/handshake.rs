//! The negotiation, up to the first request.

use std::io::{self, Read, Write};

use super::{number, protocol};

const HANDSHAKE_MAGIC: u64 = u64::from_be_bytes(*b"NBDMAGIC");
const OPTION_MAGIC: u64 = u64::from_be_bytes(*b"IHAVEOPT");
const OPTION_REPLY_MAGIC: u64 = 0x0003_E889_0455_65A9;
const OPT_GO: u32 = 7;
const OPT_STRUCTURED_REPLY: u32 = 8;
const OPT_SET_META_CONTEXT: u32 = 10;
const REP_ACK: u32 = 1;
const REP_INFO: u32 = 3;
const REP_META_CONTEXT: u32 = 4;
const REP_ERROR: u32 = 1 << 31;
const INFO_EXPORT: u64 = 0;
const INFO_BLOCK_SIZE: u64 = 3;
/// What the protocol lets a client assume of a server that gives no block sizes: 32 MiB.
const BLOCK_MAX_DEFAULT: u32 = 32 << 20;

/// What the client asks for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Options {
    /// Structured replies.
    pub structured: bool,
    /// The meta context `base:allocation`, which needs structured replies.
    pub allocation: bool,
}

impl Options {
    /// Structured replies and `base:allocation`.
    pub const ALL: Self = Self { structured: true, allocation: true };
}

/// What the server says of the export.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Export {
    /// Bytes.
    pub size: u64,
    /// Transmission flags.
    pub flags: u16,
    /// Smallest request, bytes.
    pub block_min: u32,
    /// Best request, bytes.
    pub block_preferred: u32,
    /// Largest data of one request, bytes.
    pub block_max: u32,
}

/// Negotiates the export `name`.
pub(super) fn negotiate(
    reader: &mut impl Read,
    writer: &mut impl Write,
    name: &str,
    options: Options,
) -> io::Result<Export> {
    if (number::<8>(reader)?, number::<8>(reader)?) != (HANDSHAKE_MAGIC, OPTION_MAGIC) {
        return Err(protocol("no newstyle greeting".into()));
    }
    // Fixed newstyle, no zeroes behind the export.
    let offered = number::<2>(reader)?;
    if offered & 1 == 0 {
        return Err(protocol(format!("handshake flags {offered:#x}, without fixed newstyle")));
    }
    writer.write_all(&((offered & 3) as u32).to_be_bytes())?;

    if options.structured {
        option(writer, OPT_STRUCTURED_REPLY, &[])?;
        acknowledged(option_reply(reader, OPT_STRUCTURED_REPLY)?)?;
    }
    if options.allocation {
        let context = b"base:allocation";
        let mut data = string(name);
        data.extend_from_slice(&1u32.to_be_bytes());
        data.extend_from_slice(&(context.len() as u32).to_be_bytes());
        data.extend_from_slice(context);
        option(writer, OPT_SET_META_CONTEXT, &data)?;
        match option_reply(reader, OPT_SET_META_CONTEXT)? {
            (REP_META_CONTEXT, payload) if payload.get(4..) == Some(context) => {}
            other => return acknowledged(other).and(Err(protocol("no context base:allocation".into()))),
        }
        acknowledged(option_reply(reader, OPT_SET_META_CONTEXT)?)?;
    }

    let mut data = string(name);
    data.extend_from_slice(&1u16.to_be_bytes());
    data.extend_from_slice(&(INFO_BLOCK_SIZE as u16).to_be_bytes());
    option(writer, OPT_GO, &data)?;
    let mut export = Export { size: 0, flags: 0, block_min: 1, block_preferred: 4096, block_max: BLOCK_MAX_DEFAULT };
    loop {
        let (kind, payload) = option_reply(reader, OPT_GO)?;
        if kind != REP_INFO {
            acknowledged((kind, payload))?;
            return Ok(export);
        }
        let mut rest = &payload[..];
        match number::<2>(&mut rest)? {
            INFO_EXPORT => {
                export.size = number::<8>(&mut rest)?;
                export.flags = number::<2>(&mut rest)? as u16;
            }
            INFO_BLOCK_SIZE => {
                export.block_min = number::<4>(&mut rest)? as u32;
                export.block_preferred = number::<4>(&mut rest)? as u32;
                export.block_max = number::<4>(&mut rest)? as u32;
            }
            _ => {}
        }
    }
}

fn string(text: &str) -> Vec<u8> {
    [&(text.len() as u32).to_be_bytes(), text.as_bytes()].concat()
}

fn option(writer: &mut impl Write, option: u32, data: &[u8]) -> io::Result<()> {
    let mut message = Vec::with_capacity(16 + data.len());
    message.extend_from_slice(&OPTION_MAGIC.to_be_bytes());
    message.extend_from_slice(&option.to_be_bytes());
    message.extend_from_slice(&(data.len() as u32).to_be_bytes());
    message.extend_from_slice(data);
    writer.write_all(&message)
}

/// One reply to `option`: its type and payload.
fn option_reply(reader: &mut impl Read, option: u32) -> io::Result<(u32, Vec<u8>)> {
    let (magic, echoed) = (number::<8>(reader)?, number::<4>(reader)? as u32);
    if (magic, echoed) != (OPTION_REPLY_MAGIC, option) {
        return Err(protocol(format!("reply {magic:#x} to option {echoed} instead of {option}")));
    }
    let kind = number::<4>(reader)? as u32;
    let length = number::<4>(reader)? as usize;
    if length > 1 << 16 {
        return Err(protocol(format!("an option reply of {length} bytes")));
    }
    let mut payload = vec![0; length];
    reader.read_exact(&mut payload)?;
    Ok((kind, payload))
}

fn acknowledged((kind, payload): (u32, Vec<u8>)) -> io::Result<()> {
    match kind {
        REP_ACK => Ok(()),
        _ if kind & REP_ERROR != 0 => {
            let text = String::from_utf8_lossy(&payload).into_owned();
            Err(io::Error::new(io::ErrorKind::NotFound, format!("the NBD server refused ({kind:#x}): {text}")))
        }
        _ => Err(protocol(format!("option reply {kind}"))),
    }
}
