//! The programs people really use, on the real daemon.
//!
//! Each test has a daemon of its own, with the embedded pool `tank`. Every program runs under a time limit.

use std::fs::File;
use std::net::TcpListener;
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::process::{Command, Output};
use std::time::Duration;

use crate::files::text;
use plimsoll_tests::daemon::Daemon;
use plimsoll_tests::nbd_client::{Address, NbdClient, Options, flags};
use plimsoll_tests::random::{Random, count, seed};
use serde_json::Value;

const MIB: u64 = 1 << 20;

/// Runs `program` for at most two minutes and gives its output; it must succeed.
#[track_caller]
fn run(program: &str, arguments: &[&str]) -> String {
    let output = attempt(program, arguments);
    let (stdout, stderr) = (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    assert!(output.status.success(), "{program} {arguments:?}: {}\n{stdout}\n{stderr}", output.status);
    stdout.into_owned()
}

fn attempt(program: &str, arguments: &[&str]) -> Output {
    let mut command = Command::new("timeout");
    command.args(["--kill-after=5", "120", program]).args(arguments);
    command.output().unwrap_or_else(|error| panic!("{program}: {error}"))
}

#[track_caller]
fn json(program: &str, arguments: &[&str]) -> Value {
    let text = run(program, arguments);
    serde_json::from_str(&text).unwrap_or_else(|error| panic!("{program} {arguments:?}: {error} in {text}"))
}

fn daemon_with(name: &str, size: &str) -> Daemon {
    let daemon = Daemon::start(&[]);
    daemon.done(&["vdisk", "create", name, "--size", size]);
    daemon
}

/// An image of `size` bytes in which every other MiB is random and the others are holes.
fn image(path: &Path, size: u64, seed: u64) {
    let file = File::create(path).expect("make an image");
    file.set_len(size).expect("size the image");
    let mut random = Random::new(seed);
    for start in (0..size).step_by(2 * MIB as usize) {
        let data: Vec<u8> = (0..MIB / 8).flat_map(|_| random.word().to_le_bytes()).collect();
        file.write_all_at(&data, start).expect("write the image");
    }
}

#[test]
fn qemu_img_converts_an_image_in_and_out_and_sees_the_holes() {
    let daemon = daemon_with("tank/convert", "64M");
    let (uri, seed) = (daemon.nbd_uri("tank/convert"), seed());
    println!("image of seed {seed}");
    let (source, back) = (daemon.folder().join("in.raw"), daemon.folder().join("out.qcow2"));
    image(&source, 64 * MIB, seed);
    run("qemu-img", &["convert", "-n", "-f", "raw", "-O", "raw", text(&source), &uri]);
    run("qemu-img", &["compare", "-f", "raw", "-F", "raw", text(&source), &uri]);
    run("qemu-img", &["convert", "-f", "raw", "-O", "qcow2", &uri, text(&back)]);
    run("qemu-img", &["compare", "-f", "raw", "-F", "qcow2", text(&source), text(&back)]);

    let map = json("qemu-img", &["map", "--output=json", "-f", "raw", &uri]);
    let bytes = |data: bool| -> u64 {
        let extents = map.as_array().expect("a list of extents").iter();
        extents.filter(|extent| extent["data"] == data).map(|extent| extent["length"].as_u64().expect("a length")).sum()
    };
    assert_eq!((bytes(true), bytes(false)), (32 * MIB, 32 * MIB), "{map:#}");
    let backed = daemon.json(&["vdisk", "show", "tank/convert"])["backed_bytes"].as_u64();
    assert_eq!(backed, Some(32 * MIB), "holes must not take space");
    daemon.assert_clean("tank");
}

#[test]
fn nbdinfo_shows_what_the_export_can_do_and_where_its_holes_are() {
    let daemon = daemon_with("tank/info", "16M");
    let uri = daemon.nbd_uri("tank/info");
    let info = json("nbdinfo", &["--json", &uri]);
    let export = &info["exports"][0];
    assert_eq!(export["export-size"].as_u64(), Some(16 * MIB), "{info:#}");
    for ability in
        ["can_flush", "can_fua", "can_trim", "can_zero", "can_fast_zero", "can_df", "can_cache", "can_multi_conn"]
    {
        assert_eq!(export[ability], true, "{ability} in {info:#}");
    }
    assert_eq!(export["is_read_only"], false);
    let contexts = export["contexts"].as_array().expect("a list of contexts");
    assert!(contexts.iter().any(|context| context == "base:allocation"), "{info:#}");

    let mut client =
        NbdClient::connect(&Address::Unix(daemon.nbd_socket()), "tank/info", Options::ALL).expect("connect");
    client.write(4 * MIB, &[1; MIB as usize], flags::FUA).expect("a write");
    client.disconnect().expect("disconnect");
    let map = json("nbdinfo", &["--map", "--json", &uri]);
    let data: Vec<(u64, u64)> = map
        .as_array()
        .expect("a list of extents")
        .iter()
        .filter(|extent| extent["type"] == 0)
        .map(|extent| (extent["offset"].as_u64().expect("an offset"), extent["length"].as_u64().expect("a length")))
        .collect();
    assert_eq!(data.first().map(|extent| extent.0), Some(4 * MIB), "{map:#}");
    assert_eq!(data.iter().map(|extent| extent.1).sum::<u64>(), MIB, "{map:#}");

    let list = json("nbdinfo", &["--list", "--json", &format!("nbd+unix://?socket={}", daemon.nbd_socket().display())]);
    let names: Vec<&Value> = list["exports"].as_array().expect("exports").iter().map(|e| &e["export-name"]).collect();
    assert!(names.iter().any(|name| *name == "tank/info"), "{list:#}");
}

#[test]
fn nbdcopy_copies_both_ways_over_several_connections() {
    let daemon = daemon_with("tank/copy", "64M");
    let (uri, seed) = (daemon.nbd_uri("tank/copy"), seed());
    println!("image of seed {seed}");
    let (source, back) = (daemon.folder().join("in.raw"), daemon.folder().join("out.raw"));
    image(&source, 64 * MIB, seed);
    run("nbdcopy", &["--flush", "--connections=4", text(&source), &uri]);
    run("nbdcopy", &["--connections=4", &uri, text(&back)]);
    run("cmp", &[text(&source), text(&back)]);
    // What nbdkit makes up is compared without a file in between.
    run("nbdkit", &["-U", "-", "pattern", "64M", "--run", &format!("nbdcopy --flush \"$uri\" '{uri}'")]);
    run("nbdkit", &["-U", "-", "pattern", "64M", "--run", &format!("qemu-img compare -f raw -F raw \"$uri\" '{uri}'")]);
    daemon.assert_clean("tank");
}

#[test]
fn several_programs_use_one_daemon_at_once_over_tcp() {
    let port = TcpListener::bind("127.0.0.1:0").and_then(|socket| socket.local_addr()).expect("a port").port();
    let daemon = Daemon::start(&["--nbd-listen", &format!("127.0.0.1:{port}")]);
    let seed = seed();
    println!("images from seed {seed} on");
    std::thread::scope(|scope| {
        for index in 0..6 {
            let daemon = &daemon;
            scope.spawn(move || {
                let name = format!("tank/tcp{index}");
                daemon.done(&["vdisk", "create", &name, "--size", "16M"]);
                let uri = format!("nbd://127.0.0.1:{port}/{name}");
                let (source, back) =
                    (daemon.folder().join(format!("in{index}")), daemon.folder().join(format!("out{index}")));
                image(&source, 16 * MIB, seed + index);
                if index % 2 == 0 {
                    run("nbdcopy", &["--flush", text(&source), &uri]);
                    run("nbdcopy", &[&uri, text(&back)]);
                } else {
                    run("qemu-img", &["convert", "-n", "-f", "raw", "-O", "raw", text(&source), &uri]);
                    run("qemu-img", &["convert", "-f", "raw", "-O", "raw", &uri, text(&back)]);
                }
                run("cmp", &[text(&source), text(&back)]);
            });
        }
    });
    daemon.assert_clean("tank");
}

/// fio's arguments for one job on `uri`; it leaves files of its own in `folder`.
fn fio<'a>(uri: &'a str, folder: &'a Path, more: &[&'a str]) -> Vec<&'a str> {
    let common = ["--name=job", "--ioengine=nbd", "--iodepth=16", "--size=32m", "--verify=crc32c"];
    [&common[..], &["--uri", uri, "--aux-path", text(folder)], more].concat()
}

