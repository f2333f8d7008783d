use super::*;
use crate::CrashMemory;
use crate::sim::CrashKind;

#[test]
fn crash_memory_outlives_the_process_but_not_the_power() {
    let world = world(1);
    let open = |machine: &SimMachine| machine.crash_memory("tail", 64).expect("nobody else has it");
    let machine = world.boot();
    let memory = open(&machine);
    assert!(!memory.survived() && machine.crash_memory("tail", 64).is_err());
    memory.store(3, &[1, 2, 3]);
    memory.store_u64(8, 77);
    world.crash(CrashKind::Process);
    memory.store(3, &[9]);
    let machine = world.boot();
    assert!(machine.crash_memory("tail", 32).is_err());
    let memory = open(&machine);
    let mut bytes = [0; 16];
    memory.load(0, &mut bytes);
    assert_eq!((memory.survived(), bytes), (true, [0, 0, 0, 1, 2, 3, 0, 0, 77, 0, 0, 0, 0, 0, 0, 0]));
    drop(memory);
    assert!(open(&machine).survived());
    world.crash(CrashKind::Power);
    let memory = open(&world.boot());
    memory.load(0, &mut bytes);
    assert_eq!((memory.survived(), bytes), (false, [0; 16]));
}

#[test]
fn a_torn_store_leaves_any_part_and_a_torn_word_is_whole() {
    let (mut parts, mut words) = (std::collections::BTreeSet::new(), std::collections::BTreeSet::new());
    for seed in 0..200 {
        let world = world(seed);
        let machine = world.boot();
        let words_too = seed % 2 == 0;
        machine.tear_crash_memory_at(2);
        let outcome = machine.run(async {
            let memory = machine.crash_memory("tail", 64).expect("nobody else has it");
            memory.store(0, &[1; 32]);
            if words_too {
                memory.store_u64(0, u64::MAX)
            } else {
                memory.store(0, &[2; 32])
            }
            // The dead go on until they are polled no more, and see what they expect.
            memory.store(32, &[3; 32]);
            let mut seen = [0; 1];
            memory.load(40, &mut seen);
            assert_eq!(seen, [3]);
        });
        assert_eq!(outcome, Outcome::Crashed);
        world.crash(CrashKind::Process);
        let machine = world.boot();
        let memory = machine.crash_memory("tail", 64).expect("nobody else has it");
        let mut bytes = [0; 64];
        memory.load(0, &mut bytes);
        assert_eq!(bytes[32..], [0; 32], "a store after death");
        if words_too {
            words.insert(bytes[..8].to_vec())
        } else {
            parts.insert(bytes[..32].to_vec())
        };
    }
    assert_eq!(words.len(), 2);
    assert!(parts.len() > 20, "{} ways to tear", parts.len());
}

#[test]
fn a_loss_that_nobody_heard_of_clears_crash_memory_once() {
    let survived = |seed| {
        let world = world(seed);
        let machine = world.boot();
        let memory = machine.crash_memory("tail", 64).expect("nobody else has it");
        world.vanish(0);
        world.crash(CrashKind::Process);
        drop(memory);
        let lives = [(); 2].map(|()| {
            let memory = world.boot().crash_memory("tail", 64).expect("nobody else has it");
            let survived = memory.survived();
            world.crash(CrashKind::Process);
            survived
        });
        assert!(lives[1], "seed {seed}: a later life's crash memory is gone");
        lives[0]
    };
    let kept = (0..40).filter(|&seed| survived(seed)).count();
    assert!((5..35).contains(&kept), "{kept} of 40 kept theirs");
}
