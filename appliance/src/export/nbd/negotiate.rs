//! The handshake: what a client may ask before it has an export, and what it is told.
//!
//! Nothing of the engine is touched before an export was named and found. A client sends at most
//! [`NbdLimits::options`] options of at most [`NbdLimits::option_bytes`] each; the time for all of it is kept by the
//! server's [`watch`](super::watch), which shuts the socket down.

use std::io;
use std::rc::Rc;

use plimsoll_hardware::Machine;
use plimsoll_hardware::buffer::BUFFER_MAX;
use plimsoll_hardware::reactor::Handle;

use super::NbdLimits;
use super::exports::{Export, Exports, Refused};
use super::inbox::Inbox;
use super::option::*;
use super::session::Session;
use super::wire::{CONTEXT_ID, PAYLOAD_MAX, transmission_flag as flag};

/// What was agreed on.
pub(super) struct Agreed<M: Machine> {
    pub(super) export: Export<M>,
    pub(super) structured: bool,
    pub(super) block_status: bool,
}

/// What a request is best a multiple of: what file systems and page caches move.
const PREFERRED_BYTES: u32 = 4096;
/// Looks at all exports for one client, each of which costs time by their number: a LIST, contexts of the default export
/// and GO are 3, and some clients ask INFO before.
const SURVEYS_MAX: u32 = 8;

struct Negotiation<'a, M: Machine> {
    handle: &'a Handle,
    session: &'a Session,
    exports: &'a dyn Exports<M>,
    limits: &'a NbdLimits,
    structured: bool,
    /// The export for which block status was agreed on.
    context: Option<String>,
    /// Looks at all exports that may still be asked for.
    surveys: u32,
    /// Options that may still come.
    left: u32,
    /// The names were told, which allows questions about each.
    listed: bool,
    answer: Vec<u8>,
}

/// Talks to a client until it has chosen an export; `None` when it left.
///
/// # Errors
/// When it broke the protocol so that there is no going on, or the limits, or the socket failed.
pub(super) async fn negotiate<M: Machine>(
    handle: &Handle,
    session: &Session,
    exports: &Rc<dyn Exports<M>>,
    limits: &NbdLimits,
    inbox: &mut Inbox,
) -> io::Result<Option<Agreed<M>>> {
    let mut negotiation = Negotiation {
        handle,
        session,
        exports: &**exports,
        limits,
        structured: false,
        context: None,
        surveys: SURVEYS_MAX,
        left: limits.options,
        listed: false,
        answer: Vec::new(),
    };
    negotiation.run(inbox).await
}

/// Whether its answer needs a look at all exports: a LIST, and the empty name, which means the only one.
fn is_survey(ask: &Ask) -> bool {
    match ask {
        Ask::List => true,
        Ask::ExportName(name) | Ask::Info { name, .. } | Ask::MetaContext { name, .. } => name.is_empty(),
        _ => false,
    }
}

fn broken(what: &'static str) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, what)
}

