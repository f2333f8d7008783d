//! Whole sessions: what a client would send from its flags to its last request, mutated, against a server in this process.
//!
//! A session may end in any way but these: the server panics, leaves the socket open and silent, or harms its neighbour,
//! who uses a vdisk of the same pool all the while.

use std::io::{ErrorKind, Read, Write};
use std::net::Shutdown;
use std::os::unix::net::UnixStream;
use std::path::PathBuf;
use std::rc::Rc;
use std::sync::mpsc;
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use plimsoll_appliance::export::nbd::{Export, Exports, NbdLimits, NbdServer, Refused};
use plimsoll_engine::{CreatePool, CreateVdisk, Pool};
use plimsoll_hardware::reactor::{Handle, Listener, Peer, Reactor, ReactorConfig};
use plimsoll_hardware::sim::Random;
use plimsoll_hardware::{Machine, OpenOptions};
use tokio::sync::oneshot;

use super::corpus::{Corpus, Kind, head, mutate};

/// The export that sessions are made for.
pub(crate) const FUZZED: &str = "tank/fuzzed";
const NEIGHBOUR: &str = "tank/neighbour";
const VDISK_BYTES: u64 = 16 << 20;
/// Longer than the server takes for anything; what takes longer hangs.
const PATIENCE: Duration = Duration::from_secs(20);
/// Answers that are read before we hang up: more than one of the longest.
const ANSWERS_BYTES_MAX: usize = 40 << 20;

pub(crate) struct Server {
    socket: PathBuf,
    stop: Option<oneshot::Sender<()>>,
    thread: Option<JoinHandle<()>>,
    _directory: tempfile::TempDir,
}

struct Tank(Pool<Handle>);

impl Exports<Handle> for Tank {
    fn list(&self, _: Peer) -> Vec<String> {
        [FUZZED, NEIGHBOUR].map(String::from).to_vec()
    }

    fn open(&self, name: &str, _: Peer) -> Result<Export<Handle>, Refused> {
        // A mutated name must not reach the neighbour's disk by chance.
        let own = name.strip_prefix("tank/").filter(|own| ["fuzzed", "neighbour"].contains(own));
        let vdisk = self.0.vdisk(own.ok_or(Refused::Unknown)?).map_err(|_| Refused::Unknown)?;
        Ok(Export { name: name.to_owned(), description: None, vdisk, read_only: false })
    }
}

impl Server {
    pub(crate) fn start() -> Self {
        let directory = tempfile::tempdir().expect("a temporary directory");
        let (socket, device) = (directory.path().join("nbd.sock"), directory.path().join("device"));
        std::fs::File::create(&device).and_then(|file| file.set_len(256 << 20)).expect("a sparse file");
        let (ready, is_ready) = mpsc::channel();
        let (stop, stopped) = oneshot::channel::<()>();
        let at = socket.clone();
        let thread = std::thread::spawn(move || {
            let reactor = Reactor::new(ReactorConfig::default()).expect("a reactor");
            let handle = reactor.handle();
            reactor.block_on(async {
                let options = OpenOptions { buffered: true, ..Default::default() };
                let device = handle.open_device(&device, options).await.expect("the device");
                let pool = Pool::create(&handle, CreatePool::named("tank"), vec![device]).await.expect("a pool");
                for name in ["fuzzed", "neighbour"] {
                    let spec = CreateVdisk {
                        name: name.into(),
                        size: VDISK_BYTES,
                        sector: 512,
                        write_through: false,
                        policy: Default::default(),
                    };
                    pool.create_vdisk(spec).await.expect("a vdisk");
                }
                let memory = handle.buffers().free_bytes();
                let listener = Listener::bind_unix(&handle, &at).expect("a socket");
                let server = NbdServer::start(handle.clone(), listener, Rc::new(Tank(pool)), NbdLimits::default());
                ready.send(()).expect("the test waits");
                stopped.await.unwrap_or_default();
                assert!(server.stop(PATIENCE).await, "requests are still under way");
                // A checkpoint of the pool may hold some for a moment.
                let until = Instant::now() + PATIENCE;
                while handle.buffers().free_bytes() != memory {
                    assert!(Instant::now() < until, "{} of {memory} bytes are free", handle.buffers().free_bytes());
                    handle.sleep(Duration::from_millis(10)).await;
                }
            });
        });
        is_ready.recv().expect("the server starts");
        Self { socket, stop: Some(stop), thread: Some(thread), _directory: directory }
    }

    fn connect(&self) -> UnixStream {
        let stream = UnixStream::connect(&self.socket).expect("the server listens");
        stream.set_read_timeout(Some(PATIENCE)).expect("a timeout");
        stream.set_write_timeout(Some(PATIENCE)).expect("a timeout");
        stream
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        drop(self.stop.take());
        let ended = self.thread.take().map(JoinHandle::join);
        if !std::thread::panicking() {
            assert!(matches!(ended, Some(Ok(()))), "the server panicked");
        }
    }
}

