//! Every figure equals a recount while everything goes on: a check beside writes that are held, resumed and given up finds nothing wrong.
use std::cell::Cell;
use std::time::Duration;

use crate::support::{create, filled, is_full, live, vdisk, world};
use futures_util::future::{join, join_all};
use plimsoll_engine::{CreateVdisk, Error, OnFull, Pool, Ticket, VdiskPolicy, WriteOptions};
use plimsoll_hardware::Machine;
use plimsoll_hardware::sim::SimMachine;

const EXTENT: u64 = 65_536;

fn policies() -> [VdiskPolicy; 4] {
    let hold = VdiskPolicy { on_full: OnFull::Hold(Duration::from_millis(300)), ..VdiskPolicy::default() };
    let tenant = Some("acme".to_owned());
    [
        VdiskPolicy { reservation: 20 * EXTENT, ..hold.clone() },
        VdiskPolicy { quota: Some(60 * EXTENT), tenant: tenant.clone(), ..hold.clone() },
        VdiskPolicy { tenant, ..hold.clone() },
        VdiskPolicy { on_full: OnFull::Fail, ..VdiskPolicy::default() },
    ]
}

/// Writes, discards and flushes of one vdisk, in no order.
async fn client(pool: &Pool<SimMachine>, m: &SimMachine, name: &str) {
    let vdisk = pool.vdisk(name).expect("a vdisk");
    let request = async || {
        let (offset, extents) = (m.random() % 100 * EXTENT, 1 + m.random() % 6);
        let ticket = Ticket::default();
        let how = WriteOptions { ticket: Some(ticket.clone()), ..WriteOptions::default() };
        match m.random() % 16 {
            0 => vdisk.flush().await,
            1 | 2 => vdisk.discard(offset, 2 * extents * EXTENT, false).await,
            3..=5 => {
                let write = vdisk.write_with(offset, filled(m, 5, (extents * EXTENT) as usize).await, &how);
                let give_up = async {
                    m.sleep(Duration::from_millis(m.random() % 50)).await;
                    ticket.cancel();
                };
                join(write, give_up).await.0
            }
            _ => {
                let bytes = if m.random().is_multiple_of(2) { 4096 } else { extents * EXTENT };
                vdisk.write_with(offset, filled(m, 5, bytes as usize).await, &how).await
            }
        }
    };
    for _ in 0..25 {
        for result in join_all((0..4).map(|_| request())).await {
            match result {
                Ok(()) | Err(Error::OutOfSpace { .. } | Error::QuotaExceeded { .. } | Error::Cancelled) => {}
                Err(error) => panic!("{name}: {error}"),
            }
        }
    }
}

#[test]
fn a_check_beside_writes_that_are_held_and_resumed_finds_every_figure_right() {
    let (mut waited, mut granted) = (0, 0);
    for seed in 0..if is_full() { 200 } else { 6 } {
        let world = world(seed, 1, 16);
        let (held_writes, checks_beside) = live(&world, |m| async move {
            let pool = create(&m).await;
            let names = ["a", "b", "c", "d"];
            for (name, policy) in names.into_iter().zip(policies()) {
                pool.create_vdisk(CreateVdisk { policy, ..vdisk(name, 1 << 30) }).await.expect("a vdisk");
            }
            let (done, beside) = (Cell::new(false), Cell::new(0));
            let clients = async {
                join_all(names.map(|name| client(&pool, &m, name))).await;
                done.set(true);
            };
            let checks = async {
                while !done.get() {
                    let report = pool.check().await.expect("a check");
                    assert!(report.clean(), "seed {seed}: {:#?}", report.findings);
                    let info = pool.info();
                    beside.set(beside.get() + u64::from(info.held_writes > 0 && info.held_bytes > 0));
                    m.sleep(Duration::from_micros(m.random() % 3000)).await;
                }
            };
            join(clients, checks).await;
            (pool.info().counters.held_writes, beside.get())
        });
        waited += held_writes;
        granted += checks_beside;
    }
    assert!(waited > 50 && granted > 10, "{waited} writes were held, {granted} checks were beside such");
}
