use super::*;

#[test]
fn a_disk_without_room_takes_writes_only_where_it_has_some() {
    let world = world(3);
    let machine = world.boot();
    machine
        .run(async {
            let disk = machine.open(0);
            let full = Err(IoError::NoSpace { path: disk.geometry().path.clone() });
            write(&machine, &disk, 0, 4096, 1).await.expect("a write where there is room");
            world.set_room(0, Some(3 * 4096));
            disk.allocate(64 << 10, 8192).await.expect("room for two pages");
            assert_eq!(write(&machine, &disk, 0, 3 * 4096, 2).await, full, "room for one of two pages");
            assert_eq!(disk.allocate(128 << 10, 4096).await, full);
            write(&machine, &disk, 64 << 10, 8192, 3).await.expect("a write to what was allocated");
            write(&machine, &disk, 0, 8192, 4).await.expect("an overwrite");
            let read = disk.read(0, filled(&machine, 3 * 4096, 9)).await.expect("a read");
            assert_eq!([read[0], read[4096], read[8192]], [4, 4, 0]);
            world.set_room(0, None);
            write(&machine, &disk, 512 << 10, 8192, 5).await.expect("room again");
        })
        .done();
}
