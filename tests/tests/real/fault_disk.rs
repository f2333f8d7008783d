//! The fault disk itself, as another process sees it.

use std::fs::File;
use std::io;
use std::os::unix::fs::{FileExt, OpenOptionsExt};
use std::process::Command;
use std::time::{Duration, Instant};

use plimsoll_tests::fault_disk::FaultDisk;

const PROGRAM: &str = env!("CARGO_BIN_EXE_fault-disk");

fn open(disk: &FaultDisk) -> File {
    let flags = rustix::fs::OFlags::DIRECT.bits() as i32;
    File::options().read(true).write(true).custom_flags(flags).open(disk.path()).expect("open the disk with O_DIRECT")
}

/// A buffer aligned for direct I/O, cut out of a larger one.
fn aligned(memory: &mut [u8], length: usize) -> &mut [u8] {
    let skip = memory.as_ptr().align_offset(4096);
    &mut memory[skip..skip + length]
}

#[test]
fn a_cut_undoes_what_was_not_flushed_and_ends_old_handles() {
    let disk = FaultDisk::start(PROGRAM, 64 << 20);
    let file = open(&disk);
    let mut memory = vec![0; 3 * 65536];
    let buffer = aligned(&mut memory, 65536);
    buffer.fill(1);
    file.write_all_at(buffer, 0).expect("a write");
    file.sync_data().expect("a flush");
    buffer.fill(2);
    for block in 0..64 {
        file.write_all_at(&buffer[..4096], block * 4096 % 65536).expect("a write");
    }
    assert_eq!(disk.cut(1), 64);
    let error = file.read_exact_at(buffer, 0).expect_err("a handle from before the cut works");
    assert_eq!(error.raw_os_error(), Some(rustix::io::Errno::IO.raw_os_error()));
    open(&disk).read_exact_at(buffer, 0).expect("a read after the cut");
    let sectors: Vec<u8> = buffer.chunks_exact(512).map(|sector| sector[0]).collect();
    assert!(buffer.chunks_exact(512).all(|sector| sector.iter().all(|byte| *byte == sector[0])));
    assert!(sectors.contains(&1) && sectors.iter().all(|byte| [1, 2].contains(byte)), "{sectors:?}");
}

#[test]
fn faults_come_when_they_are_told_to() {
    let disk = FaultDisk::start(PROGRAM, 1 << 20);
    let file = open(&disk);
    let mut memory = vec![0; 3 * 4096];
    let buffer = aligned(&mut memory, 4096);
    let code = |result: io::Result<()>| result.err().and_then(|error| error.raw_os_error()).unwrap_or(0);
    let (eio, enospc) = (rustix::io::Errno::IO.raw_os_error(), rustix::io::Errno::NOSPC.raw_os_error());
    disk.command("eio-flush 2");
    assert_eq!([code(file.sync_data()), code(file.sync_data()), code(file.sync_data())], [0, eio, 0]);
    disk.command("enospc-write on");
    assert_eq!(code(file.write_all_at(buffer, 0)), enospc);
    disk.command("enospc-write off");
    assert_eq!(code(file.write_all_at(buffer, 0)), 0);
    disk.command("eio-read 1");
    assert_eq!([code(file.read_exact_at(buffer, 0)), code(file.read_exact_at(buffer, 0))], [eio, 0]);
    disk.command("vanish");
    assert_eq!(code(file.read_exact_at(buffer, 0)), eio);
    disk.command("return");
    disk.command("slow 50");
    let start = Instant::now();
    assert_eq!(code(file.read_exact_at(buffer, 0)), 0);
    assert!(start.elapsed() >= Duration::from_millis(50));
}

#[test]
fn it_bears_a_load_through_io_uring() {
    let disk = FaultDisk::start(PROGRAM, 256 << 20);
    let output = Command::new("timeout")
        .args(["120", "fio", "--name=load", "--ioengine=io_uring", "--direct=1", "--rw=randwrite", "--bs=4k"])
        .args(["--iodepth=16", "--size=128m", "--fdatasync=512", "--verify=crc32c", "--do_verify=1"])
        .args(["--verify_state_save=0", "--output-format=json", "--filename"])
        .arg(disk.path())
        .output()
        .expect("run fio");
    let text = String::from_utf8_lossy(&output.stdout);
    assert!(output.status.success(), "fio: {text}{}", String::from_utf8_lossy(&output.stderr));
    let report: serde_json::Value = serde_json::from_str(&text[text.find('{').expect("JSON of fio")..]).expect("JSON");
    let writes = report["jobs"][0]["write"]["iops"].as_f64().expect("a rate");
    let bytes = report["jobs"][0]["write"]["io_bytes"].as_u64().expect("bytes");
    assert_eq!(bytes, 128 << 20, "fio wrote something else than it was told");
    println!("{writes:.0} writes of 4 KiB per second; {}", disk.command("stats"));
}

#[test]
fn a_hole_that_is_punched_reads_as_zeros() {
    let disk = FaultDisk::start(PROGRAM, 1 << 20);
    let file = open(&disk);
    let mut memory = vec![0; 3 * 4096];
    let buffer = aligned(&mut memory, 4096);
    buffer.fill(9);
    file.write_all_at(buffer, 8192).expect("a write");
    let flags = rustix::fs::FallocateFlags::PUNCH_HOLE | rustix::fs::FallocateFlags::KEEP_SIZE;
    rustix::fs::fallocate(&file, flags, 8192, 4096).expect("punch a hole");
    file.read_exact_at(buffer, 8192).expect("a read");
    assert!(buffer.iter().all(|byte| *byte == 0));
}
