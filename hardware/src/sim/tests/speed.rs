use super::*;
use crate::sim::CrashKind;

#[test]
fn lives_per_second() {
    let lives = 3000;
    let start = std::time::Instant::now();
    let world = world(1);
    for _ in 0..lives {
        let machine = world.boot();
        machine
            .run(async {
                let disk = machine.open(0);
                for round in 0..50_u64 {
                    let at = round % 32 * 4096;
                    let _ = write(&machine, &disk, at, 4096, round as u8).await;
                    let _ = disk.read(at, filled(&machine, 4096, 0)).await;
                }
            })
            .done();
        world.crash(CrashKind::Power);
    }
    let each = start.elapsed() / lives;
    println!("{:.0} lives of 100 operations and a power loss per second, {each:?} each", 1.0 / each.as_secs_f64());
    let start = std::time::Instant::now();
    for _ in 0..lives {
        let world = SimWorld::new(1, vec![SimDiskSpec::new("sim0", 64 << 20)]);
        let machine = world.boot();
        machine.run(write(&machine, &machine.open(0), 0, 4096, 1)).done().expect("no faults are on");
    }
    println!("{:?} for a new world of 64 MiB with one life of one operation", start.elapsed() / lives);
}