/// The bytes of a session out of valid parts, of which a few are mutated, and then perhaps the whole.
pub(crate) fn make(random: &mut Random, corpus: &Corpus) -> Vec<u8> {
    let mut flags = corpus.any(Kind::Flags, random).bytes.clone();
    if random.below(16) == 0 {
        mutate(&mut flags, random);
    }
    let mut session = flags;
    let mut option = |number: u32, mut data: Vec<u8>, changed: bool, random: &mut Random| {
        if changed {
            mutate(&mut data, random);
        }
        let mut head = head(number, data.len());
        if changed && random.below(4) == 0 {
            mutate(&mut head, random);
        }
        session.extend(head);
        session.extend(data);
    };
    for _ in 0..random.below(5) {
        let input = corpus.any(Kind::Option, random);
        // These end the handshake, which is done below.
        if ![1, 2, 7].contains(&input.number) {
            let changed = random.coin();
            option(input.number, input.bytes.clone(), changed, random);
        }
    }
    let last = if random.below(4) == 0 { 1 } else { 7 };
    let name = super::corpus::counted(FUZZED);
    let data = if last == 1 { FUZZED.as_bytes().to_vec() } else { [name, vec![0, 0]].concat() };
    let changed = random.below(8) == 0;
    option(last, data, changed, random);
    for _ in 0..random.below(8) {
        let mut request = corpus.any(Kind::Request, random).bytes.clone();
        let length = u32::from_be_bytes(*request.last_chunk().expect("a request ends in its length"));
        let is_write = request[7] == 1;
        if random.coin() {
            mutate(&mut request, random);
        }
        session.extend(request);
        if is_write {
            session.resize(session.len() + length as usize, random.word() as u8);
        }
    }
    if random.below(4) == 0 {
        mutate(&mut session, random);
    }
    session
}

/// Sends a session and reads what comes until the server hangs up; whether there was more than a greeting.
pub(crate) fn play(server: &Server, session: &[u8], random: &mut Random) -> bool {
    let mut stream = server.connect();
    // In two parts now and then; a server that has hung up already takes no more.
    let cut = if random.coin() { random.below(session.len() as u64 + 1) as usize } else { 0 };
    let sent = stream.write_all(&session[..cut]).and_then(|()| stream.write_all(&session[cut..]));
    check(sent, "does not read");
    if random.below(8) == 0 {
        // Leaves without a word, whatever is under way.
        return false;
    }
    check(stream.shutdown(Shutdown::Write), "cannot be told that this is all");
    let (mut answers, mut part) = (0, vec![0; 64 << 10]);
    while answers < ANSWERS_BYTES_MAX {
        match stream.read(&mut part) {
            Ok(0) => break,
            Ok(length) => answers += length,
            Err(error) => {
                check(Err(error), "does not hang up");
                break;
            }
        }
    }
    answers > 18
}

/// A connection that is over is fine, one that stands still is not.
fn check(result: std::io::Result<()>, what: &str) {
    if let Err(error) = result {
        let over = [ErrorKind::BrokenPipe, ErrorKind::ConnectionReset, ErrorKind::NotConnected];
        assert!(over.contains(&error.kind()), "the server {what}: {error}");
    }
}

/// An honest client that writes and reads its own vdisk.
pub(crate) struct Neighbour {
    stream: UnixStream,
}

impl Neighbour {
    pub(crate) fn connect(server: &Server) -> Self {
        let mut stream = server.connect();
        stream.read_exact(&mut [0; 18]).expect("a greeting");
        let option = [head(1, NEIGHBOUR.len()), NEIGHBOUR.as_bytes().to_vec()].concat();
        stream.write_all(&[vec![0, 0, 0, 3], option].concat()).expect("the server reads");
        let mut answer = [0; 10];
        stream.read_exact(&mut answer).expect("the export");
        assert_eq!(answer[..8], VDISK_BYTES.to_be_bytes());
        Self { stream }
    }

    /// Writes one block and reads it back.
    pub(crate) fn works(&mut self, random: &mut Random) {
        let offset = random.below(VDISK_BYTES / 4096) * 4096;
        let data = [random.word() as u8; 4096];
        self.call(1, offset, &data, &mut []);
        let mut found = [0; 4096];
        self.call(0, offset, &[], &mut found);
        assert!(found == data, "the neighbour's block at {offset} is not what it wrote");
    }

    fn call(&mut self, kind: u16, offset: u64, data: &[u8], answer: &mut [u8]) {
        let head = [&0x2560_9513u32.to_be_bytes()[..], &[0, 0], &kind.to_be_bytes(), &7u64.to_be_bytes()].concat();
        let place = [&offset.to_be_bytes()[..], &4096u32.to_be_bytes(), data].concat();
        self.stream.write_all(&[head, place].concat()).expect("the server reads the neighbour");
        let mut reply = [0; 16];
        self.stream.read_exact(&mut reply).expect("the server answers the neighbour");
        assert_eq!(reply[4..8], [0; 4], "the neighbour's request failed");
        self.stream.read_exact(answer).expect("the server answers the neighbour");
    }
}
