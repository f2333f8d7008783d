//! What was healed and what is lost are told apart, by a start and by a check.

use super::*;

/// What is said of the devices' errors when the pool on `world` is looked at.
fn errors(world: &SimWorld) -> Vec<String> {
    live(world, async |m| {
        let pool = open(&m, true).await;
        found(&pool).await;
        pool.store.media.trouble.take_due(m.now()).iter().map(|errors| errors.first.to_string()).collect()
    })
}

#[test]
fn errors_of_a_device_say_whether_a_page_is_lost() {
    let base = prepared();
    let (one, _) = planted(&base, &Plant::Pages(|store| vec![offset(leaf(store)[1])]));
    let (both, _) = planted(&base, &Plant::Pages(|store| leaf(store).map(offset).to_vec()));
    let [healed, lost] = [&one, &both].map(errors);
    assert!(healed.len() == 1 && healed[0].contains("its other copy is good"), "{healed:?}");
    assert!(lost.len() == 1 && lost[0].contains("it is lost"), "{lost:?}");
    assert_eq!(errors(&base), [""; 0]);
}

#[test]
fn a_check_says_of_what_it_finds_whether_it_has_healed_it() {
    let base = prepared();
    let (one, _) = planted(&base, &Plant::Pages(|store| vec![offset(leaf(store)[1])]));
    for inspect in [true, false] {
        live(&one.fork(), async move |m| {
            let report = found(&open(&m, inspect).await).await;
            let [finding] = &report.findings[..] else { panic!("{:#?}", report.findings) };
            assert_eq!((finding.kind, finding.healed), ("bad-copy", !inspect));
        });
    }
    let (both, _) = planted(&base, &Plant::Pages(|store| leaf(store).map(offset).to_vec()));
    live(&both, async |m| {
        let report = found(&open(&m, false).await).await;
        assert!(report.findings.iter().all(|finding| !finding.healed), "{:#?}", report.findings);
    });
}

#[test]
fn a_start_says_which_labels_and_roots_it_has_written_again() {
    let base = prepared();
    // What is wrong with a root after a crash, the crash may have done.
    live(&base, async |m| open(&m, false).await.close().await.expect("a close"));
    let label = Plant::Pages(|_| vec![label_places(DEVICE_BYTES)[1]]);
    let root = Plant::Pages(|store| vec![root_places(DEVICE_BYTES, store.root.borrow().generation)[0]]);
    for (plant, words) in [(label, "a label of disk0 was bad"), (root, "a root of disk0 was bad")] {
        let (world, _) = planted(&base, &plant);
        for (inspect, healed) in [(true, vec![]), (false, vec![words.to_owned()]), (false, vec![])] {
            live(&world, async move |m| assert_eq!(open(&m, inspect).await.info().recovery.healed, healed));
        }
    }
}

#[test]
fn two_copies_of_one_device_are_refused() {
    let world = prepared();
    live(&world, async |m| {
        let twice = vec![m.open(0), m.open(0)];
        let error = Pool::open(&m, OpenPool::default(), twice).await.err().expect("one of them is a copy");
        assert!(error.to_string().contains("one is a copy of the other"), "{error}");
    });
}
