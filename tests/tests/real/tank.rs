//! A full pool, and clients whose writes are held in it.

use std::cell::Cell;
use std::time::{Duration, Instant};

use crate::files::{file, text};
use plimsoll_tests::daemon::Daemon;
use plimsoll_tests::nbd_client::{Address, Kind, NbdClient, Options, Reply};

pub(crate) const MIB: u64 = 1 << 20;
pub(crate) const EXTENT: u64 = 64 << 10;
/// What is waited for takes a fraction of this.
pub(crate) const PATIENCE: Duration = Duration::from_secs(30);
/// So long that it ends no test.
pub(crate) const LONG: &str = "hold(10m)";
/// An error number of the protocol.
pub(crate) const ENOSPC: u32 = 28;

/// A pool `tank` in which a vdisk `hog` takes what it gets.
pub(crate) struct Tank {
    pub(crate) daemon: Daemon,
    /// Where the hog goes on, in extents.
    next: Cell<u64>,
}

impl Tank {
    pub(crate) fn new() -> Self {
        let daemon = Daemon::start(&["--bare"]);
        let path = file(daemon.folder(), "a.img", 64 * MIB);
        daemon.done(&["pool", "create", "tank", "--device", text(&path)]);
        let tank = Self { daemon, next: Cell::new(0) };
        tank.vdisk("hog", &["--on-full", "fail"]);
        tank
    }

    pub(crate) fn vdisk(&self, name: &str, how: &[&str]) {
        let name = format!("tank/{name}");
        self.daemon.done(&[&["vdisk", "create", &name, "--size", "1G"], how].concat());
    }

    pub(crate) fn connect(&self, name: &str) -> NbdClient {
        let address = Address::Unix(self.daemon.nbd_socket());
        NbdClient::connect(&address, &format!("tank/{name}"), Options::default()).expect("connect")
    }

    /// Lets the hog take all that there is, and what the end of a checkpoint still gives back.
    pub(crate) fn fill(&self) {
        let mut hog = self.connect("hog");
        let mut rounds = 0;
        while self.figure("available_bytes") > 0 {
            assert!(rounds < 10, "the pool does not become full");
            rounds += 1;
            for size in [MIB, EXTENT] {
                self.write_until_refused(&mut hog, size);
            }
            hog.flush().expect("a flush of a full pool");
        }
    }

    fn write_until_refused(&self, hog: &mut NbdClient, size: u64) {
        let data = vec![0xaa; size as usize];
        loop {
            match hog.call(Kind::Write, 0, self.next.get() * EXTENT, size as u32, &data).expect("an answer").error {
                0 => self.next.set(self.next.get() + size / EXTENT),
                ENOSPC => return,
                error => panic!("error {error} from a full pool"),
            }
        }
    }

    /// Gives back so many of the hog's extents, from one on.
    pub(crate) fn free(&self, first: u64, extents: u64) {
        let mut hog = self.connect("hog");
        hog.trim(first * EXTENT, (extents * EXTENT) as u32).expect("a trim in a full pool");
        hog.flush().expect("a flush in a full pool");
    }

    pub(crate) fn grow(&self, mebibytes: u64) {
        let path = file(self.daemon.folder(), "more.img", mebibytes * MIB);
        self.daemon.done(&["pool", "add-device", "tank", "--device", text(&path)]);
    }

    pub(crate) fn figure(&self, name: &str) -> u64 {
        let pool = self.daemon.json(&["pool", "show", "tank"]);
        pool[name].as_u64().unwrap_or_else(|| panic!("{name} in {pool:#}"))
    }

    /// Waits until so many writes are held.
    #[track_caller]
    pub(crate) fn held(&self, writes: u64) {
        let began = Instant::now();
        loop {
            let held = self.figure("held_writes");
            if held == writes {
                return;
            }
            assert!(began.elapsed() < PATIENCE, "{held} writes are held, not {writes}\n{}", self.daemon.log());
            std::thread::sleep(Duration::from_millis(5));
        }
    }

    /// How often it was told that a vdisk is exhausted and resumed, and at its bound.
    pub(crate) fn told(&self, vdisk: &str, least: [usize; 3]) -> [usize; 3] {
        let kinds = ["vdisk-exhausted", "vdisk-resumed", "vdisk-hold-expired"];
        [0, 1, 2].map(|at| self.daemon.events(kinds[at], &format!("tank/{vdisk}"), least[at]).len())
    }
}

/// Sends a write of one byte over and over; answers its cookie.
pub(crate) fn send(client: &mut NbdClient, offset: u64, length: u64, byte: u8) -> u64 {
    client.submit(Kind::Write, 0, offset, length as u32, &vec![byte; length as usize]).expect("a write is sent")
}

#[track_caller]
pub(crate) fn assert_holds(client: &mut NbdClient, offset: u64, length: u64, byte: u8) {
    let data = client.read(offset, length as u32).expect("a read");
    let other = data.iter().position(|&other| other != byte);
    assert_eq!(other, None, "byte {offset} + {other:?} is not {byte}");
}

pub(crate) fn success(reply: Reply) -> u64 {
    assert_eq!(reply.error, 0, "request {}", reply.cookie);
    reply.cookie
}
