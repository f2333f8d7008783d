//! Servers under test, each with an export of its own file.

use std::error::Error;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use crate::area::Area;

/// Processor that servers run on; clients run on the next one.
pub(super) const PROCESSOR: &str = "0";

/// A server; ended when it is dropped.
pub(crate) struct Server {
    child: Child,
    /// Where its export is, as fio and qemu-img take it.
    pub(super) uri: String,
    /// Removed with the server.
    state: Option<PathBuf>,
    _area: Area,
}

impl Server {
    /// Plimsoll with a vdisk of `bytes` bytes in a pool on a file in `directory`.
    pub(super) fn plimsoll(program: &Path, directory: &Path, bytes: u64) -> Result<Self, Box<dyn Error>> {
        let area = Area::written(directory, "nbd-plimsoll", bytes / 8 * 9)?;
        let state = std::env::temp_dir().join(format!("plimsoll-bench-state-{}", std::process::id()));
        std::fs::create_dir_all(&state)?;
        let log = std::fs::File::create(state.join("log"))?;
        let mut command = pinned(program);
        let child = command.arg("--state-dir").arg(&state).args(["serve", "--bare"]).stderr(log).spawn()?;
        let uri = format!("nbd+unix:///bench/v?socket={}", state.join("nbd.sock").display());
        let server = Server { child, uri, state: Some(state.clone()), _area: area };
        let ask = |arguments: &[&str]| -> Result<bool, Box<dyn Error>> {
            let mut command = Command::new(program);
            command.arg("--state-dir").arg(&state).args(arguments).stdout(Stdio::null());
            Ok(command.status()?.success())
        };
        wait(|| Ok(state.join("control.sock").exists() && ask(&["status"])?))?;
        let device = server._area.path().to_str().ok_or("the directory's name is not text")?;
        let size = bytes.to_string();
        for arguments in [
            &["pool", "create", "bench", "--device", device][..],
            &["vdisk", "create", "bench/v", "--size", &size, "--sector", "4096"],
            &["export", "add", "bench/v", "--nbd"],
        ] {
            if !ask(arguments)? {
                return Err(format!("plimsoll {} failed", arguments.join(" ")).into());
            }
        }
        Ok(server)
    }

    /// qemu-storage-daemon with an image of `format`.
    pub(super) fn qemu(directory: &Path, format: &str, bytes: u64) -> Result<Self, Box<dyn Error>> {
        let area = match format {
            "raw" => Area::written(directory, "nbd-raw", bytes)?,
            _ => Area::sparse(directory, "nbd-qcow2", 0)?,
        };
        let path = area.path().display().to_string();
        if format != "raw" {
            let made =
                Command::new("qemu-img").args(["create", "-q", "-f", format, &path, &bytes.to_string()]).status()?;
            if !made.success() {
                return Err(format!("qemu-img could not make {path}").into());
            }
        }
        let socket = std::env::temp_dir().join(format!("plimsoll-bench-{format}-{}.sock", std::process::id()));
        let child = pinned(Path::new("qemu-storage-daemon"))
            .args(["--blockdev", &format!("driver=file,node-name=f,filename={path},cache.direct=on,aio=io_uring")])
            .args(["--blockdev", &format!("driver={format},node-name=n,file=f")])
            .args(["--nbd-server", &format!("addr.type=unix,addr.path={}", socket.display())])
            .args(["--export", "type=nbd,id=e,node-name=n,name=v,writable=on"])
            .spawn()?;
        let uri = format!("nbd+unix:///v?socket={}", socket.display());
        let server = Server { child, uri, state: Some(socket.clone()), _area: area };
        wait(|| Ok(socket.exists()))?;
        Ok(server)
    }

    /// Processor time that it used so far, in seconds: user and system, all threads.
    pub(super) fn processor_seconds(&self) -> Result<f64, Box<dyn Error>> {
        let stat = std::fs::read_to_string(format!("/proc/{}/stat", self.child.id()))?;
        let after_name = stat.rsplit_once(')').ok_or("stat has no name")?.1;
        let ticks = after_name.split_whitespace().skip(11).take(2).map(str::parse::<u64>);
        let ticks: u64 = ticks.sum::<Result<u64, _>>()?;
        Ok(ticks as f64 / rustix::param::clock_ticks_per_second() as f64)
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
        if let Some(state) = &self.state {
            let _ = std::fs::remove_dir_all(state);
            let _ = std::fs::remove_file(state);
        }
    }
}

fn pinned(program: &Path) -> Command {
    let mut command = Command::new("taskset");
    command.args(["-c", PROCESSOR]).arg(program).stdout(Stdio::null());
    command
}

fn wait(ready: impl Fn() -> Result<bool, Box<dyn Error>>) -> Result<(), Box<dyn Error>> {
    let began = Instant::now();
    while !ready()? {
        if began.elapsed() > Duration::from_secs(10) {
            return Err("a server was not ready after 10 s".into());
        }
        std::thread::sleep(Duration::from_millis(20));
    }
    Ok(())
}