impl<M: Machine> Negotiation<'_, M> {
    async fn run(&mut self, inbox: &mut Inbox) -> io::Result<Option<Agreed<M>>> {
        let mut greeting = [GREETING_MAGIC.to_be_bytes(), OPTION_MAGIC.to_be_bytes()].concat();
        greeting.extend((FIXED_NEWSTYLE | NO_ZEROES).to_be_bytes());
        self.send(&greeting).await?;
        let Some(client) = inbox.take::<4>().await? else { return Ok(None) };
        let client = u32::from_be_bytes(client);
        if client & !u32::from(FIXED_NEWSTYLE | NO_ZEROES) != 0 {
            return Err(broken("unknown client flags"));
        }
        let fixed = client & u32::from(FIXED_NEWSTYLE) != 0;
        let zeroes = client & u32::from(NO_ZEROES) == 0;
        loop {
            self.session.options.set(self.session.options.get() + 1);
            let Some(head) = inbox.take().await? else { return Ok(None) };
            let head = decode_option_head(&head).ok_or_else(|| broken("no option where one should begin"))?;
            if head.length > self.limits.option_bytes {
                return Err(broken("an option is too long"));
            }
            self.left = self.left.checked_sub(1).ok_or_else(|| broken("too many options"))?;
            let data = inbox.take_vec(head.length as usize).await?;
            let ask = decode_option(head.number, &data);
            drop(data);
            if ask.as_ref().is_ok_and(is_survey) {
                self.surveys = self.surveys.checked_sub(1).ok_or_else(|| broken("too many looks at all exports"))?;
            }
            if let Ok(Ask::ExportName(name)) = ask {
                return self.old_way(&name, zeroes).await;
            }
            if !fixed || head.number == 1 {
                return Err(broken("an option that the client did not announce, or an export's name that is none"));
            }
            self.answer.clear();
            let agreed = match ask {
                Ok(Ask::Abort) => {
                    self.reply(head.number, Answer::Ack);
                    self.flush().await?;
                    return Ok(None);
                }
                Ok(ask) => self.answer(head.number, ask),
                Err(Malformed) => {
                    self.reply(head.number, Answer::Refused(Refusal::Invalid));
                    None
                }
            };
            self.flush().await?;
            if agreed.is_some() {
                return Ok(agreed);
            }
        }
    }

    /// EXPORT_NAME: size and flags, or the end.
    async fn old_way(&mut self, name: &str, zeroes: bool) -> io::Result<Option<Agreed<M>>> {
        let Ok(export) = self.exports.open(name, self.session.peer) else {
            return Err(broken("no such export"));
        };
        let agreed = self.agree(name, export);
        let mut answer = agreed.export.vdisk.size().to_be_bytes().to_vec();
        answer.extend(transmission_flags(&agreed.export, agreed.structured).to_be_bytes());
        if zeroes {
            answer.extend([0; 124]);
        }
        self.send(&answer).await?;
        Ok(Some(agreed))
    }

    fn agree(&self, name: &str, export: Export<M>) -> Agreed<M> {
        // Contexts hold for the export they were asked for, under the name it was asked for by.
        let block_status = self.structured && self.context.as_deref() == Some(name);
        Agreed { export, structured: self.structured, block_status }
    }

    /// Answers an option; what was agreed on when it was the last.
    fn answer(&mut self, number: u32, ask: Ask) -> Option<Agreed<M>> {
        match ask {
            Ask::List => self.list(number),
            Ask::Info { name, go, wants_name, wants_description } => {
                return self.info(number, &name, go, wants_name, wants_description);
            }
            Ask::StructuredReply => {
                self.structured = true;
                self.reply(number, Answer::Ack);
            }
            Ask::MetaContext { name, set, matches } => self.meta_context(number, name, set, matches),
            Ask::StartTls => self.reply(number, Answer::Refused(Refusal::Policy)),
            Ask::Unknown | Ask::Abort | Ask::ExportName(_) => {
                self.reply(number, Answer::Refused(Refusal::Unsupported));
            }
        }
        None
    }

    fn list(&mut self, number: u32) {
        let names = self.exports.list(self.session.peer);
        // Once: asking again earns nothing.
        if !std::mem::replace(&mut self.listed, true) {
            self.left = self.left.saturating_add(u32::try_from(4 * names.len()).unwrap_or(u32::MAX));
        }
        for name in &names {
            self.reply(number, Answer::Server(name));
        }
        self.reply(number, Answer::Ack);
    }

    fn info(
        &mut self,
        number: u32,
        name: &str,
        go: bool,
        wants_name: bool,
        wants_description: bool,
    ) -> Option<Agreed<M>> {
        let export = match self.exports.open(name, self.session.peer) {
            Ok(export) => export,
            Err(refused) => {
                self.reply(number, Answer::Refused(refusal(refused)));
                return None;
            }
        };
        let (size, sector) = (export.vdisk.size(), export.vdisk.sector());
        self.reply(number, Answer::Export { size, flags: transmission_flags(&export, self.structured) });
        if wants_name {
            self.reply(number, Answer::Name(&export.name));
        }
        if let Some(text) = export.description.as_deref().filter(|_| wants_description) {
            self.reply(number, Answer::Description(text));
        }
        // Told even when not asked for: whoever does not care passes over it.
        self.reply(number, Answer::BlockSize(sector, PREFERRED_BYTES.max(sector), PAYLOAD_MAX));
        self.reply(number, Answer::Ack);
        go.then(|| self.agree(name, export))
    }

    fn meta_context(&mut self, number: u32, name: String, set: bool, matches: bool) {
        if set {
            self.context = None;
        }
        if !self.structured {
            return self.reply(number, Answer::Refused(Refusal::Invalid));
        }
        if let Err(refused) = self.exports.open(&name, self.session.peer) {
            return self.reply(number, Answer::Refused(refusal(refused)));
        }
        if matches {
            // A number has no meaning before the context is set.
            self.reply(number, Answer::MetaContext(if set { CONTEXT_ID } else { 0 }));
            if set {
                self.context = Some(name);
            }
        }
        self.reply(number, Answer::Ack);
    }

    fn reply(&mut self, number: u32, answer: Answer<'_>) {
        encode_answer(number, answer, &mut self.answer);
    }

    async fn flush(&mut self) -> io::Result<()> {
        let answer = std::mem::take(&mut self.answer);
        self.send(&answer).await
    }

    async fn send(&self, bytes: &[u8]) -> io::Result<()> {
        // A list of many exports is longer than a small buffer and comes in a few large ones.
        for part in bytes.chunks(BUFFER_MAX / 16) {
            let mut buffer = self.handle.buffers().alloc(part.len()).await;
            buffer.copy_from_slice(part);
            self.session.stream.send(buffer.freeze()).await?;
        }
        Ok(())
    }
}

fn refusal(refused: Refused) -> Refusal {
    match refused {
        Refused::Unknown => Refusal::Unknown,
        Refused::Forbidden => Refusal::Policy,
        Refused::Closing => Refusal::ShuttingDown,
    }
}

/// What an export can do.
fn transmission_flags<M: Machine>(export: &Export<M>, structured: bool) -> u16 {
    let mut flags = flag::HAS_FLAGS
        | flag::SEND_FLUSH
        | flag::SEND_FUA
        | flag::SEND_TRIM
        | flag::SEND_WRITE_ZEROES
        | flag::CAN_MULTI_CONN
        | flag::SEND_CACHE
        | flag::SEND_FAST_ZERO;
    if structured {
        flags |= flag::SEND_DF;
    }
    if export.read_only {
        flags |= flag::READ_ONLY;
    }
    flags
}
