//! Temporary.
use agentwall_kernel::*;
use std::time::{Duration, Instant};
fn main() {
    let t = Instant::now();
    let wall = match Wall::load(&Options::default()) {
        Ok(w) => w,
        Err(e) => {
            println!("ERR {e}");
            std::process::exit(1)
        }
    };
    println!(
        "loaded in {:?}: {} programs",
        t.elapsed(),
        wall.programs().count()
    );
    wall.tables()
        .unwrap()
        .install(1, &[0x54505741, 2], 7, 0)
        .unwrap();
    let n = std::cell::RefCell::new(0);
    let mut child = std::process::Command::new("/bin/sh")
        .args([
            "-c",
            "sleep 1; echo child; cat /etc/passwd; touch /tmp/x; sleep 1",
        ])
        .spawn()
        .unwrap();
    println!("adopted {:?}", wall.adopt(child.id(), 1, 42));
    println!("governed {:?}", wall.governed());
    let ev = wall
        .events(|e| {
            *n.borrow_mut() += 1;
            if *n.borrow() < 30 {
                println!("{e:?}")
            }
        })
        .unwrap();
    for _ in 0..30 {
        ev.poll(Duration::from_millis(100)).unwrap();
    }
    println!("{:?}", child.wait());
    drop(ev);
    println!(
        "{} events, {:?} {:?}",
        n.borrow(),
        wall.counters(),
        wall.allows(1)
    );
}
