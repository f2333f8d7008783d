//! A disk that becomes smaller under whoever has it open, as a file does that is truncated.

use super::*;

const SIZE: u64 = 1 << 20;
const END: u64 = 64 << 10;

/// What is done to a disk of 1 MiB that was full of ones and ends at 64 KiB now; the world after it.
fn after_cut<T>(volatile: bool, work: impl AsyncFnOnce(&SimMachine, SimDevice) -> T) -> (T, SimWorld) {
    let spec = SimDiskSpec { volatile_cache: volatile, ..SimDiskSpec::new("sim0", SIZE) };
    let world = SimWorld::new(3, vec![spec]);
    let machine = world.boot();
    let done = machine
        .run(async {
            let disk = machine.open(0);
            write(&machine, &disk, 0, SIZE as usize, 1).await.unwrap();
            world.cut(0, END);
            work(&machine, disk).await
        })
        .done();
    (done, world)
}

async fn zeroed(machine: &SimMachine, disk: &SimDevice, at: u64) -> Result<Buffer, IoError> {
    disk.read(at, filled(machine, 4096, 9)).await
}

#[test]
fn what_is_inside_is_there_and_what_is_behind_is_an_error() {
    let (_, world) = after_cut(true, async |machine, disk| {
        assert!(zeroed(machine, &disk, END - 4096).await.unwrap().iter().all(|byte| *byte == 1));
        for at in [END, SIZE - 4096, END - 2048] {
            let error = zeroed(machine, &disk, at).await.unwrap_err();
            assert!(matches!(&error, IoError::Failed { .. }) && error.to_string().contains("truncated"), "{error}");
        }
        assert!(zeroed(machine, &disk, 0).await.is_ok());
    });
    assert_eq!(world.size(0), END);
    // The next opener sees how large it is.
    let machine = world.boot();
    assert_eq!(machine.open(0).geometry().size, END);
}

#[test]
fn once_it_is_noticed_by_whatever_it_takes_no_change() {
    for way in 0..3 {
        let (_, world) = after_cut(true, async |machine, disk| {
            match way {
                0 => drop(disk.measure(SIZE).unwrap_err()),
                1 => drop(disk.flush().await.unwrap_err()),
                _ => drop(zeroed(machine, &disk, END).await.unwrap_err()),
            }
            // Clones are the same disk.
            let disk = disk.clone();
            write(machine, &disk, 0, 4096, 2).await.unwrap_err();
            write(machine, &disk, SIZE - 4096, 4096, 2).await.unwrap_err();
            disk.discard(0, 4096).await.unwrap_err();
            disk.write_zeroes(0, 4096).await.unwrap_err();
        });
        assert_eq!((world.size(0), world.read_raw(0, 0, 1)[0]), (END, 1), "by way {way}");
    }
}

#[test]
fn before_that_a_write_behind_its_end_makes_it_long_again_and_what_was_lost_reads_as_zeros() {
    for flying in [false, true] {
        let (_, world) = after_cut(false, async |machine, disk| {
            let late = write(machine, &disk, SIZE - 4096, 4096, 2);
            if flying {
                // On its way when the disk is cut off once more.
                let cut = async { disk.life.core.borrow_mut().disks[0].cut(END) };
                both(late, cut).await.0.unwrap();
            } else {
                late.await.unwrap();
            }
            assert_eq!(disk.measure(SIZE), Ok(SIZE), "nothing shows any more that it was cut off");
            assert!(zeroed(machine, &disk, END).await.unwrap().iter().all(|byte| *byte == 0));
        });
        assert_eq!(world.size(0), SIZE);
        assert_eq!((world.read_raw(0, END - 1, 1), world.read_raw(0, SIZE - 1, 1)), (vec![1], vec![2]));
    }
}
