//! `fault-disk MOUNTPOINT --size BYTES --backing FILE --control SOCKET`: a disk with a volatile write cache, as the file
//! `MOUNTPOINT/disk`, and with faults on command. It says `ready`, serves until its standard input ends, and unmounts.

use std::io::Read;
use std::os::unix::net::UnixListener;
use std::process::ExitCode;
use std::sync::{Arc, Mutex};

use plimsoll_tests::fault_disk::{control, filesystem, media};

struct Arguments {
    mountpoint: String,
    size: u64,
    backing: String,
    control: String,
}

fn main() -> ExitCode {
    match arguments(std::env::args().skip(1)).and_then(run) {
        Ok(()) => ExitCode::SUCCESS,
        Err(message) => {
            eprintln!("fault-disk: {message}");
            ExitCode::FAILURE
        }
    }
}

fn run(arguments: Arguments) -> Result<(), String> {
    let Arguments { mountpoint, size, backing, control } = arguments;
    let file = std::fs::File::options()
        .read(true)
        .write(true)
        .create(true)
        .truncate(false)
        .open(&backing)
        .map_err(|error| format!("cannot open {backing}: {error}"))?;
    let media = media::Media::open(file, size).map_err(|error| format!("cannot use {backing}: {error}"))?;
    let listener = UnixListener::bind(&control).map_err(|error| format!("cannot listen on {control}: {error}"))?;
    let shared = Arc::new(Mutex::new(filesystem::Shared { media, period: 1 }));
    let one_file = filesystem::OneFile(Arc::clone(&shared));
    let session = fuser::spawn_mount(one_file, &mountpoint, &filesystem::OneFile::config())
        .map_err(|error| format!("cannot mount on {mountpoint}: {error}"))?;
    std::thread::spawn(move || control::serve(&listener, &shared));
    println!("ready");
    std::io::stdin().read_to_end(&mut Vec::new()).map_err(|error| format!("cannot read from stdin: {error}"))?;
    // A process that still has the file open keeps the mount busy; it is then the caller's to detach.
    let _ = std::fs::remove_file(&control);
    rustix::mount::unmount(&*mountpoint, rustix::mount::UnmountFlags::DETACH)
        .map_err(|error| format!("cannot unmount {mountpoint}: {error}"))?;
    std::mem::forget(session);
    Ok(())
}

fn arguments(mut words: impl Iterator<Item = String>) -> Result<Arguments, String> {
    let usage = || {
        let commands = control::COMMANDS;
        format!(
            "usage: fault-disk MOUNTPOINT --size BYTES[K|M|G] --backing FILE --control SOCKET\ncommands: {commands}"
        )
    };
    let (mut mountpoint, mut size, mut backing, mut control) = (None, None, None, None);
    while let Some(word) = words.next() {
        match word.as_str() {
            "--size" => size = Some(bytes(&words.next().ok_or_else(usage)?)?),
            "--backing" => backing = words.next(),
            "--control" => control = words.next(),
            _ if !word.starts_with('-') && mountpoint.is_none() => mountpoint = Some(word),
            _ => return Err(usage()),
        }
    }
    Ok(Arguments {
        mountpoint: mountpoint.ok_or_else(usage)?,
        size: size.ok_or_else(usage)?,
        backing: backing.ok_or_else(usage)?,
        control: control.ok_or_else(usage)?,
    })
}

/// `4096`, `64K`, `10M`, `1G`.
fn bytes(text: &str) -> Result<u64, String> {
    let (digits, unit) = match text.strip_suffix(['K', 'M', 'G']) {
        Some(digits) if text.ends_with('K') => (digits, 1 << 10),
        Some(digits) if text.ends_with('M') => (digits, 1 << 20),
        Some(digits) => (digits, 1 << 30),
        None => (text, 1),
    };
    let number: u64 = digits.parse().map_err(|_| format!("{text} is no size"))?;
    number.checked_mul(unit).ok_or_else(|| format!("{text} is too large"))
}
