//! A server on a thread of its own, with a pool in a temporary file and three exports.

use std::net::{Ipv4Addr, SocketAddr};
use std::os::unix::net::UnixStream;
use std::path::PathBuf;
use std::rc::Rc;
use std::sync::mpsc;
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use plimsoll_engine::{CreatePool, CreateVdisk, OnFull, OpenPool, Pool, VdiskPolicy};
use plimsoll_hardware::buffer::{BUFFER_MAX, UNIT};
use plimsoll_hardware::reactor::{Handle, Listener, MailboxSender, Peer, Reactor, ReactorConfig, mailbox};
use plimsoll_hardware::{Machine, OpenOptions};

use super::super::{ConnectionInfo, Export, Exports, NbdLimits, NbdServer, Refused};
use super::client::Client;

/// 64 MiB, sectors of 512 bytes.
pub(super) const SMALL_SECTORS: &str = "tank/small";
/// 64 MiB, sectors of 4096 bytes.
pub(super) const LARGE_SECTORS: &str = "tank/large";
/// The first one, read-only.
pub(super) const READ_ONLY: &str = "tank/small@monday";
pub(super) const SIZE: u64 = 64 << 20;

pub(super) enum Order {
    Stop(Duration, mpsc::Sender<bool>),
    CloseExport(&'static str, mpsc::Sender<usize>),
    Connections(mpsc::Sender<Vec<ConnectionInfo>>),
    FreeBytes(mpsc::Sender<usize>),
    /// Holds every so manyth page of those that can be had one by one, and every fourth unit of the rest.
    Scatter(usize, mpsc::Sender<()>),
    /// Takes all memory for I/O that there is, or gives it back.
    Memory(bool, mpsc::Sender<()>),
    JournalCommits(mpsc::Sender<u64>),
    /// What [`SMALL_SECTORS`] may take; beyond that its writes are held for longer than a test lasts.
    Quota(u64, mpsc::Sender<()>),
    HeldWrites(mpsc::Sender<u64>),
    /// Deletes a vdisk under whoever is connected to it.
    Delete(&'static str, mpsc::Sender<()>),
    ClosePool(mpsc::Sender<()>),
}

pub(super) struct Rig {
    pub(super) path: PathBuf,
    /// The same server over TCP.
    pub(super) address: SocketAddr,
    orders: Option<MailboxSender<Order>>,
    thread: Option<JoinHandle<()>>,
    directory: Option<tempfile::TempDir>,
}

struct Tank {
    pool: Pool<Handle>,
}

impl Exports<Handle> for Tank {
    fn list(&self, _: Peer) -> Vec<String> {
        [SMALL_SECTORS, LARGE_SECTORS, READ_ONLY].map(String::from).to_vec()
    }

    fn open(&self, name: &str, _: Peer) -> Result<Export<Handle>, Refused> {
        let vdisk = match name {
            SMALL_SECTORS | READ_ONLY => "small",
            LARGE_SECTORS => "large",
            "tank/secret" => return Err(Refused::Forbidden),
            _ => return Err(Refused::Unknown),
        };
        let vdisk = self.pool.vdisk(vdisk).map_err(|_| Refused::Unknown)?;
        let description = Some("for tests".to_owned());
        Ok(Export { name: name.into(), description, vdisk, read_only: name == READ_ONLY })
    }
}

impl Rig {
    pub(super) fn new() -> Self {
        Self::with(NbdLimits::default(), 64 << 20)
    }

    pub(super) fn with(limits: NbdLimits, buffer_bytes: usize) -> Self {
        Self::on(512 << 20, limits, buffer_bytes)
    }

    /// With a pool of about `device_bytes`.
    pub(super) fn on(device_bytes: u64, limits: NbdLimits, buffer_bytes: usize) -> Self {
        let directory = tempfile::tempdir().expect("a temporary directory");
        let device = directory.path().join("device");
        std::fs::File::create(&device).and_then(|file| file.set_len(device_bytes)).expect("a sparse file");
        Self::serve(directory, limits, buffer_bytes, true)
    }

    /// Closes the pool, and starts another server on what it left.
    pub(super) fn again(mut self) -> Self {
        self.order(Order::ClosePool);
        self.end();
        let directory = self.directory.take().expect("where the pool is");
        Self::serve(directory, NbdLimits::default(), 64 << 20, false)
    }

    fn serve(directory: tempfile::TempDir, limits: NbdLimits, buffer_bytes: usize, is_first: bool) -> Self {
        let path = directory.path().join("nbd.sock");
        let device = directory.path().join("device");
        let (ready, is_ready) = mpsc::channel();
        let socket = path.clone();
        let thread = std::thread::spawn(move || {
            let reactor = Reactor::new(ReactorConfig { buffer_bytes, ..Default::default() }).expect("a reactor");
            let handle = reactor.handle();
            reactor.block_on(async {
                let options = OpenOptions { buffered: true, ..Default::default() };
                let device = handle.open_device(&device, options).await.expect("the device");
                let pool = if is_first {
                    create(&handle, device).await
                } else {
                    Pool::open(&handle, OpenPool::default(), vec![device]).await.expect("the pool")
                };
                let listener = Listener::bind_unix(&handle, &socket).expect("a socket");
                let tank = Rc::new(Tank { pool: pool.clone() });
                let server = NbdServer::start(handle.clone(), listener, tank, limits);
                let listener = Listener::bind_tcp(&handle, (Ipv4Addr::LOCALHOST, 0).into()).expect("an address");
                let address = listener.local_addr().expect("an address");
                server.listen(listener);
                let (sender, mut orders) = mailbox(&handle);
                let mut taken = Vec::new();
                ready.send((sender, address)).expect("the test waits");
                while let Some(order) = orders.recv().await {
                    // Whoever gave the order may have given up on it.
                    let _ = match order {
                        Order::Stop(grace, done) => done.send(server.stop(grace).await).is_ok(),
                        Order::CloseExport(name, done) => done.send(server.close_export(name).await).is_ok(),
                        Order::Connections(done) => done.send(server.connections()).is_ok(),
                        Order::JournalCommits(done) => done.send(pool.info().counters.journal_commits).is_ok(),
                        Order::FreeBytes(done) => done.send(handle.buffers().free_bytes()).is_ok(),
                        Order::Memory(take, done) => {
                            taken.clear();
                            for size in [BUFFER_MAX, 4096].into_iter().filter(|_| take) {
                                taken.extend(std::iter::from_fn(|| handle.buffers().privileged().try_alloc(size)));
                            }
                            done.send(()).is_ok()
                        }
                        Order::Scatter(nth, done) => {
                            let pages: Vec<_> = std::iter::from_fn(|| handle.buffers().try_alloc(4096)).collect();
                            let units = || handle.buffers().privileged().try_alloc(UNIT);
                            let units: Vec<_> = std::iter::from_fn(units).collect();
                            taken.extend(pages.into_iter().step_by(nth));
                            taken.extend(units.into_iter().step_by(4));
                            // Units of which the last page came free are whole again.
                            assert!(handle.buffers().try_alloc(BUFFER_MAX).is_none(), "a run is free");
                            done.send(()).is_ok()
                        }
                        Order::Quota(bytes, done) => {
                            let on_full = OnFull::Hold(Duration::from_secs(600));
                            let policy = VdiskPolicy { quota: Some(bytes), on_full, ..VdiskPolicy::default() };
                            pool.set_vdisk_policy("small", policy).await.expect("a quota");
                            done.send(()).is_ok()
                        }
                        Order::HeldWrites(done) => done.send(pool.info().held_writes).is_ok(),
                        Order::Delete(vdisk, done) => {
                            pool.delete_vdisk(vdisk).await.expect("a deletion");
                            done.send(()).is_ok()
                        }
                        Order::ClosePool(done) => {
                            pool.close().await.expect("a close");
                            done.send(()).is_ok()
                        }
                    };
                }
            });
        });
        let (orders, address) = is_ready.recv().expect("the server starts");
        Self { path, address, orders: Some(orders), thread: Some(thread), directory: Some(directory) }
    }

    pub(super) fn socket(&self) -> UnixStream {
        let stream = UnixStream::connect(&self.path).expect("the server listens");
        stream.set_read_timeout(Some(Duration::from_secs(20))).expect("a timeout");
        stream.set_write_timeout(Some(Duration::from_secs(20))).expect("a timeout");
        stream
    }

    /// A client that has greeted.
    pub(super) fn client(&self) -> Client {
        Client::greet(self.socket())
    }

    /// A client with structured replies and block status that uses `export`.
    pub(super) fn structured(&self, export: &str) -> Client {
        let mut client = self.client();
        client.structured();
        client.go(export);
        client
    }

    /// A client that knows only simple replies.
    pub(super) fn simple(&self, export: &str) -> Client {
        let mut client = self.client();
        client.go(export);
        client
    }

    pub(super) fn start<T>(&self, order: impl FnOnce(mpsc::Sender<T>) -> Order) -> mpsc::Receiver<T> {
        let (done, is_done) = mpsc::channel();
        let orders = self.orders.as_ref().expect("the rig runs");
        assert!(orders.send(order(done)).is_ok(), "the server's thread is gone");
        is_done
    }

    pub(super) fn order<T>(&self, order: impl FnOnce(mpsc::Sender<T>) -> Order) -> T {
        self.start(order).recv_timeout(Duration::from_secs(20)).expect("the server obeys")
    }

    pub(super) fn connections(&self) -> Vec<ConnectionInfo> {
        self.order(Order::Connections)
    }

    /// Waits until so many writes wait for space.
    pub(super) fn until_held(&self, writes: u64) {
        let start = Instant::now();
        while self.order(Order::HeldWrites) != writes {
            assert!(start.elapsed() < Duration::from_secs(20), "{} writes are held", self.order(Order::HeldWrites));
            std::thread::sleep(Duration::from_millis(5));
        }
    }

    /// Waits until `condition` holds of the connections.
    pub(super) fn until(&self, what: &str, condition: impl Fn(&[ConnectionInfo]) -> bool) {
        let start = Instant::now();
        loop {
            let connections = self.connections();
            if condition(&connections) {
                return;
            }
            assert!(start.elapsed() < Duration::from_secs(20), "{what} did not come true: {connections:?}");
            std::thread::sleep(Duration::from_millis(5));
        }
    }

    fn end(&mut self) {
        drop(self.orders.take());
        let ended = self.thread.take().map(JoinHandle::join);
        if !std::thread::panicking() {
            assert!(matches!(ended, None | Some(Ok(()))), "the server panicked");
        }
    }
}

impl Drop for Rig {
    fn drop(&mut self) {
        self.end();
    }
}

async fn create(handle: &Handle, device: <Handle as Machine>::Device) -> Pool<Handle> {
    let pool = Pool::create(handle, CreatePool::named("tank"), vec![device]).await.expect("a pool");
    for (name, sector) in [("small", 512), ("large", 4096)] {
        // Long enough to be a hold, and short for who waits for the answer.
        let policy = VdiskPolicy { on_full: OnFull::Hold(Duration::from_secs(1)), ..VdiskPolicy::default() };
        let spec = CreateVdisk { name: name.into(), size: SIZE, sector, write_through: false, policy };
        pool.create_vdisk(spec).await.expect("a vdisk");
    }
    pool
}