/// How many bytes fio's first job has read or written, from its report in JSON.
fn fio_bytes(output: &Output, direction: &str) -> u64 {
    let report = String::from_utf8_lossy(&output.stdout);
    let start = report.find('{').unwrap_or_else(|| panic!("fio said {report}"));
    // It may say something else behind the report.
    let mut documents = serde_json::Deserializer::from_str(&report[start..]).into_iter::<Value>();
    let report = documents.next().expect("fio's report").expect("fio's report is JSON");
    report["jobs"][0][direction]["io_bytes"].as_u64().unwrap_or_else(|| panic!("no io_bytes in {report:#}"))
}

#[test]
fn fio_reads_back_what_it_wrote_in_every_block_size() {
    let daemon = daemon_with("tank/fio", "64M");
    let uri = daemon.nbd_uri("tank/fio");
    for pattern in ["--rw=randwrite", "--rw=write"] {
        run("fio", &fio(&uri, daemon.folder(), &[pattern, "--bsrange=512-128k", "--do_verify=1", "--end_fsync=1"]));
    }
    run("fio", &fio(&uri, daemon.folder(), &["--rw=randtrimwrite", "--bs=64k", "--do_verify=0"]));
    daemon.assert_clean("tank");
}

/// fio writes with one request in flight and is stopped by the daemon's death; what it has completed is the
/// beginning of its deterministic sequence, which a second fio goes through and verifies.
#[test]
fn what_fio_had_completed_is_there_after_kill_9() {
    let (seed, rounds) = (seed(), count("PLIMSOLL_FIO_KILLS", 20));
    println!("{rounds} rounds, seed {seed}; again: PLIMSOLL_SEED={seed} tests/run clients");
    let mut random = Random::new(seed);
    let mut daemon = Daemon::start(&[]);
    let (mut verified, mut round, mut idle) = (0, 0, 0);
    while round < rounds {
        let name = format!("tank/fio{round}-{idle}");
        daemon.done(&["vdisk", "create", &name, "--size", "64M"]);
        let uri = daemon.nbd_uri(&name);
        let sequence = format!("--randseed={}", random.word() >> 1);
        let job = ["--rw=randwrite", "--bs=4k", "--iodepth=1", &sequence, "--norandommap=0"];
        let write: Vec<&str> =
            fio(&uri, daemon.folder(), &[&job[..], &["--do_verify=0", "--output-format=json"]].concat());
        let writer = Command::new("timeout")
            .args(["120", "fio"])
            .args(&write)
            .stdout(std::process::Stdio::piped())
            .stderr(std::process::Stdio::piped())
            .spawn()
            .expect("start fio");
        std::thread::sleep(Duration::from_millis(random.within(300..900)));
        daemon.kill9();
        let output = writer.wait_with_output().expect("wait for fio");
        // Not `total_ios`, which counts the request that failed when the daemon died.
        let completed = fio_bytes(&output, "write") / 4096;
        daemon.restart();
        if completed == 0 {
            // Killed before fio had begun.
            idle += 1;
            assert!(idle <= rounds, "fio wrote nothing before {idle} kills of {}", idle + round);
        } else {
            let blocks = format!("--number_ios={completed}");
            let verify = [&job[..], &["--verify_only=1", &blocks, "--output-format=json"]].concat();
            let verify = fio(&uri, daemon.folder(), &verify);
            let result = attempt("fio", &verify);
            assert!(
                result.status.success(),
                "round {round} of seed {seed}, {completed} blocks: {}{}\n{}",
                String::from_utf8_lossy(&result.stdout),
                String::from_utf8_lossy(&result.stderr),
                daemon.log()
            );
            let read = fio_bytes(&result, "read") / 4096;
            assert_eq!(read, completed, "round {round} of seed {seed}: fio verified fewer blocks than it had written");
            verified += read;
            round += 1;
        }
        daemon.assert_clean("tank");
        daemon.done(&["vdisk", "delete", &name, "--yes"]);
    }
    println!("{rounds} rounds, {verified} blocks verified; {idle} kills came before fio had written anything");
    assert!(verified > rounds, "fio wrote hardly anything before the kills");
}
